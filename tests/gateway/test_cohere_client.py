"""The official client of Cohere through the gateway, with targets of every kind behind; and the
other official clients with Cohere behind.
"""

import json
from typing import Any

import cohere
import pytest
from cohere.errors import BadRequestError, NotFoundError, UnauthorizedError
from cohere.v2.types.v2chat_response import V2ChatResponse
from cohere.v2.types.v2chat_stream_response import V2ChatStreamResponse
from google.genai import types

from gateway.dialects.sse import FrameSplitter
from schemas.events.llm import ResponseCompleted
from tests.gateway.strict import check
from tests.gateway.test_clients import ANTHROPIC_TOOL, OPENAI_TOOL
from tests.gateway.test_genai import FLASH, PIXEL, SCHEMA, WEATHER
from tests.gateway.test_genai import client as gemini_client
from tests.gateway.worker import SECRET, Worker, price, provider, target
from tests.sandbox.served import Served, strictly

COMMAND = "command-a-03-2025"
REASONING = "command-a-reasoning-08-2025"
BEHIND = [f"cohere/{COMMAND}", f"cohere/{REASONING}"]
MODELS = [*BEHIND, "openai/gpt-4o-mini", "anthropic/claude-sonnet-4-5", f"gemini/{FLASH}"]
HELLO: Any = [{"role": "user", "content": "Say hello."}]
IMAGE = "data:image/png;base64,iVBORw0KGgo="


@pytest.fixture(autouse=True)
def vendor(worker: Worker, sandbox: Served) -> None:
    for model in (COMMAND, REASONING):
        sandbox.behave(model, "/coh")
    sandbox.behave(FLASH, "/gem")
    worker.change(
        provider("cohere", "cohere", f"{sandbox.url}/coh"),
        provider("gemini", "gemini", f"{sandbox.url}/gem/v1beta"),
        target("cohere", COMMAND),
        target("cohere", REASONING),
        target("gemini", FLASH),
        price("cohere", COMMAND, 2_500_000_000, 10_000_000_000),
    )


def client(worker: Worker, key: str = SECRET) -> cohere.ClientV2:
    return cohere.ClientV2(key, base_url=worker.url, timeout=20)


def raw(worker: Worker, body: Any) -> tuple[dict[str, str], Any]:
    """Ask without the client's help, and hold what comes against its types."""
    status, told, answer = worker.request("POST", "/v2/chat", body)
    assert status == 200, answer
    if not body.get("stream"):
        whole = json.loads(answer)
        check(whole, V2ChatResponse)
        return told, whole
    frames = [f for f in FrameSplitter().feed(answer) if f.data != b"[DONE]"]
    events = [json.loads(frame.data) for frame in frames]
    for event in events[1:]:
        check(event, V2ChatStreamResponse)
    return told, events


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize("model", MODELS)
def test_whole_and_streamed(worker: Worker, model: str) -> None:
    body = {"model": model, "messages": HELLO, "max_tokens": 400}
    told, whole = raw(worker, body)
    assert whole["finish_reason"] == "COMPLETE"
    _, response, cost = worker.call(told["x-weir-request-id"])
    usage = whole["usage"]["billed_units"]
    assert response.output_tokens == usage["output_tokens"]
    assert response.input_tokens == usage["input_tokens"]
    assert (response.usage_basis, response.target) == ("reported", model)
    if model == MODELS[0]:
        assert cost.cost_nano_usd == 2_500 * usage["input_tokens"] + 10_000 * usage["output_tokens"]
    told, events = raw(worker, {**body, "stream": True})
    texts = [e["delta"]["message"]["content"] for e in events if e["type"] == "content-delta"]
    said = "".join(block.get("text", "") for block in texts)
    assert said == next(b["text"] for b in whole["message"]["content"] if b["type"] == "text")
    assert events[-1]["delta"]["finish_reason"] == "COMPLETE"
    _, response, _ = worker.call(told["x-weir-request-id"])
    assert (response.usage_basis, response.output_tokens) == ("reported", usage["output_tokens"])


@pytest.mark.req("BEY-01")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_tools_in_a_conversation(worker: Worker, model: str, stream: bool) -> None:
    api = client(worker)
    options: Any = {"model": model, "tools": [OPENAI_TOOL], "max_tokens": 2_000}
    called: list[Any] = []
    if stream:
        for event in api.chat_stream(messages=HELLO, **options):
            if event.type == "tool-call-start":
                called.append(event.delta.message.tool_calls.model_dump())
            elif event.type == "tool-call-delta":
                piece = event.delta.message.tool_calls.function.arguments
                called[-1]["function"]["arguments"] += piece
    else:
        answer = api.chat(messages=HELLO, **options)
        assert answer.finish_reason == "TOOL_CALL"
        called = [call.model_dump() for call in answer.message.tool_calls or []]
    assert {call["function"]["name"] for call in called} == {"get_weather"}
    assert all("city" in json.loads(call["function"]["arguments"]) for call in called)
    results: Any = [
        {"role": "tool", "tool_call_id": call["id"], "content": "18 °C"} for call in called
    ]
    spoken: Any = {"role": "assistant", "tool_plan": "I look.", "tool_calls": called}
    final = api.chat(messages=[*HELLO, spoken, *results], **options)
    assert final.finish_reason == "COMPLETE"


