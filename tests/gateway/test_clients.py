"""The official clients through the gateway, either dialect in front of either vendor."""

from typing import Any

import anthropic
import openai
import pytest

from schemas.events.changes import RouteTarget
from tests.gateway.worker import Worker, route
from tests.sandbox.served import strictly

MODELS = ["openai/gpt-4o-mini", "anthropic/claude-sonnet-4-5"]
HELLO: Any = [{"role": "user", "content": "Say hello."}]
OPENAI_TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
ANTHROPIC_TOOL: Any = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": OPENAI_TOOL["function"]["parameters"],
}


@pytest.mark.req("GW-14")
@pytest.mark.req("BEY-01")
@pytest.mark.parametrize("model", MODELS)
def test_openai_whole(worker: Worker, model: str) -> None:
    raw = worker.openai().chat.completions.with_raw_response.create(model=model, messages=HELLO)
    answer = raw.parse()
    strictly(answer)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    admitted, response, cost = worker.call(raw.headers["x-weir-request-id"])
    assert admitted.target == response.target == model
    assert response.outcome == "success"
    assert response.usage_basis == "reported"
    assert response.output_tokens == answer.usage.completion_tokens
    assert cost.cost_nano_usd is not None
    assert raw.headers["x-weir-model"] == model
    assert raw.headers["x-weir-attempts"] == "1"
    assert float(raw.headers["x-weir-cost-usd"]) * 1e9 == pytest.approx(cost.cost_nano_usd)


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("wants_usage", [True, False])
def test_openai_stream(worker: Worker, model: str, wants_usage: bool) -> None:
    options: Any = {"stream_options": {"include_usage": True}} if wants_usage else {}
    raw = worker.openai().chat.completions.with_raw_response.create(
        model=model, messages=HELLO, stream=True, **options
    )
    chunks = list(raw.parse())
    for chunk in chunks:
        strictly(chunk)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    usages = [chunk.usage for chunk in chunks if chunk.usage is not None]
    assert text
    assert len(usages) == wants_usage
    assert all(chunk.choices for chunk in chunks[:-1])
    _, response, cost = worker.call(raw.headers["x-weir-request-id"])
    assert response.usage_basis == "reported"
    assert response.first_token_us is not None
    assert cost.output_tokens == response.output_tokens
    if wants_usage:
        assert usages[0].completion_tokens == response.output_tokens


@pytest.mark.parametrize("model", MODELS)
def test_openai_tool_call(worker: Worker, model: str) -> None:
    client = worker.openai()
    options: Any = {"model": model, "tools": [OPENAI_TOOL], "tool_choice": "required"}
    answer = client.chat.completions.create(messages=HELLO, **options)
    strictly(answer)
    assert answer.choices[0].finish_reason == "tool_calls"
    call: Any = (answer.choices[0].message.tool_calls or [])[0]
    assert call.function.name == "get_weather"
    assert "city" in call.function.arguments
    with client.chat.completions.stream(messages=HELLO, **options) as stream:
        streamed = stream.get_final_completion()
    streamed_call: Any = (streamed.choices[0].message.tool_calls or [])[0]
    assert streamed_call.function.name == "get_weather"
    assert streamed_call.id
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "18 °C"}
    spoken: Any = {"role": "assistant", "tool_calls": [call.model_dump()], "content": None}
    final = client.chat.completions.create(
        model=model, tools=[OPENAI_TOOL], messages=[*HELLO, spoken, result]
    )
    assert final.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("model", MODELS)
def test_anthropic_whole(worker: Worker, model: str) -> None:
    raw = worker.anthropic().messages.with_raw_response.create(
        model=model, max_tokens=200, system="Be brief.", messages=HELLO
    )
    message = raw.parse()
    strictly(message)
    assert message.content[0].type == "text"
    assert message.stop_reason == "end_turn"
    _, response, _ = worker.call(raw.headers["x-weir-request-id"])
    assert message.usage.output_tokens == response.output_tokens
    assert message.usage.input_tokens == response.input_tokens
    assert raw.headers["request-id"] == response.request_id


@pytest.mark.parametrize("model", MODELS)
def test_anthropic_stream(worker: Worker, model: str) -> None:
    with worker.anthropic().messages.stream(model=model, max_tokens=200, messages=HELLO) as stream:
        seen = [event.type for event in stream]
        message = stream.get_final_message()
        request_id = stream.response.headers["x-weir-request-id"]
    strictly(message)
    assert seen[0] == "message_start"
    assert seen[-1] == "message_stop"
    assert message.content[0].type == "text"
    assert message.content[0].text
    _, response, _ = worker.call(request_id)
    assert response.usage_basis == "reported"
    assert message.usage.output_tokens == response.output_tokens


