"""Thoughts across dialects: asked for in one vendor's words, granted in another's, signed and kept."""

import json
from typing import Any

import pytest

from gateway.dialects.anthropic_messages import ANTHROPIC
from gateway.dialects.openai_chat import OPENAI
from gateway.dialects.openai_responses import OPENAI_RESPONSES
from gateway.dialects.reading import read_object
from tests.gateway.strict import frames
from tests.gateway.worker import Worker

CLAUDE = "anthropic/claude-sonnet-4-5"
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
ASKED: Any = [{"role": "user", "content": "The weather in Rome?"}]


def asked(**more: Any) -> Any:
    body = {"model": "m", "messages": ASKED, "max_tokens": 20_000, **more}
    return OPENAI.read_request(read_object(json.dumps(body).encode()))


def written(model: str, **more: Any) -> Any:
    return json.loads(ANTHROPIC.write_request(asked(**more), model, None))


@pytest.mark.req("BEY-02")
def test_claude_is_told_to_think_as_its_version_wants() -> None:
    old = written("claude-sonnet-4-5-20250929", reasoning_effort="medium", temperature=0.5)
    assert old["thinking"] == {"type": "enabled", "budget_tokens": 8_192}
    assert "temperature" not in old
    new = written("claude-opus-4-6", reasoning_effort="medium")
    assert new["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert new["output_config"] == {"effort": "medium"}
    newest = written("claude-sonnet-5", reasoning_effort="minimal", temperature=0.5)
    assert newest["thinking"]["type"] == "adaptive"
    assert newest["output_config"] == {"effort": "low"}
    assert "temperature" not in newest
    assert "thinking" not in written("claude-sonnet-5", reasoning_effort="none")
    forced = written(
        "claude-opus-4-6", reasoning_effort="low", tools=[TOOL], tool_choice="required"
    )
    assert "thinking" not in forced
    assert forced["tool_choice"] == {"type": "any"}


@pytest.mark.req("BEY-02")
def test_what_a_version_lacks_is_named() -> None:
    question = asked(temperature=0.5, top_p=0.9)
    assert ANTHROPIC.unsaid(question, "claude-sonnet-4-5") == []
    assert ANTHROPIC.unsaid(question, "claude-opus-4-8") == ["temperature", "top_p"]
    strict = {**TOOL, "function": {**TOOL["function"], "strict": True}}
    assert ANTHROPIC.unsaid(asked(tools=[strict]), "claude-3-7-sonnet") == ["tools.strict"]
    assert written("claude-opus-4-5", tools=[strict])["tools"][0]["strict"] is True
    assert OPENAI_RESPONSES.unsaid(asked(stop="x", seed=1, max_tokens=5), "m") == [
        "seed",
        "stop",
        "max_tokens",
    ]


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize("streamed", [False, True])
def test_signed_thoughts_come_back_through_openais_chat(worker: Worker, streamed: bool) -> None:
    """The sandbox refuses damaged signatures, and tool turns without their thoughts, as its vendor."""
    body = {"model": CLAUDE, "messages": ASKED, "tools": [TOOL], "reasoning_effort": "low",
            "max_tokens": 4_000, "stream": streamed}  # fmt: skip
    status, headers, data = worker.request("POST", "/v1/chat/completions", body)
    assert status == 200
    message = _joined(data) if streamed else json.loads(data)["choices"][0]["message"]
    assert message["reasoning_content"]
    assert message["reasoning_details"][0]["signature"]
    assert message["reasoning_details"][0]["text"] == message["reasoning_content"]
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": "18 °C"}
        for call in message["tool_calls"]
    ]
    history = [*ASKED, message, *results]
    status, _, data = worker.request(
        "POST", "/v1/chat/completions", {**body, "stream": False, "messages": history}
    )
    assert status == 200, data
    again = json.loads(data)["choices"][0]["message"]
    assert again["content"]
    assert again["reasoning_details"]  # it went on thinking: the history had its thoughts
    spoilt = json.loads(json.dumps(history))
    spoilt[1]["reasoning_details"][0]["signature"] = "bm9ib2R5"
    status, _, data = worker.request(
        "POST", "/v1/chat/completions", {**body, "stream": False, "messages": spoilt}
    )
    assert status == 400
    _, response, _ = worker.call(headers["x-weir-request-id"])
    assert response.outcome == "success"


def _joined(data: bytes) -> Any:
    """What a client makes of the pieces."""
    message: Any = {"role": "assistant", "content": "", "reasoning_content": "",
                    "reasoning_details": [], "tool_calls": []}  # fmt: skip
    for _, chunk in frames(data):
        for choice in chunk["choices"]:
            delta = choice["delta"]
            message["content"] += delta.get("content") or ""
            message["reasoning_content"] += delta.get("reasoning_content") or ""
            message["reasoning_details"] += delta.get("reasoning_details") or []
            for piece in delta.get("tool_calls") or []:
                if "id" in piece:
                    message["tool_calls"].append(piece)
                else:
                    call = message["tool_calls"][piece["index"]]
                    call["function"]["arguments"] += piece["function"]["arguments"]
    return {**message, "content": message["content"] or None}


@pytest.mark.req("BEY-02")
def test_sound_and_files_are_carried_or_refused(worker: Worker) -> None:
    part = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    body = {"model": CLAUDE, "messages": [{"role": "user", "content": [part]}]}
    status, _, data = worker.request("POST", "/v1/chat/completions", body)
    assert status == 400
    assert b"no sound" in data
    pdf = {"type": "file", "file": {"filename": "a.pdf", "file_data": "JVBERi0="}}
    body = {"model": CLAUDE, "max_tokens": 20, "messages": [{"role": "user", "content": [pdf]}]}
    assert worker.request("POST", "/v1/chat/completions", body)[0] == 200
    source = {"type": "url", "url": "https://x/a.pdf"}
    turn = {"role": "user", "content": [{"type": "document", "source": source}]}
    body = {"model": "openai/gpt-4o-mini", "max_tokens": 20, "messages": [turn]}
    status, _, data = worker.request("POST", "/v1/messages", body)
    assert status == 400
    assert b"by address" in data
