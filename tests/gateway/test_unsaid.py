"""What another vendor's dialect cannot give is named or refused, and never left out in silence."""

import json

import pytest

from gateway.dialects.openai_chat import OPENAI
from gateway.dialects.reading import read_object
from gateway.dialects.registry import dialect
from schemas.errors import InvalidRequest

HELLO = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.req("GEN-05")
@pytest.mark.parametrize("name", ["anthropic", "bedrock", "cohere", "gemini", "openai_responses"])
def test_what_another_dialect_cannot_give_is_named_and_several_answers_are_refused(
    name: str,
) -> None:
    back = dialect(name)
    assert back is not None
    asked = {**HELLO, "logprobs": True, "top_logprobs": 3}
    fields = read_object(json.dumps(asked).encode())
    chat = OPENAI.read_request(fields)
    unsaid = [*chat.unread, *(n for n in chat.params if n not in back.params)]
    assert {"logprobs", "top_logprobs"} <= {*unsaid, *back.unsaid(chat, "m")}
    several = read_object(json.dumps({**HELLO, "n": 2}).encode())
    with pytest.raises(InvalidRequest, match="'n' must be 1"):
        OPENAI.read_request(several)


@pytest.mark.req("GEN-05")
@pytest.mark.parametrize(
    ("name", "asked", "word"),
    [
        ("openai", {"reasoning_effort": "EFFORT"}, "reasoning_effort"),
        (
            "openai_responses",
            {"input": "Hi", "reasoning": {"effort": "EFFORT"}},
            "reasoning.effort",
        ),
        ("anthropic", {"output_config": {"effort": "EFFORT"}}, "output_config.effort"),
        ("bedrock", {"outputConfig": {"effort": "EFFORT"}}, "outputConfig.effort"),
    ],
)
def test_a_level_of_thinking_that_is_lowered_is_named(
    name: str, asked: dict[str, object], word: str
) -> None:
    front = dialect(name)
    assert front is not None
    hello = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    body = json.dumps({"model": "m", "max_tokens": 9, "messages": hello, **asked})
    for effort, names in (("high", []), ("xhigh", [word]), ("max", [word])):
        chat = front.read_request(read_object(body.replace("EFFORT", effort).encode()))
        assert chat.reasoning is not None
        assert chat.reasoning.effort == "high"
        assert [it for it in chat.unread if "effort" in it] == names