@pytest.mark.parametrize("model", MODELS)
def test_structured_answers_and_images(worker: Worker, model: str) -> None:
    form: Any = {"type": "json_object", "json_schema": SCHEMA}
    content: Any = [
        {"type": "text", "text": "Where is this?"},
        {"type": "image_url", "image_url": {"url": IMAGE}},
    ]
    answer = client(worker).chat(
        model=model,
        messages=[{"role": "user", "content": content}],
        response_format=form,
        max_tokens=400,
    )
    texts = [block.text for block in answer.message.content or [] if block.type == "text"]
    assert set(json.loads(texts[0])) == {"city"}


@pytest.mark.req("GW-16")
def test_errors_in_the_clients_dialect(worker: Worker) -> None:
    with pytest.raises(NotFoundError):
        client(worker).chat(model="nobody-knows", messages=HELLO)
    with pytest.raises(UnauthorizedError):
        client(worker, "wrong").chat(model=MODELS[0], messages=HELLO)
    for model in MODELS:
        with pytest.raises(BadRequestError):
            client(worker).chat(model=model, messages=[])


def test_citations_stay_where_the_vendor_answers(worker: Worker) -> None:
    documents: Any = [{"data": {"text": "It is warm in Rome."}}]
    api = client(worker)
    cited = api.chat(model=MODELS[0], messages=HELLO, documents=documents)
    assert cited.message.citations
    told = api.chat(model=MODELS[2], messages=HELLO, documents=documents)
    assert not told.message.citations


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize("model", BEHIND)
def test_openais_client_with_cohere_behind(worker: Worker, model: str) -> None:
    api = worker.openai()
    answer = api.chat.completions.create(model=model, messages=HELLO)
    if model == BEHIND[0]:
        strictly(answer)
    else:  # a word of compatible vendors, which the client keeps though it does not know it
        assert answer.choices[0].message.model_extra
    assert answer.model
    with api.chat.completions.stream(model=model, messages=HELLO) as stream:
        streamed = stream.get_final_completion()
    assert streamed.choices[0].message.content == answer.choices[0].message.content
    options: Any = {"model": model, "tools": [OPENAI_TOOL]}
    with api.chat.completions.stream(messages=HELLO, **options) as stream:
        called = stream.get_final_completion()
    assert called.choices[0].finish_reason == "tool_calls"
    assert called.choices[0].message.content, "the plan is told"
    calls: Any = [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.function.name, "arguments": call.function.arguments},
        }
        for call in called.choices[0].message.tool_calls or []
    ]
    results: Any = [{"role": "tool", "tool_call_id": c["id"], "content": "18 °C"} for c in calls]
    spoken: Any = {"role": "assistant", "content": "I look.", "tool_calls": calls}
    final = api.chat.completions.create(messages=[*HELLO, spoken, *results], **options)
    assert final.choices[0].finish_reason == "stop"


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize("model", BEHIND)
def test_anthropics_client_with_cohere_behind(worker: Worker, model: str) -> None:
    api = worker.anthropic()
    message = api.messages.create(model=model, max_tokens=400, messages=HELLO)
    strictly(message)
    with api.messages.stream(
        model=model, max_tokens=400, messages=HELLO, tools=[ANTHROPIC_TOOL]
    ) as stream:
        called = stream.get_final_message()
    assert called.stop_reason == "tool_use"


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize("model", BEHIND)
def test_geminis_client_with_cohere_behind(worker: Worker, model: str) -> None:
    api = gemini_client(worker)
    image: Any = types.Part.from_bytes(data=PIXEL, mime_type="image/png")
    answer = api.models.generate_content(model=model, contents=["What is this?", image])
    assert answer.text
    config = types.GenerateContentConfig(
        tools=[WEATHER],
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )
    called = api.models.generate_content(model=model, contents="Rome?", config=config)
    assert [call.name for call in called.function_calls or []] == ["get_weather"]


@pytest.mark.req("PROV-07")
@pytest.mark.parametrize(
    ("kind", "error_class"),
    [
        ("rate_limited", "rate_limit"),
        ("server_error", "server"),
        ("context_too_long", "context"),
        ("cut", "network"),
        ("missing_end_marker", "protocol"),
        ("error_event", "server"),
        ("malformed_frame", "protocol"),
    ],
)
def test_faults_of_the_vendor(worker: Worker, sandbox: Served, kind: str, error_class: str) -> None:
    base = f"/cohf-{kind}"
    sandbox.behave(COMMAND, base, faults=[{"kind": kind}])
    worker.change(provider(f"faulty-{kind}", "cohere", f"{sandbox.url}{base}"))
    body = {"model": f"faulty-{kind}/{COMMAND}", "messages": HELLO, "stream": True}
    status, told, answer = worker.request("POST", "/v2/chat", body)
    [response] = worker.events(ResponseCompleted, told["x-weir-request-id"])
    assert response.outcome == "failed"
    assert response.attempts[0].error_class == error_class
    assert b"COMPLETE" not in answer
    assert status != 200 or b'"ERROR"' in answer
