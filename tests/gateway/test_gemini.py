"""Gemini's wire, both ways: cassettes of generateContent and streamGenerateContent."""

import json
from pathlib import Path
from typing import Any

import pytest
from google.genai import types

from gateway.dialects.anthropic_messages import ANTHROPIC
from gateway.dialects.gemini_chat import GEMINI
from gateway.dialects.neutral import (
    Answer,
    Dialect,
    Document,
    Image,
    Opening,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Usage,
)
from gateway.dialects.openai_chat import OPENAI
from gateway.dialects.reading import read_object
from gateway.dialects.sse import FrameSplitter
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
    WeirError,
)
from tests.gateway.strict import check

CASSETTES = Path(__file__).parent / "cassettes" / "gemini"
WHOLE: Any = json.loads((CASSETTES / "generate_content.json").read_text("utf-8"))
STREAM: Any = json.loads((CASSETTES / "stream_generate_content.json").read_text("utf-8"))
FRAMES = [b"data: " + json.dumps(frame).encode() + b"\r\n\r\n" for frame in STREAM["frames"]]
MODEL = "gemini-3.8-flash"
OPENING = Opening("m", True, True, None, False, {}, None)
SCHEMA: Any = {"type": "object", "properties": {"city": {"type": "string"}}}


def fields(body: Any, **said: Any) -> Any:
    return read_object(json.dumps({**body, "model": "m", **said}).encode())


def relayed(front: Dialect, frames: list[bytes], size: int = 7) -> tuple[StreamRelay, bytes]:
    """Carry a provider's stream to a client; the connection ends after the last frame."""
    relay = StreamRelay(front, GEMINI, OPENING)
    data, out = b"".join(frames), b""
    for at in range(0, len(data), size):
        out += relay.feed(data[at : at + size])
    relay.check_end()
    return relay, out


def events(data: bytes) -> list[Any]:
    frames = FrameSplitter().feed(data)
    return [json.loads(frame.data) for frame in frames if frame.data != b"[DONE]"]


# --- requests --------------------------------------------------------------------------------


@pytest.mark.req("BEY-02")
def test_a_request_is_read_and_written_alike() -> None:
    chat = GEMINI.read_request(fields(WHOLE["request"]))
    assert chat.unread == []
    assert json.loads(GEMINI.write_request(chat, MODEL, None)) == WHOLE["request"]
    assert GEMINI.unsaid(chat, MODEL) == []


@pytest.mark.req("BEY-02")
def test_the_neutral_form_of_a_request() -> None:
    chat = GEMINI.read_request(fields(WHOLE["request"], stream=True))
    system, asked, called, told = chat.messages
    assert system.parts == [Text("Be brief.")]
    assert asked.parts[1:] == [
        Image(media_type="image/png", data="iVBORw0KGgo="),
        Image(url="https://x/y.png"),
        Document("application/pdf", "JVBERi0="),
    ]
    assert called.parts == [
        Thinking("", "c2lnbmVk", vendor="gemini"),
        ToolCall("call_0", "weather", '{"city":"Rome"}'),
        ToolCall("call_1", "time", "{}"),
    ]
    assert told.parts == [
        ToolResult("call_0", [Text("18 °C")]),
        ToolResult("call_1", [Text("no clock")], True),
        Text("And now?"),
    ]
    assert chat.stream
    assert chat.schema == SCHEMA
    assert (chat.top_k, chat.seed, chat.max_tokens, chat.stop) == (40, 7, 50, ["END"])
    assert chat.reasoning is not None
    assert (chat.reasoning.effort, chat.reasoning.shown) == ("low", True)


