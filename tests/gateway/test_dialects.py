"""Wire cassettes, both ways: what each dialect reads, and what the other makes of it."""

import json
from typing import Any

import pytest

from gateway.dialects.anthropic_messages import ANTHROPIC
from gateway.dialects.neutral import Answer, Dialect, Text, Thinking, ToolCall, Usage
from gateway.dialects.openai_chat import OPENAI
from gateway.dialects.reading import read_object
from gateway.dialects.sse import FrameSplitter, write_frame
from gateway.streaming import StreamRelay
from schemas.errors import (
    InvalidRequest,
    UpstreamProtocol,
)

PIXEL = "iVBORw0KGgo="
SCHEMA: Any = {"type": "object", "properties": {"city": {"type": "string"}}}


def fields(body: Any) -> Any:
    return read_object(json.dumps(body).encode())


def translated(front: Dialect, back: Dialect, body: Any, model: str = "m") -> Any:
    return json.loads(back.write_request(front.read_request(fields(body)), model, None))


OPENAI_REQUEST: Any = {
    "model": "x",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
                {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Rome"}'},
                },
                {"id": "c2", "type": "function", "function": {"name": "time", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "18 °C"},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "noon"}]},
        {"role": "user", "content": "And now?"},
    ],
    "max_completion_tokens": 50,
    "temperature": 1.5,
    "top_p": 0.9,
    "stop": "END",
    "user": "u1",
    "tools": [
        {
            "type": "function",
            "function": {"name": "weather", "description": "d", "parameters": SCHEMA},
        }
    ],
    "tool_choice": {"type": "function", "function": {"name": "weather"}},
    "parallel_tool_calls": False,
}
ANTHROPIC_REQUEST: Any = {
    "model": "m",
    "max_tokens": 50,
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": PIXEL},
                },
                {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Rome"}},
                {"type": "tool_use", "id": "c2", "name": "time", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "c1",
                    "content": [{"type": "text", "text": "18 °C"}],
                },
                {
                    "type": "tool_result",
                    "tool_use_id": "c2",
                    "content": [{"type": "text", "text": "noon"}],
                },
                {"type": "text", "text": "And now?"},
            ],
        },
    ],
    "system": "Be brief.",
    "temperature": 1.0,
    "top_p": 0.9,
    "stop_sequences": ["END"],
    "metadata": {"user_id": "u1"},
    "tools": [{"name": "weather", "input_schema": SCHEMA, "description": "d"}],
    "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
}


@pytest.mark.req("BEY-02")
def test_openai_request_for_anthropic() -> None:
    assert translated(OPENAI, ANTHROPIC, OPENAI_REQUEST) == ANTHROPIC_REQUEST


@pytest.mark.req("BEY-02")
def test_anthropic_request_for_openai() -> None:
    wire = translated(ANTHROPIC, OPENAI, ANTHROPIC_REQUEST)
    assert wire["messages"] == [
        {"role": "system", "content": "Be brief."},
        OPENAI_REQUEST["messages"][1],
        {
            **OPENAI_REQUEST["messages"][2],
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city":"Rome"}'},
                },
                OPENAI_REQUEST["messages"][2]["tool_calls"][1],
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "18 °C"},
        {"role": "tool", "tool_call_id": "c2", "content": "noon"},
        {"role": "user", "content": "And now?"},
    ]
    assert wire["tools"] == OPENAI_REQUEST["tools"]
    assert wire["tool_choice"] == OPENAI_REQUEST["tool_choice"]
    assert wire["parallel_tool_calls"] is False
    assert wire["max_tokens"] == 50
    assert wire["stop"] == ["END"]
    assert wire["user"] == "u1"


def test_reasoning_models_get_the_limit_by_its_new_name() -> None:
    wire = translated(ANTHROPIC, OPENAI, ANTHROPIC_REQUEST, "o3-mini")
    assert wire["max_completion_tokens"] == 50
    assert "max_tokens" not in wire


def test_structured_output_crosses_over() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    body = {"model": "x", "messages": [], "response_format": form}
    wire = translated(OPENAI, ANTHROPIC, body)
    closed = {**SCHEMA, "additionalProperties": False}
    assert wire["output_config"] == {"format": {"type": "json_schema", "schema": closed}}
    assert wire["max_tokens"] > 0
    back = translated(ANTHROPIC, OPENAI, {**wire, "messages": []})
    assert back["response_format"]["json_schema"]["schema"] == closed


