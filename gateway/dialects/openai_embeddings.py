"""OpenAI's embeddings, as clients and as providers speak them.

Source: OpenAI API reference, "Embeddings"
(https://developers.openai.com/api/reference/resources/embeddings/methods/create).
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import msgspec

from gateway.dialects.neutral import (
    Answer,
    Embed,
    Embedded,
    Fields,
    Json,
    Opening,
    Receipt,
    Usage,
)
from gateway.dialects.openai_base import OneShot
from gateway.dialects.reading import further, member, required, text_tags, unpacked
from schemas.errors import InvalidRequest, UpstreamProtocol

_INPUT: Any = str | list[str | int | list[int]]
_KNOWN = frozenset(["model", "input", "dimensions", "encoding_format", "user", "metadata"])
INPUTS_MAX = 100_000
_encode = msgspec.json.encode


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None


class _Vector(msgspec.Struct):
    embedding: list[float] | str
    index: int = 0


class _Answer(msgspec.Struct):
    data: list[_Vector]
    model: str = ""
    usage: _Usage | None = None


class _Tally(msgspec.Struct):
    """The answer without its vectors: what a call that passes through is settled by."""

    data: list[msgspec.Raw]
    model: str = ""
    usage: _Usage | None = None


_read_answer = msgspec.json.Decoder(_Answer).decode
_read_tally = msgspec.json.Decoder(_Tally).decode


class Embeddings(OneShot):
    """Vectors of texts."""

    surface = "embeddings"
    path = "/embeddings"
    client_paths: ClassVar[Mapping[str, Json]] = {"/v1/embeddings": {}}

    def open(self, fields: Fields) -> Opening:
        opening = super().open(fields)
        if not member(fields, "input", _INPUT):
            raise InvalidRequest("'input' is missing or empty")
        tags = text_tags(member(fields, "metadata", dict))
        return msgspec.structs.replace(opening, tags=tags)

    def read_request(self, fields: Fields) -> Embed:
        given = required(fields, "input", _INPUT)
        inputs: list[str | list[int]]
        single = isinstance(given, str) or (given and isinstance(given[0], int))
        inputs = [given] if single else given
        if len(inputs) > INPUTS_MAX:
            raise InvalidRequest(f"'input' has more than {INPUTS_MAX} entries")
        return Embed(
            inputs=inputs,
            dimensions=member(fields, "dimensions", int),
            base64=member(fields, "encoding_format", str) == "base64",
            user=member(fields, "user", str),
            unread=list(further(fields, _KNOWN)),
        )

    def write_request(self, chat: Embed, model: str, max_output_tokens: int | None) -> bytes:
        del max_output_tokens
        body: Json = {"model": model, "input": chat.inputs, "encoding_format": "base64"}
        if chat.dimensions is not None:
            body["dimensions"] = chat.dimensions
        if chat.user is not None:
            body["user"] = chat.user
        return _encode(body)

    def unsaid(self, chat: Embed, model: str) -> list[str]:
        del model
        return ["input_type"] if chat.kind is not None else []

    def read_answer(self, body: bytes) -> Answer:
        try:
            tally = _read_tally(body)
        except msgspec.DecodeError as error:
            raise UpstreamProtocol(f"the answer holds no embeddings: {error}") from error
        tokens = tally.usage.prompt_tokens if tally.usage else None
        usage = None if tokens is None else Usage(tokens, None, 0)
        return Embedded(id="", model=tally.model, usage=usage, read=partial(_vectors, body))

    def write_answer(self, answer: Answer, receipt: Receipt | None) -> bytes:
        del receipt
        tokens = (answer.usage.input_tokens if answer.usage else None) or 0
        data = [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(answer.vectors if isinstance(answer, Embedded) else [])
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return _encode({"object": "list", "data": data, "model": answer.model, "usage": usage})


def _vectors(body: bytes) -> list[list[float]]:
    try:
        rows = sorted(_read_answer(body).data, key=lambda row: row.index)
        return [_numbers(row.embedding) for row in rows]
    except (msgspec.DecodeError, binascii.Error, struct.error) as error:
        raise UpstreamProtocol(f"the answer's embeddings cannot be read: {error}") from error


def _numbers(value: list[float] | str) -> list[float]:
    return value if isinstance(value, list) else unpacked(value)


EMBEDDINGS = Embeddings()
