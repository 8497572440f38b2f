"""The recount of the ledger claim: what each rule asks for, and that one spoilt record is found."""

from typing import Any

import pytest

from bench.ledger import Row, Sides, judge
from bench.ledger_count import Bought, recount
from bench.ledger_mix import KINDS, wishes
from bench.rawlog import Raw
from bench.recount import price_list

MODEL = "gpt-4.1-nano"
PRICES = price_list()
COST = 100 * 100 + 10 * 400
"""100 tokens in and 10 out, in nano-USD."""


def book(base: str = "/a", **fields: Any) -> dict[str, Any]:
    given = {
        "base": base,
        "model": MODEL,
        "status": 200,
        "complete": True,
        "usage_sent": True,
        "fault": None,
        "stream": False,
        "started_at_us": 1,
        "input_tokens": 100,
        "cached_input_tokens": 0,
        "cache_write_tokens": 0,
        "output_tokens": 10,
        "units": {},
        "weir_request_id": "r",
    }
    return given | fields


def line(entry: str = "settled", cost: int | None = COST, **fields: Any) -> dict[str, Any]:
    given = {
        "event_id": f"{entry}-{fields.get('target', 'a')}",
        "request_id": "r",
        "entry": entry,
        "basis": "reported",
        "provider": "a",
        "model": MODEL,
        "input_tokens": 100,
        "cached_input_tokens": 0,
        "cache_write_input_tokens": None,
        "output_tokens": 10,
        "cost_nano_usd": cost,
        "budgets": [],
        "corrects": None,
        "cache_saved_nano_usd": None,
    }
    return given | fields


def bought(lines: list[dict[str, Any]], books: list[dict[str, Any]], **fields: Any) -> Bought:
    ended = {"outcome": fields.pop("outcome", "success"), "cache": fields.pop("cache", None)}
    reserved = fields.pop("reserved", 999)
    admitted = {"reserved_nano_usd": reserved}
    return Bought([admitted], [ended], lines, books, [], **fields)


def correction(cost: int, provider: str) -> dict[str, Any]:
    return line(
        "corrected",
        cost,
        provider=provider,
        corrects="unpriced-a" if provider == "late" else "settled-a",
        input_tokens=None,
        output_tokens=None,
    )


UNPRICED = line("unpriced", None, provider="late", model="gpt-4.1-mini")
LATE_BOOK = book("/late", model="gpt-4.1-mini")
GOOD = {
    "whole": bought([line()], [book()]),
    "retried": bought([line()], [book(status=500, output_tokens=0), book()]),
    "left": bought([line(basis="estimated")], [book(complete=False)], outcome="cancelled"),
    "wasted": bought(
        [line(), line("wasted", basis="estimated")], [book(fault="cut", complete=False), book()]
    ),
    "failed": bought([line(cost=0, basis="none")], [book(status=503)], outcome="failed"),
    "abandoned": bought([line("abandoned", 999)], [book()], outcome="abandoned"),
    "hit": bought([line(cost=0, basis="none", cache_saved_nano_usd=5)], [], cache="hit"),
    "never": bought([line("unpriced", None, provider="never")], [book("/never")]),
    "late": bought([UNPRICED, correction(100 * 150 + 10 * 600, "late")], [LATE_BOOK]),
    "budgeted": bought([line(budgets=["b@d"])], [book()], escrow_nano_usd=COST),
}
BAD = {
    "a line is missing": bought([], [book()]),
    "a line is there twice": bought([line(), line()], [book()]),
    "another price": bought([line(cost=COST + 1)], [book()]),
    "other tokens": bought([line(output_tokens=11)], [book()]),
    "a failure is billed": bought([line(basis="none")], [book(status=503)], outcome="failed"),
    "nobody was called": bought([line()], []),
    "free without a price": bought([line(cost=0, provider="never")], [book("/never")]),
    "never corrected": bought([UNPRICED], [LATE_BOOK]),
    "a wasted attempt that never was": bought([line(), line("wasted")], [book()]),
    "an estimate of other tokens": bought(
        [line(basis="estimated", cost=1)], [book(complete=False)], outcome="cancelled"
    ),
    "a hit that called": bought(
        [line(cost=0, basis="none", cache_saved_nano_usd=5)], [book()], cache="hit"
    ),
    "more than was reserved": bought([line("abandoned", 1_000)], [], outcome="abandoned"),
    "escrow is missing": bought([line(budgets=["b@d"])], [book()]),
    "escrow without a budget": bought([line()], [book()], escrow_nano_usd=COST),
    "a price that stands is corrected": bought(
        [line(cost=COST - 5), correction(5, "retro") | {"provider": "a"}], [book()]
    ),
}


@pytest.mark.req("BEY-08")
@pytest.mark.parametrize("name", GOOD)
def test_what_agrees(name: str) -> None:
    count = recount({"r": GOOD[name]}, PRICES)
    assert count.findings == []
    assert (count.drift_nano_usd, count.escrow_drift_nano_usd) == (0, 0)


@pytest.mark.req("BEY-08")
@pytest.mark.parametrize("name", BAD)
def test_what_does_not(name: str) -> None:
    assert recount({"r": BAD[name]}, PRICES).findings


def test_all_sides_are_held_against_one_another() -> None:
    admitted = {"event_id": "a", "request_id": "r", "reserved_nano_usd": 1}
    ended = {"event_id": "e", "request_id": "r", "outcome": "success", "cache": None}
    records = [
        Raw("t", 0, number, 0, "r", kind, "o", number, body)
        for number, (kind, body) in enumerate(
            [
                ("weir.llm.request.admitted", admitted),
                ("weir.llm.response.completed", ended),
                ("weir.llm.cost.entered", line()),
            ]
        )
    ]
    rows = [Row(0, "chat", "/v1/chat/completions", False, 200, "r", complete=True)]
    sides = Sides(records, [book()], {"r": (COST, 1)}, COST)
    zero = ("lost", "doubled", "findings", "spend_drift_nano_usd", "duckdb_drift_nano_usd")
    assert [judge(rows, sides)[0][name] for name in zero] == [0] * 5
    doubled = Sides([*records, records[2]], [book()], {"r": (COST + 1, 2)}, COST + 1)
    figures = judge(rows, doubled)[0]
    assert figures["duckdb_calls_apart"] == figures["duckdb_drift_nano_usd"] == 1
    assert figures["spend_drift_nano_usd"] == 1
    assert judge(rows, Sides(records[:2], [book()], {}, 0))[0]["lost"] > 0
    assert (
        judge([*rows, Row(1, "chat", "/", False, 200, "s", complete=True)], sides)[0]["lost"] == 1
    )


def test_the_mix_is_the_same_for_a_seed_and_has_every_kind() -> None:
    first = list(wishes(3, 2_000))
    assert first == list(wishes(3, 2_000))
    assert {wish.kind for wish in first} == set(KINDS)