def test_signed_thinking_survives_and_unsigned_is_left_out() -> None:
    blocks = [
        {"type": "thinking", "thinking": "hm", "signature": "s1"},
        {"type": "redacted_thinking", "data": "xx"},
        {"type": "text", "text": "So."},
    ]
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "assistant", "content": blocks}]}
    assert translated(ANTHROPIC, ANTHROPIC, body)["messages"][0]["content"] == blocks
    openai = {"role": "assistant", "content": "So.", "reasoning_content": "hm"}
    wire = translated(OPENAI, ANTHROPIC, {"model": "m", "messages": [openai]})
    assert wire["messages"][0]["content"] == [{"type": "text", "text": "So."}]


@pytest.mark.parametrize(
    ("front", "message"),
    [
        (OPENAI, {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}),
        (OPENAI, {"role": "tool", "content": "x"}),
        (OPENAI, {"role": "nobody", "content": "x"}),
        (OPENAI, {"role": "user"}),
        (ANTHROPIC, {"role": "user", "content": [{"type": "search_result"}]}),
        (ANTHROPIC, {"role": "tool", "content": "x"}),
        (ANTHROPIC, {"role": "user", "content": 5}),
    ],
)
def test_what_cannot_cross_over_is_refused(front: Dialect, message: Any) -> None:
    with pytest.raises(InvalidRequest):
        front.read_request(fields({"model": "m", "max_tokens": 5, "messages": [message]}))


# --- answers ---------------------------------------------------------------------------------

ANSWER = Answer(
    id="id1",
    model="m1",
    parts=[Thinking("hm", "sig"), Text("Hello"), ToolCall("c1", "weather", '{"city":"Rome"}')],
    finish="tool_calls",
    usage=Usage(20, 5, 7, None, 0),
)


def test_answers_survive_their_own_dialect() -> None:
    assert ANTHROPIC.read_answer(ANTHROPIC.write_answer(ANSWER, None)) == ANSWER
    read = OPENAI.read_answer(OPENAI.write_answer(ANSWER, None))
    assert read.parts == ANSWER.parts
    assert read.usage == ANSWER.usage
    assert read.finish == ANSWER.finish


@pytest.mark.parametrize("dialect", [OPENAI, ANTHROPIC], ids=lambda item: item.name)
@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"choices": []}', b'{"content": 5}'])
def test_what_is_no_answer_is_a_protocol_error(dialect: Dialect, body: bytes) -> None:
    with pytest.raises(UpstreamProtocol):
        dialect.read_answer(body)


# --- streams ---------------------------------------------------------------------------------


def openai_chunk(delta: Any, finish: str | None = None, **extra: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body = {"id": "c", "model": "m", "choices": [choice], **extra}
    return write_frame(json.dumps(body).encode())


USAGE_CHUNK = write_frame(
    json.dumps(
        {
            "id": "c",
            "model": "m",
            "choices": [],
            "usage": {
                "prompt_tokens": 9,
                "completion_tokens": 4,
                "prompt_tokens_details": {"cached_tokens": 2},
            },
        }
    ).encode()
)
DONE = b"data: [DONE]\n\n"


def tool_piece(index: int, text: str, **head: Any) -> Any:
    call = {"index": index, "function": {"arguments": text, **head.pop("function", {})}, **head}
    return {"tool_calls": [call]}


OPENAI_STREAM = [
    openai_chunk({"role": "assistant", "content": ""}),
    openai_chunk({"content": "Let me see."}),
    openai_chunk(tool_piece(0, "", id="c1", function={"name": "weather"})),
    openai_chunk(tool_piece(0, '{"city":')),
    openai_chunk(tool_piece(0, '"Rome"}')),
    openai_chunk(tool_piece(1, "{}", id="c2", function={"name": "time"})),
    openai_chunk({}, "tool_calls"),
    USAGE_CHUNK,
    DONE,
]


def anthropic_event(body: Any) -> bytes:
    return write_frame(json.dumps(body).encode(), body["type"])


ANTHROPIC_STREAM = [
    anthropic_event(
        {
            "type": "message_start",
            "message": {
                "id": "c",
                "model": "m",
                "content": [],
                "usage": {"input_tokens": 7, "cache_read_input_tokens": 2, "output_tokens": 1},
            },
        }
    ),
    anthropic_event(
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    ),
    anthropic_event({"type": "ping"}),
    anthropic_event(
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": "Let me see."},
        }
    ),
    anthropic_event({"type": "content_block_stop", "index": 0}),
    anthropic_event(
        {
            "type": "content_block_start",
            "index": 1,
            "content_block": {"type": "tool_use", "id": "c1", "name": "weather", "input": {}},
        }
    ),
    anthropic_event(
        {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "input_json_delta", "partial_json": '{"city":"Rome"}'},
        }
    ),
    anthropic_event({"type": "content_block_stop", "index": 1}),
    anthropic_event(
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use"},
            "usage": {"output_tokens": 4},
        }
    ),
    anthropic_event({"type": "message_stop"}),
]


