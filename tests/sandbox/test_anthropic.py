"""Anthropic's own client against the sandbox on a real socket, with unknown fields forbidden."""

import anthropic
import pytest

from infra.sandbox.tokens import count
from tests.sandbox.served import Served, strictly

MODEL = "claude-sonnet-4-5"
ASK = [{"role": "user", "content": "What does a weir do?"}]
TOOLS = [
    {
        "name": "get_weather",
        "description": "Weather of a place",
        "input_schema": {
            "type": "object",
            "properties": {"place": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["place"],
        },
    }
]


def test_whole_answer_is_as_documented(sandbox: Served) -> None:
    client = sandbox.anthropic()
    answer = client.messages.create(model=MODEL, messages=ASK, max_tokens=500)
    strictly(answer)
    block = answer.content[0]
    assert block.type == "text"
    assert answer.model == "claude-sonnet-4-5-20250929"
    assert answer.stop_reason == "end_turn"
    assert answer.id.startswith("msg_")
    assert answer.usage.output_tokens == count(block.text)
    short = client.messages.create(model=MODEL, messages=ASK, max_tokens=7)
    assert short.stop_reason == "max_tokens"
    assert short.usage.output_tokens == 7


def test_headers_are_as_documented(sandbox: Served) -> None:
    raw = sandbox.anthropic().messages.with_raw_response.create(
        model=MODEL, messages=ASK, max_tokens=5
    )
    assert raw.headers["request-id"].startswith("req_")
    for what in ("requests", "tokens", "input-tokens", "output-tokens"):
        assert int(raw.headers[f"anthropic-ratelimit-{what}-limit"]) > 0
        assert int(raw.headers[f"anthropic-ratelimit-{what}-remaining"]) >= 0
        assert raw.headers[f"anthropic-ratelimit-{what}-reset"].endswith("Z")


def test_stream_has_the_documented_events_and_joins_to_the_whole_answer(sandbox: Served) -> None:
    client = sandbox.anthropic()
    whole = client.messages.create(model=MODEL, messages=ASK, max_tokens=300)
    events = list(client.messages.create(model=MODEL, messages=ASK, max_tokens=300, stream=True))
    for event in events:
        strictly(event)
    kinds = [event.type for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    start, delta = events[0], events[-2]
    assert start.type == "message_start"
    assert delta.type == "message_delta"
    assert start.message.usage.input_tokens == whole.usage.input_tokens
    assert delta.usage.output_tokens == whole.usage.output_tokens
    with client.messages.stream(model=MODEL, messages=ASK, max_tokens=300) as stream:
        final = stream.get_final_message()
    assert final.content[0].text == whole.content[0].text  # type: ignore[union-attr]
    assert final.stop_reason == whole.stop_reason


def test_tool_use_whole_streamed_and_answered(sandbox: Served) -> None:
    client = sandbox.anthropic()
    options = {"model": MODEL, "messages": ASK, "max_tokens": 400, "tools": TOOLS}
    whole = client.messages.create(**options)
    strictly(whole)
    assert whole.stop_reason == "tool_use"
    use = whole.content[-1]
    assert use.type == "tool_use"
    assert use.id.startswith("toolu_")
    assert isinstance(use.input["place"], str)
    assert isinstance(use.input["days"], int)
    for event in client.messages.create(**options, stream=True):
        strictly(event)
    with client.messages.stream(**options) as stream:
        final = stream.get_final_message()
    streamed = final.content[-1]
    assert streamed.type == "tool_use"
    assert (streamed.name, streamed.input) == (use.name, use.input)
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}
    history = [*ASK, whole.to_param(), {"role": "user", "content": [result]}]
    answer = client.messages.create(**{**options, "messages": history})
    assert answer.stop_reason == "end_turn"
    forced = client.messages.create(
        **{**options, "tool_choice": {"type": "tool", "name": "get_weather"}}
    )
    assert [block.type for block in forced.content] == ["tool_use"]


def test_thinking_is_signed_streamed_and_checked(sandbox: Served) -> None:
    client = sandbox.anthropic()
    options = {
        "model": MODEL,
        "messages": ASK,
        "max_tokens": 4_000,
        "thinking": {"type": "enabled", "budget_tokens": 1_024},
    }
    whole = client.messages.create(**options)
    strictly(whole)
    thought, text = whole.content
    assert thought.type == "thinking"
    assert text.type == "text"
    assert thought.signature
    assert whole.usage.output_tokens == count(thought.thinking) + count(text.text)
    events = list(client.messages.create(**options, stream=True))
    for event in events:
        strictly(event)
    deltas = [event.delta for event in events if event.type == "content_block_delta"]
    thinking = "".join(delta.thinking for delta in deltas if delta.type == "thinking_delta")
    assert thinking == thought.thinking
    assert [d.signature for d in deltas if d.type == "signature_delta"] == [thought.signature]
    again = [*ASK, whole.to_param(), {"role": "user", "content": "and then?"}]
    client.messages.create(**{**options, "messages": again})
    forged = {"type": "thinking", "thinking": "other", "signature": thought.signature}
    history = [*ASK, {"role": "assistant", "content": [forged]}, *ASK]
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.messages.create(**{**options, "messages": history})
    assert "signature" in refused.value.message


def test_stop_sequence(sandbox: Served) -> None:
    answer = sandbox.anthropic().messages.create(
        model=MODEL, messages=ASK, max_tokens=100, stop_sequences=["-"]
    )
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "-")


