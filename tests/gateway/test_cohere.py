"""Cohere's wire, both ways: cassettes of the chat (v2), whole and streamed."""

import json
from pathlib import Path
from typing import Any

import pytest
from cohere.v2.types.v2chat_response import V2ChatResponse
from cohere.v2.types.v2chat_stream_response import V2ChatStreamResponse

from gateway.dialects.anthropic_messages import ANTHROPIC
from gateway.dialects.cohere_chat import COHERE
from gateway.dialects.neutral import (
    Answer,
    Dialect,
    Opening,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Usage,
)
from gateway.dialects.openai_chat import OPENAI
from gateway.dialects.reading import read_object
from gateway.dialects.sse import FrameSplitter, write_frame
from gateway.streaming import StreamRelay
from schemas.errors import (
    InvalidRequest,
    UpstreamAuthentication,
    UpstreamContextTooLong,
    UpstreamError,
    UpstreamModelMissing,
    UpstreamOverloaded,
    UpstreamProtocol,
    UpstreamQuota,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
)
from tests.gateway.strict import check

CASSETTES = Path(__file__).parent / "cassettes" / "cohere"
WHOLE: Any = json.loads((CASSETTES / "chat.json").read_text("utf-8"))
STREAM: Any = json.loads((CASSETTES / "chat_stream.json").read_text("utf-8"))
DONE = write_frame(b"[DONE]")
MODEL = "command-a-reasoning-08-2025"
OPENING = Opening("m", True, True, None, False, {}, None)


def fields(body: Any) -> Any:
    return read_object(json.dumps(body).encode())


def wire(name: str) -> list[bytes]:
    events = [write_frame(json.dumps(body).encode(), body["type"]) for body in STREAM[name]]
    return [*events, DONE]


def relayed(front: Dialect, back: Dialect, frames: list[bytes], size: int = 7) -> Any:
    relay = StreamRelay(front, back, OPENING)
    data, out = b"".join(frames), b""
    for at in range(0, len(data), size):
        out += relay.feed(data[at : at + size])
    relay.check_end()
    return relay, out + relay.final


def events(data: bytes) -> list[Any]:
    frames = FrameSplitter().feed(data)
    return [json.loads(frame.data) for frame in frames if frame.data != b"[DONE]"]


# --- requests --------------------------------------------------------------------------------


@pytest.mark.req("BEY-02")
def test_a_request_is_read_and_written_alike() -> None:
    chat = COHERE.read_request(fields(WHOLE["request"]))
    assert chat.unread == []
    written = json.loads(COHERE.write_request(chat, MODEL, None))
    assert written == WHOLE["request"]
    assert COHERE.unsaid(chat, MODEL) == []


@pytest.mark.req("BEY-02")
def test_the_neutral_form_of_a_request() -> None:
    chat = COHERE.read_request(fields(WHOLE["request"]))
    called, first, second = chat.messages[2:5]
    assert called.parts == [
        Thinking("Rome, then.", vendor="cohere"),
        Text("I look it up."),
        ToolCall("c1", "weather", '{"city": "Rome"}'),
        ToolCall("c2", "time", "{}"),
    ]
    assert first.parts == [ToolResult("c1", [Text("18 °C")])]
    assert second.parts == [ToolResult("c2", [Text("noon")])]
    assert (chat.top_p, chat.top_k, chat.seed, chat.stop) == (0.9, 40, 7, ["END"])
    assert chat.params == {"logprobs": True}


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize("front", [OPENAI, ANTHROPIC], ids=lambda item: item.name)
def test_requests_of_others(front: Dialect) -> None:
    chat = COHERE.read_request(fields(WHOLE["request"]))
    there = front.read_request(read_object(front.write_request(chat, "m", None)))
    back = json.loads(COHERE.write_request(there, MODEL, None))
    asked = WHOLE["request"]
    for name in ("tools", "tool_choice", "max_tokens", "stop_sequences"):
        assert back[name] == asked[name]
    schema = asked["response_format"]["json_schema"]
    written = schema if front is OPENAI else {**schema, "additionalProperties": False}
    assert back["response_format"] == {"type": "json_object", "json_schema": written}
    mine, theirs = back["messages"], asked["messages"]
    assert mine[:2] == theirs[:2]
    assert mine[3:] == theirs[3:]
    assert mine[2]["tool_plan"] == theirs[2]["tool_plan"]
    assert [call["id"] for call in mine[2]["tool_calls"]] == ["c1", "c2"]


