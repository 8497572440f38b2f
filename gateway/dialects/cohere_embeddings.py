"""Cohere's embeddings (v2), as clients and as providers speak them.

Source: Cohere API reference, "Embed" (https://docs.cohere.com/reference/embed).
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import msgspec

from gateway.dialects.cohere_base import CohereBase
from gateway.dialects.cohere_wire import Meta
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
from gateway.dialects.reading import asks, member, required, texts_of, unpacked, unread
from schemas.errors import InvalidRequest, UpstreamProtocol

_KNOWN = frozenset(
    ["model", "texts", "inputs", "input_type", "output_dimension", "embedding_types", "truncate"]
)
KIND_DEFAULT = "search_document"
"""The vendor must be told what the vectors are for; other vendors' clients do not say."""
_encode = msgspec.json.encode


class _Tally(msgspec.Struct):
    embeddings: msgspec.Raw
    id: str = ""
    meta: Meta | None = None


class _ByType(msgspec.Struct):
    floats: list[list[float]] | None = msgspec.field(name="float", default=None)
    base64: list[str] | None = None


_read_tally = msgspec.json.Decoder(_Tally).decode
_read_by_type = msgspec.json.Decoder(_ByType).decode


class CohereEmbeddings(CohereBase):
    """Vectors of texts; pictures go to the own vendor alone."""

    surface = "embeddings"
    path = "/v2/embed"
    client_paths: ClassVar[Mapping[str, Json]] = {"/v2/embed": {}}
    words: ClassVar[Mapping[str, str]] = {"dimensions": "output_dimension"}

    def open(self, fields: Fields) -> Opening:
        return Opening(required(fields, "model", str), False, True, 0, False, {}, None)

    def read_request(self, fields: Fields) -> Embed:
        types = member(fields, "embedding_types", list[str]) or ["float"]
        if types != ["float"] or asks(fields, "images"):
            raise InvalidRequest(
                "this target's provider gives vectors of floats for texts alone",
                action="Ask for embedding_types ['float'], or name a target of the same vendor.",
            )
        texts = member(fields, "texts", list[str])
        entries = member(fields, "inputs", list[dict[str, Any]]) or []
        inputs = texts or [_text(entry) for entry in entries]
        if not inputs:
            raise InvalidRequest("'texts' is missing or empty")
        return Embed(
            inputs=list(inputs),
            dimensions=member(fields, "output_dimension", int),
            kind=member(fields, "input_type", str),
            unread=unread(fields, _KNOWN),
        )

    def write_request(self, chat: Embed, model: str, max_output_tokens: int | None) -> bytes:
        del max_output_tokens
        body: Json = {
            "model": model,
            "texts": texts_of(chat),
            "input_type": chat.kind or KIND_DEFAULT,
            "embedding_types": ["float"],
        }
        if chat.dimensions is not None:
            body["output_dimension"] = chat.dimensions
        return _encode(body)

    def unsaid(self, chat: Embed, model: str) -> list[str]:
        del model
        return ["user"] if chat.user is not None else []

    def read_answer(self, body: bytes) -> Answer:
        try:
            tally = _read_tally(body)
        except msgspec.DecodeError as error:
            raise UpstreamProtocol(f"the answer holds no embeddings: {error}") from error
        meta = tally.meta or Meta()
        tokens = meta.usage.neutral().input_tokens
        return Embedded(
            id=tally.id,
            model="",
            usage=None if tokens is None else Usage(tokens, None, 0),
            units=meta.usage.units(),
            read=partial(_vectors, bytes(tally.embeddings)),
        )

    def write_answer(self, answer: Answer, receipt: Receipt | None) -> bytes:
        vectors = answer.vectors if isinstance(answer, Embedded) else []
        tokens = (answer.usage.input_tokens if answer.usage else None) or 0
        meta = {"api_version": {"version": "2"}, "billed_units": {"input_tokens": tokens}}
        reply = answer.id or (receipt.request_id if receipt else "")
        return _encode({"id": reply, "embeddings": {"float": vectors}, "meta": meta})


def _text(entry: Json) -> str:
    content = entry.get("content")
    blocks = content if isinstance(content, list) else []
    texts = [b.get("text") for b in blocks if isinstance(b, dict) and b.get("type") == "text"]
    if not blocks or len(texts) != len(blocks):
        raise InvalidRequest("'inputs' must hold text alone for this target's provider")
    return "".join(str(text) for text in texts)


def _vectors(embeddings: bytes) -> list[list[float]]:
    try:
        found = _read_by_type(embeddings)
        if found.floats is not None:
            return found.floats
        return [unpacked(text) for text in found.base64 or []]
    except (msgspec.DecodeError, binascii.Error, struct.error) as error:
        raise UpstreamProtocol(f"the answer's embeddings cannot be read: {error}") from error


COHERE_EMBEDDINGS = CohereEmbeddings()
