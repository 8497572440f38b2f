"""Where guardrails meet a call: its request before it is forwarded, its answer before it is told."""

from __future__ import annotations

import msgspec

from gateway.call import Call
from gateway.dialects.multipart import FormFields
from gateway.dialects.neutral import Answer, Dialect, text_of
from gateway.dialects.reading import untold
from gateway.http1 import Connection
from gateway.upstream import Failed
from schemas.errors import GuardrailBlocked, UpstreamError, UpstreamProtocol, UpstreamRejected


def check_request(call: Call) -> None:
    """Let the guardrails see the request, and change it; `call.refused` says where one blocks."""
    if call.guard is None:
        return
    admitted = call.admitted
    try:
        fields = call.guard.request(admitted.fields)
    except GuardrailBlocked as error:
        call.refused = blocked(error)
        return
    if isinstance(admitted.fields, FormFields):
        admitted.fields = admitted.fields.replaced(fields)
    elif fields != admitted.fields:
        admitted.fields, admitted.body = fields, msgspec.json.encode(fields)


def read_checked(
    call: Call, back: Dialect, body: bytes, connection: Connection
) -> tuple[bytes, Answer]:
    """Read a whole answer and let the guardrails see it; return what may be told of it.

    Raises Failed for one that cannot be read, and where a guardrail blocks.
    """
    try:
        answer = back.read_answer(body)
        if answer.usage is None:
            answer = back.counted(answer, connection.headers)
        if answer.untold and call.admitted.front is not back:
            call.answer = answer  # what cannot be told was produced, and is paid for
            raise untold(answer.untold, back.name)
        body, answer = _checked(call, back, body, answer)
    except UpstreamError as error:
        raise Failed(error, connection.status) from error
    except RecursionError as error:
        fault = UpstreamProtocol("the answer is nested too deeply")
        raise Failed(fault, connection.status) from error
    if not answer.model:
        answer = msgspec.structs.replace(answer, model=call.target.model)
    return body, answer


def _checked(call: Call, back: Dialect, body: bytes, answer: Answer) -> tuple[bytes, Answer]:
    if call.guard is None or call.admitted.front.surface != "chat":
        return body, answer
    call.answer = answer  # what is refused was produced, and is paid for
    try:
        passed = call.guard.answer(body)
        call.guard.said(text_of(answer.parts))
    except GuardrailBlocked as error:
        raise blocked(error) from error
    return (body, answer) if passed is body else (passed, back.read_answer(passed))


def blocked(error: GuardrailBlocked) -> Failed:
    """Return the end of a call that a guardrail refuses: its caller's own fault, nobody's else."""
    return Failed(UpstreamRejected(error.message), told=error)
