"""The fault table's verdict: a sound call breaks no promise, and every single lie is noticed."""

import hashlib
import tomllib
from typing import Any

import pytest

from bench.fault_cells import Cell, Seen, cells, config, judge, markdown
from bench.fault_table import spoil, verdict
from bench.load import Row
from bench.rawlog import Raw
from bench.recount import price_list

PRICES = price_list()
TABLE = cells()
TEXT = hashlib.sha256(b"hello").hexdigest()


def find(fault: str, *, stream: bool, setting: str = "alone") -> Cell:
    return next(
        cell
        for cell in TABLE
        if (cell.case.name, cell.stream, cell.setting) == (fault, stream, setting)
        and (cell.front, cell.back) == ("openai", "openai")
    )


def book(cell: Cell, base: str, **fields: Any) -> dict[str, Any]:
    fields = {"status": 200, "complete": True, "output_tokens": 10, "text_sha256": TEXT, **fields}
    return {
        "base": f"/{base}",
        "model": "gpt-4.1-nano",
        "input_tokens": 100,
        "cached_input_tokens": 0,
        "stream": cell.stream,
        **fields,
    }


def answered(cell: Cell, **fields: Any) -> Seen:
    row = Row(
        client_id=f"{cell.name}/0",
        number=0,
        dialect="openai",
        path="/",
        model=cell.name,
        stream=cell.stream,
        due_at_us=0,
        sent_at_us=0,
        first_byte_at_us=1,
        ended_at_us=1_000_000,
        status=200,
        request_id="r",
        complete=True,
        text_sha256=TEXT,
        frames=3,
        headers={"x-weir-model": "good-openai/gpt-4.1-nano"},
    )
    books = [
        book(cell, cell.name, status=503, complete=False, output_tokens=0),
        book(cell, "good-openai"),
    ]
    ended = {"attempts": [{}, {}], "outcome": "success", "usage_basis": "reported"}
    cost = PRICES["gpt-4.1-nano"].nano_usd(books[-1])
    seen = Seen(row, [{}], [ended], cost, books)
    for name, value in fields.items():
        setattr(seen if hasattr(seen, name) else row, name, value)
    return seen


def broken(**fields: Any) -> tuple[Cell, Seen]:
    """A stream that was cut after it had begun."""
    cell = find("cut", stream=True)
    books = [book(cell, cell.name, complete=False, output_tokens=6)]
    ended = {"attempts": [{}], "outcome": "failed", "usage_basis": "estimated"}
    cost = PRICES["gpt-4.1-nano"].nano_usd(books[0])
    seen = answered(
        cell, complete=False, error="api_error", books=books, completed=[ended], cost_nano_usd=cost
    )
    for name, value in fields.items():
        setattr(seen if hasattr(seen, name) else seen.row, name, value)
    return cell, seen


BACKED = find("unavailable", stream=False, setting="backed")


def test_a_sound_answer_and_a_sound_failure() -> None:
    assert judge(BACKED, answered(BACKED), PRICES).wrong == []
    assert judge(*broken(), PRICES).wrong == []


@pytest.mark.parametrize(
    ("lie", "promise"),
    [
        ({"complete": False, "error": "x", "status": 502}, "came otherwise"),
        ({"ended_at_us": 60_000_000}, "took too long"),
        ({"text_sha256": "other"}, "truncated, shown as success"),
        ({"headers": {"x-weir-model": "cell-0/x"}}, "the wrong model named"),
        ({"cost_nano_usd": 1}, "the books cost otherwise"),
        ({"completed": []}, "not once in the log"),
        ({"admitted": [{}, {}]}, "not once in the log"),
    ],
)
def test_every_lie_about_an_answer_is_noticed(lie: dict[str, Any], promise: str) -> None:
    assert promise in judge(BACKED, answered(BACKED, **lie), PRICES).wrong


@pytest.mark.parametrize(
    ("lie", "promise"),
    [
        ({"cost_nano_usd": 0}, "what was produced is not billed"),
        ({"cost_nano_usd": 10**9}, "a failure is billed"),
        ({"error": "no end marker"}, "no error in the stream"),
        ({"complete": True, "error": None}, "truncated, shown as success"),
        (
            {"completed": [{"attempts": [{}] * 4, "outcome": "failed"}]},
            "too many attempts",
        ),
    ],
)
def test_every_lie_about_a_broken_stream_is_noticed(lie: dict[str, Any], promise: str) -> None:
    assert promise in judge(*broken(**lie), PRICES).wrong


def test_what_a_buffered_stream_lost_is_billed_too() -> None:
    cell = find("cut", stream=True, setting="buffered")
    seen = answered(cell)
    seen.books[0] = book(cell, cell.name, complete=False, output_tokens=6)
    assert "the books cost otherwise" in judge(cell, seen, PRICES).wrong
    seen.cost_nano_usd = (seen.cost_nano_usd or 0) + seen.wasted(PRICES)
    assert judge(cell, seen, PRICES).wrong == []


@pytest.mark.parametrize("seed", range(8))
def test_every_sabotage_breaks_the_verdict(seed: int) -> None:
    cell, cut = broken()
    seen = [answered(BACKED), cut]
    assert spoil(seen, seed)
    lines = [judge(one, two, PRICES) for one, two in zip((BACKED, cell), seen, strict=True)]
    record = Raw("t", 0, 0, 0, "r", "weir.llm.cost.entered", None, None, {"event_id": "e"})
    figures = verdict(lines, [], [record], [], 0)
    assert figures["broken_promises"]
    assert "Wrong" in markdown(lines)


def test_the_configuration_has_a_provider_and_a_route_for_every_cell() -> None:
    found = tomllib.loads(config(TABLE, "http://x", "KEY"))
    assert len(found["routes"]) == len(TABLE) == len({cell.name for cell in TABLE})
    assert len(found["providers"]) == len(TABLE) + 2
    assert {cell.case.name for cell in TABLE} >= {"silence", "cut", "flapping", "client_gone"}