def test_clients_may_write_members_with_underscores() -> None:
    body = {
        "system_instruction": "Be brief.",
        "contents": "Hi",
        "generation_config": {"max_output_tokens": 5, "thinking_config": {"thinking_budget": 0}},
        "tools": {
            "function_declarations": [
                {
                    "name": "f",
                    "parameters": {
                        "type": "OBJECT",
                        "properties": {"n": {"type": "INTEGER", "nullable": True}},
                        "max_properties": "3",
                    },
                }
            ]
        },
        "tool_config": {"function_calling_config": {"mode": "ANY"}},
    }
    chat = GEMINI.read_request(fields(body))
    assert chat.max_tokens == 5
    assert chat.reasoning is not None
    assert chat.reasoning.budget_tokens == 0
    assert chat.tools[0].parameters == {
        "type": "object",
        "properties": {"n": {"type": ["integer", "null"]}},
        "maxProperties": 3,
    }
    assert chat.tool_choice is not None
    assert chat.tool_choice.kind == "required"
    assert GEMINI.open(fields(body)).max_tokens == 5
    limited = json.loads(GEMINI.forward_request(GEMINI.limited(fields(body), "m", 9), "m", OPENING))
    assert limited["generationConfig"]["maxOutputTokens"] == 9
    assert not {"model", "stream", "generation_config"} & set(limited)


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize("front", [OPENAI, ANTHROPIC], ids=lambda item: item.name)
def test_requests_of_others(front: Dialect) -> None:
    chat = GEMINI.read_request(fields(WHOLE["request"]))
    there = front.read_request(read_object(front.write_request(chat, "claude-3-7-sonnet", None)))
    back = json.loads(GEMINI.write_request(there, MODEL, None))
    contents = json.loads(json.dumps(WHOLE["request"]["contents"]))
    call = contents[1]["parts"][0]
    # Another vendor's history holds no proof of this one's: the vendor's own word stands for it.
    assert back["contents"][1]["parts"][0]["functionCall"] == call["functionCall"]
    signature = back["contents"][1]["parts"][0]["thoughtSignature"]
    assert signature == "skip_thought_signature_validator"
    assert back["tools"] == WHOLE["request"]["tools"]
    assert back["systemInstruction"] == WHOLE["request"]["systemInstruction"]
    schema = back["generationConfig"]["responseJsonSchema"]
    assert schema == (SCHEMA if front is OPENAI else {**SCHEMA, "additionalProperties": False})
    assert back["contents"][0] == contents[0]


def test_older_models_are_told_tokens_and_need_no_signature() -> None:
    chat = GEMINI.read_request(fields(WHOLE["request"]))
    unsigned = json.loads(json.dumps(WHOLE["request"]))
    del unsigned["contents"][1]["parts"][0]["thoughtSignature"]
    chat = GEMINI.read_request(fields(unsigned))
    wire = json.loads(GEMINI.write_request(chat, "gemini-2.5-flash", None))
    assert wire["contents"] == unsigned["contents"]
    thinking = wire["generationConfig"]["thinkingConfig"]
    assert thinking == {"thinkingBudget": 1024, "includeThoughts": True}
    wire = json.loads(GEMINI.write_request(chat, "gemini-2.0-flash", None))
    assert "thinkingConfig" not in wire["generationConfig"]
    assert GEMINI.unsaid(chat, "gemini-2.0-flash") == ["reasoning"]


@pytest.mark.parametrize(
    "body",
    [
        {"contents": [{"parts": [{"executableCode": {"code": "1"}}]}]},
        {"contents": [{"parts": [{"inlineData": {"mimeType": "video/mp4", "data": ""}}]}]},
        {"contents": [{"parts": [{"fileData": {"fileUri": "gs://b/x", "mimeType": "image/png"}}]}]},
        {"contents": [{"role": "system", "parts": []}]},
        {"contents": [{"parts": "x"}]},
        {"contents": [5]},
        {"contents": [{"parts": [{"functionResponse": {"name": "f", "response": {}}}]}]},
        {"contents": "x", "tools": [{"googleSearch": {}}]},
        {"contents": "x", "cachedContent": "cachedContents/1"},
        {"contents": "x", "generationConfig": {"candidateCount": 2}},
        {"contents": "x", "generationConfig": {"temperature": "hot"}},
        {"contents": "x", "generationConfig": {"responseModalities": ["IMAGE"]}},
    ],
)
def test_what_cannot_cross_over_is_refused(body: Any) -> None:
    with pytest.raises(InvalidRequest):
        GEMINI.read_request(fields(body))


