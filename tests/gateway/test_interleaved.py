"""Parallel tool calls whose pieces alternate reach Anthropic clients as blocks one after another."""

import json
from typing import Any

import pytest

from gateway.dialects.anthropic_messages import ANTHROPIC
from gateway.dialects.neutral import Delta, Opening

OPENING = Opening(
    model="m", stream=True, wants_usage=True, max_tokens=None, has_tools=True, tags={}, user_id=None
)
START = Delta("start", id="m", name="gpt")
ENDING = [Delta("finish", "tool_calls"), Delta("end")]


def begin(number: int) -> Delta:
    return Delta("tool_call", index=number, id=f"call-{number}", name="f")


def piece(number: int, text: str) -> Delta:
    return Delta("arguments", text, index=number)


def events(*deltas: Delta) -> list[dict[str, Any]]:
    writer = ANTHROPIC.stream_writer(OPENING)
    data = b"".join(writer.write(delta) for delta in (START, *deltas, *ENDING))
    lines = [line for line in data.splitlines() if line.startswith(b"data: ")]
    return [json.loads(line.removeprefix(b"data: ")) for line in lines]


def inputs(found: list[dict[str, Any]]) -> dict[str, str]:
    """Read a stream as a strict client does: pieces belong to the one open block."""
    said: dict[str, str] = {}
    opened: tuple[int, str] | None = None
    for event in found:
        if event["type"] == "content_block_start":
            assert opened is None
            opened = (event["index"], event["content_block"].get("id", "text"))
            said[opened[1]] = ""
        elif event["type"] == "content_block_delta":
            assert opened is not None
            assert event["index"] == opened[0]
            said[opened[1]] += event["delta"].get("partial_json", event["delta"].get("text", ""))
        elif event["type"] == "content_block_stop":
            assert opened is not None
            assert event["index"] == opened[0]
            opened = None
    assert opened is None
    return said


@pytest.mark.req("GW-02", "GW-03")
@pytest.mark.parametrize(
    "deltas",
    [
        [begin(0), begin(1), piece(0, '{"a"'), piece(1, '{"b"'), piece(0, ":1}"), piece(1, ":2}")],
        [begin(0), piece(0, '{"a"'), begin(1), piece(1, '{"b":2}'), piece(0, ":1}")],
        [begin(0), piece(0, '{"a":1}'), begin(1), piece(1, '{"b":2}')],
    ],
    ids=["alternating", "the second is whole first", "one after another"],
)
def test_blocks_follow_each_other(deltas: list[Delta]) -> None:
    assert inputs(events(*deltas)) == {"call-0": '{"a":1}', "call-1": '{"b":2}'}


def test_nothing_is_held_back_for_longer_than_needed() -> None:
    writer = ANTHROPIC.stream_writer(OPENING)
    for delta in (START, begin(0), piece(0, "{")):
        writer.write(delta)
    assert writer.write(begin(1)) == b""
    assert writer.write(piece(1, '{"b"')) == b""
    assert b'{\\"b\\"' in writer.write(piece(0, "}"))
    assert b":2}" in writer.write(piece(1, ":2}"))


def test_what_never_becomes_whole_is_written_before_what_follows() -> None:
    found = inputs(events(begin(0), begin(1), piece(1, "{}"), Delta("text", "so")))
    assert found == {"call-0": "", "call-1": "{}", "text": "so"}
