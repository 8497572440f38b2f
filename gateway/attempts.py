"""Small decisions around one attempt: what is sent, how long it may take, whose fault a failure is."""

from __future__ import annotations

from gateway.call import Call
from gateway.client import JSON, STREAM_HEADERS, Headers
from gateway.dialects.neutral import ClientDialect
from gateway.health import CALLER_ERRORS
from gateway.routing import DEFAULTS
from gateway.upstream import FORWARDED_HEADERS, Endpoint, Failed
from schemas.errors import (
    GuardrailBlocked,
    InvalidRequest,
    UpstreamRateLimited,
    UpstreamRejected,
    WeirError,
)
from schemas.routing import Target

TOKEN_S = 0.02
"""A whole answer is silent until it is done: this much per token is not silence yet."""


def request_body(call: Call, endpoint: Endpoint, target: Target) -> bytes:
    """Return what the target is sent, bounded as a hard budget asks. Raises Failed."""
    admitted, back = call.admitted, endpoint.dialect
    fields, front = admitted.fields, admitted.front
    if call.hold is not None and call.hold.max_tokens is not None:
        fields = front.limited(fields, target.model, call.hold.max_tokens)
    if front is back:
        call.dropped = []
        return back.forward_request(fields, target.model, admitted.opening)
    try:
        chat = front.read_request(fields)
        call.dropped = [*chat.unread, *back.unsaid(chat, target.model)]
        return back.write_request(chat, target.model, target.max_output_tokens)
    except InvalidRequest as error:
        raise Failed(UpstreamRejected(error.message), told=error) from error


def is_final(failure: Failed) -> bool:
    """Whether no other target would do better. What has no word in this target's dialect may have
    one in the next's; what a guardrail refuses stays refused.
    """
    told = failure.told
    untranslated = isinstance(told, InvalidRequest) and not isinstance(told, GuardrailBlocked)
    return failure.error.error_class in CALLER_ERRORS and not untranslated


def is_named(call: Call, target: Target) -> bool:
    """Whether the caller himself asked for this provider/model; else the operator chose it."""
    return call.plan.route is DEFAULTS and call.plan.name == target.id


def whole_answer_s(call: Call, target: Target) -> float:
    limits = call.plan.limits
    tokens = call.admitted.opening.max_tokens or target.max_output_tokens
    if tokens is None:
        return max(limits.first_token_s, limits.total_s / call.plan.route.attempts)
    return limits.first_token_s + tokens * TOKEN_S


def forwarded(call: Call, endpoint: Endpoint) -> Headers:
    headers = [(b"x-weir-request-id", call.admitted.request_id.encode())]
    if call.admitted.front is endpoint.dialect:
        given = call.client.headers
        headers += [(name, given[name]) for name in FORWARDED_HEADERS if name in given]
    return headers


def is_callers(failure: Failed) -> bool:
    """Whether the provider's own words are for the caller: about the request, or its pace."""
    error = failure.error
    return error.error_class in CALLER_ERRORS or isinstance(error, UpstreamRateLimited)


def stream_headers(call: Call) -> Headers:
    return [(b"content-type", call.admitted.front.stream_type), *STREAM_HEADERS[1:]]


def error_headers(front: ClientDialect, error: WeirError, status: int) -> Headers:
    """Return the headers of an error answer."""
    headers = [*front.error_headers(status), JSON]
    if error.retry_after_seconds is not None:
        headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after_seconds))))
    return headers