def test_what_nobody_reads_is_named() -> None:
    body = {
        "contents": "x",
        "safetySettings": [{"category": "c"}],
        "generationConfig": {"responseLogprobs": True, "temperature": 1},
    }
    chat = GEMINI.read_request(fields(body))
    assert chat.unread == ["safetySettings", "generationConfig.responseLogprobs"]


# --- answers ---------------------------------------------------------------------------------


@pytest.mark.req("BEY-02")
def test_an_answer() -> None:
    check(WHOLE["answer"], types.GenerateContentResponse)
    answer = GEMINI.read_answer(json.dumps(WHOLE["answer"]).encode())
    assert answer == Answer(
        id="r1",
        model=MODEL,
        parts=[
            Thinking("Rome, then.", vendor="gemini"),
            Text("I look it up."),
            Thinking("", "c2lnbmVk", vendor="gemini"),
            ToolCall("8f2b1a3c", "weather", '{"city": "Rome"}'),
        ],
        finish="tool_calls",
        usage=Usage(20, 5, 11, 4),
    )
    assert json.loads(OPENAI.write_answer(answer, None))["usage"]["completion_tokens"] == 11
    blocks = json.loads(ANTHROPIC.write_answer(answer, None))["content"]
    assert blocks[2] == {"type": "thinking", "thinking": "", "signature": "gemini:c2lnbmVk"}


@pytest.mark.req("BEY-02")
def test_answers_of_others_for_a_client() -> None:
    parts: Any = [
        Thinking("hm", "sig"),
        Thinking("xx", redacted=True),
        Text("Hello"),
        ToolCall("c1", "weather", '{"city":"Rome"}'),
    ]
    answer = Answer(id="i", model="m", parts=parts, finish="tool_calls", usage=Usage(9, 2, 7, 3))
    wire = json.loads(GEMINI.write_answer(answer, None))
    check(wire, types.GenerateContentResponse)
    assert wire["usageMetadata"] == {
        "promptTokenCount": 9,
        "candidatesTokenCount": 4,
        "totalTokenCount": 16,
        "cachedContentTokenCount": 2,
        "thoughtsTokenCount": 3,
    }
    # What comes back in the next turn is what the other vendor had signed.
    asked = {"role": "user", "parts": [{"text": "x"}]}
    body = {"contents": [asked, wire["candidates"][0]["content"]]}
    assert GEMINI.read_request(fields(body)).messages[1].parts == parts


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "filter"),
        ("RECITATION", "filter"),
        ("PROHIBITED_CONTENT", "filter"),
    ],
)
def test_reasons_to_end(reason: str, finish: str) -> None:
    candidate = {"content": {"parts": [{"text": "x"}]}, "finishReason": reason}
    answer = GEMINI.read_answer(json.dumps({"candidates": [candidate]}).encode())
    assert answer.finish == finish


def test_a_refused_prompt_is_a_filtered_answer() -> None:
    body = {
        "promptFeedback": {"blockReason": "SAFETY"},
        "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4},
        "modelVersion": "m",
        "responseId": "r",
    }
    raw = json.dumps(body).encode()
    answer = GEMINI.read_answer(raw)
    assert (answer.finish, answer.parts) == ("filter", [])
    message = json.loads(OPENAI.write_answer(answer, None))["choices"][0]
    assert message["finish_reason"] == "content_filter"
    relay, out = relayed(OPENAI, [b"data: " + raw + b"\r\n\r\n"])
    assert events(out + relay.final)[-2]["choices"][0]["finish_reason"] == "content_filter"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"candidates": 5}',
        b'{"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]}',
        b'{"candidates": [{"content": {"parts": [{"functionCall": {"args": {}}}]}}]}',
    ],
)
def test_what_is_no_answer_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(UpstreamProtocol):
        GEMINI.read_answer(body)


