"""Small decisions around one attempt: what is sent, how long it may take, whose fault a failure is."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from gateway.call import Call
from gateway.client import JSON, STREAM_HEADERS, Client, Headers
from gateway.dialects import quirks
from gateway.dialects.neutral import Answer, ClientDialect
from gateway.dialects.reading import readable
from gateway.health import CALLER_ERRORS
from gateway.pouring import ByteRelay, recorded
from gateway.routing import DEFAULTS
from gateway.streaming import StreamRelay
from gateway.upstream import FORWARDED_HEADERS, Endpoint, Failed
from schemas.errors import (
    GuardrailBlocked,
    InvalidRequest,
    ModelNotFound,
    UpstreamForbidden,
    UpstreamModelMissing,
    UpstreamRateLimited,
    UpstreamRejected,
    WeirError,
)
from schemas.routing import Target
from schemas.trace import trace_of

Relay = StreamRelay | ByteRelay
VENDOR_HEADERS: Final = (b"x-ratelimit-", b"anthropic-ratelimit-", b"openai-processing-ms")
"""Headers of a provider that its own clients read."""
NAMES_KEPT: Final = 1_024
"""Names of headers whose answer is remembered: providers repeat theirs with every answer."""
ESTIMATED = (b"x-weir-usage-basis", b"estimated")
"""The header of an answer that the gateway made by itself, from what bytes tell."""
ERROR_CODE = b"x-weir-error-code"
"""The header that names an error in every dialect: several have no room for a code of ours."""
TOKEN_S: Final = 0.02
"""A whole answer is silent until it is done: this much per token is not silence yet."""


ERROR = "error"
"""The word of a route that would rather refuse a call than leave a parameter out."""


def request_body(call: Call, endpoint: Endpoint, target: Target) -> bytes:
    """Return what the target is sent, bounded as a hard budget asks.

    Raises Failed, with the caller's fault in it, for content that the provider's dialect cannot
    express, and for parameters without a word there where the route refuses to leave them out.
    """
    admitted, back = call.admitted, endpoint.dialect
    fields, front = admitted.fields, admitted.front
    if call.hold is not None and call.hold.max_tokens is not None:
        fields = front.limited(fields, target.model, call.hold.max_tokens)
    words = [*endpoint.provider.quirks, *target.quirks] if quirks.concern(back) else []
    if front is back and not words:
        call.dropped = []
        return back.forward_request(fields, target.model, admitted.opening)
    try:
        if front is back:
            body, unsaid = back.forward_request(fields, target.model, admitted.opening), []
        else:
            chat = front.read_request(fields)
            unsaid = [name for name in chat.params if name not in back.params]
            unsaid += back.unsaid(chat, target.model)
            told = [*chat.unread, *(front.words.get(name, name) for name in unsaid)]
            unsaid = list(dict.fromkeys(told))
            body = back.write_request(chat, target.model, target.max_output_tokens)
        if words:
            body, lost = quirks.apply(words, body)
            unsaid += lost
        call.dropped = unsaid
        if unsaid and call.plan.route.unsupported == ERROR:
            raise _refusal(unsaid, target, back)
        return body
    except (InvalidRequest, RecursionError) as error:
        fault = readable(error)
        raise Failed(UpstreamRejected(fault.message), told=fault) from error


def _refusal(names: list[str], target: Target, back: ClientDialect) -> InvalidRequest:
    listed = ", ".join(f"'{name}'" for name in names)
    return InvalidRequest(
        f"{target.id} speaks '{back.name}', which has no word for {listed}",
        action="Leave them out, name a target of the same vendor, or let the route drop them "
        '(`unsupported = "drop"`).',
        details=names,
    )


def content_of(call: Call, answer: Answer | None, told: bytes | None) -> bytes:
    """Return request and answer as JSON for the record; `told` is the answer as the client had it,
    where that was the provider's own.
    """
    front = call.admitted.front
    if call.record is not None:
        answered = call.record
    elif told is not None:
        answered = recorded(told, call.answer_type[1])
    else:
        answered = b"null" if answer is None else front.write_answer(answer, None)
    asked = front.request_record(call.admitted.body, call.admitted.fields)
    return b'{"request":' + asked + b',"response":' + answered + b"}"


def is_final(failure: Failed) -> bool:
    """Whether no other target would do better. What has no word in this target's dialect may have
    one in the next's; what a guardrail refuses stays refused.
    """
    told = failure.told
    untranslated = isinstance(told, InvalidRequest) and not isinstance(told, GuardrailBlocked)
    return failure.error.error_class in CALLER_ERRORS and not untranslated


def blame_caller(failure: Failed) -> None:
    """Where the caller named the target himself, what its provider does not have, or does not let the
    account use, says nothing of the target.
    """
    match failure.error:
        case UpstreamModelMissing(message=message):
            failure.told = ModelNotFound(message)
        case UpstreamForbidden() as error:
            failure.told = error
        case _:
            return
    failure.error = UpstreamRejected(failure.error.message)


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
    """Return the headers that differ per call."""
    admitted = call.admitted
    headers = [(b"x-weir-request-id", admitted.request_id.encode())]
    if admitted.traceparent is not None:
        trace = trace_of(admitted.request_id, admitted.traceparent)
        headers.append((b"traceparent", trace.header(call.tries).encode()))
    if admitted.front is endpoint.dialect:
        given = call.client.headers
        headers += [(name, given[name]) for name in FORWARDED_HEADERS if name in given]
    return headers


def note_headers(call: Call, endpoint: Endpoint, headers: Mapping[bytes, bytes]) -> None:
    """Keep what a client of the provider's own dialect is told of its headers."""
    call.answer_type, call.vendor_headers = JSON, []
    if call.turn is not None:
        call.turn.hear(headers)
    if call.admitted.front is endpoint.dialect:
        call.answer_type = (JSON[0], headers.get(JSON[0], JSON[1]))
        # Where we limit the caller ourselves, the provider's limits on us would contradict it.
        telling = _tells_all if not call.client.limit_headers else _tells_beside_limits
        call.vendor_headers = [pair for pair in headers.items() if telling(pair[0])]


