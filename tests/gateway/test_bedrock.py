"""Bedrock's wire, both ways: cassettes of Converse and ConverseStream, and their binary frames."""

import json
from pathlib import Path
from typing import Any

import botocore.eventstream
import botocore.loaders
import botocore.model
import pytest

from gateway.dialects.anthropic_messages import ANTHROPIC
from gateway.dialects.bedrock import BEDROCK
from gateway.dialects.eventstream import (
    MessageSplitter,
    write_event,
    write_exception,
    write_message,
)
from gateway.dialects.neutral import Chat, Message, Opening, Text, Thinking, ToolCall, Usage
from gateway.dialects.openai_chat import OPENAI
from gateway.dialects.reading import read_object
from gateway.dialects.sse import write_frame
from gateway.streaming import StreamRelay
from schemas.errors import InvalidRequest, UpstreamError, UpstreamProtocol, UpstreamRateLimited
from tests.gateway.strict import check_shape, frames

CASSETTES = Path(__file__).parent / "cassettes" / "bedrock"
CONVERSE: Any = json.loads((CASSETTES / "converse.json").read_text("utf-8"))
STREAM: Any = json.loads((CASSETTES / "converse_stream.json").read_text("utf-8"))
CLAUDE = "anthropic.claude-3-7-sonnet-20250219-v1:0"
SERVICE = botocore.model.ServiceModel(
    botocore.loaders.Loader().load_service_model("bedrock-runtime", "service-2")
)
OPENING = Opening("m", True, True, None, False, {}, None)


def fields(body: Any) -> Any:
    return read_object(json.dumps(body).encode())


def said(model: str = "m", stream: bool = False) -> Any:
    return fields({"model": model, "stream": stream})


def binary(events: list[Any]) -> bytes:
    return b"".join(write_event(json.dumps(body).encode(), name) for name, body in events)


def decoded(data: bytes) -> list[Any]:
    """Read messages with the vendor's own parser, which checks both checksums."""
    buffer = botocore.eventstream.EventStreamBuffer()
    buffer.add_data(data)
    return [(event.headers, json.loads(event.payload)) for event in buffer]


@pytest.mark.req("BEY-02")
def test_a_request_is_read_and_written_alike() -> None:
    chat = BEDROCK.read_request(fields(CONVERSE["request"]) | said())
    assert chat.unread == []
    wire = json.loads(BEDROCK.write_request(chat, "m", None))
    assert wire == CONVERSE["request"]
    check_shape(wire | {"modelId": "m"}, SERVICE.shape_for("ConverseRequest"))


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize("other", [OPENAI, ANTHROPIC])
def test_a_request_survives_another_dialect(other: Any) -> None:
    chat = BEDROCK.read_request(fields(CONVERSE["request"]) | said())
    there = json.loads(other.write_request(chat, "m", None))
    back = json.loads(BEDROCK.write_request(other.read_request(fields(there)), "m", None))
    wanted = json.loads(json.dumps(CONVERSE["request"]))
    if other is OPENAI:  # it has no signatures, no place for a failed tool, and results come first
        del wanted["messages"][1]["content"][0]
        del wanted["messages"][2]["content"][1]["toolResult"]["status"]
    assert back == wanted


@pytest.mark.req("BEY-02")
def test_an_answer_is_read() -> None:
    answer = BEDROCK.read_answer(json.dumps(CONVERSE["answer"]).encode())
    assert answer.finish == "tool_calls"
    assert answer.usage == Usage(40, 25, 7, None, 5)
    assert answer.parts == [
        Thinking("Rome, then.", "c2lnbmVk"),
        Thinking("c2VjcmV0", redacted=True),
        Text("It is warm."),
        ToolCall("tooluse_1", "weather", '{"city": "Rome"}'),
    ]
    written = json.loads(BEDROCK.write_answer(answer, None))
    assert written["output"] == CONVERSE["answer"]["output"]
    assert written["usage"] == CONVERSE["answer"]["usage"]


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize("front", [OPENAI, ANTHROPIC])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_stream_reaches_other_clients(front: Any, size: int) -> None:
    relay = StreamRelay(front, BEDROCK, OPENING, "the-model")
    data = binary(STREAM["events"])
    out = b"".join(relay.feed(data[at : at + size]) for at in range(0, len(data), size))
    relay.check_end()
    answer = relay.answer()
    assert answer.parts == [
        Thinking("Rome, then.", "c2lnbmVk"),
        Text("It is warm."),
        ToolCall("tooluse_1", "weather", '{"city":"Rome"}'),
    ]
    assert (answer.finish, answer.usage) == ("tool_calls", Usage(10, None, 7, None))
    assert answer.model == "the-model"
    assert b'"model":"the-model"' in out
    assert frames(out + relay.final)