# --- streams ---------------------------------------------------------------------------------


@pytest.mark.req("BEY-09")
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_the_end_stays_back_until_the_settlement(size: int) -> None:
    relay, out = relayed(GEMINI, FRAMES, size)
    assert out + relay.final == b"".join(FRAMES)
    assert b"finishReason" not in out
    assert b"finishReason" in relay.final
    answer = relay.answer()
    assert answer.usage == Usage(10, None, 10, 3)
    assert answer.finish == "tool_calls"
    assert answer.id == "r2"


@pytest.mark.req("BEY-02")
def test_a_stream_for_openais_clients() -> None:
    relay, out = relayed(OPENAI, FRAMES)
    chunks = events(out + relay.final)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "It is warm."
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert calls[0]["id"] == "8f2b1a3c"
    assert "".join(call["function"].get("arguments", "") for call in calls) == '{"city": "Rome"}'
    assert chunks[-1]["usage"]["completion_tokens"] == 10
    assert (out + relay.final).endswith(b"data: [DONE]\n\n")


@pytest.mark.req("BEY-02")
def test_signatures_come_back_through_anthropics_clients() -> None:
    relay, out = relayed(ANTHROPIC, FRAMES)
    blocks: list[Any] = []
    for event in events(out + relay.final):
        match event["type"]:
            case "content_block_start":
                blocks.append(event["content_block"])
            case "content_block_delta":
                for name, value in event["delta"].items():
                    if name == "partial_json":
                        blocks[-1]["input"] = json.loads(value)
                    elif name != "type":
                        blocks[-1][name] = blocks[-1][name] + value
    asked = {"role": "user", "content": "Weather?"}
    history = [asked, {"role": "assistant", "content": blocks}]
    body = {"model": "m", "max_tokens": 5, "messages": history}
    chat = ANTHROPIC.read_request(read_object(json.dumps(body).encode()))
    wire = json.loads(GEMINI.write_request(chat, MODEL, None))
    assert wire["contents"][1]["parts"] == [
        {"text": "It is warm."},
        {
            "functionCall": {"name": "weather", "args": {"city": "Rome"}},
            "thoughtSignature": "c2lnbmVk",
        },
    ]
    # The other vendor refuses a proof that is not its own.
    forwarded = json.loads(
        ANTHROPIC.forward_request(read_object(json.dumps(body).encode()), "c", OPENING)
    )
    kept = [block["type"] for block in forwarded["messages"][1]["content"]]
    assert kept == ["text", "tool_use"]


@pytest.mark.req("BEY-09")
@pytest.mark.parametrize("front", [GEMINI, OPENAI, ANTHROPIC], ids=lambda item: item.name)
@pytest.mark.parametrize("count", range(len(FRAMES)))
def test_a_cut_stream_is_no_answer(front: Dialect, count: int) -> None:
    with pytest.raises(UpstreamProtocol):
        relayed(front, FRAMES[:count])


@pytest.mark.req("BEY-09")
@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (b'data: {"error": {"code": 503, "message": "overloaded"}}\r\n\r\n', UpstreamError),
        (b'data: {"candidates": 5}\r\n\r\n', UpstreamProtocol),
        (b'data: {"candidates": [\r\n\r\n', UpstreamProtocol),
        (b"no field\r\n\r\n", UpstreamProtocol),
    ],
)
def test_no_broken_stream_passes(frame: bytes, kind: type[UpstreamError]) -> None:
    with pytest.raises(kind):
        relayed(GEMINI, [*FRAMES[:2], frame, *FRAMES[2:]])