@lru_cache(NAMES_KEPT)
def _tells_all(name: bytes) -> bool:
    return name.startswith(VENDOR_HEADERS)


@lru_cache(NAMES_KEPT)
def _tells_beside_limits(name: bytes) -> bool:
    return name.startswith(VENDOR_HEADERS[-1:])


def relay_of(call: Call, endpoint: Endpoint, headers: Mapping[bytes, bytes]) -> Relay:
    """Return what carries a provider's stream to the client."""
    back, admitted = endpoint.dialect, call.admitted
    if back.bare(headers):
        return ByteRelay()
    guard = call.guard.stream() if call.guard is not None else None
    return StreamRelay(admitted.front, back, admitted.opening, call.target.model, guard)


def is_callers(failure: Failed) -> bool:
    """Whether the provider's own words are for the caller: about the request, or its pace."""
    error = failure.error
    return error.error_class in CALLER_ERRORS or isinstance(error, UpstreamRateLimited)


def vendors_words(front: ClientDialect, failure: Failed) -> bytes:
    """Return the provider's own error body where the caller can read it, else nothing."""
    same = failure.dialect_name == front.name and is_callers(failure)
    return failure.body if same and front.is_error(failure.body) else b""


def failed_status(failure: Failed, own_words: bytes) -> int:
    """Return the status of a failed call: the provider's own where its words are the caller's. What
    fails in an answer that began well has none.
    """
    status = failure.status or 0
    if status >= 400 and (own_words or (is_callers(failure) and failure.told is None)):
        return status
    return (failure.told or failure.error).status


def stream_headers(call: Call) -> Headers:
    # What is no text has no type of its dialect's: it is the provider's.
    kind = call.admitted.front.stream_type or call.answer_type[1]
    return [(JSON[0], kind), *STREAM_HEADERS[1:]]


def error_headers(front: ClientDialect, error: WeirError, status: int) -> Headers:
    """Return the headers of an error answer."""
    headers = [*front.error_headers(status), (ERROR_CODE, error.code.encode()), JSON]
    if error.retry_after_seconds is not None:
        headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after_seconds))))
    return headers


async def refuse(client: Client, front: ClientDialect, error: WeirError, request_id: str) -> None:
    """Answer a request that was not admitted, in the caller's dialect."""
    body = front.write_error(error, error.status, request_id)
    encoded = request_id.encode()
    ids = [(b"x-weir-request-id", encoded), (b"x-request-id", encoded), (b"request-id", encoded)]
    headers = [*ids, *client.limit_headers, *error_headers(front, error, error.status)]
    await client.whole(error.status, headers, body)
