"""The strict reader itself: what it lets through and what it must not."""

from typing import Any

import pytest
from anthropic.types import Message
from openai.types.chat import ChatCompletion
from openai.types.responses import ResponseStreamEvent

from tests.gateway.strict import check, fault, frames

MESSAGE: Any = {"role": "assistant", "content": "hi", "refusal": None}
COMPLETION: Any = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": MESSAGE, "logprobs": None, "finish_reason": "stop"}],
}


def spoilt(**members: Any) -> Any:
    choice = {**COMPLETION["choices"][0], "message": {**MESSAGE, **members}}
    return {**COMPLETION, "choices": [choice]}


def test_what_an_sdk_knows_passes() -> None:
    check(COMPLETION, ChatCompletion)
    check(spoilt(reasoning_content="well"), ChatCompletion, allow=["reasoning_content"])


@pytest.mark.parametrize(
    ("value", "kind", "told"),
    [
        (spoilt(reasoning_content="well"), ChatCompletion, "reasoning_content"),
        (spoilt(content=3), ChatCompletion, "content"),
        (spoilt(tool_calls=[{"id": "1", "type": "function"}]), ChatCompletion, "function"),
        ({**COMPLETION, "created": "1"}, ChatCompletion, "created"),
        ({"type": "message", "content": [{"type": "text"}]}, Message, "lacks"),
        ({"type": "response.created", "sequence_number": 1}, ResponseStreamEvent, "response"),
    ],
)
def test_what_it_does_not_know_fails(value: Any, kind: Any, told: str) -> None:
    assert told in (fault(value, kind) or "")


def test_frames_are_cut() -> None:
    body = b'event: a\ndata: {"x":1}\n\ndata: [DONE]\n\n'
    assert frames(body) == [("a", {"x": 1})]
