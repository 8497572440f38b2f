"""The official client of Gemini through the gateway, with targets of every kind behind; and the
other official clients with Gemini behind.
"""

import json
from typing import Any

import pytest
from google import genai
from google.genai import errors, types

from gateway.dialects.sse import FrameSplitter
from schemas.events.changes import RouteTarget
from schemas.events.llm import ResponseCompleted
from tests.gateway.strict import check
from tests.gateway.test_clients import ANTHROPIC_TOOL, OPENAI_TOOL
from tests.gateway.worker import SECRET, Worker, price, provider, route, target
from tests.sandbox.served import Served, strictly

FLASH = "gemini-2.5-flash"
NEWEST = "gemini-3.8-flash"
BEHIND = [f"gemini/{FLASH}", f"gemini/{NEWEST}"]
MODELS = [*BEHIND, "openai/gpt-4o-mini", "anthropic/claude-sonnet-4-5"]
HELLO: Any = [{"role": "user", "content": "Say hello."}]
CONTENTS: Any = [{"role": "user", "parts": [{"text": "Say hello."}]}]
SCHEMA: Any = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = types.Tool(
    function_declarations=[
        types.FunctionDeclaration(
            name="get_weather",
            description="The weather of a city.",
            parameters_json_schema=SCHEMA,
        )
    ]
)
PIXEL = bytes.fromhex("89504e470d0a1a0a")


@pytest.fixture(autouse=True)
def vendor(worker: Worker, sandbox: Served) -> None:
    for model in (FLASH, NEWEST):
        sandbox.behave(model, "/gem")
    worker.change(
        provider("gemini", "gemini", f"{sandbox.url}/gem/v1beta"),
        target("gemini", FLASH),
        target("gemini", NEWEST),
        price("gemini", FLASH, 300_000_000, 2_500_000_000),
    )


def client(worker: Worker, key: str = SECRET) -> genai.Client:
    options = types.HttpOptions(base_url=worker.url, api_version="v1beta")
    return genai.Client(api_key=key, http_options=options)


def raw(
    worker: Worker, model: str, body: Any, *, stream: bool = False
) -> tuple[dict[str, str], Any]:
    """Ask without the client's help, and hold what comes against its types."""
    verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
    headers = {"x-goog-api-key": SECRET, "content-type": "application/json"}
    path = f"/v1beta/models/{model}:{verb}"
    status, told, answer = worker.request("POST", path, body, headers)
    assert status == 200, answer
    if not stream:
        whole = json.loads(answer)
        check(whole, types.GenerateContentResponse)
        return told, whole
    frames = [json.loads(frame.data) for frame in FrameSplitter().feed(answer)]
    for frame in frames:
        check(frame, types.GenerateContentResponse)
    return told, frames


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize("model", MODELS)
def test_whole_and_streamed(worker: Worker, model: str) -> None:
    body = {"contents": CONTENTS, "generationConfig": {"maxOutputTokens": 400}}
    told, whole = raw(worker, model, body)
    assert whole["candidates"][0]["finishReason"] == "STOP"
    _, response, cost = worker.call(told["x-weir-request-id"])
    usage = whole["usageMetadata"]
    output = usage["candidatesTokenCount"] + usage.get("thoughtsTokenCount", 0)
    assert response.output_tokens == output
    assert response.reasoning_tokens in {None, 0, usage.get("thoughtsTokenCount")}
    assert (response.usage_basis, response.target) == ("reported", model)
    if model != f"gemini/{NEWEST}":
        assert cost.cost_nano_usd is not None
    told, frames = raw(worker, model, body, stream=True)
    assert [f["candidates"][0].get("finishReason") for f in frames if "candidates" in f][
        -1
    ] == "STOP"
    _, response, _ = worker.call(told["x-weir-request-id"])
    assert response.usage_basis == "reported"
    assert response.output_tokens == output
    assert response.first_token_us is not None


