"""The books: one row per call, as billed, in memory and in the file."""

import asyncio
import hashlib
import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.broker import free_port
from infra.sandbox.books import Books, Row
from infra.sandbox.generation import Ask, Tool, compose
from infra.sandbox.server import read_behaviour, run
from infra.sandbox.settings import SandboxSettings
from infra.sandbox.tokens import count, pieces
from tests.sandbox.served import Served

ASK = [{"role": "user", "content": "What does a weir do?"}]


def test_a_row_says_what_the_answer_says(sandbox: Served) -> None:
    client = sandbox.openai("/books")
    raw = client.chat.completions.with_raw_response.create(
        model="gpt-4o-mini",
        messages=ASK,
        extra_headers={"x-weir-request-id": "abc", "traceparent": "00-1-2-01"},
    )
    answer = raw.parse()
    entry = sandbox.rows("/books")[-1]
    assert answer.usage
    assert entry["id"] == raw.headers["x-request-id"]
    assert (entry["weir_request_id"], entry["traceparent"]) == ("abc", "00-1-2-01")
    assert entry["input_tokens"] == answer.usage.prompt_tokens
    assert entry["output_tokens"] == answer.usage.completion_tokens
    text = answer.choices[0].message.content or ""
    assert entry["text_sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert entry["bytes_out"] == len(raw.content)
    assert entry["started_at_us"] < entry["first_byte_at_us"] <= entry["ended_at_us"]
    assert "sk-sandbox-test" not in json.dumps(entry)


def test_stream_and_whole_have_the_same_bill_and_text(sandbox: Served) -> None:
    client = sandbox.anthropic("/twice")
    options = {"model": "claude-haiku-4-5", "messages": ASK, "max_tokens": 200}
    client.messages.create(**options)
    list(client.messages.create(**options, stream=True))
    whole, stream = sandbox.rows("/twice")
    for name in ("input_tokens", "output_tokens", "text_sha256", "finish_reason", "complete"):
        assert whole[name] == stream[name]
    assert (whole["stream"], stream["stream"]) == (False, True)


def test_the_file_holds_every_row(sandbox: Served) -> None:
    sandbox.openai("/file").models.list()
    time.sleep(0.15)
    lines = [json.loads(line) for line in sandbox.books.read_bytes().splitlines()]
    summary = sandbox.control("GET", "/sandbox/books/summary")
    assert [line["seq"] for line in lines] == list(range(1, summary["rows"] + 1))
    for totals in summary["totals"]:
        rows = [
            line
            for line in lines
            if (line["base"], line["model"]) == (totals["base"], totals["model"])
        ]
        assert totals["calls"] == len(rows)
        assert totals["output_tokens"] == sum(line["output_tokens"] for line in rows)


def test_books_are_paged_without_gaps(tmp_path: Path) -> None:
    books = Books(tmp_path / "deep" / "books.jsonl")
    for number in range(25):
        books.append(Row(str(number), "openai", "", "GET", "/v1/models", number))
    since, seen = 0, []
    while True:
        page = json.loads(books.page(since, 7))
        seen += [row["id"] for row in page["data"]]
        since = page["next_since"]
        if not page["has_more"]:
            break
    assert seen == [str(number) for number in range(25)]
    books.close()
    assert len((tmp_path / "deep" / "books.jsonl").read_bytes().splitlines()) == 25


async def test_rows_reach_the_file_while_it_serves(tmp_path: Path) -> None:
    books = Books(tmp_path / "books.jsonl")
    flushing = asyncio.create_task(books.keep_flushed())
    books.append(Row("1", "openai", "", "GET", "/v1/models", 1))
    await asyncio.sleep(0.1)
    assert (tmp_path / "books.jsonl").read_bytes().count(b"\n") == 1
    flushing.cancel()
    books.close()


@given(st.text(max_size=300))
def test_tokens_lose_nothing(text: str) -> None:
    assert "".join(pieces(text)) == text
    assert count(text) == len(pieces(text))


@given(
    prompt=st.text(max_size=50),
    limit=st.integers(1, 400),
    reasoning=st.sampled_from([0, 100]),
    tools=st.booleans(),
)
def test_an_answer_counts_what_its_text_counts(
    prompt: str, limit: int, reasoning: int, tools: bool
) -> None:
    ask = Ask(prompt=prompt, limit=limit, reasoning_max=reasoning)
    if tools:
        ask.tools = (Tool("f", {"type": "object", "properties": {"a": {"type": "string"}}}),)
        ask.call_tools = "any"
    answer = compose(ask)
    assert answer == compose(ask)
    assert answer.tokens <= limit
    for block in answer.blocks:
        assert count("".join(block.pieces)) == len(block.pieces)
    assert answer.finish != "length" or answer.tokens == limit


def test_a_recursive_schema_ends() -> None:
    node = {
        "type": "object",
        "properties": {"next": {"$ref": "#/$defs/node"}},
        "required": ["next"],
    }
    schema = {"$ref": "#/$defs/node", "$defs": {"node": node}}
    ask = Ask(prompt="x", limit=10_000, schema=schema)
    assert compose(ask).finish == "stop"


def test_behaviour_file(tmp_path: Path) -> None:
    path = tmp_path / "behaviour.toml"
    path.write_text(
        '[[rules]]\nbase = "/a"\nmodel = "gpt-4o"\n'
        "behaviour = { first_token_ms = 5, faults = [{ kind = 'stall', rate = 0.1 }] }\n"
        '[[models]]\nname = "my-model"\ndialect = "openai"\n'
    )
    file = read_behaviour(path)
    assert file.rules[0].behaviour.faults[0].kind == "stall"
    assert file.models[0].name == "my-model"
    path.write_text('[[rules]]\nbehaviour = { colour = "red" }\n')
    with pytest.raises(ValueError, match="colour"):
        read_behaviour(path)


async def test_calls_in_flight_are_entered_when_it_stops(tmp_path: Path) -> None:
    path = tmp_path / "behaviour.json"
    path.write_text('{"rules":[{"behaviour":{"per_token_ms":50,"first_token_ms":0}}]}')
    settings = SandboxSettings(port=free_port(), books=tmp_path / "b.jsonl", behaviour=path)
    stop = asyncio.Event()
    running = asyncio.create_task(run(settings, stop))
    await asyncio.sleep(0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", settings.port)
    body = json.dumps({"model": "gpt-4o", "messages": ASK, "stream": True}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-abcdefghi\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    await reader.readuntil(b"\r\n\r\n")
    stop.set()
    await running
    writer.close()
    (entry,) = [json.loads(line) for line in (tmp_path / "b.jsonl").read_bytes().splitlines()]
    assert (entry["complete"], entry["client_disconnected"]) == (False, True)
    assert entry["output_tokens"] >= 1


async def test_a_taken_port_is_an_error(tmp_path: Path) -> None:
    settings = SandboxSettings(port=free_port(), books=tmp_path / "b.jsonl")
    stop = asyncio.Event()
    first = asyncio.create_task(run(settings, stop))
    await asyncio.sleep(0.1)
    with pytest.raises(OSError, match="in use"):
        await run(settings, asyncio.Event())
    stop.set()
    await first
