"""Clients of vendors that speak OpenAI's dialect: Azure's and Mistral's, before the gateway and behind."""

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from mistralai.client import Mistral
from mistralai.client.errors import SDKError

from gateway.dialects.anthropic_messages import ANTHROPIC
from gateway.dialects.neutral import Opening, Text, Usage
from gateway.dialects.openai_chat import OPENAI
from gateway.dialects.sse import write_frame
from gateway.streaming import StreamRelay
from infra.prices import price_events
from tests.gateway.strict import frames
from tests.gateway.worker import SECRET, Worker
from tests.sandbox.served import Served, strictly

MODELS = ["openai/gpt-4o-mini", "anthropic/claude-sonnet-4-5"]
HELLO: Any = [{"role": "user", "content": "Say hello."}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CHAT: Any = json.loads(
    (Path(__file__).parent / "cassettes" / "azure" / "chat.json").read_text("utf-8")
)
OPENING = Opening("m", True, False, None, False, {}, None)


def azure(url: str, **options: Any) -> openai.AzureOpenAI:
    options = {"api_key": SECRET, "api_version": "2024-10-21", "max_retries": 0, **options}
    return openai.AzureOpenAI(azure_endpoint=url, **options)


# --- Azure OpenAI --------------------------------------------------------------------------------


@pytest.mark.req("BEY-01", "PROV-04")
@pytest.mark.parametrize("model", MODELS)
def test_azures_client_through_the_gateway(worker: Worker, model: str) -> None:
    client = azure(worker.url)
    answer = client.chat.completions.create(model=model, messages=HELLO)
    strictly(answer)
    assert answer.choices[0].message.content
    chunks = list(client.chat.completions.create(model=model, messages=HELLO, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody-knows", messages=HELLO)
    with pytest.raises(openai.AuthenticationError):
        azure(worker.url, api_key="wrong").chat.completions.create(model=model, messages=HELLO)


@pytest.mark.req("BEY-01", "PROV-04")
def test_the_v1_api_through_the_gateway(worker: Worker) -> None:
    client = openai.OpenAI(base_url=f"{worker.url}/openai/v1", api_key=SECRET, max_retries=0)
    assert client.chat.completions.create(model=MODELS[1], messages=HELLO).choices


def test_azures_client_on_the_sandbox(sandbox: Served) -> None:
    client = azure(f"{sandbox.url}/azure")
    answer = client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert answer.model_extra
    assert answer.model_extra["prompt_filter_results"]
    chunks = list(client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True))
    assert chunks[0].choices == []
    assert chunks[-1].choices[0].finish_reason == "stop"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="my-deployment", messages=HELLO)
    assert missing.value.code == "DeploymentNotFound"


@pytest.mark.req("BEY-02")
def test_filtered_answers_of_azure() -> None:
    answer = OPENAI.read_answer(json.dumps(CHAT["answer"]).encode())
    assert answer.finish == "filter"
    assert answer.parts == [Text("The first part")]
    stream = b"".join(write_frame(json.dumps(chunk).encode()) for chunk in CHAT["stream"])
    stream += write_frame(b"[DONE]")
    relay = StreamRelay(ANTHROPIC, OPENAI, OPENING)
    events = [event for event, _ in frames(relay.feed(stream) + relay.final)]
    assert events[0] == "message_start"
    assert events[-1] == "message_stop"
    whole = relay.answer()
    assert (whole.finish, whole.parts) == ("filter", [Text("The first part")])
    assert whole.model == "gpt-4o-2024-08-06"
    assert whole.usage == Usage(40, None, 11)
    same = StreamRelay(OPENAI, OPENAI, OPENING)
    sent = same.feed(stream)
    assert sent.count(b"content_filter_results") == stream.count(b"content_filter_results")


@pytest.mark.req("PROV-07")
@pytest.mark.parametrize(("status", "body", "code"), CHAT["errors"])
def test_errors_of_azure(status: int, body: Any, code: str) -> None:
    fault = OPENAI.read_error(status, {}, json.dumps(body).encode())
    assert fault.code == code
    told = body.get("error", body)["message"]
    assert told in fault.message


# --- Mistral -------------------------------------------------------------------------------------


@pytest.mark.req("BEY-01", "PROV-05")
@pytest.mark.parametrize("model", MODELS)
def test_mistrals_client_through_the_gateway(worker: Worker, model: str) -> None:
    with Mistral(api_key=SECRET, server_url=worker.url) as client:
        answer = client.chat.complete(model=model, messages=HELLO, max_tokens=200)
        assert answer.choices[0].message is not None
        assert answer.choices[0].message.content
        assert answer.usage.completion_tokens
        events = list(client.chat.stream(model=model, messages=HELLO, max_tokens=200))
        text = "".join(
            str(one.data.choices[0].delta.content or "") for one in events if one.data.choices
        )
        assert text == answer.choices[0].message.content
        called = client.chat.complete(
            model=model, messages=HELLO, tools=[WEATHER], tool_choice="required", max_tokens=200
        )
        message = called.choices[0].message
        assert message is not None
        assert message.tool_calls
        assert message.tool_calls[0].function.name == "get_weather"
        with pytest.raises(SDKError, match="404"):
            client.chat.complete(model="nobody-knows", messages=HELLO)


def test_mistrals_client_on_the_sandbox(sandbox: Served) -> None:
    for model in ("magistral-medium-latest", "mistral-small-latest"):
        sandbox.behave(model, "/mistral")
    with Mistral(api_key="k-sandbox", server_url=f"{sandbox.url}/mistral") as client:
        answer = client.chat.complete(
            model="magistral-medium-latest", messages=HELLO, random_seed=7
        )
        parts: Any = answer.choices[0].message and answer.choices[0].message.content
        assert [part.type for part in parts] == ["thinking", "text"]
        events = list(client.chat.stream(model="mistral-small-latest", messages=HELLO))
        assert events[-1].data.usage is not None


# --- models by name ------------------------------------------------------------------------------


@pytest.mark.req("PROV-03")
def test_a_model_that_is_not_listed_is_named_all_the_same(worker: Worker) -> None:
    answer = worker.openai().chat.completions.create(model="openai/gpt-3.5-turbo", messages=HELLO)
    assert answer.model.startswith("gpt-3.5-turbo")
    message = worker.anthropic().messages.create(
        model="anthropic/claude-3-7-sonnet-latest", messages=HELLO, max_tokens=50
    )
    assert message.model.startswith("claude-3-7-sonnet")


@pytest.mark.req("PROV-03", "PROV-08")
def test_older_families_have_their_prices() -> None:
    known = {(event.provider, event.model) for event in price_events(["openai", "anthropic"], "x")}
    for model in ("gpt-4", "gpt-4-turbo", "gpt-3.5-turbo"):
        assert ("openai", model) in known, model
    for model in ("claude-3-opus", "claude-3-sonnet", "claude-3-haiku"):
        assert any(
            provider == "anthropic" and name.startswith(model) for provider, name in known
        ), model
