"""What all of Gemini's answers share: error bodies, headers, and the words for a bad body.

Written from ai.google.dev/gemini-api/docs/troubleshooting (codes and statuses) and google.rpc.Status
with its error details (cloud.google.com/apis/design/errors).
"""

import math
from typing import Any

import msgspec

from infra.sandbox.behaviour import Lane
from infra.sandbox.errors import ApiError, ErrorKind, invalid
from infra.sandbox.exchange import Exchange, Header
from infra.sandbox.requests import BadBody

_STATUS: dict[ErrorKind, str] = {
    "authentication": "UNAUTHENTICATED",
    "invalid_request": "INVALID_ARGUMENT",
    "not_found": "NOT_FOUND",
    "rate_limit": "RESOURCE_EXHAUSTED",
    "server": "INTERNAL",
    "overloaded": "UNAVAILABLE",
    "too_large": "INVALID_ARGUMENT",
}
_TYPE = "type.googleapis.com/google.rpc."
QUOTA = "generativelanguage.googleapis.com/generate_content_requests"


def error_body(error: ApiError) -> bytes:
    """The vendor's error object."""
    status = "UNAVAILABLE" if error.status == 503 else _STATUS[error.kind]
    body: dict[str, Any] = {"code": error.status, "message": error.message, "status": status}
    details = _details(error)
    if details:
        body["details"] = details
    return msgspec.json.encode({"error": body})


def _details(error: ApiError) -> list[dict[str, Any]]:
    if error.code == "API_KEY_INVALID":
        reason = {"reason": error.code, "domain": "googleapis.com"}
        return [{"@type": _TYPE + "ErrorInfo", **reason}]
    if error.kind != "rate_limit":
        return []
    what = {"quotaMetric": QUOTA, "quotaId": "GenerateRequestsPerMinutePerProjectPerModel"}
    details: list[dict[str, Any]] = [{"@type": _TYPE + "QuotaFailure", "violations": [what]}]
    if error.retry_after_s is not None:
        details.append(
            {"@type": _TYPE + "RetryInfo", "retryDelay": f"{math.ceil(error.retry_after_s)}s"}
        )
    return details


def headers(exchange: Exchange) -> list[Header]:
    """Headers of every answer: the vendor tells nothing of its limits here."""
    return [
        (b"vary", b"Origin"),
        (b"x-content-type-options", b"nosniff"),
        (b"server-timing", b"gfet4t7; dur=%d" % max(1, exchange.row.bytes_in % 97)),
    ]


async def answer_error(exchange: Exchange, error: ApiError, lane: Lane | None) -> None:
    """Send an error in the vendor's body."""
    del lane
    exchange.row.error_code = error.code or error.kind
    await exchange.answer(error.status, error_body(error), headers(exchange))


def explain(bad: BadBody) -> ApiError:
    """A body's fault in the vendor's words."""
    if bad.problem == "json":
        return invalid("Invalid JSON payload received. Expected a value.")
    if bad.problem == "unknown":
        name = bad.path.rpartition(".")[2]
        return invalid(
            f"Invalid JSON payload received. Unknown name \"{name}\" at '{bad.path}': Cannot find field."
        )
    if bad.problem == "missing":
        return invalid(f"* GenerateContentRequest.{bad.path}: {bad.path} is not specified\n")
    return invalid(f"Invalid value at '{bad.path}': {bad.message}")