def test_documents_are_given_to_models_that_do_not_cite() -> None:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "x"}],
        "documents": ["plain", {"id": "a", "data": {"text": "told"}}],
        "citation_options": {"mode": "FAST"},
    }
    chat = COHERE.read_request(fields(body))
    assert chat.unread == ["citation_options"]
    written = json.loads(OPENAI.write_request(chat, "m", None))
    assert written["messages"][0]["role"] == "system"
    assert 'a: {"text":"told"}' in written["messages"][0]["content"]


def test_what_the_vendor_takes_in_part_is_said() -> None:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "x"}],
        "temperature": 1.7,
        "top_p": 1.0,
        "frequency_penalty": -1.0,
        "presence_penalty": 0.5,
        "stop": list("abcdef"),
        "reasoning_effort": "high",
        "user": "u",
    }
    chat = OPENAI.read_request(fields(body))
    written = json.loads(COHERE.write_request(chat, "command-a-03-2025", None))
    assert (written["temperature"], written["p"]) == (1.0, 0.99)
    assert (written["frequency_penalty"], written["presence_penalty"]) == (0.0, 0.5)
    assert len(written["stop_sequences"]) == 5
    assert "thinking" not in written
    assert COHERE.unsaid(chat, "command-a-03-2025") == [
        "temperature",
        "stop",
        "frequency_penalty",
        "user",
        "reasoning",
    ]


def test_one_tool_is_forced_by_offering_it_alone() -> None:
    offers = [
        {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
        for name in ("a", "b")
    ]
    choice = {"type": "function", "function": {"name": "b"}}
    body = {"model": "m", "messages": [], "tools": offers, "tool_choice": choice}
    written = json.loads(COHERE.write_request(OPENAI.read_request(fields(body)), "m", None))
    assert [tool["function"]["name"] for tool in written["tools"]] == ["b"]
    assert written["tool_choice"] == "REQUIRED"


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "video"}]},
        {"role": "user"},
        {"role": "nobody", "content": "x"},
        {"role": "tool", "content": "x"},
        {"role": "assistant", "tool_calls": [{"id": "c"}]},
    ],
)
def test_what_cannot_cross_over_is_refused(message: Any) -> None:
    with pytest.raises(InvalidRequest):
        COHERE.read_request(fields({"model": "m", "messages": [message]}))


def test_files_and_sound_are_refused() -> None:
    for part in (
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA=="}},
    ):
        chat = OPENAI.read_request(
            fields({"model": "m", "messages": [{"role": "user", "content": [part]}]})
        )
        with pytest.raises(InvalidRequest, match="takes no"):
            COHERE.write_request(chat, "m", None)


# --- answers ---------------------------------------------------------------------------------


@pytest.mark.req("BEY-02")
def test_an_answer_is_billed_by_its_units() -> None:
    check(WHOLE["answer"], V2ChatResponse)
    answer = COHERE.read_answer(json.dumps(WHOLE["answer"]).encode())
    assert answer == Answer(
        id="c14c80c3-18eb-4519-9460-6c92edd8cfb4",
        model="",
        parts=[
            Thinking("Rome, then.", vendor="cohere"),
            Text("I look it up."),
            ToolCall("weather_1", "weather", '{"city": "Rome"}'),
        ],
        finish="tool_calls",
        usage=Usage(20, 5, 11),
    )
    written = json.loads(COHERE.write_answer(answer, None))
    check(written, V2ChatResponse)
    assert written["message"] == WHOLE["answer"]["message"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", UpstreamProtocol),
        (b"[]", UpstreamProtocol),
        (b"{}", UpstreamProtocol),
        (b'{"message": {"tool_calls": [{"id": "x"}]}}', UpstreamProtocol),
        (b'{"message": {}, "finish_reason": "ERROR"}', UpstreamError),
        (b'{"message": {}, "finish_reason": "TIMEOUT"}', UpstreamTimeout),
    ],
)
def test_what_is_no_answer_is_an_error(body: bytes, kind: type[UpstreamError]) -> None:
    with pytest.raises(kind):
        COHERE.read_answer(body)


# --- streams ---------------------------------------------------------------------------------


