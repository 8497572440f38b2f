"""What all of Cohere's answers share: error bodies, headers, the check of the caller.

Written from docs.cohere.com/reference/errors and docs.cohere.com/docs/rate-limits.
"""

import math
from typing import Any

import msgspec

from infra.sandbox.behaviour import Lane
from infra.sandbox.errors import ApiError, invalid
from infra.sandbox.exchange import Exchange, Header
from infra.sandbox.requests import BadBody
from infra.sandbox.wire import Desk


def authenticate(exchange: Exchange, desk: Desk) -> None:
    """Check the key that the call presents.

    Raises:
        ApiError: 401 without a key or with a wrong one.
    """
    bearer = exchange.header(b"authorization") or ""
    scheme, _, key = bearer.partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise ApiError(401, "authentication", "no api key supplied")
    exchange.row.key = f"{key[:3]}…{key[-4:]}" if len(key) > 8 else "…"
    if desk.settings.keys and key.strip() not in desk.settings.keys:
        raise ApiError(401, "authentication", "invalid api token")


def reply_id(exchange: Exchange) -> str:
    """The id of an answer."""
    text = exchange.row.id.removeprefix("req_").rjust(32, "0")[-32:]
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def plain_headers(exchange: Exchange) -> list[Header]:
    """Headers of every answer."""
    return [(b"x-debug-trace-id", exchange.row.id.removeprefix("req_").encode())]


def rate_headers(exchange: Exchange, lane: Lane) -> list[Header]:
    """Headers of a model call: the plain ones and what is left of a trial key's calls."""
    return [
        *plain_headers(exchange),
        (b"x-trial-endpoint-call-limit", b"%d" % lane.requests.limit),
        (b"x-trial-endpoint-call-remaining", b"%d" % lane.requests.remaining),
    ]


async def answer_error(exchange: Exchange, error: ApiError, lane: Lane | None) -> None:
    """Send an error in the vendor's body."""
    headers = plain_headers(exchange) if lane is None else rate_headers(exchange, lane)
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % math.ceil(error.retry_after_s)))
    exchange.row.error_code = error.code or error.kind
    body: dict[str, Any] = {"id": reply_id(exchange), "message": error.message}
    await exchange.answer(error.status, msgspec.json.encode(body), headers)


def explain(bad: BadBody) -> ApiError:
    """A body's fault in the vendor's words."""
    if bad.problem == "json":
        return invalid("invalid json syntax")
    if bad.problem == "missing":
        return invalid(f"invalid request: {bad.path} is required.")
    if bad.problem == "unknown":
        return ApiError(
            422, "invalid_request", f"unknown field: parameter '{bad.path}' is not valid"
        )
    return invalid(f"invalid request: {bad.path}: {bad.message}")


def no_model(name: str) -> ApiError:
    """The refusal of a model that is not there."""
    return ApiError(
        404,
        "not_found",
        f"model '{name}' not found, make sure the correct model ID was used and that you have access "
        "to the model.",
        code="model_not_found",
    )
