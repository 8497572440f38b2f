"""Gemini's embeddings: `batchEmbedContents` as clients and providers speak it, `embedContent` as
clients do.

Source: Gemini API reference, "Embeddings" (https://ai.google.dev/api/embeddings).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import msgspec

from gateway.dialects.gemini_base import GeminiBase, model_place
from gateway.dialects.gemini_request import take
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
from gateway.dialects.reading import member, required, texts_of
from schemas.errors import InvalidRequest, UpstreamProtocol

_KIND = {
    "RETRIEVAL_QUERY": "search_query",
    "RETRIEVAL_DOCUMENT": "search_document",
    "CLASSIFICATION": "classification",
    "CLUSTERING": "clustering",
}
_TASK = {kind: task for task, kind in _KIND.items()}
_KNOWN = frozenset(["model", "content", "taskType", "outputDimensionality"])
_SAME_VENDOR = "Leave it out, or name a target of the same vendor."
_encode = msgspec.json.encode


class _Vector(msgspec.Struct):
    values: list[float]


class _Usage(msgspec.Struct, rename="camel"):
    prompt_token_count: int | None = None


class _Tally(msgspec.Struct, rename="camel"):
    """The answer without its vectors: what a call that passes through is settled by."""

    embeddings: list[msgspec.Raw]
    usage_metadata: _Usage | None = None


class _Answer(msgspec.Struct):
    embeddings: list[_Vector]


_read_tally = msgspec.json.Decoder(_Tally).decode
_read_answer = msgspec.json.Decoder(_Answer).decode


class GeminiEmbeddings(GeminiBase):
    """Vectors of texts, several at once."""

    surface = "embeddings"
    client_paths: ClassVar[Mapping[str, Json]] = {
        "/v1beta/models/{model}:batchEmbedContents": {},
        "/v1/models/{model}:batchEmbedContents": {},
    }
    words: ClassVar[Mapping[str, str]] = {
        "dimensions": "outputDimensionality",
        "input_type": "taskType",
    }

    def path_of(self, model: str, stream: bool) -> str:
        del stream
        return f"/{model_place(model)}:batchEmbedContents"

    def open(self, fields: Fields) -> Opening:
        self._requests(fields)
        return Opening(required(fields, "model", str), False, True, 0, False, {}, None)

    def _requests(self, fields: Fields) -> list[Json]:
        requests = required(fields, "requests", list[dict[str, Any]])
        if not requests:
            raise InvalidRequest("'requests' is empty")
        return requests

    def read_request(self, fields: Fields) -> Embed:
        requests = self._requests(fields)
        kinds = [(take(r, "taskType"), take(r, "outputDimensionality")) for r in requests]
        if any(kind != kinds[0] for kind in kinds):
            raise InvalidRequest("the requests of one call must ask for the same kind of vectors")
        task, size = kinds[0]
        unread = dict.fromkeys(name for entry in requests for name in entry if name not in _KNOWN)
        return Embed(
            inputs=[_text(entry) for entry in requests],
            dimensions=size if isinstance(size, int) else None,
            kind=_KIND.get(str(task)),
            unread=[*unread, *(["taskType"] if task and str(task) not in _KIND else [])],
        )

    def forward_request(self, fields: Fields, model: str, opening: Opening) -> bytes:
        del opening
        # Each request names the model once more, as the client knows it.
        place = model_place(model)
        return _encode({"requests": [{**r, "model": place} for r in self._requests(fields)]})

    def write_request(self, chat: Embed, model: str, max_output_tokens: int | None) -> bytes:
        del max_output_tokens
        return _encode({"requests": [_wire(text, chat, model) for text in texts_of(chat)]})

    def unsaid(self, chat: Embed, model: str) -> list[str]:
        del model
        names = ["user"] if chat.user is not None else []
        return [*names, "input_type"] if chat.kind and chat.kind not in _TASK else names

    def read_answer(self, body: bytes) -> Answer:
        try:
            tally = _read_tally(body)
        except msgspec.DecodeError as error:
            raise UpstreamProtocol(f"the answer holds no embeddings: {error}") from error
        tokens = tally.usage_metadata.prompt_token_count if tally.usage_metadata else None
        usage = None if tokens is None else Usage(tokens, None, 0)
        return Embedded(id="", model="", usage=usage, read=partial(_vectors, body))

    def write_answer(self, answer: Answer, receipt: Receipt | None) -> bytes:
        del receipt
        vectors = answer.vectors if isinstance(answer, Embedded) else []
        return _encode({"embeddings": [{"values": v} for v in vectors], **_counted(answer)})


class GeminiContent(GeminiEmbeddings):
    """The vector of one text. It is a dialect of clients alone: providers are asked for several."""

    name = "gemini_content"
    client_paths: ClassVar[Mapping[str, Json]] = {
        "/v1beta/models/{model}:embedContent": {},
        "/v1/models/{model}:embedContent": {},
    }

    def _requests(self, fields: Fields) -> list[Json]:
        given = {name: member(fields, name, _ANY) for name in fields if name != "model"}
        return [{name: value for name, value in given.items() if value is not None}]

    def write_answer(self, answer: Answer, receipt: Receipt | None) -> bytes:
        del receipt
        vectors = answer.vectors if isinstance(answer, Embedded) else [[]]
        return _encode({"embedding": {"values": vectors[0]}, **_counted(answer)})


_ANY: Any = Any


def _text(entry: Json) -> str:
    content = entry.get("content")
    parts = content.get("parts") if isinstance(content, dict) else None
    texts: list[str] = []
    for part in parts if isinstance(parts, list) else ():
        text = part.get("text") if isinstance(part, dict) else None
        if not isinstance(text, str):
            raise InvalidRequest("'content' must hold text alone", action=_SAME_VENDOR)
        texts.append(text)
    if not texts:
        raise InvalidRequest("'content' holds no text")
    return "".join(texts)


def _wire(text: str, chat: Embed, model: str) -> Json:
    return {"model": model_place(model), "content": {"parts": [{"text": text}]}, **wishes(chat)}


def wishes(embed: Embed) -> Json:
    """Return what the vectors are to be like, in the vendor's words."""
    size = {} if embed.dimensions is None else {"outputDimensionality": embed.dimensions}
    return {**size, "taskType": _TASK[embed.kind]} if embed.kind in _TASK else size


def _vectors(body: bytes) -> list[list[float]]:
    try:
        return [vector.values for vector in _read_answer(body).embeddings]
    except msgspec.DecodeError as error:
        raise UpstreamProtocol(f"the answer's embeddings cannot be read: {error}") from error


def _counted(answer: Answer) -> Json:
    tokens = answer.usage.input_tokens if answer.usage else None
    return {} if tokens is None else {"usageMetadata": {"promptTokenCount": tokens}}


GEMINI_EMBEDDINGS = GeminiEmbeddings()
GEMINI_CONTENT = GeminiContent()