@pytest.mark.req("BEY-09")
@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("name", ["answer", "tools"])
def test_a_stream_passes_untouched(name: str, size: int) -> None:
    frames = wire(name)
    relay, out = relayed(COHERE, COHERE, frames, size)
    # The mark after the end may stay behind: what ends the stream is the event before it.
    assert b"".join(frames).startswith(out)
    assert b"message-end" in relay.final
    assert relay.answer().usage == Usage(10, None, 7 if name == "answer" else 9)


@pytest.mark.req("BEY-02")
def test_streams_for_others() -> None:
    relay, out = relayed(OPENAI, COHERE, wire("answer"))
    deltas = [c["choices"][0]["delta"] for c in events(out) if c["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "It is warm."
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == "Rome, then."
    relay, out = relayed(ANTHROPIC, COHERE, wire("tools"))
    blocks = [e["content_block"] for e in events(out) if e["type"] == "content_block_start"]
    assert [block["type"] for block in blocks] == ["text", "tool_use", "tool_use"]
    assert relay.answer().parts[1:] == [
        ToolCall("weather_1", "weather", '{"city": "Rome"}'),
        ToolCall("time_1", "time", "{}"),
    ]


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize("name", ["answer", "tools"])
def test_streams_of_others(name: str) -> None:
    """What OpenAI's clients would read of a stream, read as a stream of that vendor's."""
    _, there = relayed(OPENAI, COHERE, wire(name))
    relay, out = relayed(COHERE, OPENAI, [there])
    told = events(out)
    for event in told:
        check(event, V2ChatStreamResponse)
    again, _ = relayed(COHERE, COHERE, [out])
    assert [p for p in again.answer().parts if not isinstance(p, Thinking)] == [
        p for p in relay.answer().parts if not isinstance(p, Thinking)
    ]
    assert told[-1]["delta"]["finish_reason"] == STREAM[name][-1]["delta"]["finish_reason"]
    begun = [e["index"] for e in told if e["type"].endswith("-start") and "index" in e]
    ended = [e["index"] for e in told if e["type"] in {"content-end", "tool-call-end"}]
    assert begun == ended == list(range(len(begun)))


@pytest.mark.req("BEY-09")
@pytest.mark.parametrize("front", [COHERE, OPENAI], ids=lambda item: item.name)
@pytest.mark.parametrize("count", range(len(STREAM["answer"])))
def test_a_cut_stream_is_no_answer(front: Dialect, count: int) -> None:
    with pytest.raises(UpstreamProtocol):
        relayed(front, COHERE, wire("answer")[:count])


@pytest.mark.req("BEY-09")
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"type": "message-end", "delta": {"finish_reason": "ERROR", "error": "x"}}, UpstreamError),
        ({"type": "message-end", "delta": {"finish_reason": "TIMEOUT"}}, UpstreamTimeout),
        ({"type": "message-end"}, UpstreamProtocol),
        ({"type": "tool-call-delta", "index": 9}, UpstreamProtocol),
        ({"delta": {}}, UpstreamProtocol),
    ],
)
def test_no_broken_stream_passes(body: Any, kind: type[UpstreamError]) -> None:
    frames = wire("answer")
    with pytest.raises(kind):
        relayed(COHERE, COHERE, [*frames[:3], write_frame(json.dumps(body).encode()), *frames[3:]])


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.req("PROV-07")
@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (401, "invalid api token", UpstreamAuthentication),
        (498, "invalid token", UpstreamAuthentication),
        (429, "You are past the per minute request limit", UpstreamRateLimited),
        (
            429,
            "You are using a Trial key, which is limited to 1000 API calls / month.",
            UpstreamQuota,
        ),
        (
            400,
            "too many tokens: total number of tokens in the prompt cannot exceed 8 - received 9.",
            UpstreamContextTooLong,
        ),
        (
            404,
            "model 'x' not found, make sure the correct model ID was used.",
            UpstreamModelMissing,
        ),
        (422, "unknown field: parameter 'x' is not a valid field", UpstreamRejected),
        (500, "internal server error", UpstreamError),
        (503, None, UpstreamOverloaded),
    ],
)
def test_errors_have_one_class(status: int, message: str | None, kind: type[UpstreamError]) -> None:
    raw = b"<html>" if message is None else json.dumps({"message": message}).encode()
    error = COHERE.read_error(status, {b"retry-after": b"7"}, raw)
    assert type(error) is kind
    if kind is UpstreamRateLimited:
        assert error.retry_after_seconds == 7
