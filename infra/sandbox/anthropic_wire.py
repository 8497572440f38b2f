"""What all of Anthropic's answers share: error bodies, headers, and the check of the caller."""

import math
import time

import msgspec

from infra.sandbox.behaviour import Bucket, Lane
from infra.sandbox.errors import ApiError, ErrorKind
from infra.sandbox.exchange import Exchange, Header

_TYPES: dict[ErrorKind, str] = {
    "authentication": "authentication_error",
    "invalid_request": "invalid_request_error",
    "not_found": "not_found_error",
    "rate_limit": "rate_limit_error",
    "server": "api_error",
    "overloaded": "overloaded_error",
    "too_large": "request_too_large",
}
_ORGANIZATION: Header = (b"anthropic-organization-id", b"3f1c1f2e-5c0a-4a57-9a52-8f1f6a1d2b77")


def error_body(kind: ErrorKind, message: str, request_id: str | None) -> bytes:
    """The vendor's error object."""
    error = {"type": _TYPES[kind], "message": message}
    return msgspec.json.encode({"type": "error", "error": error, "request_id": request_id})


def plain_headers(exchange: Exchange) -> list[Header]:
    """Headers of every answer."""
    return [(b"request-id", exchange.row.id.encode()), _ORGANIZATION]


def rate_headers(exchange: Exchange, lane: Lane) -> list[Header]:
    """Headers of a model call: the plain ones and what is left of the limits."""
    lines = plain_headers(exchange)
    for name, bucket in (
        (b"requests", lane.requests),
        (b"tokens", lane.tokens),
        (b"input-tokens", lane.tokens),
        (b"output-tokens", lane.tokens),
    ):
        lines += _bucket(b"anthropic-ratelimit-" + name, bucket)
    return lines


def _bucket(name: bytes, bucket: Bucket) -> list[Header]:
    reset = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + bucket.wait_s())).encode()
    return [
        (name + b"-limit", b"%d" % bucket.limit),
        (name + b"-remaining", b"%d" % bucket.remaining),
        (name + b"-reset", reset),
    ]


async def answer_error(exchange: Exchange, error: ApiError, lane: Lane | None) -> None:
    """Send an error in the vendor's body."""
    headers = plain_headers(exchange) if lane is None else rate_headers(exchange, lane)
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % math.ceil(error.retry_after_s)))
    if error.status >= 500:
        headers.append((b"x-should-retry", b"true"))
    exchange.row.error_code = error.code or error.kind
    await exchange.answer(
        error.status, error_body(error.kind, error.message, exchange.row.id), headers
    )
