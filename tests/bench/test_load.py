"""The load client against the sandbox: a whole answer counts as whole, and nothing else does."""

import asyncio
from itertools import islice
from pathlib import Path

import pytest

from bench.answers import Answer
from bench.load import Ledger, Row, Settings, drive, read_ledger, summary
from bench.workload import Dialect, Shape, Share, workload
from tests.sandbox.served import Served, sandbox

__all__ = ["sandbox"]
MODELS: dict[Dialect, str] = {"openai": "gpt-4.1-nano", "anthropic": "claude-haiku-4-5"}


def drive_at(
    url: str, shape: Shape, ledger: Path, *, requests: int = 1, deadline_s: float = 5.0
) -> list[Row]:
    book = Ledger(ledger)
    settings = Settings(url, "sk-load-test-key", deadline_s=deadline_s)
    times = [number / 1_000 for number in range(requests)]
    asyncio.run(drive(settings, islice(workload(1, shape), requests), times, book))
    book.close()
    assert read_ledger(ledger) == book.rows
    return book.rows


def test_the_ledger_agrees_with_the_books(sandbox: Served, tmp_path: Path) -> None:
    shape = Shape(tools=0.3)
    rows = drive_at(f"{sandbox.url}/load", shape, tmp_path / "ledger.jsonl", requests=120)
    books = {row["id"]: row for row in sandbox.rows("/load")}
    assert len(rows) == len(books) == 120
    for row in rows:
        served = books[row.upstream_id or ""]
        assert row.complete
        assert row.text_sha256 == served["text_sha256"]
        assert row.tool_calls == served["tool_calls"]
        assert row.finish_reason == served["finish_reason"]
        assert row.sent_at_us <= (row.first_byte_at_us or 0) <= row.ended_at_us
        if row.dialect == "anthropic":
            assert row.usage["output_tokens"] == served["output_tokens"]
    found = summary(rows)
    assert (found["complete"], found["errors"], found["statuses"]) == (120, {}, {"200": 120})


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "kind",
    [
        "rate_limited",
        "server_error",
        "reset",
        "silence",
        "cut",
        "malformed_frame",
        "missing_end_marker",
        "error_event",
    ],
)
def test_no_fault_looks_like_an_answer(
    sandbox: Served, tmp_path: Path, dialect: Dialect, stream: bool, kind: str
) -> None:
    base = f"/load-{kind}-{dialect}-{stream}"
    sandbox.behave(MODELS[dialect], base, faults=[{"kind": kind}])
    shape = Shape(models=(Share(dialect, MODELS[dialect]),), streams=float(stream), tools=0)
    (row,) = drive_at(sandbox.url + base, shape, tmp_path / "ledger.jsonl", deadline_s=0.5)
    assert not row.complete
    assert row.error


def test_an_unreachable_address_is_an_error_in_the_ledger(tmp_path: Path) -> None:
    (row,) = drive_at("http://127.0.0.1:9", Shape(), tmp_path / "ledger.jsonl")
    assert (row.status, row.complete) == (0, False)
    assert row.error


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_frames_may_arrive_in_any_pieces(size: int) -> None:
    body = (
        b'data: {"choices":[{"delta":{"content":"caf\xc3\xa9 "}}]}\n\n'
        b'data: {"choices":[{"delta":{"content":"weir"},"finish_reason":"stop"}]}\n\n'
        b"data: [DONE]\n\n"
    )
    answer = Answer("openai", stream=True)
    for start in range(0, len(body), size):
        answer.feed(body[start : start + size])
    answer.close()
    whole = Answer("openai", stream=False)
    whole.close('{"choices":[{"message":{"content":"café weir"},"finish_reason":"stop"}]}'.encode())
    assert answer.complete
    assert answer.text_sha256 == whole.text_sha256
    assert whole.text == "café weir"