@pytest.mark.req("BEY-01")
@pytest.mark.parametrize("model", MODELS)
def test_the_official_client(worker: Worker, model: str) -> None:
    api = client(worker)
    config = types.GenerateContentConfig(system_instruction="Be brief.", max_output_tokens=400)
    answer = api.models.generate_content(model=model, contents="Say hello.", config=config)
    pieces = list(
        api.models.generate_content_stream(model=model, contents="Say hello.", config=config)
    )
    assert answer.text
    assert "".join(piece.text or "" for piece in pieces) == answer.text
    assert pieces[-1].usage_metadata is not None
    assert pieces[-1].usage_metadata.total_token_count


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_tools_in_a_conversation(worker: Worker, model: str, stream: bool) -> None:
    api = client(worker)
    config = types.GenerateContentConfig(
        tools=[WEATHER],
        max_output_tokens=4_000,
        thinking_config=types.ThinkingConfig(include_thoughts=True, thinking_budget=1024),
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )
    chat = api.chats.create(model=model, config=config)
    if stream:
        calls = [
            call
            for piece in chat.send_message_stream("Rome?")
            for call in piece.function_calls or []
        ]
    else:
        calls = chat.send_message("Rome?").function_calls or []
    assert {call.name for call in calls} == {"get_weather"}
    assert "city" in (calls[0].args or {})
    results: Any = [
        types.Part(
            function_response=types.FunctionResponse(
                id=call.id, name=call.name, response={"result": "18 °C"}
            )
        )
        for call in calls
    ]
    assert chat.send_message(results).text


@pytest.mark.parametrize("model", MODELS)
def test_structured_answers_and_images(worker: Worker, model: str) -> None:
    config = types.GenerateContentConfig(
        response_mime_type="application/json",
        response_json_schema=SCHEMA,
        max_output_tokens=400,
    )
    api = client(worker)
    image: Any = types.Part.from_bytes(data=PIXEL, mime_type="image/png")
    answer = api.models.generate_content(
        model=model, contents=["Where is this?", image], config=config
    )
    assert set(json.loads(answer.text or "")) == {"city"}


@pytest.mark.parametrize("model", MODELS)
def test_the_limit_ends_an_answer(worker: Worker, model: str) -> None:
    api, config = client(worker), types.GenerateContentConfig(max_output_tokens=3)
    answer = api.models.generate_content(model=model, contents="Hi", config=config)
    assert answer.candidates is not None
    assert answer.candidates[0].finish_reason == types.FinishReason.MAX_TOKENS