@pytest.mark.req("BEY-02")
def test_the_vendors_client_reads_a_stream_of_another_dialect() -> None:
    sse = b"".join(
        write_frame(json.dumps(chunk).encode())
        for chunk in [
            {"id": "c", "model": "m", "choices": [{"delta": {"content": ""}}]},
            {"choices": [{"delta": {"reasoning_content": "Hm."}}]},
            {"choices": [{"delta": {"content": "Hello"}}]},
            {
                "choices": [
                    {
                        "delta": {
                            "tool_calls": [
                                {"index": 0, "id": "c1", "function": {"name": "f", "arguments": ""}}
                            ]
                        }
                    }
                ]
            },
            {
                "choices": [
                    {"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}}
                ]
            },
            {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]},
            {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}},
        ]
    ) + write_frame(b"[DONE]")
    relay = StreamRelay(BEDROCK, OPENAI, OPENING)
    events = decoded(relay.feed(sse) + relay.final)
    output = SERVICE.shape_for("ConverseStreamOutput")
    for headers, body in events:
        assert headers[":message-type"] == "event"
        check_shape(body, output.members[headers[":event-type"]])
    assert [headers[":event-type"] for headers, _ in events] == [
        "messageStart",
        "contentBlockDelta",
        "contentBlockStop",
        "contentBlockDelta",
        "contentBlockStop",
        "contentBlockStart",
        "contentBlockDelta",
        "contentBlockStop",
        "messageStop",
        "metadata",
    ]
    assert events[-2][1] == {"stopReason": "tool_use"}
    assert events[-1][1]["usage"] == {"inputTokens": 5, "outputTokens": 3, "totalTokens": 8}


def test_the_same_dialect_leaves_bytes_as_they_are() -> None:
    relay = StreamRelay(BEDROCK, BEDROCK, OPENING)
    data = binary(STREAM["events"])
    assert relay.feed(data) + relay.final == data
    body = fields(CONVERSE["request"])
    passed = BEDROCK.forward_request(body | said(), "x", OPENING)
    assert json.loads(passed) == CONVERSE["request"]


@pytest.mark.parametrize("at", [0, 9, 20, -1])
def test_a_damaged_message_is_noticed(at: int) -> None:
    data = bytearray(write_event(b'{"role":"assistant"}', "messageStart"))
    data[at] ^= 1
    with pytest.raises(UpstreamProtocol):
        MessageSplitter().feed(bytes(data))


def test_headers_of_every_type_are_passed_over() -> None:
    block = (
        b"\x01a\x00\x01b\x01\x01c\x02\x01\x01d\x03\x00\x01\x01e\x04\x00\x00\x00\x01"
        b"\x01f\x05\x00\x00\x00\x00\x00\x00\x00\x01\x01g\x06\x00\x02xy"
        b"\x01h\x08\x00\x00\x00\x00\x00\x00\x00\x01\x01i\x09" + bytes(16)
    )
    plain = write_message(b"{}", {":event-type": "messageStart"})
    named = plain[12:-6]
    message = _sealed(block + named, b"{}")
    assert MessageSplitter().feed(message)[0].event == "messageStart"
    with pytest.raises(UpstreamProtocol, match="headers"):
        MessageSplitter().feed(_sealed(b"\x01a\x0b", b""))
    with pytest.raises(UpstreamProtocol, match="cut"):
        MessageSplitter().feed(_sealed(b"\x01a\x07\x00\x09x", b""))


def _sealed(block: bytes, payload: bytes) -> bytes:
    from struct import pack
    from zlib import crc32

    lengths = pack(">II", 16 + len(block) + len(payload), len(block))
    message = lengths + pack(">I", crc32(lengths)) + block + payload
    return message + pack(">I", crc32(message))


def test_an_exception_in_a_stream_is_an_error() -> None:
    reader = BEDROCK.stream_reader()
    [frame] = MessageSplitter().feed(
        write_exception(b'{"message":"Too many tokens, please wait"}', "throttlingException")
    )
    with pytest.raises(UpstreamRateLimited, match="please wait"):
        reader.read(frame)
    unmodelled = write_message(
        b"", {":message-type": "error", ":error-code": "x", ":error-message": "broken"}
    )
    [frame] = MessageSplitter().feed(unmodelled)
    with pytest.raises(UpstreamError, match="broken"):
        reader.read(frame)


@pytest.mark.parametrize("events", [STREAM["events"][:-1], STREAM["events"][:5]])
def test_a_stream_without_its_last_message_is_cut(events: list[Any]) -> None:
    relay = StreamRelay(OPENAI, BEDROCK, OPENING)
    relay.feed(binary(events))
    with pytest.raises(UpstreamProtocol):
        relay.check_end()


def test_a_malformed_output_is_no_answer() -> None:
    body = {**CONVERSE["answer"], "stopReason": "malformed_tool_use"}
    with pytest.raises(UpstreamProtocol, match="malformed_tool_use"):
        BEDROCK.read_answer(json.dumps(body).encode())


