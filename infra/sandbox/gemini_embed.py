"""Gemini's embeddings: `embedContent` and `batchEmbedContents`, as the Gemini API and as Vertex AI have
them, and Vertex AI's `predict`.

Written from ai.google.dev/api/embeddings,
cloud.google.com/vertex-ai/generative-ai/docs/model-reference/text-embeddings-api, and the vendor's client
google-genai (`Models.embed_content`).
"""

from typing import Any

import msgspec

from infra.sandbox import calls, gemini_wire
from infra.sandbox.behaviour import Lane
from infra.sandbox.errors import invalid
from infra.sandbox.exchange import Exchange
from infra.sandbox.gemini_request import Content
from infra.sandbox.listings import vector
from infra.sandbox.models import Model
from infra.sandbox.requests import read
from infra.sandbox.tokens import count

INPUTS_MAX = 100


class EmbedRequest(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    content: Content
    model: str | None = None
    task_type: str | None = None
    title: str | None = None
    output_dimensionality: int | None = None


class BatchRequest(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    requests: list[EmbedRequest]


class EmbedConfig(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    task_type: str | None = None
    title: str | None = None
    output_dimensionality: int | None = None
    auto_truncate: bool = True


class VertexRequest(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    content: Content
    embed_content_config: EmbedConfig = msgspec.field(default_factory=EmbedConfig)


class VertexBatch(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    requests: list[VertexRequest]


class Instance(msgspec.Struct, forbid_unknown_fields=True):
    content: str
    task_type: str | None = None
    title: str | None = None


class Parameters(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    auto_truncate: bool = True
    output_dimensionality: int | None = None


class PredictRequest(msgspec.Struct, forbid_unknown_fields=True):
    instances: list[Instance]
    parameters: Parameters = msgspec.field(default_factory=Parameters)


_ONE = msgspec.json.Decoder(EmbedRequest)
_BATCH = msgspec.json.Decoder(BatchRequest)
_VERTEX_ONE = msgspec.json.Decoder(VertexRequest)
_VERTEX_BATCH = msgspec.json.Decoder(VertexBatch)
_PREDICT = msgspec.json.Decoder(PredictRequest)


async def serve_embed(
    exchange: Exchange, verb: str, body: bytes, model: Model, lane: Lane, *, vertex: bool
) -> None:
    """Serve one call of any of them.

    Raises:
        ApiError: the vendor would refuse it, or a fault says so.
        BadBody: the body is not what the vendor documents.
        Disconnected: the client left.
    """
    plan = lane.plan()
    if await calls.before(exchange, plan, anthropic=False):
        return
    gemini = model.name.startswith("gemini")
    if (
        model.kind != "embedding"
        or (verb == "predict" and not vertex)
        or (vertex and verb != "predict" and not gemini)
    ):
        raise invalid(f"models/{model.name} does not support {verb}.")
    wanted = _on_vertex(verb, body) if vertex else _wanted(verb, body)
    if verb == "predict" and gemini and len(wanted) > 1:
        raise invalid(f"{model.name} takes one instance a call.")
    if not wanted or len(wanted) > INPUTS_MAX:
        raise invalid(f"* BatchEmbedContentsRequest.requests: at most {INPUTS_MAX} requests")
    tokens = [count(text) for text, _ in wanted]
    calls.admit(lane, sum(tokens))
    if plan.first_token_s > 0:
        await exchange.wait(plan.first_token_s)
    vectors = []
    for text, size in wanted:
        if not 1 <= (size or model.dimensions) <= model.dimensions:
            raise invalid(f"output_dimensionality must be at most {model.dimensions}")
        vectors.append(vector(text, size or model.dimensions))
    exchange.row.input_tokens = sum(tokens)
    exchange.row.usage_sent = True
    await exchange.answer_json(_answer(verb, vectors, tokens), gemini_wire.headers(exchange))


def _on_vertex(verb: str, body: bytes) -> list[tuple[str, int | None]]:
    if verb == "predict":
        request = read(_PREDICT, body)
        size = request.parameters.output_dimensionality
        return [(instance.content, size) for instance in request.instances]
    single = verb == "embedContent"
    requests = [read(_VERTEX_ONE, body)] if single else read(_VERTEX_BATCH, body).requests
    return [
        (_text(one.content), one.embed_content_config.output_dimensionality) for one in requests
    ]


def _wanted(verb: str, body: bytes) -> list[tuple[str, int | None]]:
    single = verb == "embedContent"
    requests = [read(_ONE, body)] if single else read(_BATCH, body).requests
    return [(_text(entry.content), entry.output_dimensionality) for entry in requests]


def _text(content: Content) -> str:
    return "".join(part.text or "" for part in content.parts)


def _answer(verb: str, vectors: list[list[float]], tokens: list[int]) -> dict[str, Any]:
    if verb == "predict":
        return {
            "predictions": [
                {
                    "embeddings": {
                        "values": values,
                        "statistics": {"token_count": size, "truncated": False},
                    }
                }
                for values, size in zip(vectors, tokens, strict=True)
            ]
        }
    usage = {"promptTokenCount": sum(tokens)}
    if verb == "embedContent":
        return {"embedding": {"values": vectors[0]}, "usageMetadata": usage}
    return {"embeddings": [{"values": values} for values in vectors], "usageMetadata": usage}
