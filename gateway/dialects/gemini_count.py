"""How many tokens a prompt has, asked in Gemini's way.

Source: Gemini API reference, "Counting tokens" (https://ai.google.dev/api/tokens).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from gateway.dialects import gemini_written
from gateway.dialects.count_tokens import BYTES_PER_TOKEN, FREE, Counted
from gateway.dialects.gemini_base import model_place
from gateway.dialects.gemini_chat import GeminiChat
from gateway.dialects.neutral import Answer, Chat, Fields, Json, Opening, Receipt
from gateway.dialects.reading import member, required
from schemas.errors import InvalidRequest, UpstreamProtocol

_WHOLE = "generateContentRequest"
_RAW: Any = dict[str, msgspec.Raw]
_COUNTED = ("contents", "systemInstruction", "tools")
_encode = msgspec.json.encode


class _Count(msgspec.Struct, rename="camel"):
    total_tokens: int


_read_count = msgspec.json.Decoder(_Count).decode


class GeminiCount(GeminiChat):
    """The dialect ``gemini`` on the surface ``count_tokens``."""

    surface = "count_tokens"
    client_paths: ClassVar[Mapping[str, Json]] = {
        "/v1beta/models/{model}:countTokens": {},
        "/v1/models/{model}:countTokens": {},
    }

    @property
    def capability(self) -> str:
        return "chat"

    def path_of(self, model: str, stream: bool) -> str:
        del stream
        return f"/{model_place(model)}:countTokens"

    def open(self, fields: Fields) -> Opening:
        asked = _asked(fields)
        if not {"contents", "systemInstruction", "system_instruction"} & set(asked):
            raise InvalidRequest("'contents' is missing")
        model = required(fields, "model", str)
        return Opening(model, False, True, 0, "tools" in asked, {}, None)

    def read_request(self, fields: Fields) -> Chat:
        return super().read_request(_asked(fields))

    def forward_request(self, fields: Fields, model: str, opening: Opening) -> bytes:
        del opening
        kept: dict[str, object] = {n: v for n, v in fields.items() if n not in {"model", "stream"}}
        whole = member(fields, _WHOLE, _RAW)
        if whole is not None:
            kept[_WHOLE] = {**whole, "model": model_place(model)}
        return _encode(kept)

    def write_request(self, chat: Chat, model: str, max_output_tokens: int | None) -> bytes:
        del max_output_tokens
        whole: Json = msgspec.json.decode(gemini_written.write(chat, model))
        counted = {name: whole[name] for name in _COUNTED if name in whole}
        return _encode({_WHOLE: {"model": model_place(model), **counted}})

    def unsaid(self, chat: Chat, model: str) -> list[str]:
        del chat, model
        return []

    def answer_here(self, fields: Fields) -> Answer:
        size = sum(len(bytes(value)) for name, value in _asked(fields).items() if name != "model")
        model = member(fields, "model", str) or ""
        return Counted(id="", model=model, usage=FREE, tokens=max(1, size // BYTES_PER_TOKEN))

    def read_answer(self, body: bytes) -> Answer:
        try:
            return Counted(id="", model="", usage=FREE, tokens=_read_count(body).total_tokens)
        except msgspec.DecodeError as error:
            raise UpstreamProtocol(f"the answer is no count of tokens: {error}") from error

    def write_answer(self, answer: Answer, receipt: Receipt | None) -> bytes:
        del receipt
        return _encode({"totalTokens": answer.tokens if isinstance(answer, Counted) else 0})


def _asked(fields: Fields) -> Fields:
    """Return the request to be counted: what it is made of, or as a whole."""
    whole = member(fields, _WHOLE, _RAW)
    return fields if whole is None else {**whole, "model": fields["model"]}


GEMINI_COUNT = GeminiCount()