DRAWN: Any = {
    "responseId": "r3",
    "candidates": [
        {
            "content": {
                "parts": [{"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}]
            },
            "finishReason": "STOP",
        }
    ],
    "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 1290},
}


@pytest.mark.req("GEN-05")
@pytest.mark.parametrize("front", [OPENAI, ANTHROPIC], ids=lambda item: item.name)
def test_a_picture_is_told_as_it_came_or_refused(front: Dialect) -> None:
    frame = b"data: " + json.dumps(DRAWN).encode() + b"\r\n\r\n"
    relay, out = relayed(GEMINI, [frame])
    assert out + relay.final == frame
    assert relay.has_content
    assert relay.answer().untold == "inlineData"
    with pytest.raises(UpstreamRejected, match="inlineData") as refused:
        relayed(front, [frame])
    assert "its own dialect ('gemini')" in refused.value.advice
    whole = GEMINI.read_answer(json.dumps(DRAWN).encode())
    assert (whole.untold, whole.usage) == ("inlineData", Usage(7, None, 1290, None))


# --- errors ----------------------------------------------------------------------------------


def status_body(code: int, status: str, message: str, *details: Any) -> Any:
    body = {"code": code, "message": message, "status": status, "details": list(details)}
    return {"error": body}


RPC = "type.googleapis.com/google.rpc."
RETRY = {"@type": RPC + "RetryInfo", "retryDelay": "46.5s"}
PER_DAY = {
    "@type": RPC + "QuotaFailure",
    "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}],
}
BAD_KEY = {"@type": RPC + "ErrorInfo", "reason": "API_KEY_INVALID"}


@pytest.mark.req("PROV-07")
@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, status_body(400, "INVALID_ARGUMENT", "no", BAD_KEY), UpstreamAuthentication),
        (400, status_body(400, "FAILED_PRECONDITION", "location"), UpstreamAuthentication),
        (403, status_body(403, "PERMISSION_DENIED", "no"), UpstreamAuthentication),
        (429, status_body(429, "RESOURCE_EXHAUSTED", "slow", RETRY), UpstreamRateLimited),
        (429, status_body(429, "RESOURCE_EXHAUSTED", "spent", PER_DAY, RETRY), UpstreamQuota),
        (429, [status_body(429, "RESOURCE_EXHAUSTED", "slow", RETRY)], UpstreamRateLimited),
        (
            400,
            status_body(
                400,
                "INVALID_ARGUMENT",
                "The input token count (9) exceeds the maximum number of tokens allowed (8).",
            ),
            UpstreamContextTooLong,
        ),
        (
            404,
            status_body(
                404,
                "NOT_FOUND",
                "models/x is not found for API version v1beta, or is not supported for "
                "generateContent.",
            ),
            UpstreamModelMissing,
        ),
        (503, status_body(503, "UNAVAILABLE", "overloaded"), UpstreamOverloaded),
        (500, None, UpstreamError),
    ],
)
def test_errors_have_one_class(status: int, body: Any, kind: type[UpstreamError]) -> None:
    raw = b"<html>" if body is None else json.dumps(body).encode()
    error = GEMINI.read_error(status, {}, raw)
    assert type(error) is kind
    if kind is UpstreamRateLimited:
        assert error.retry_after_seconds == 46.5


@pytest.mark.req("GW-16")
def test_errors_for_clients() -> None:
    error = UpstreamRateLimited("slow", retry_after_seconds=7)
    body = json.loads(GEMINI.write_error(error, 429, "r"))["error"]
    assert (body["code"], body["status"]) == (429, "RESOURCE_EXHAUSTED")
    assert body["details"][1]["retryDelay"] == "7s"
    again = GEMINI.read_error(429, {}, json.dumps({"error": body}).encode())
    assert again.retry_after_seconds == 7
    assert json.loads(GEMINI.write_error(WeirError("x"), 500, "r"))["error"]["status"] == "INTERNAL"


def test_where_requests_go() -> None:
    assert GEMINI.path_of("gemini-2.5-pro", False) == "/models/gemini-2.5-pro:generateContent"
    stream = GEMINI.path_of("tunedModels/a", True)
    assert stream == "/tunedModels/a:streamGenerateContent?alt=sse"
