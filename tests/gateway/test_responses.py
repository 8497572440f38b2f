"""OpenAI's responses and legacy completions through the gateway, with every kind of target behind."""

from typing import Any

import openai
import pytest
from openai.types import Completion
from openai.types.responses import Response, ResponseStreamEvent

from schemas.events.changes import RouteTarget
from tests.gateway.strict import check, frames
from tests.gateway.worker import Worker, provider, route, target
from tests.sandbox.served import Served

CHAT_ONLY = "a/gpt-4o-mini"
CLAUDE = "anthropic/claude-sonnet-4-5"
MODELS = ["openai/gpt-4o-mini", CHAT_ONLY, CLAUDE]
TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
CITY: Any = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}
PIXEL = "data:image/png;base64,iVBORw0KGgo="


@pytest.fixture(scope="module", autouse=True)
def listed(worker: Worker, sandbox: Served) -> None:
    """A provider that speaks nothing but responses, reached from other dialects by translation."""
    url = f"{sandbox.url}/modern/v1"
    worker.change(
        provider("modern", "openai_responses", url),
        target("modern", "gpt-4o-mini"),
        target("modern", "o4-mini", capabilities=["chat", "stream", "tools", "reasoning"]),
    )


@pytest.mark.req("BEY-01")
@pytest.mark.parametrize("model", MODELS)
def test_whole(worker: Worker, model: str) -> None:
    raw = worker.openai().responses.with_raw_response.create(
        model=model, input="What is a weir?", instructions="Be brief.", max_output_tokens=200
    )
    check(raw.http_response.json(), Response)
    answer = raw.parse()
    assert answer.output_text
    assert answer.status == "completed"
    assert answer.usage is not None
    _, response, cost = worker.call(raw.headers["x-weir-request-id"])
    assert response.target == model
    assert response.usage_basis == "reported"
    assert (response.input_tokens, response.output_tokens) == (
        answer.usage.input_tokens,
        answer.usage.output_tokens,
    )
    assert cost.input_tokens == answer.usage.input_tokens


@pytest.mark.req("BEY-01")
@pytest.mark.req("BEY-02")
@pytest.mark.parametrize("model", MODELS)
def test_streamed(worker: Worker, model: str) -> None:
    body = {"model": model, "input": "What is a weir?", "stream": True}
    status, headers, data = worker.request("POST", "/v1/responses", body)
    assert status == 200
    events = frames(data)
    for name, event in events:
        assert name == event["type"]
        check(event, ResponseStreamEvent)
    assert [event["sequence_number"] for _, event in events] == list(range(len(events)))
    kinds = [name for name, _ in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    said = "".join(event["delta"] for name, event in events if name == "response.output_text.delta")
    whole = events[-1][1]["response"]
    assert whole["output"][0]["content"][0]["text"] == said
    _, response, _ = worker.call(headers["x-weir-request-id"])
    assert response.usage_basis == "reported"
    assert whole["usage"]["output_tokens"] == response.output_tokens
    with worker.openai().responses.stream(model=model, input="What is a weir?") as stream:
        assert stream.get_final_response().output_text == said


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize("model", MODELS)
def test_tools_there_and_back(worker: Worker, model: str) -> None:
    client = worker.openai()
    asked: Any = [{"role": "user", "content": "The weather in Rome?"}]
    options: Any = {"model": model, "tools": [TOOL]}
    with client.responses.stream(input=asked, tool_choice="required", **options) as stream:
        answer = stream.get_final_response()
    call: Any = next(item for item in answer.output if item.type == "function_call")
    assert call.name == "get_weather"
    assert "city" in call.arguments
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "18 °C"}
    sent = {name: getattr(call, name) for name in ("type", "call_id", "name", "arguments")}
    final = client.responses.create(input=[*asked, sent, result], **options)
    assert final.output_text
    assert final.output[-1].type == "message"


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize("model", MODELS)
def test_structured_output(worker: Worker, model: str) -> None:
    form: Any = {"type": "json_schema", "name": "city", "schema": CITY, "strict": True}
    raw = worker.openai().responses.with_raw_response.create(
        model=model, input="A city.", text={"format": form}
    )
    assert set(openai.pydantic_function_tool.__module__)  # the SDK itself is not asked to parse
    text = raw.parse().output_text
    assert '"city"' in text
    assert '"people"' in text
    assert "x-weir-dropped-params" not in raw.headers


