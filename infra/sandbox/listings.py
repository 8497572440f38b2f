"""The vendors' model lists and embeddings."""

import base64
import hashlib
import math
import struct
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from infra.sandbox import anthropic_wire, openai_wire
from infra.sandbox.behaviour import Lane
from infra.sandbox.calls import admit, before
from infra.sandbox.errors import ApiError, invalid
from infra.sandbox.exchange import Exchange
from infra.sandbox.models import Catalogue, Model
from infra.sandbox.requests import read
from infra.sandbox.tokens import count

INPUTS_MAX = 2_048
PAGE_MAX = 1_000


class EmbeddingRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The documented parameters of `/v1/embeddings`."""

    model: str
    input: str | list[str | int | list[int]]
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None


_EMBEDDINGS = msgspec.json.Decoder(EmbeddingRequest)


def parse_embedding(body: bytes) -> EmbeddingRequest:
    """The request in a body.

    Raises:
        BadBody: it is not what the vendor documents.
    """
    return read(_EMBEDDINGS, body)


async def serve_embeddings(
    exchange: Exchange, request: EmbeddingRequest, model: Model, lane: Lane
) -> None:
    """Serve `/v1/embeddings`: unit vectors drawn from the texts' words, so like texts are near.

    Raises:
        ApiError: the vendor would refuse it, or a fault says so.
        Disconnected: the client left.
    """
    plan = lane.plan()
    if await before(exchange, plan, anthropic=False):
        return
    if model.kind != "embedding":
        raise ApiError(
            403, "invalid_request", f"You are not allowed to generate embeddings from {model.name}."
        )
    inputs = _inputs(request)
    size = request.dimensions or model.dimensions
    if not 1 <= size <= model.dimensions:
        raise invalid(
            f"Invalid 'dimensions': at most {model.dimensions} for this model.", param="dimensions"
        )
    tokens = [len(text) if isinstance(text, list) else count(text) for text in inputs]
    if max(tokens) > model.context_tokens:
        raise invalid(
            f"This model's maximum context length is {model.context_tokens} tokens, however you requested "
            f"{max(tokens)} tokens. Please reduce your prompt.",
            code="context_length_exceeded",
        )
    admit(lane, sum(tokens))
    if plan.first_token_s > 0:
        await exchange.wait(plan.first_token_s)
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _written(
                vector(" ".join(map(str, text)) if isinstance(text, list) else text, size), request
            ),
        }
        for index, text in enumerate(inputs)
    ]
    exchange.row.input_tokens = sum(tokens)
    exchange.row.usage_sent = True
    usage = {"prompt_tokens": sum(tokens), "total_tokens": sum(tokens)}
    answer = {"object": "list", "data": data, "model": model.reported, "usage": usage}
    await exchange.answer_json(answer, openai_wire.rate_headers(exchange, lane))


def _inputs(request: EmbeddingRequest) -> list[str | list[int]]:
    given: Any = request.input
    inputs = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else given
    if not inputs or not all(inputs):
        raise invalid("Invalid 'input': input cannot be an empty string.", param="input")
    if len(inputs) > INPUTS_MAX:
        raise invalid(f"Invalid 'input': at most {INPUTS_MAX} entries.", param="input")
    return list(inputs)


def vector(text: str, size: int) -> list[float]:
    """A unit vector: the sum of a drawn vector per word."""
    total = [0.0] * size
    for word in text.lower().split() or [text]:
        drawn = hashlib.shake_128(word.encode("utf-8", "surrogatepass")).digest(size * 2)
        for index, value in enumerate(struct.unpack(f"<{size}h", drawn)):
            total[index] += value
    norm = math.sqrt(sum(value * value for value in total)) or 1.0
    return [value / norm for value in total]


def _written(values: list[float], request: EmbeddingRequest) -> list[float] | str:
    packed = struct.pack(f"<{len(values)}f", *values)
    if request.encoding_format == "base64":
        return base64.b64encode(packed).decode()
    return list(struct.unpack(f"<{len(values)}f", packed))


async def openai_models(exchange: Exchange, catalogue: Catalogue, name: str | None) -> None:
    """Serve `/v1/models` or `/v1/models/{id}`.

    Raises:
        ApiError: 404 for a model that does not exist.
    """
    listed = [_openai_model(known, model) for known, model in catalogue.listed("openai")]
    headers = openai_wire.plain_headers(exchange)
    if name is None:
        await exchange.answer_json({"object": "list", "data": listed}, headers)
        return
    for entry in listed:
        if entry["id"] == name:
            await exchange.answer_json(entry, headers)
            return
    raise ApiError(
        404,
        "not_found",
        f"The model '{name}' does not exist",
        param="model",
        code="model_not_found",
    )


def _openai_model(name: str, model: Model) -> dict[str, Any]:
    owner = "org-sandbox" if name.startswith("ft:") else "system"
    return {"id": name, "object": "model", "created": model.created_s, "owned_by": owner}


async def anthropic_models(exchange: Exchange, catalogue: Catalogue, name: str | None) -> None:
    """Serve Anthropic's `/v1/models` (paged) or `/v1/models/{id}`.

    Raises:
        ApiError: 404 for a model that does not exist.
    """
    headers = anthropic_wire.plain_headers(exchange)
    if name is not None:
        found = catalogue.get(name, "anthropic")
        if found is None:
            raise ApiError(404, "not_found", f"model: {name}", code="model_not_found")
        await exchange.answer_json(_anthropic_model(found), headers)
        return
    models = {model.reported: model for _, model in catalogue.listed("anthropic")}
    entries = [_anthropic_model(model) for model in models.values()]
    await exchange.answer_json(_page(entries, exchange.query), headers)


def _page(entries: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
    limit = query.get("limit", "20")
    if not limit.isdigit() or not 1 <= int(limit) <= PAGE_MAX:
        raise invalid(f"limit: Input should be between 1 and {PAGE_MAX}")
    names = [entry["id"] for entry in entries]
    low, high = 0, len(entries)
    after, ahead = query.get("after_id"), query.get("before_id")
    if after is not None:
        low = names.index(after) + 1 if after in names else high
    if ahead is not None:
        high = names.index(ahead) if ahead in names else low
        low = max(low, high - int(limit))
        has_more = low > 0
    else:
        has_more = high - low > int(limit)
        high = min(high, low + int(limit))
    data = entries[low:high]
    return {
        "data": data,
        "has_more": has_more,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }


def _anthropic_model(model: Model) -> dict[str, Any]:
    def can(supported: bool) -> dict[str, bool]:
        return {"supported": supported}

    line = next((word for word in ("haiku", "sonnet", "opus") if word in model.name), None)
    levels = ("low", "medium", "high", "max", "xhigh")
    types = {"enabled": model.reasoning, "adaptive": model.reasoning, "disabled": True}
    return {
        "type": "model",
        "id": model.reported,
        "display_name": model.display_name,
        "created_at": datetime.fromtimestamp(model.created_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "deprecated_at": None,
        "retires_at": None,
        "line": line,
        "max_input_tokens": model.context_tokens,
        "max_tokens": model.output_tokens_max,
        "capabilities": {
            "batch": can(False),
            "citations": can(False),
            "code_execution": can(False),
            "context_management": {
                "supported": False,
                "clear_thinking_20251015": can(False),
                "clear_tool_uses_20250919": can(False),
                "compact_20260112": can(False),
            },
            "effort": {"supported": False, **{level: can(False) for level in levels}},
            "image_input": can(True),
            "pdf_input": can(True),
            "server_tools": {
                "supported": False,
                "code_execution": can(False),
                "web_search": can(False),
            },
            "structured_outputs": can(True),
            "thinking": {
                "supported": model.reasoning,
                "types": {
                    **{name: can(supported) for name, supported in types.items()},
                    "between_tools": can(False),
                },
            },
        },
    }
