"""Series of traffic: what a call adds, how many members a slot keeps, how readers add up."""

import random

import pytest

from schemas.events.llm import ResponseCompleted
from schemas.events.traffic import TrafficRow
from schemas.traffic import (
    DAY,
    FINE,
    HOURS,
    MEMBERS_MAX,
    SLOTS,
    Sums,
    TrafficTable,
    expires_us,
    row_name,
    slot_of,
)
from streams.agents.traffic import TRAFFIC
from streams.fold import Fold
from tests.streams.harness import Written, contents, folded, records

NOON_S = 1_782_907_200  # 2026-07-01T12:00:00Z


def call(at_s: float, **fields: object) -> ResponseCompleted:
    return ResponseCompleted(
        **{  # type: ignore[arg-type]
            "event_id": "e",
            "occurred_at_us": int(at_s * 1_000_000),
            "request_id": "r",
            "key_id": "k",
            "route": "r",
            "outcome": "success",
            "status": 200,
            "attempts": [],
            "usage_basis": "reported",
            "stream": False,
            "latency_us": 1_000,
            "input_tokens": 3,
            "output_tokens": 2,
            "cost_nano_usd": 70,
            **fields,
        }
    )


def table(written: Written) -> TrafficTable:
    read = TrafficTable()
    for row in written.rows.values():
        if isinstance(row, TrafficRow):
            read.apply(row)
    return read


@pytest.mark.req("ANA-04", "COST-09")
def test_a_call_counts_in_its_ten_seconds_and_its_hour() -> None:
    events = [
        call(NOON_S, target="a/m", model="m", team="t", user_id="ada", task_type="code"),
        call(NOON_S + 9.9, target="a/m", outcome="failed", cost_nano_usd=None, input_tokens=None),
        call(NOON_S + 10, outcome="cancelled"),
    ]
    read = table(folded(TRAFFIC, [records(TRAFFIC, events)]))
    first = Sums(2, 1, 1, 1_000, 70, 3, 4)
    assert read.series("total:", FINE, NOON_S, NOON_S + 600) == {
        NOON_S: first,
        NOON_S + 10: Sums(1, 0, 0, 0, 70, 3, 2),
    }
    assert read.series("target:a/m", FINE, NOON_S, NOON_S + 600) == {NOON_S: first}
    assert read.total("key:k", HOURS, NOON_S, NOON_S + 3_600).calls == 3
    assert read.total("user:ada", FINE, NOON_S - 60, NOON_S + 60).calls == 1
    assert read.series("user:ada", HOURS, NOON_S, NOON_S + 3_600) == {}
    assert read.total("user:ada", DAY, NOON_S, NOON_S + 3_600).calls == 1
    assert read.members("task", HOURS, NOON_S, NOON_S + 3_600) == {
        "code": Sums(1, 0, 1, 1_000, 70, 3, 2)
    }


def test_a_full_slot_keeps_the_same_members_in_any_order() -> None:
    slot = slot_of("user", "u0")
    names = [name for number in range(20_000) if slot_of("user", name := f"u{number}") == slot]
    assert len(names) > 2 * MEMBERS_MAX
    events = [call(NOON_S + number % 40, user_id=name) for number, name in enumerate(names)] * 2
    once = folded(TRAFFIC, [records(TRAFFIC, events)])
    random.Random(1).shuffle(events)
    again = folded(TRAFFIC, [records(TRAFFIC, events)])
    assert contents(once.rows) == contents(again.rows)
    found = table(once).members("user", FINE, NOON_S, NOON_S + 60)
    assert len(found) == MEMBERS_MAX + 1
    assert {sums.calls for name, sums in found.items() if name} == {2}
    assert sum(sums.calls for sums in found.values()) == len(events)


def test_partials_add_up_and_expire() -> None:
    read = TrafficTable()
    entity = row_name("total", FINE, 0, NOON_S)
    for partition, offset, calls in ((0, 5, 7), (1, 1, 2), (0, 3, 1)):
        columns = [[value] for value in (0, 0, calls, 0, 0, 0, 0, 0, 0)]
        state = dict(zip(TrafficRow.__struct_fields__[-9:], columns, strict=True))
        read.apply(
            TrafficRow(
                event_id="e",
                occurred_at_us=0,
                entity=entity,
                partition=partition,
                offset=offset,
                members=[""],
                **state,
            )
        )
    assert read.total("total:", FINE, NOON_S, NOON_S + 60).calls == 9
    read.removed(f"{entity}|0")
    read.removed(f"{entity}|0")
    assert read.total("total:", FINE, NOON_S, NOON_S + 60).calls == 2
    read.removed(f"{entity}|1")
    assert read.series("total:", FINE, NOON_S, NOON_S + 60) == {}


def test_rows_expire_two_hours_and_ten_weeks_after_their_block() -> None:
    assert expires_us(row_name("user", FINE, 3, NOON_S + 599)) == (NOON_S + 7_800) * 1_000_000
    midnight_s = NOON_S - 43_200
    weeks_us = (midnight_s + 71 * 86_400) * 1_000_000
    assert expires_us(row_name("total", HOURS, 0, NOON_S)) == weeks_us
    old, new = call(NOON_S, user_id="ada"), call(NOON_S + 7_800, user_id="bob")
    read = table(folded(TRAFFIC, [records(TRAFFIC, [old, new, old])]))
    assert read.series("user:ada", FINE, NOON_S, NOON_S + 60) == {}
    assert read.total("total:", HOURS, NOON_S, NOON_S + 10_800).calls == 3


def test_every_dimension_has_slots() -> None:
    assert isinstance(TRAFFIC, Fold)
    assert SLOTS["total"] == 1
    assert slot_of("total", "") == 0
