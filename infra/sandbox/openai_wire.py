"""What all of OpenAI's answers share: error bodies and headers."""

import math
import time

import msgspec

from infra.sandbox.behaviour import Bucket, Lane
from infra.sandbox.errors import ApiError, ErrorKind
from infra.sandbox.exchange import Exchange, Header

_TYPES: dict[ErrorKind, str] = {
    "authentication": "invalid_request_error",
    "invalid_request": "invalid_request_error",
    "not_found": "invalid_request_error",
    "too_large": "invalid_request_error",
    "rate_limit": "requests",
    "server": "server_error",
    "overloaded": "service_unavailable_error",
}
_STATIC: tuple[Header, ...] = (
    (b"openai-organization", b"org-sandbox"),
    (b"openai-version", b"2020-10-01"),
)


def error_body(kind: ErrorKind, message: str, param: str | None, code: str | None) -> bytes:
    """The vendor's error object."""
    type_ = "tokens" if kind == "rate_limit" and param == "tokens" else _TYPES[kind]
    shown = None if kind == "rate_limit" else param
    return msgspec.json.encode(
        {"error": {"message": message, "type": type_, "param": shown, "code": code}}
    )


def span(seconds: float) -> bytes:
    """A duration as the vendor writes it: `6ms`, `1.2s`, `1m30s`."""
    if seconds < 1:
        return b"%dms" % math.ceil(seconds * 1_000)
    minutes, rest = divmod(seconds, 60)
    short = f"{rest:.3f}".rstrip("0").rstrip(".")
    return (f"{int(minutes)}m" if minutes else "").encode() + short.encode() + b"s"


def plain_headers(exchange: Exchange) -> list[Header]:
    """Headers of every answer."""
    spent_us = time.time_ns() // 1_000 - exchange.row.started_at_us
    return [
        (b"x-request-id", exchange.row.id.encode()),
        (b"openai-processing-ms", b"%d" % max(1, spent_us // 1_000)),
        *_STATIC,
    ]


def rate_headers(exchange: Exchange, lane: Lane) -> list[Header]:
    """Headers of a model call: the plain ones and what is left of the limits."""
    lines = plain_headers(exchange)
    for name, bucket in ((b"requests", lane.requests), (b"tokens", lane.tokens)):
        lines += _bucket(name, bucket)
    return lines


def _bucket(name: bytes, bucket: Bucket) -> list[Header]:
    return [
        (b"x-ratelimit-limit-" + name, b"%d" % bucket.limit),
        (b"x-ratelimit-remaining-" + name, b"%d" % bucket.remaining),
        (b"x-ratelimit-reset-" + name, span(bucket.wait_s())),
    ]


async def answer_error(exchange: Exchange, error: ApiError, lane: Lane | None) -> None:
    """Send an error in the vendor's body."""
    headers = plain_headers(exchange) if lane is None else rate_headers(exchange, lane)
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % math.ceil(error.retry_after_s)))
        headers.append((b"retry-after-ms", b"%d" % math.ceil(error.retry_after_s * 1_000)))
    exchange.row.error_code = error.code or error.kind
    body = error_body(error.kind, error.message, error.param, error.code)
    await exchange.answer(error.status, body, headers)
