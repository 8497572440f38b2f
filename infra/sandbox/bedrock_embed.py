"""Bedrock's InvokeModel, for the embeddings of Titan's and Cohere's models.

Written from docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-titan-embed-text.html,
…/model-parameters-embed.html and …/APIReference/API_runtime_InvokeModel.html.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from infra.sandbox import bedrock_wire, calls
from infra.sandbox.behaviour import Lane
from infra.sandbox.errors import invalid
from infra.sandbox.exchange import Exchange
from infra.sandbox.listings import vector
from infra.sandbox.models import Model
from infra.sandbox.requests import read
from infra.sandbox.tokens import count

COHERE_SIZES = (256, 512, 1_024, 1_536)


class TitanRequest(msgspec.Struct, forbid_unknown_fields=True):
    inputText: Annotated[str, Meta(min_length=1)]  # noqa: N815 - the vendor's name
    dimensions: Literal[256, 512, 1_024] = 1_024
    normalize: bool = True
    embeddingTypes: list[Literal["float", "binary"]] = []  # noqa: N815


class CohereRequest(msgspec.Struct, forbid_unknown_fields=True):
    texts: Annotated[list[str], Meta(min_length=1, max_length=96)]
    input_type: Literal["search_document", "search_query", "classification", "clustering"]
    embedding_types: list[Literal["float"]] | None = None
    output_dimension: int | None = None
    truncate: Literal["NONE", "LEFT", "RIGHT"] = "NONE"


_TITAN = msgspec.json.Decoder(TitanRequest)
_COHERE = msgspec.json.Decoder(CohereRequest)


async def serve_invoke(exchange: Exchange, body: bytes, model: Model, lane: Lane) -> None:
    """Serve one call.

    Raises:
        ApiError: the vendor would refuse it, or a fault says so.
        BadBody: the body is not what the vendor documents for this model.
        Disconnected: the client left.
    """
    plan = lane.plan()
    if await calls.before(exchange, plan, anthropic=False):
        return
    if model.kind != "embedding":
        raise invalid(f"The sandbox invokes no {model.name}: it converses.")
    titan = model.name.startswith("amazon.")
    texts, answer = _titan(body) if titan else _cohere(body, model)
    tokens = sum(count(text) for text in texts)
    calls.admit(lane, tokens)
    if plan.first_token_s > 0:
        await exchange.wait(plan.first_token_s)
    exchange.row.input_tokens = tokens
    exchange.row.usage_sent = True
    headers = [
        *bedrock_wire.plain_headers(exchange),
        (b"x-amzn-bedrock-input-token-count", b"%d" % tokens),
    ]
    if titan:
        answer["inputTextTokenCount"] = tokens
    await exchange.answer_json(answer, headers)


def _titan(body: bytes) -> tuple[list[str], dict[str, Any]]:
    request = read(_TITAN, body)
    values = vector(request.inputText, request.dimensions)
    return [request.inputText], {"embedding": values, "embeddingsByType": {"float": values}}


def _cohere(body: bytes, model: Model) -> tuple[list[str], dict[str, Any]]:
    request = read(_COHERE, body)
    size = request.output_dimension or model.dimensions
    if size not in COHERE_SIZES:
        raise invalid(f"Malformed input request: #/output_dimension: {size} is no valid value")
    vectors = [vector(text, size) for text in request.texts]
    by_type = request.embedding_types is not None
    return request.texts, {
        "response_type": "embeddings_by_type" if by_type else "embeddings_floats",
        "embeddings": {"float": vectors} if by_type else vectors,
        "texts": request.texts,
    }
