"""What the vendors of OpenAI's dialect do differently: each word of theirs on a request."""

import json
from typing import Any

import pytest

from gateway.dialects import quirks
from gateway.dialects.neutral import Opening, Usage
from gateway.dialects.openai_chat import OPENAI
from gateway.dialects.sse import write_frame
from gateway.streaming import StreamRelay
from infra.vendors import VENDORS
from schemas.errors import InvalidRequest
from tests.gateway.strict import frames
from tests.gateway.worker import Worker, provider, target
from tests.sandbox.served import Served

USER: Any = {"role": "user", "content": "Hi"}
SCHEMA: Any = {"type": "object", "properties": {"a": {"type": "string"}}}


def changed(word: str, **body: Any) -> tuple[Any, list[str]]:
    request = {"model": "m", "messages": [USER], **body}
    data, lost = quirks.apply([word], json.dumps(request).encode())
    return json.loads(data), lost


@pytest.mark.req("BEY-01")
@pytest.mark.parametrize(
    ("word", "given", "sent"),
    [
        # Mistral: https://docs.mistral.ai/api ("max_tokens", "random_seed", no "stream_options")
        ("max_tokens", {"max_completion_tokens": 5}, {"max_tokens": 5}),
        ("max_tokens", {"max_tokens": 4, "max_completion_tokens": 5}, {"max_tokens": 4}),
        ("random_seed", {"seed": 0}, {"random_seed": 0}),
        ("no_stream_options", {"stream_options": {"include_usage": True}}, {}),
        # Azure OpenAI: a deployment of a reasoning model does not tell it by its name,
        # https://learn.microsoft.com/azure/foundry/openai/how-to/reasoning
        ("max_completion_tokens", {"max_tokens": 5}, {"max_completion_tokens": 5}),
    ],
)
def test_members_have_other_names(word: str, given: Any, sent: Any) -> None:
    request, lost = changed(word, **given)
    assert request == {"model": "m", "messages": [USER], **sent}
    assert lost == []


@pytest.mark.req("BEY-01")
def test_what_a_vendor_refuses_is_left_out_and_said() -> None:
    # Groq: https://console.groq.com/docs/openai ("Currently Unsupported OpenAI Features")
    request, lost = changed("drop:logit_bias", logit_bias={"1": 2})
    assert "logit_bias" not in request
    assert lost == ["logit_bias"]
    assert changed("drop:logit_bias")[1] == []
    request, lost = changed("no_names", messages=[{**USER, "name": "Ann"}])
    assert request["messages"] == [USER]
    assert lost == ["messages.name"]


def test_instructions_of_developers_are_the_systems() -> None:
    # Mistral, DeepSeek, Ollama…: roles are system, user, assistant and tool
    request, _ = changed("system_role", messages=[{"role": "developer", "content": "x"}, USER])
    assert request["messages"][0]["role"] == "system"


def test_thoughts_of_earlier_turns() -> None:
    spoken = {"role": "assistant", "content": "a", "reasoning_content": "t"}
    details = {**spoken, "reasoning_details": []}
    # Groq: https://console.groq.com/docs/reasoning ("message.reasoning")
    request, _ = changed("reasoning_field", messages=[USER, details])
    assert request["messages"][1] == {"role": "assistant", "content": "a", "reasoning": "t"}
    request, _ = changed("no_thoughts", messages=[USER, details])
    assert request["messages"][1] == {"role": "assistant", "content": "a"}


@pytest.mark.req("BEY-02")
def test_ids_of_tool_calls_are_short_and_fit_together() -> None:
    # Mistral refuses others: "must be a-z, A-Z, 0-9, with a length of 9"
    call = {"id": "call_abcdefghijkl", "type": "function", "function": {"name": "f"}}
    kept = {**call, "id": "Abc123xyz"}
    result = {"role": "tool", "tool_call_id": call["id"], "content": "r"}
    spoken = {"role": "assistant", "content": None, "tool_calls": [call, kept]}
    request, _ = changed("short_tool_ids", messages=[USER, spoken, result])
    ids = [entry["id"] for entry in request["messages"][1]["tool_calls"]]
    assert all(len(one) == 9 and one.isalnum() for one in ids)
    assert ids[1] == "Abc123xyz"
    assert request["messages"][2]["tool_call_id"] == ids[0]


def test_a_schema_is_asked_for_in_words() -> None:
    # DeepSeek: https://api-docs.deepseek.com/guides/json_mode
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    request, lost = changed("json_object", response_format=form)
    assert request["response_format"] == {"type": "json_object"}
    assert '"properties"' in request["messages"][0]["content"]
    assert lost == ["response_format.json_schema"]
    assert changed("json_object", response_format={"type": "text"})[1] == []


def test_turns_alternate() -> None:
    # Perplexity: https://docs.perplexity.ai/guides/chat-completions-guide
    parts = [{"type": "text", "text": "c"}]
    turns = [USER, {"role": "user", "content": "b"}, {"role": "user", "content": parts}]
    request, _ = changed("alternate_turns", messages=turns)
    [merged] = request["messages"]
    assert merged["content"] == [{"type": "text", "text": "Hi\n\nb"}, *parts]
    tools = [{"role": "tool", "tool_call_id": c, "content": c} for c in "ab"]
    assert changed("alternate_turns", messages=tools)[0]["messages"] == tools


@pytest.mark.parametrize("messages", ["x", [3], None])
def test_what_is_no_request_is_refused(messages: Any) -> None:
    with pytest.raises(InvalidRequest):
        changed("system_role", messages=messages)


def test_rows_use_known_words_and_name_their_page() -> None:
    for vendor in VENDORS:
        assert quirks.unknown(vendor.quirks) == [], vendor.name
        assert vendor.page.startswith("https://"), vendor.name
    assert quirks.unknown(["drop:x", "dorp:x", "max_token"]) == ["dorp:x", "max_token"]


@pytest.mark.req("PROV-04")
def test_one_model_of_a_provider_has_a_quirk(worker: Worker, sandbox: Served) -> None:
    """A deployment of a reasoning model: its name says nothing, its row does."""
    worker.change(provider("deployments", "openai", f"{sandbox.url}/deployments/v1"))
    body = {"model": "deployments/o4-mini", "messages": [USER], "max_tokens": 300}
    assert worker.request("POST", "/v1/chat/completions", body)[0] == 400
    worker.change(target("deployments", "o4-mini", quirks=["max_completion_tokens"]))
    status, _, data = worker.request("POST", "/v1/chat/completions", body)
    assert status == 200, data


@pytest.mark.req("BEY-01")
@pytest.mark.parametrize("asked", [True, False])
def test_usage_in_the_last_chunk_comes_in_one_of_its_own_when_asked(asked: bool) -> None:
    # Mistral: https://docs.mistral.ai/api (usage with the last chunk, unasked)
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    last = {"choices": [{"index": 0, "delta": {"content": "!"}, "finish_reason": "stop"}]}
    first = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hi"}}]}
    stream = [{**head, **first}, {**head, "usage": usage, **last}]
    opening = Opening("m", True, asked, None, False, {}, None)
    relay = StreamRelay(OPENAI, OPENAI, opening)
    sent = relay.feed(b"".join(write_frame(json.dumps(chunk).encode()) for chunk in stream))
    relay.feed(write_frame(b"[DONE]"))
    alone = [{**head, "choices": [], "usage": usage}]
    assert [chunk for _, chunk in frames(sent)] == [
        {**head, **first},
        {**head, **last},
        *(alone if asked else []),
    ]
    assert relay.usage == Usage(3, None, 2)
