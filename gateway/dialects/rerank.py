"""Documents put in order by how well they answer a query.

Two dialects: Cohere's (v2), and the one that Cohere's first version began and Jina, vLLM, Together,
Text Embeddings Inference and others took over, under ``/v1/rerank``. Providers of OpenAI's dialect
are asked in the latter.

Sources: https://docs.cohere.com/reference/rerank, https://docs.cohere.com/v1/reference/rerank,
https://api.jina.ai/redoc (Rerank), https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
("Re-rank API").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from gateway.dialects.cohere_base import CohereBase
from gateway.dialects.cohere_wire import Meta
from gateway.dialects.neutral import Answer, Fields, Json, Opening, Receipt, Usage
from gateway.dialects.openai_base import OpenAIBase
from gateway.dialects.reading import entries, member, required, unread
from schemas.errors import InvalidRequest, UpstreamProtocol

_KNOWN = frozenset(["model", "query", "documents", "top_n", "return_documents"])
_DOCUMENTS: Any = list[str | dict[str, Any]]
DOCUMENTS_PER_SEARCH = 100
"""What is billed as one search: a query with up to a hundred documents (Cohere's price page)."""
DOCUMENTS_MAX = 100_000
_encode = msgspec.json.encode


class Rank(msgspec.Struct, frozen=True, kw_only=True):
    """A request: which `top_n` of the documents (None: all) answer the query best."""

    query: str
    documents: list[str]
    top_n: int | None = None
    shown: bool = False
    """Whether the answer repeats the documents."""
    stream: bool = False
    params: Json = {}
    unread: list[str] = []


class Ranked(Answer, frozen=True, kw_only=True):
    """Documents by their places in the request, best first, with scores; texts where known."""

    order: list[tuple[int, float]]
    texts: list[str | None]


class _TokenUsage(msgspec.Struct):
    total_tokens: int | None = None


class _Result(msgspec.Struct):
    index: int
    relevance_score: float
    document: str | dict[str, Any] | None = None


class _Answer(msgspec.Struct):
    results: list[_Result]
    id: str = ""
    model: str = ""
    meta: Meta | None = None
    usage: _TokenUsage | None = None


_read_answer = msgspec.json.Decoder(_Answer).decode


def _text(document: str | dict[str, Any] | None) -> str | None:
    if isinstance(document, dict):
        text = document.get("text")
        return text if isinstance(text, str) else _encode(document).decode()
    return document


def open_rerank(fields: Fields) -> Opening:
    """Read the members that matter to the gateway. Raises InvalidRequest."""
    documents = entries(fields, "documents")
    required(fields, "query", str)
    if not 1 <= len(documents) <= DOCUMENTS_MAX:
        raise InvalidRequest(f"'documents' must have between 1 and {DOCUMENTS_MAX} entries")
    searches = -(-len(documents) // DOCUMENTS_PER_SEARCH)
    model = required(fields, "model", str)
    return Opening(model, False, True, 0, False, {}, None, units={"search": searches})


def read_rerank(fields: Fields) -> Rank:
    """Read a request in full. Raises InvalidRequest."""
    documents = required(fields, "documents", _DOCUMENTS)
    return Rank(
        query=required(fields, "query", str),
        documents=[_text(document) or "" for document in documents],
        top_n=member(fields, "top_n", int),
        shown=bool(member(fields, "return_documents", bool)),
        unread=unread(fields, _KNOWN),
    )


def read_ranked(body: bytes) -> Ranked:
    """Read an answer of either dialect. Raises UpstreamProtocol."""
    try:
        wire = _read_answer(body)
    except msgspec.DecodeError as error:
        raise UpstreamProtocol(f"the answer ranks no documents: {error}") from error
    tokens = wire.usage.total_tokens if wire.usage else None
    return Ranked(
        id=wire.id,
        model=wire.model,
        usage=None if tokens is None else Usage(tokens, None, 0),
        units=wire.meta.usage.units() if wire.meta else {},
        order=[(result.index, result.relevance_score) for result in wire.results],
        texts=[_text(result.document) for result in wire.results],
    )


def _body(chat: Rank, model: str) -> Json:
    body: Json = {"model": model, "query": chat.query, "documents": chat.documents}
    return body if chat.top_n is None else {**body, "top_n": chat.top_n}


def _written(answer: Answer, receipt: Receipt | None, version: str) -> Json:
    results: list[Json] = []
    if isinstance(answer, Ranked):
        for (index, score), text in zip(answer.order, answer.texts, strict=True):
            result: Json = {"index": index, "relevance_score": score}
            if text is not None and version == "1":
                result["document"] = {"text": text}
            results.append(result)
    meta: Json = {"api_version": {"version": version}}
    if searches := answer.units.get("search"):
        meta["billed_units"] = {"search_units": searches}
    reply = answer.id or (receipt.request_id if receipt else "")
    return {"id": reply, "results": results, "meta": meta}


class CohereRerank(CohereBase):
    """Cohere's rerank (v2)."""

    surface = "rerank"
    path = "/v2/rerank"
    client_paths: ClassVar[Mapping[str, Json]] = {"/v2/rerank": {}}

    def open(self, fields: Fields) -> Opening:
        return open_rerank(fields)

    def read_request(self, fields: Fields) -> Rank:
        return read_rerank(fields)

    def write_request(self, chat: Rank, model: str, max_output_tokens: int | None) -> bytes:
        del max_output_tokens
        return _encode(_body(chat, model))

    def unsaid(self, chat: Rank, model: str) -> list[str]:
        del model
        return ["return_documents"] if chat.shown else []

    def read_answer(self, body: bytes) -> Answer:
        return read_ranked(body)

    def write_answer(self, answer: Answer, receipt: Receipt | None) -> bytes:
        return _encode(_written(answer, receipt, "2"))


class PlainRerank(OpenAIBase):
    """The rerank of many servers, below the base URL of OpenAI's dialect."""

    surface = "rerank"
    client_paths: ClassVar[Mapping[str, Json]] = {"/v1/rerank": {}}

    def path_of(self, model: str, stream: bool) -> str:
        del model, stream
        return "/rerank"

    def open(self, fields: Fields) -> Opening:
        return open_rerank(fields)

    def read_request(self, fields: Fields) -> Rank:
        return read_rerank(fields)

    def forward_request(self, fields: Fields, model: str, opening: Opening) -> bytes:
        del opening
        return _encode({**fields, "model": model})

    def write_request(self, chat: Rank, model: str, max_output_tokens: int | None) -> bytes:
        del max_output_tokens
        body = _body(chat, model)
        return _encode({**body, "return_documents": True} if chat.shown else body)

    def read_answer(self, body: bytes) -> Answer:
        return read_ranked(body)

    def write_answer(self, answer: Answer, receipt: Receipt | None) -> bytes:
        written = _written(answer, receipt, "1")
        tokens = answer.usage.input_tokens if answer.usage else None
        usage = {} if tokens is None else {"usage": {"total_tokens": tokens}}
        return _encode({**written, "model": answer.model, **usage})


COHERE_RERANK = CohereRerank()
RERANK = PlainRerank()
