"""How many tokens a prompt has, before it is sent: Anthropic's way to ask, and the ways to answer.

Sources: Anthropic API reference, "Count tokens"
(https://platform.claude.com/docs/en/api/messages/count_tokens); OpenAI API reference, "Get input token
counts" (https://developers.openai.com/api/reference/resources/responses/subresources/input_tokens).

Where a provider offers neither, the gateway estimates from bytes and says so in a header.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import msgspec

from gateway.dialects import anthropic_request
from gateway.dialects.anthropic_messages import AnthropicMessages
from gateway.dialects.neutral import Answer, Chat, Fields, Json, Opening, Receipt, Usage
from gateway.dialects.openai_responses import OpenAIResponses
from gateway.dialects.reading import asks, entries, member, required
from schemas.errors import UpstreamProtocol

BYTES_PER_TOKEN = 4
"""The usual rule of thumb."""
FREE = Usage(0, None, 0)
_NOT_COUNTED = (
    "max_tokens",
    "stream",
    "temperature",
    "top_p",
    "top_k",
    "stop_sequences",
    "metadata",
)
_COUNTED_BY_OPENAI = frozenset(
    ["model", "input", "instructions", "tools", "tool_choice", "text", "reasoning"]
)
_encode = msgspec.json.encode


class _Count(msgspec.Struct):
    input_tokens: int


_read_count = msgspec.json.Decoder(_Count).decode


class Counted(Answer, frozen=True, kw_only=True):
    """A number of tokens. Asking is free: `usage` is that of the question, none."""

    tokens: int


def read_count(body: bytes) -> Counted:
    """Read a vendor's answer. Raises UpstreamProtocol."""
    try:
        return Counted(id="", model="", usage=FREE, tokens=_read_count(body).input_tokens)
    except msgspec.DecodeError as error:
        raise UpstreamProtocol(f"the answer is no count of tokens: {error}") from error


def _estimated(fields: Fields, counted: tuple[str, ...]) -> Counted:
    size = sum(len(bytes(fields[name])) for name in counted if name in fields)
    model = member(fields, "model", str) or ""
    return Counted(id="", model=model, usage=FREE, tokens=max(1, size // BYTES_PER_TOKEN))


class AnthropicCount(AnthropicMessages):
    """The dialect ``anthropic`` on the surface ``count_tokens``."""

    surface = "count_tokens"
    client_paths: ClassVar[Mapping[str, Json]] = {"/v1/messages/count_tokens": {}}

    @property
    def capability(self) -> str:
        return "chat"

    def path_of(self, model: str, stream: bool) -> str:
        del model, stream
        return "/v1/messages/count_tokens"

    def open(self, fields: Fields) -> Opening:
        entries(fields, "messages")
        return Opening(
            model=required(fields, "model", str),
            stream=False,
            wants_usage=True,
            max_tokens=0,
            has_tools=asks(fields, "tools"),
            tags={},
            user_id=None,
        )

    def answer_here(self, fields: Fields) -> Answer:
        return _estimated(fields, ("messages", "system", "tools"))

    def write_request(self, chat: Chat, model: str, max_output_tokens: int | None) -> bytes:
        body: Json = msgspec.json.decode(anthropic_request.write(chat, model, max_output_tokens))
        return _encode({name: value for name, value in body.items() if name not in _NOT_COUNTED})

    def read_answer(self, body: bytes) -> Answer:
        return read_count(body)

    def write_answer(self, answer: Answer, receipt: Receipt | None) -> bytes:
        del receipt
        return _encode({"input_tokens": answer.tokens if isinstance(answer, Counted) else 0})


class OpenAICount(OpenAIResponses):
    """The same of OpenAI's: what `input_tokens` says of a request of its responses."""

    surface = "count_tokens"
    client_paths: ClassVar[Mapping[str, Json]] = {"/v1/responses/input_tokens": {}}

    @property
    def capability(self) -> str:
        return "chat"

    def path_of(self, model: str, stream: bool) -> str:
        del model, stream
        return "/responses/input_tokens"

    def open(self, fields: Fields) -> Opening:
        opening = super().open(fields)
        return msgspec.structs.replace(opening, stream=False, max_tokens=0)

    def answer_here(self, fields: Fields) -> Answer:
        return _estimated(fields, ("input", "instructions", "tools"))

    def write_request(self, chat: Chat, model: str, max_output_tokens: int | None) -> bytes:
        body: Json = msgspec.json.decode(super().write_request(chat, model, max_output_tokens))
        return _encode({name: value for name, value in body.items() if name in _COUNTED_BY_OPENAI})

    def read_answer(self, body: bytes) -> Answer:
        return read_count(body)

    def write_answer(self, answer: Answer, receipt: Receipt | None) -> bytes:
        del receipt
        tokens = answer.tokens if isinstance(answer, Counted) else 0
        return _encode({"object": "response.input_tokens", "input_tokens": tokens})


ANTHROPIC_COUNT = AnthropicCount()
OPENAI_COUNT = OpenAICount()