@pytest.mark.req("PROV-07")
@pytest.mark.parametrize(("status", "name", "message", "code"), CONVERSE["errors"])
def test_errors_have_one_class(status: int, name: str, message: str, code: str) -> None:
    body = json.dumps({"message": message}).encode()
    by_header = {b"x-amzn-errortype": f"{name}:http://internal.amazon.com/".encode()}
    assert BEDROCK.read_error(status, by_header, body).code == code
    typed = json.dumps({"__type": f"com.amazon#{name}", "message": message}).encode()
    assert BEDROCK.read_error(status, {}, typed).code == code


def test_a_forbidden_choice_of_tools_and_what_else_has_no_word() -> None:
    chat = OPENAI.read_request(
        fields(
            {
                "model": "x",
                "messages": [{"role": "user", "content": "Hi"}],
                "tools": [{"type": "function", "function": {"name": "f"}}],
                "tool_choice": "none",
                "temperature": 1.5,
                "seed": 1,
                "user": "u",
                "stop": [" "],
                "response_format": {"type": "json_object"},
            }
        )
    )
    wire = json.loads(BEDROCK.write_request(chat, "m", None))
    assert "toolConfig" not in wire
    assert wire["inferenceConfig"] == {"temperature": 1.0}
    assert "JSON" in wire["system"][0]["text"]
    assert set(BEDROCK.unsaid(chat, "m")) == {"seed", "user", "temperature", "stop"}


def test_thinking_is_asked_of_models_that_know_it() -> None:
    body = {"model": "x", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0.3}
    chat = OPENAI.read_request(fields({**body, "reasoning_effort": "low", "max_tokens": 9_000}))
    wire = json.loads(BEDROCK.write_request(chat, CLAUDE, None))
    thinking = wire["additionalModelRequestFields"]["thinking"]
    assert thinking["type"] == "enabled"
    assert wire["inferenceConfig"] == {"maxTokens": 9_000}
    assert BEDROCK.unsaid(chat, CLAUDE) == ["temperature"]
    assert BEDROCK.unsaid(chat, "amazon.nova-lite-v1:0") == ["reasoning"]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/tiff;base64,AAAA"}},
        {"type": "file", "file": {"file_data": "data:application/zip;base64,AAAA"}},
    ],
)
def test_what_bedrock_cannot_take_is_refused(part: Any) -> None:
    body = {"model": "x", "messages": [{"role": "user", "content": [part]}]}
    with pytest.raises(InvalidRequest, match="Bedrock"):
        BEDROCK.write_request(OPENAI.read_request(fields(body)), "m", None)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "system", "content": []}]},
        {"messages": [{"role": "user", "content": "text"}]},
        {"messages": [{"role": "user", "content": [{"video": {}}]}]},
        {"messages": [{"role": "user", "content": [{}]}]},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"image": {"format": "png", "source": {"bytes": "?"}}}],
                }
            ]
        },
        {"messages": [], "toolConfig": {"tools": [{"systemTool": {"name": "x"}}]}},
        {"messages": [], "toolConfig": {"tools": [], "toolChoice": {"none": {}}}},
        {"messages": [], "outputConfig": {"textFormat": {"type": "json_schema"}}},
        {"messages": [], "inferenceConfig": {"maxTokens": "many"}},
    ],
)
def test_bad_requests_are_named(body: Any) -> None:
    with pytest.raises(InvalidRequest):
        BEDROCK.read_request(fields(body) | said())


def test_a_stray_cache_point_and_unknown_members_are_said_to_be_lost() -> None:
    body = {
        "messages": [{"role": "user", "content": [{"cachePoint": {}}, {"text": "a"}]}],
        "guardrailConfig": {"guardrailIdentifier": "g"},
        "additionalModelRequestFields": {"top_k": 5, "other": 1},
        "outputConfig": {"effort": "high"},
    }
    chat = BEDROCK.read_request(fields(body) | said())
    assert chat.unread == ["guardrailConfig", "cachePoint", "additionalModelRequestFields.other"]
    assert chat.top_k == 5
    assert chat.reasoning is not None


@pytest.mark.parametrize("name", ["report.final.pdf", "a  b", "", None])
def test_documents_get_names_that_are_allowed(name: str | None) -> None:
    part: Any = {"type": "file", "file": {"file_data": "JVBERi0=", "filename": name or ""}}
    body = {"model": "x", "messages": [{"role": "user", "content": [part]}]}
    wire = json.loads(BEDROCK.write_request(OPENAI.read_request(fields(body)), "m", None))
    written = wire["messages"][0]["content"][0]["document"]["name"]
    assert written in {"report-final-pdf", "a b", "document"}


def test_turns_alternate() -> None:
    chat = Chat(
        messages=[
            Message("user", [Text("a")]),
            Message("user", [Text("b")]),
            Message("assistant", [Text("  ")]),
        ]
    )
    wire = json.loads(BEDROCK.write_request(chat, "m", None))
    assert wire["messages"] == [{"role": "user", "content": [{"text": "a"}, {"text": "b"}]}]