@pytest.mark.req("BEY-02")
def test_thoughts_keep_their_signature_through_responses(worker: Worker) -> None:
    client = worker.openai()
    options: Any = {
        "model": CLAUDE,
        "tools": [TOOL],
        "reasoning": {"effort": "low", "summary": "auto"},
        "max_output_tokens": 4_000,
    }
    asked: Any = [{"role": "user", "content": "The weather in Rome?"}]
    with client.responses.stream(input=asked, **options) as stream:
        for event in stream:
            check(
                event.to_dict(),
                ResponseStreamEvent,
                allow=["parsed", "parsed_arguments", "snapshot"],
            )
        answer = stream.get_final_response()
    thought: Any = answer.output[0]
    assert thought.type == "reasoning"
    assert thought.summary[0].text
    assert thought.encrypted_content
    items: Any = [item.to_dict() for item in answer.output]
    results: Any = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": "18 °C"}
        for item in items
        if item["type"] == "function_call"
    ]
    for item in items:
        item.pop("parsed_arguments", None)
    assert results
    # The sandbox checks signatures as the vendor does: a damaged one would be refused.
    final = client.responses.with_raw_response.create(input=[*asked, *items, *results], **options)
    assert final.parse().output_text
    spoilt = [{**item, "encrypted_content": "weir:bm90aGluZw=="} for item in items[:1]]
    again = client.responses.create(input=[*asked, *spoilt, *items[1:], *results], **options)
    assert again.output_text
    # Another vendor's seal never reaches OpenAI, where it would be refused.
    with_openai = client.responses.create(
        model="openai/gpt-4o-mini", tools=[TOOL], input=[*asked, *items, *results]
    )
    assert with_openai.output_text


@pytest.mark.req("BEY-02")
def test_openais_sealed_reasoning_passes_through_chat(worker: Worker) -> None:
    """A provider that speaks responses alone, behind the chat dialect: its seal comes back to it."""
    client = worker.openai()
    tool = {"type": "function", "function": {k: TOOL[k] for k in ("name", "parameters")}}
    options: Any = {"model": "modern/o4-mini", "tools": [tool], "reasoning_effort": "low"}
    asked: Any = [{"role": "user", "content": "The weather in Rome?"}]
    raw = client.chat.completions.with_raw_response.create(messages=asked, **options)
    message = raw.http_response.json()["choices"][0]["message"]
    assert message["reasoning_details"][0]["format"] == "openai-responses-v1"
    results: Any = [
        {"role": "tool", "tool_call_id": call["id"], "content": "18 °C"}
        for call in message["tool_calls"]
    ]
    final = client.chat.completions.create(messages=[*asked, message, *results], **options)
    assert final.choices[0].message.content
    _, response, _ = worker.call(raw.headers["x-weir-request-id"])
    assert response.reasoning_tokens


@pytest.mark.req("BEY-02")
def test_anthropics_client_in_front_of_responses(worker: Worker) -> None:
    with worker.anthropic().messages.stream(
        model="modern/gpt-4o-mini",
        max_tokens=100,
        messages=[{"role": "user", "content": "Say hello."}],
    ) as stream:
        message = stream.get_final_message()
    assert message.content[0].type == "text"
    assert message.usage.output_tokens > 0


@pytest.mark.req("BEY-01")
def test_kept_responses_need_their_vendor(worker: Worker, sandbox: Served) -> None:
    client = worker.openai()
    first = client.responses.create(model="openai/gpt-4o-mini", input="One.")
    second = client.responses.create(
        model="openai/gpt-4o-mini", input="Two.", previous_response_id=first.id
    )
    assert second.previous_response_id == first.id
    with pytest.raises(openai.BadRequestError, match="previous_response_id.*OpenAI keeps"):
        client.responses.create(model=CLAUDE, input="Two.", previous_response_id=first.id)
    # A route with a target that can: it answers.
    worker.change(
        route(
            "kept",
            RouteTarget(CLAUDE, priority=1),
            RouteTarget("openai/gpt-4o-mini"),
            strategy="failover",
        )
    )
    third = client.responses.with_raw_response.create(
        model="kept", input="Two.", previous_response_id=first.id
    )
    assert third.headers["x-weir-model"] == "openai/gpt-4o-mini"
    assert sandbox.rows()


