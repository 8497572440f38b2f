"""Cohere's embeddings and rerank.

Written from docs.cohere.com/reference/embed and docs.cohere.com/reference/rerank; the first version's
answer is also what servers of other makers give under `/v1/rerank`.
"""

import base64
import math
import struct
from typing import Any, Literal

import msgspec

from infra.sandbox import calls, cohere_wire
from infra.sandbox.errors import invalid
from infra.sandbox.exchange import Exchange
from infra.sandbox.listings import vector
from infra.sandbox.models import Model
from infra.sandbox.requests import read
from infra.sandbox.tokens import TOKENS_PER_IMAGE, count
from infra.sandbox.wire import Desk

INPUTS_MAX = 96
DOCUMENTS_MAX = 10_000
DOCUMENTS_PER_SEARCH = 100
"""One search unit is a query with up to a hundred documents."""
SIZES = (256, 512, 1024, 1536)
Kind = Literal["search_document", "search_query", "classification", "clustering", "image"]
Written = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]


class EmbedRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The documented parameters of `/v2/embed`."""

    model: str
    input_type: Kind
    texts: list[str] = []
    images: list[str] = []
    inputs: list[dict[str, Any]] = []
    max_tokens: int | None = None
    output_dimension: int | None = None
    embedding_types: list[Written] = msgspec.field(default_factory=lambda: ["float"])
    truncate: Literal["NONE", "START", "END"] | None = None
    priority: int | None = None


class RerankRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The documented parameters of `/v2/rerank`."""

    model: str
    query: str
    documents: list[str]
    top_n: int | None = None
    max_tokens_per_doc: int | None = None
    priority: int | None = None


class FirstRerankRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The documented parameters of `/v1/rerank`."""

    query: str
    documents: list[str | dict[str, Any]]
    model: str = "rerank-v3.5"
    top_n: int | None = None
    rank_fields: list[str] | None = None
    return_documents: bool = False
    max_chunks_per_doc: int | None = None


_EMBED = msgspec.json.Decoder(EmbedRequest)
_RERANK = msgspec.json.Decoder(RerankRequest)
_FIRST_RERANK = msgspec.json.Decoder(FirstRerankRequest)


def _model(exchange: Exchange, desk: Desk, name: str, kind: str) -> Model:
    exchange.row.model = name
    model = desk.catalogue.get(name, "cohere")
    if model is None:
        raise cohere_wire.no_model(name)
    if model.kind != kind:
        raise invalid(f"invalid request: model '{name}' is not supported by this API")
    return model


async def serve_embed(exchange: Exchange, desk: Desk, body: bytes) -> None:
    """Serve `/v2/embed`.

    Raises:
        ApiError: the vendor would refuse it, or a fault says so.
        BadBody: the body is not what the vendor documents.
        Disconnected: the client left.
    """
    request = read(_EMBED, body)
    model = _model(exchange, desk, request.model, "embedding")
    lane = desk.behaviours.lane(exchange.row.base, model)
    plan = lane.plan()
    if await calls.before(exchange, plan, anthropic=False):
        return
    texts = request.texts or [_text(entry) for entry in request.inputs]
    total = len(texts) + len(request.images)
    if not total or total > INPUTS_MAX:
        raise invalid(
            f"invalid request: total number of texts must be at most {INPUTS_MAX} - received {total}"
        )
    size = request.output_dimension or model.dimensions
    if size not in SIZES:
        raise invalid(f"invalid request: output_dimension must be one of {SIZES}")
    tokens, pictures = sum(count(text) for text in texts), len(request.images)
    calls.admit(lane, tokens)
    if plan.first_token_s > 0:
        await exchange.wait(plan.first_token_s)
    vectors = [vector(text, size) for text in (*texts, *request.images)]
    exchange.row.input_tokens = tokens + pictures * TOKENS_PER_IMAGE
    exchange.row.usage_sent = True
    billed: dict[str, int] = {"input_tokens": exchange.row.input_tokens}
    if pictures:
        billed["image_tokens"] = pictures * TOKENS_PER_IMAGE
    answer: dict[str, Any] = {
        "id": cohere_wire.reply_id(exchange),
        "embeddings": {
            form: [_written(v, form) for v in vectors] for form in request.embedding_types
        },
        "texts": texts,
        "meta": {"api_version": {"version": "2"}, "billed_units": billed},
    }
    await exchange.answer_json(answer, cohere_wire.rate_headers(exchange, lane))


def _text(entry: dict[str, Any]) -> str:
    blocks = entry.get("content")
    return "".join(str(block.get("text", "")) for block in blocks or () if isinstance(block, dict))


def _written(values: list[float], form: Written) -> list[float] | list[int] | str:
    match form:
        case "float":
            return values
        case "base64":
            return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
        case "int8" | "uint8":
            shift = 128 if form == "uint8" else 0
            return [max(-128, min(127, round(value * 127))) + shift for value in values]
    bits = [value > 0 for value in values]
    shift = 0 if form == "ubinary" else 128
    return [
        sum(bit << (7 - at) for at, bit in enumerate(bits[start : start + 8])) - shift
        for start in range(0, len(bits), 8)
    ]


async def serve_rerank(exchange: Exchange, desk: Desk, body: bytes, *, first_version: bool) -> None:
    """Serve `/v2/rerank` or `/v1/rerank`: documents that share more words with the query come first.

    Raises:
        ApiError: the vendor would refuse it, or a fault says so.
        BadBody: the body is not what the vendor documents.
        Disconnected: the client left.
    """
    request = read(_FIRST_RERANK, body) if first_version else read(_RERANK, body)
    model = _model(exchange, desk, request.model, "rerank")
    lane = desk.behaviours.lane(exchange.row.base, model)
    plan = lane.plan()
    if await calls.before(exchange, plan, anthropic=False):
        return
    documents = [_document(entry) for entry in request.documents]
    if not request.query.strip():
        raise invalid("invalid request: query must not be empty or be only whitespace")
    if not documents or len(documents) > DOCUMENTS_MAX:
        raise invalid("invalid request: list of documents must not be empty")
    calls.admit(lane, sum(count(text) for text in documents))
    if plan.first_token_s > 0:
        await exchange.wait(plan.first_token_s)
    scores = [_score(request.query, text) for text in documents]
    order = sorted(range(len(documents)), key=lambda index: (-scores[index], index))
    results: list[dict[str, Any]] = [
        {"index": index, "relevance_score": scores[index]} for index in order[: request.top_n]
    ]
    if isinstance(request, FirstRerankRequest) and request.return_documents:
        for result in results:
            result["document"] = {"text": documents[result["index"]]}
    searches = math.ceil(len(documents) / DOCUMENTS_PER_SEARCH)
    exchange.row.usage_sent = True
    exchange.row.units = {"search": searches}
    meta = {
        "api_version": {"version": "1" if first_version else "2"},
        "billed_units": {"search_units": searches},
    }
    answer = {"id": cohere_wire.reply_id(exchange), "results": results, "meta": meta}
    await exchange.answer_json(answer, cohere_wire.rate_headers(exchange, lane))


def _document(entry: str | dict[str, Any]) -> str:
    return entry if isinstance(entry, str) else str(entry.get("text", ""))


def _score(query: str, text: str) -> float:
    asked, told = set(query.lower().split()), set(text.lower().split())
    return round(len(asked & told) / (len(asked | told) or 1) * 0.98 + 0.01, 6)