@pytest.mark.parametrize("model", MODELS)
def test_anthropic_tool_use(worker: Worker, model: str) -> None:
    client = worker.anthropic()
    options: Any = {
        "model": model,
        "max_tokens": 200,
        "tools": [ANTHROPIC_TOOL],
        "tool_choice": {"type": "any"},
    }
    message = client.messages.create(messages=HELLO, **options)
    strictly(message)
    assert message.stop_reason == "tool_use"
    use: Any = next(block for block in message.content if block.type == "tool_use")
    assert use.name == "get_weather"
    assert "city" in use.input
    with client.messages.stream(messages=HELLO, **options) as stream:
        streamed = stream.get_final_message()
    streamed_use: Any = next(block for block in streamed.content if block.type == "tool_use")
    assert "city" in streamed_use.input
    result: Any = {"type": "tool_result", "tool_use_id": use.id, "content": "18 °C"}
    final = client.messages.create(
        model=model,
        max_tokens=200,
        tools=[ANTHROPIC_TOOL],
        messages=[
            *HELLO,
            {"role": "assistant", "content": [use.model_dump()]},
            {"role": "user", "content": [result]},
        ],
    )
    assert final.stop_reason == "end_turn"


@pytest.mark.parametrize("model", MODELS)
def test_stop_reason_length(worker: Worker, model: str) -> None:
    answer = worker.openai().chat.completions.create(model=model, messages=HELLO, max_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    message = worker.anthropic().messages.create(model=model, messages=HELLO, max_tokens=3)
    assert message.stop_reason == "max_tokens"


@pytest.mark.req("GW-16")
def test_errors_in_the_clients_dialect(worker: Worker) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        worker.openai().chat.completions.create(model="nobody-knows", messages=HELLO)
    assert missing.value.code == "model_not_found"
    with pytest.raises(anthropic.NotFoundError) as unknown:
        worker.anthropic().messages.create(model="nobody-knows", max_tokens=5, messages=HELLO)
    body: Any = unknown.value.body
    assert body["error"]["type"] == "not_found_error"
    with pytest.raises(openai.AuthenticationError):
        worker.openai(api_key="wrong").chat.completions.create(model="x", messages=HELLO)
    with pytest.raises(anthropic.AuthenticationError):
        worker.anthropic(api_key="wrong").messages.create(model="x", max_tokens=5, messages=HELLO)
    # The vendor's own complaint reaches the client of the other dialect as its kind of error.
    with pytest.raises(openai.BadRequestError):
        worker.openai().chat.completions.create(
            model="anthropic/claude-sonnet-4-5", messages=[], max_tokens=5
        )
    with pytest.raises(anthropic.BadRequestError):
        worker.anthropic().messages.create(model="openai/gpt-4o-mini", messages=[], max_tokens=5)


def test_model_lists(worker: Worker) -> None:
    openai_ids = {model.id for model in worker.openai().models.list()}
    anthropic_ids = {model.id for model in worker.anthropic().models.list()}
    assert openai_ids == anthropic_ids
    assert {"auto", *MODELS} <= openai_ids
    assert worker.openai().models.retrieve("openai/gpt-4o-mini").owned_by == "openai"
    with pytest.raises(openai.NotFoundError):
        worker.openai().models.retrieve("nobody-knows")


@pytest.mark.req("BEY-01")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_what_a_translation_leaves_out_is_said(worker: Worker, model: str, stream: bool) -> None:
    raw = worker.openai().chat.completions.with_raw_response.create(
        model=model,
        messages=HELLO,
        stream=stream,
        max_tokens=5,
        seed=7,
        temperature=1.5,
        logprobs=True,
        extra_body={} if model == MODELS[0] else {"not a\nheader": 1},
    )
    said = raw.headers.get("x-weir-dropped-params")
    if model == MODELS[0]:
        assert said is None
    else:
        assert said is not None
        assert set(said.split(",")) == {"seed", "logprobs", "temperature"}


@pytest.mark.req("BEY-01")
def test_several_answers_come_from_the_own_vendor_where_it_is_a_target(worker: Worker) -> None:
    targets = [RouteTarget(MODELS[1], priority=1), RouteTarget(MODELS[0])]
    worker.change(route("several", *targets, strategy="failover"))
    raw = worker.openai().chat.completions.with_raw_response.create(
        model="several", messages=HELLO, n=2, max_tokens=5
    )
    assert len(raw.parse().choices) == 2
    assert raw.headers["x-weir-model"] == MODELS[0]
    assert "x-weir-dropped-params" not in raw.headers