def relayed(front: Any, back: Dialect, frames: list[bytes], step: int, **options: Any) -> Any:
    body = {"model": "m", "max_tokens": 9, "messages": [], "stream": True, **options}
    relay = StreamRelay(front, back, front.open(fields(body)))
    data, out = b"".join(frames), b""
    for start in range(0, len(data), step):
        out += relay.feed(data[start : start + step])
    relay.check_end()
    return relay, out


@pytest.mark.parametrize("step", [1, 7, 100_000])
@pytest.mark.req("BEY-02")
def test_streams_say_the_same_in_either_dialect(step: int) -> None:
    relay, out = relayed(ANTHROPIC, OPENAI, OPENAI_STREAM, step)
    again, _ = relayed(OPENAI, ANTHROPIC, [out, relay.final], step)
    assert relay.answer() == again.answer()
    assert relay.usage == Usage(9, 2, 4, None)
    assert relay.answer().parts == [
        Text("Let me see."),
        ToolCall("c1", "weather", '{"city":"Rome"}'),
        ToolCall("c2", "time", "{}"),
    ]
    relay, out = relayed(
        OPENAI, ANTHROPIC, ANTHROPIC_STREAM, step, stream_options={"include_usage": True}
    )
    again, _ = relayed(ANTHROPIC, OPENAI, [out, relay.final], step)
    assert relay.answer() == again.answer()
    assert again.usage == Usage(9, 2, 4, None)


def test_interleaved_parallel_tool_calls_keep_their_arguments() -> None:
    frames = [
        openai_chunk({"role": "assistant"}),
        openai_chunk(tool_piece(0, '{"a"', id="c1", function={"name": "one"})),
        openai_chunk(tool_piece(1, '{"b"', id="c2", function={"name": "two"})),
        openai_chunk(tool_piece(0, ":1}")),
        openai_chunk(tool_piece(1, ":2}")),
        openai_chunk({}, "tool_calls"),
        DONE,
    ]
    relay, out = relayed(ANTHROPIC, OPENAI, frames, 50)
    again, _ = relayed(OPENAI, ANTHROPIC, [out, relay.final], 50)
    assert again.answer().parts == [
        ToolCall("c1", "one", '{"a":1}'),
        ToolCall("c2", "two", '{"b":2}'),
    ]


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_equal_dialects_pass_bytes_through(step: int) -> None:
    relay, out = relayed(ANTHROPIC, ANTHROPIC, ANTHROPIC_STREAM, step)
    assert out + relay.final == b"".join(ANTHROPIC_STREAM)
    relay, out = relayed(
        OPENAI, OPENAI, OPENAI_STREAM, step, stream_options={"include_usage": True}
    )
    assert out + relay.final == b"".join(OPENAI_STREAM)
    relay, out = relayed(OPENAI, OPENAI, OPENAI_STREAM, step)
    assert out + relay.final == b"".join(OPENAI_STREAM).replace(USAGE_CHUNK, b"")
    assert relay.usage == Usage(9, 2, 4, None)