@pytest.mark.req("GW-16")
def test_errors_in_the_clients_dialect(worker: Worker) -> None:
    api, stranger = client(worker), client(worker, "wrong")
    with pytest.raises(errors.ClientError) as missing:
        api.models.generate_content(model="nobody-knows", contents="x")
    assert (missing.value.code, missing.value.status) == (404, "NOT_FOUND")
    with pytest.raises(errors.ClientError) as unknown:
        stranger.models.generate_content(model=MODELS[0], contents="x")
    assert (unknown.value.code, unknown.value.status) == (401, "UNAUTHENTICATED")
    stray: Any = [{"role": "nobody", "parts": [{"text": "x"}]}]
    for model in MODELS[1:]:
        with pytest.raises(errors.ClientError) as refused:
            api.models.generate_content(model=model, contents=stray)
        assert (refused.value.code, refused.value.status) == (400, "INVALID_ARGUMENT")


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize("model", BEHIND)
def test_openais_client_with_gemini_behind(worker: Worker, model: str) -> None:
    api = worker.openai()
    answer = api.chat.completions.create(model=model, messages=HELLO)
    strictly(answer)
    chunks = list(
        api.chat.completions.create(
            model=model, messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    for chunk in chunks:
        strictly(chunk)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == answer.choices[0].message.content
    assert chunks[-1].usage is not None
    assert answer.usage is not None
    assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens
    options: Any = {"model": model, "tools": [OPENAI_TOOL]}
    with api.chat.completions.stream(messages=HELLO, **options) as stream:
        called = stream.get_final_completion()
    assert called.choices[0].finish_reason == "tool_calls"
    spoken: Any = called.choices[0].message.model_dump(exclude_none=True)
    spoken = {name: spoken[name] for name in ("role", "content", "tool_calls") if name in spoken}
    for call in spoken["tool_calls"]:
        call["function"].pop("parsed_arguments", None)
        call.pop("index", None)
    results: Any = [
        {"role": "tool", "tool_call_id": call["id"], "content": "18 °C"}
        for call in spoken["tool_calls"]
    ]
    final = api.chat.completions.create(messages=[*HELLO, spoken, *results], **options)
    assert final.choices[0].finish_reason == "stop"
    form: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    shaped = api.chat.completions.create(model=model, messages=HELLO, response_format=form)
    assert "city" in json.loads(shaped.choices[0].message.content or "")


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize("model", BEHIND)
def test_anthropics_client_with_gemini_behind(worker: Worker, model: str) -> None:
    api = worker.anthropic()
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    options: Any = {"model": model, "max_tokens": 4_000, "thinking": thinking}
    message = api.messages.create(messages=HELLO, **options)
    strictly(message)
    assert [block.type for block in message.content] == ["thinking", "text"]
    options["tools"] = [ANTHROPIC_TOOL]
    with api.messages.stream(messages=HELLO, **options) as stream:
        called = stream.get_final_message()
    assert called.stop_reason == "tool_use"
    # The blocks go back as they came, with the signature that the newest models ask for.
    results: Any = [
        {"type": "tool_result", "tool_use_id": block.id, "content": "18 °C"}
        for block in called.content
        if block.type == "tool_use"
    ]
    blocks: Any = [
        {
            name: value
            for name, value in block.model_dump(exclude_none=True).items()
            if name != "parsed_output"
        }
        for block in called.content
    ]
    history = [
        *HELLO,
        {"role": "assistant", "content": blocks},
        {"role": "user", "content": results},
    ]
    final = api.messages.create(messages=history, **options)
    assert final.stop_reason == "end_turn"
    if model.endswith(NEWEST):
        assert any(block.get("signature", "").startswith("gemini:") for block in blocks)
        # A turn of another vendor's does not make the conversation fail there.
        options["model"] = "anthropic/claude-sonnet-4-5"
        options.pop("thinking")
        assert api.messages.create(messages=history, **options).stop_reason == "end_turn"


@pytest.mark.req("PROV-07")
@pytest.mark.parametrize(
    ("kind", "error_class"),
    [
        ("rate_limited", "rate_limit"),
        ("server_error", "server"),
        ("unavailable", "server"),
        ("context_too_long", "context"),
        ("cut", "network"),
        ("missing_end_marker", "protocol"),
        ("error_event", "server"),
        ("malformed_frame", "protocol"),
        ("reset", "network"),
    ],
)
def test_faults_of_the_vendor(worker: Worker, sandbox: Served, kind: str, error_class: str) -> None:
    base = f"/gemf-{kind}"
    sandbox.behave(FLASH, base, faults=[{"kind": kind}])
    worker.change(provider(f"faulty-{kind}", "gemini", f"{sandbox.url}{base}/v1beta"))
    path = f"/v1beta/models/faulty-{kind}/{FLASH}:streamGenerateContent?alt=sse"
    status, told, answer = worker.request("POST", path, {"contents": CONTENTS})
    [response] = worker.events(ResponseCompleted, told["x-weir-request-id"])
    assert response.outcome == "failed"
    assert response.attempts[0].error_class == error_class
    assert b"finishReason" not in answer
    assert (status != 200) or b'"error"' in answer


def test_counted_tokens_and_listed_models(worker: Worker) -> None:
    api = client(worker)
    counted = {
        model: api.models.count_tokens(model=model, contents="Say hello.").total_tokens
        for model in MODELS
    }
    assert all(counted.values()), counted
    whole = {
        "generateContentRequest": {
            "model": f"models/{MODELS[0]}",
            "contents": CONTENTS,
            "systemInstruction": {"parts": [{"text": "Be very brief, please."}]},
        }
    }
    path = f"/v1beta/models/{MODELS[0]}:countTokens"
    status, told, answer = worker.request("POST", path, whole)
    assert status == 200, answer
    assert json.loads(answer)["totalTokens"] > (counted[MODELS[0]] or 0)
    assert worker.call(told["x-weir-request-id"])[2].cost_nano_usd == 0
    question = {"model": MODELS[0], "messages": HELLO}
    status, _, answer = worker.request("POST", "/v1/messages/count_tokens", question)
    assert status == 200
    assert json.loads(answer)["input_tokens"] == counted[MODELS[0]]
    names = {str(model.name) for model in api.models.list()}
    assert {f"models/{model}" for model in MODELS} <= names
    assert api.models.get(model=MODELS[0]).name == f"models/{MODELS[0]}"
    with pytest.raises(errors.ClientError, match="404"):
        api.models.get(model="nobody-knows")


@pytest.mark.req("GW-12")
@pytest.mark.parametrize("model", [MODELS[1], MODELS[3]])
def test_answers_from_the_cache(worker: Worker, model: str) -> None:
    name = f"cached-{model.partition('/')[0]}"
    worker.change(route(name, RouteTarget(model), cache_ttl_s=600))
    body = {"contents": CONTENTS, "generationConfig": {"maxOutputTokens": 400}}
    _, whole = raw(worker, name, body)
    told, again = raw(worker, name, body)
    assert told["x-weir-cache"] == "hit"
    assert again["candidates"] == whole["candidates"]
    told, frames = raw(worker, name, body, stream=True)
    assert told["x-weir-cache"] == "hit"
    text = "".join(
        part.get("text", "")
        for frame in frames
        for part in frame["candidates"][0]["content"]["parts"]
    )
    assert text == whole["candidates"][0]["content"]["parts"][0]["text"]
    assert frames[-1]["candidates"][0]["finishReason"] == "STOP"