@pytest.mark.req("BEY-01")
def test_parameters_without_a_word_are_dropped_or_refused(worker: Worker) -> None:
    client = worker.openai()
    options: Any = {"input": "x", "top_logprobs": 3, "truncation": "auto", "service_tier": "flex"}
    raw = client.responses.with_raw_response.create(model=CLAUDE, **options)
    assert set(raw.headers["x-weir-dropped-params"].split(",")) == {"top_logprobs", "service_tier"}
    worker.change(
        route("strict", RouteTarget(CLAUDE), unsupported="error"),
        route("strict-openai", RouteTarget("openai/gpt-4o-mini"), unsupported="error"),
    )
    with pytest.raises(
        openai.BadRequestError, match="no word for 'top_logprobs', 'service"
    ) as refused:
        client.responses.create(model="strict", **options)
    assert refused.value.code == "invalid_request"
    assert client.responses.create(model="strict-openai", **options).output_text


@pytest.mark.req("BEY-01")
@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"model": CLAUDE}, "'input'"),
        ({"model": CLAUDE, "input": 5}, "'input'"),
        ({"model": CLAUDE, "input": [{"type": "item_reference", "id": "x"}]}, "item_reference"),
        ({"model": CLAUDE, "input": "x", "tools": [{"type": "web_search"}]}, "web_search"),
        ({"model": CLAUDE, "input": "x", "background": True}, "background"),
        (
            {
                "model": CLAUDE,
                "input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}],
            },
            "input_file",
        ),
    ],
)
def test_what_cannot_be_translated_is_said(worker: Worker, body: Any, told: str) -> None:
    status, _, data = worker.request("POST", "/v1/responses", body)
    assert status == 400
    assert told in data.decode()


@pytest.mark.req("BEY-01")
@pytest.mark.parametrize("model", MODELS)
def test_images_and_limits_cross(worker: Worker, model: str) -> None:
    content: Any = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": PIXEL, "detail": "auto"},
    ]
    answer = worker.openai().responses.create(
        model=model, input=[{"role": "user", "content": content}], max_output_tokens=16
    )
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"


@pytest.mark.req("BEY-01")
@pytest.mark.parametrize("base", ["modern-cut", "modern-error"])
def test_a_stream_that_breaks_ends_with_an_error_event(
    worker: Worker, sandbox: Served, base: str
) -> None:
    kind = "cut" if base.endswith("cut") else "error_event"
    sandbox.behave("gpt-4o-mini", f"/{base}", per_token_ms=2, faults=[{"kind": kind}])
    worker.change(provider(base, "openai_responses", f"{sandbox.url}/{base}/v1"))
    body = {"model": f"{base}/gpt-4o-mini", "input": "x", "stream": True}
    status, headers, data = worker.request("POST", "/v1/responses", body)
    assert status == 200
    name, event = frames(data)[-1]
    assert name == "error"
    check(event, ResponseStreamEvent)
    _, response, _ = worker.call(headers["x-weir-request-id"])
    assert (response.outcome, response.usage_basis) == ("failed", "estimated")


# --- legacy completions ------------------------------------------------------------------------

LEGACY = ["openai/gpt-3.5-turbo-instruct", CHAT_ONLY, CLAUDE]


@pytest.mark.req("BEY-01")
@pytest.mark.parametrize("model", [LEGACY[0], CLAUDE])
def test_completions(worker: Worker, model: str) -> None:
    client = worker.openai()
    raw = client.completions.with_raw_response.create(model=model, prompt="A weir is")
    check(raw.http_response.json(), Completion)
    answer = raw.parse()
    assert answer.choices[0].text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16
    _, response, _ = worker.call(raw.headers["x-weir-request-id"])
    assert response.output_tokens == 16
    chunks = list(
        client.completions.create(
            model=model, prompt="A weir is", stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(c.choices[0].text for c in chunks if c.choices) == answer.choices[0].text
    assert chunks[-1].usage is not None


@pytest.mark.req("BEY-01")
def test_what_only_the_vendor_completes(worker: Worker) -> None:
    client = worker.openai()
    native: Any = {"prompt": ["One", "Two"], "n": 2, "echo": True, "logprobs": 1, "suffix": "."}
    answer = client.completions.create(model=LEGACY[0], **native)
    assert len(answer.choices) == 4
    assert answer.choices[0].logprobs is not None
    with pytest.raises(openai.BadRequestError, match="one text"):
        client.completions.create(model=CLAUDE, prompt=["One", "Two"])
    with pytest.raises(openai.BadRequestError, match="'n' must be 1"):
        client.completions.create(model=CLAUDE, prompt="One", n=2)
    raw = client.completions.with_raw_response.create(
        model=CLAUDE, prompt="One", suffix=".", logprobs=1, echo=True
    )
    dropped = set(raw.headers["x-weir-dropped-params"].split(","))
    assert dropped == {"suffix", "logprobs", "echo"}