def test_usage_is_asked_for_and_all_else_is_as_it_came() -> None:
    body = (
        b'{"model":"a/b","messages":[{"role":"user","content":"\\u00e9"}],"stream":true,"x":1.50}'
    )
    given = read_object(body)
    sent = OPENAI.forward_request(given, "b", OPENAI.open(given))
    assert sent == (
        b'{"model":"b","messages":[{"role":"user","content":"\\u00e9"}],"stream":true,"x":1.50,'
        b'"stream_options":{"include_usage":true}}'
    )


@pytest.mark.parametrize("ending", [b"\r\n\r\n", b"\n\n", b"\r\r"])
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_frames_in_every_line_ending(ending: bytes, step: int) -> None:
    line = ending[: len(ending) // 2]
    data = b": hi" + ending + b"event: e" + line + b"data: 1" + line + b"data:2" + ending
    splitter, frames = FrameSplitter(), []
    for start in range(0, len(data), step):
        frames += splitter.feed(data[start : start + step])
    assert [(frame.event, frame.data) for frame in frames] == [("e", b"1\n2")]


@pytest.mark.parametrize(
    ("dialect", "frames"),
    [
        (OPENAI, [openai_chunk({"content": "x"}), b"data: {broken\n\n"]),
        (OPENAI, [openai_chunk({"content": "x"}), b"garbage\n\n"]),
        (OPENAI, [DONE]),
        (OPENAI, [*OPENAI_STREAM, openai_chunk({"content": "more"})]),
        (OPENAI, OPENAI_STREAM[:-1]),
        (OPENAI, [openai_chunk({"role": "assistant"}), DONE[:9]]),
        (ANTHROPIC, ANTHROPIC_STREAM[:-1]),
        (ANTHROPIC, ANTHROPIC_STREAM[-1:]),
        (ANTHROPIC, [ANTHROPIC_STREAM[0], b"event: x\ndata: nonsense\n\n"]),
    ],
)
@pytest.mark.req("BEY-09")
def test_no_broken_stream_passes(dialect: Dialect, frames: list[bytes]) -> None:
    with pytest.raises(UpstreamProtocol):
        relayed(dialect, dialect, frames, 40)


# --- errors ----------------------------------------------------------------------------------


def test_what_a_translation_leaves_out_has_a_name() -> None:
    asked = {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "seed": 7,
        "logprobs": True,
        "logit_bias": {},
        "presence_penalty": 0,
        "stream_options": {"include_usage": True},
        "n": 1,
        "temperature": 1.5,
    }
    chat = OPENAI.read_request(fields(asked))
    assert chat.unread == ["logprobs"]
    assert chat.params == {}
    assert ANTHROPIC.unsaid(chat, "m") == ["seed", "temperature"]
    asked = {
        "model": "m",
        "max_tokens": 5,
        "messages": [{"role": "user", "content": "hi"}],
        "top_k": 4,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "output_config": {"effort": "low"},
    }
    chat = ANTHROPIC.read_request(fields(asked))
    assert chat.unread == []
    assert OPENAI.unsaid(chat, "m") == ["top_k", "reasoning"]
    assert OPENAI.unsaid(chat, "o4-mini") == ["top_k"]
    assert json.loads(OPENAI.write_request(chat, "o4-mini", None))["reasoning_effort"] == "low"


def test_thinking_is_granted_where_the_dialect_can_grant_it() -> None:
    asked = {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "reasoning_effort": "low",
        "temperature": 0.5,
        "max_tokens": 4_000,
    }
    chat = OPENAI.read_request(fields(asked))
    wire = json.loads(ANTHROPIC.write_request(chat, "m", None))
    assert wire["thinking"] == {"type": "enabled", "budget_tokens": 1024}
    assert "temperature" not in wire
    assert ANTHROPIC.unsaid(chat, "m") == ["temperature"]
    for blocked in (
        {"max_tokens": 1000},
        {"tools": OPENAI_REQUEST["tools"], "tool_choice": "required"},
        {"messages": OPENAI_REQUEST["messages"]},
    ):
        chat = OPENAI.read_request(fields({**asked, **blocked}))
        assert "thinking" not in json.loads(ANTHROPIC.write_request(chat, "m", None))
        assert ANTHROPIC.unsaid(chat, "m") == ["reasoning"]


def test_several_answers_cannot_be_translated() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "n": 2}
    with pytest.raises(InvalidRequest, match="'n' must be 1"):
        OPENAI.read_request(fields(body))