def test_cache_control_writes_and_reads(sandbox: Served) -> None:
    client = sandbox.anthropic("/cached")
    system = [
        {
            "type": "text",
            "text": "a river of words " * 400,
            "cache_control": {"type": "ephemeral"},
        }
    ]
    options = {"model": MODEL, "messages": ASK, "max_tokens": 5, "system": system}
    first = client.messages.create(**options).usage
    second = client.messages.create(**options).usage
    assert first.cache_creation_input_tokens
    assert first.cache_read_input_tokens == 0
    assert second.cache_read_input_tokens == first.cache_creation_input_tokens
    assert second.cache_creation_input_tokens == 0
    assert first.input_tokens == second.input_tokens


def test_count_tokens_agrees_with_the_bill(sandbox: Served) -> None:
    client = sandbox.anthropic()
    counted = client.messages.count_tokens(model=MODEL, messages=ASK, system="Be brief.")
    strictly(counted)
    answer = client.messages.create(model=MODEL, messages=ASK, system="Be brief.", max_tokens=5)
    assert counted.input_tokens == answer.usage.input_tokens


def test_models_are_paged(sandbox: Served) -> None:
    client = sandbox.anthropic()
    page = client.models.list(limit=2)
    strictly(page)
    assert page.has_more
    assert len(page.data) == 2
    names = [model.id for model in page]
    assert "claude-sonnet-4-5-20250929" in names
    assert len(set(names)) == len(names)
    one = client.models.retrieve("claude-haiku-4-5")
    strictly(one)
    assert one.max_input_tokens == 200_000
    assert one.line == "haiku"
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("claude-none")


def test_errors_are_as_documented(sandbox: Served) -> None:
    client = sandbox.anthropic()
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(model="claude-none", messages=ASK, max_tokens=5)
    body = missing.value.response.json()
    assert set(body) == {"type", "error", "request_id"}
    assert body["error"]["type"] == "not_found_error"
    assert body["request_id"] == missing.value.response.headers["request-id"]
    with pytest.raises(anthropic.BadRequestError) as unknown:
        client.messages.create(model=MODEL, messages=ASK, max_tokens=5, extra_body={"colour": 1})
    assert "colour: Extra inputs are not permitted" in unknown.value.message
    with pytest.raises(anthropic.BadRequestError) as absent:
        client.post("/v1/messages", body={"model": MODEL, "messages": ASK}, cast_to=object)
    assert "max_tokens: Field required" in absent.value.message
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(
            model=MODEL, messages=[{"role": "assistant", "content": "x"}], max_tokens=5
        )
    result = {"type": "tool_result", "tool_use_id": "toolu_x", "content": "1"}
    with pytest.raises(anthropic.BadRequestError) as orphan:
        client.messages.create(
            model=MODEL, messages=[{"role": "user", "content": [result]}], max_tokens=5
        )
    assert "toolu_x" in orphan.value.message


@pytest.mark.parametrize(
    ("headers", "status", "kind"),
    [
        ({"anthropic-version": "2023-06-01"}, 401, "authentication_error"),
        ({"x-api-key": "sk-ant-sandbox"}, 400, "invalid_request_error"),
    ],
)
def test_a_call_without_key_or_version_is_refused(
    sandbox: Served, headers: dict[str, str], status: int, kind: str
) -> None:
    answer = sandbox.post("/v1/messages", {"model": MODEL}, headers)
    assert (answer.status, answer.json()["error"]["type"]) == (status, kind)
