"""Golden cassettes of OpenAI's and Anthropic's wires: what each becomes in every other chat dialect.

A cassette holds a request, an answer and a stream as the vendor's page gives them, and beside them,
in `becomes.json`, what other dialects make of it: exactly. After a wanted change
``WEIR_CASSETTES=write pytest tests/gateway/test_cassettes.py`` writes that file anew, to be read.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent

from gateway.dialects.neutral import Dialect
from gateway.dialects.reading import read_object
from gateway.dialects.registry import dialects
from gateway.dialects.sse import write_frame
from gateway.streaming import StreamRelay
from schemas.errors import InvalidRequest
from tests.gateway.strict import check

FOLDER = Path(__file__).parent / "cassettes"
OWN = ("openai", "openai_responses", "openai_completions", "anthropic")
SPOKEN = {spoken.name: spoken for spoken in dialects() if spoken.surface == "chat"}
OTHERS = [(name, other) for name in OWN for other in SPOKEN if other != name]
MODEL = "claude-sonnet-4-5"
TYPES: dict[str, tuple[Any, Any]] = {
    "openai": (ChatCompletion, ChatCompletionChunk),
    "openai_responses": (Response, ResponseStreamEvent),
    "openai_completions": (Completion, None),  # its chunks have a null that the SDK's type denies
    "anthropic": (Message, RawMessageStreamEvent),
}
REASONING = ("reasoning_content", "reasoning_details")


def dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def cassette(name: str) -> Any:
    return json.loads((FOLDER / name / "chat.json").read_text("utf-8"))


def stream_of(name: str) -> bytes:
    return b"".join(
        write_frame(
            data.encode() if isinstance(data, str) else dump(data),
            "" if name in {"openai", "openai_completions"} else data["type"],
        )
        for data in cassette(name)["stream"]
    )


def expected(name: str, other: str) -> Any:
    return json.loads((FOLDER / name / "becomes.json").read_text("utf-8"))[other]


def timeless(value: Any) -> Any:
    """Leave out what tells the time."""
    if isinstance(value, dict):
        return {
            key: 0 if key in {"created", "created_at", "latencyMs"} else timeless(entry)
            for key, entry in value.items()
        }
    return [timeless(entry) for entry in value] if isinstance(value, list) else value


def made_request(front: Dialect, back: Dialect) -> Any:
    body = dump(cassette(front.name)["request"])
    try:
        question = front.read_request(read_object(body))
        dropped = [name for name in question.params if name not in back.params]
        dropped += [*back.unsaid(question, MODEL), *question.unread]
        wire = json.loads(back.write_request(question, MODEL, None))
    except InvalidRequest as error:
        return {"refused": error.message}
    return {"wire": wire, "dropped": dropped}


def made_answer(back: Dialect, front: Dialect) -> Any:
    answer = back.read_answer(dump(cassette(back.name)["answer"]))
    return timeless(json.loads(front.write_answer(answer, None)))


def made_stream(back: Dialect, front: Dialect, step: int) -> Any:
    """The client's frames as its dialect cuts them, whatever pieces the provider's came in."""
    asked = {"model": "m", "max_tokens": 5, "stream": True, "messages": [], "input": "x",
             "prompt": "x", "contents": [], "stream_options": {"include_usage": True}}  # fmt: skip
    opening = front.open(read_object(dump(asked)))
    relay = StreamRelay(front, back, opening, "m")
    data, out = stream_of(back.name), b""
    for start in range(0, len(data), step):
        out += relay.feed(data[start : start + step])
    relay.check_end()
    found = front.splitter().feed(out + relay.final)
    return [
        [frame.event, "[DONE]" if frame.data == b"[DONE]" else timeless(json.loads(frame.data))]
        for frame in found
    ]


def made(name: str, other: str) -> Any:
    mine, theirs = SPOKEN[name], SPOKEN[other]
    return {
        "request": made_request(mine, theirs),
        "answer": made_answer(mine, theirs),
        "stream": made_stream(mine, theirs, 100_000),
    }


@pytest.fixture(scope="module", autouse=True)
def written() -> None:
    if os.environ.get("WEIR_CASSETTES") != "write":
        return
    for name in OWN:
        becomes = {other: made(name, other) for other in SPOKEN if other != name}
        text = json.dumps(becomes, indent=1, ensure_ascii=False, sort_keys=True)
        (FOLDER / name / "becomes.json").write_text(text + "\n", "utf-8")


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize(("name", "other"), OTHERS)
def test_a_cassette_becomes_what_is_written(name: str, other: str) -> None:
    assert made(name, other) == expected(name, other)


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize("step", [1, 13])
@pytest.mark.parametrize(("name", "other"), OTHERS)
def test_pieces_of_a_stream_change_nothing(name: str, other: str, step: int) -> None:
    assert made_stream(SPOKEN[name], SPOKEN[other], step) == expected(name, other)["stream"]


@pytest.mark.parametrize("name", OWN)
def test_a_cassette_is_what_the_vendors_own_types_say(name: str) -> None:
    tape = cassette(name)
    assert tape["page"].startswith("https://")
    whole, piece = TYPES[name]
    check(tape["answer"], whole)
    for event in tape["stream"]:
        if event != "[DONE]" and piece is not None:
            check(event, piece)


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize(("name", "other"), [pair for pair in OTHERS if pair[1] in TYPES])
def test_what_others_become_is_what_the_vendors_own_types_say(name: str, other: str) -> None:
    tape = expected(name, other)
    whole, piece = TYPES[other]
    check(tape["answer"], whole, allow=REASONING)
    for _, event in tape["stream"]:
        if event != "[DONE]" and piece is not None:
            check(event, piece, allow=REASONING)


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize("name", OWN)
def test_a_cassette_survives_its_own_dialect(name: str) -> None:
    spoken = SPOKEN[name]
    answer = spoken.read_answer(dump(cassette(name)["answer"]))
    again = spoken.read_answer(spoken.write_answer(answer, None))
    assert (again.parts, again.finish, again.usage) == (answer.parts, answer.finish, answer.usage)
    question = spoken.read_request(read_object(dump(cassette(name)["request"])))
    wire = spoken.write_request(question, MODEL, None)
    second = spoken.read_request(read_object(wire))
    assert second.messages == question.messages
    assert second.tools == question.tools
