"""Escrow: whatever the interleaving, what is granted and spent stays below the limit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.event import Event
from schemas.events.escrow import BudgetTerms, EscrowMoved, EscrowRow, spent_in
from schemas.events.operations import AlertChanged
from streams.agents.budgets import BUDGETS, DAYS, MONTHS_MAX, State, apply, freeze
from tests.streams.harness import Written, cut, folded, records

LIMIT = 1_000
NODES = ("n1", "n2", "n3")
DAY, NEXT = "2026-11-30", "2026-12-01"


def terms(version: int = 1, daily: int | None = LIMIT, **limits: Any) -> BudgetTerms:
    return BudgetTerms(version, daily, limits.get("monthly"), limits.get("total"), 800_000)


def move(kind: str, node: str, day: str = DAY, **fields: Any) -> EscrowMoved:
    if kind == "asked":
        fields = {"terms": terms(), "number": 1, **fields}
    return EscrowMoved(
        event_id="e", occurred_at_us=1, budget_id="b", kind=kind, node=node, day=day, **fields
    )


@st.composite
def moves(draw: st.DrawFn) -> EscrowMoved:
    kind = draw(st.sampled_from(["asked", "spent", "returned", "closed", "refused"]))
    amount = draw(st.integers(0, 400))
    fields: dict[str, Any] = {"amount_nano_usd": amount}
    if kind == "asked":
        needed = draw(st.integers(0, 300))
        known = terms(draw(st.integers(1, 3)), draw(st.integers(0, 2_000)), monthly=3_000)
        fields = {"needed_nano_usd": needed, "wanted_nano_usd": needed + amount, "terms": known}
    day = draw(st.sampled_from([DAY, NEXT, "2026-12-02", "2026-12-03"]))
    return move(kind, draw(st.sampled_from(NODES)), day, **fields)


@pytest.mark.req("EVT-02", "BEY-07")
@settings(max_examples=50)
@given(data=st.data())
def test_cuts_repeats_and_crashes_change_no_byte(data: st.DataObject) -> None:
    events: Sequence[Event] = data.draw(st.lists(moves(), min_size=1, max_size=30))
    found = records(BUDGETS, events, data.draw(st.lists(st.integers(0, 99), max_size=3)))
    whole = folded(BUDGETS, [found])
    cuts = data.draw(st.lists(st.integers(0, 99), max_size=5))
    assert folded(BUDGETS, cut(found, cuts)).values == whole.values
    table = Written(BUDGETS)
    part = table.open()
    for _ in range(data.draw(st.integers(1, 6))):
        at = part.next_offset
        batch = found[at : at + data.draw(st.integers(1, 10))]
        rows_max = data.draw(st.one_of(st.none(), st.integers(0, 2)))
        table.take(part, batch, rows_max)
        if rows_max is not None:
            part = table.open()
    table.take(part, found[part.next_offset :])
    assert table.values == whole.values


@dataclass
class Worker:
    """An honest node: it spends what the last row that it saw had granted to it."""

    granted: int = 0
    returned: int = 0
    spent: int = 0
    alive: bool = True

    @property
    def available(self) -> int:
        return self.granted - self.returned - self.spent


@pytest.mark.req("BEY-07", "COST-02")
@settings(max_examples=300)
@given(data=st.data())
def test_no_interleaving_spends_more_than_the_limit(data: st.DataObject) -> None:
    state, workers = State(), {name: Worker() for name in NODES}
    rows: list[dict[str, Any]] = []
    steps = data.draw(st.lists(st.integers(0, 4), min_size=5, max_size=60))
    for number, step in enumerate(steps):
        name = data.draw(st.sampled_from(NODES))
        worker = workers[name]
        if not worker.alive:
            continue
        amount = data.draw(st.integers(0, max(0, worker.available)))
        if step == 0:
            needed = data.draw(st.integers(0, 400))
            asked = {"needed_nano_usd": needed, "wanted_nano_usd": needed * 2, "number": number}
            apply(state, move("asked", name, **asked))
        elif step == 1:
            worker.spent += amount
            apply(state, move("spent", name, amount_nano_usd=amount))
        elif step == 2:
            worker.returned += amount
            apply(state, move("returned", name, amount_nano_usd=amount))
        elif step == 3 and data.draw(st.integers(0, 9)) == 0:
            worker.alive = False
            apply(state, move("closed", name))
        rows.append(freeze(state))
        seen = data.draw(st.sampled_from(rows[-5:]))  # views lag behind
        for day in seen["days"]:
            for node in day.nodes:
                if node.node == name:
                    worker.granted = max(worker.granted, node.granted)
        total = sum(other.spent for other in workers.values())
        held = sum(max(0, other.available) for other in workers.values() if other.alive)
        assert total + held <= LIMIT
        assert state.days.get(DAY) is None or state.days[DAY].spent == total


@pytest.mark.req("BEY-07")
def test_money_of_the_living_is_never_granted_again_and_that_of_the_dead_is() -> None:
    state = State()
    apply(state, move("asked", "n1", needed_nano_usd=900, wanted_nano_usd=900))
    apply(state, move("spent", "n1", amount_nano_usd=300))
    apply(state, move("asked", "n2", needed_nano_usd=200, wanted_nano_usd=200))
    assert state.days[DAY].nodes["n2"].granted == 0
    assert state.days[DAY].nodes["n2"].needed == 200
    apply(state, move("closed", "n1", day=""))
    assert state.days[DAY].nodes["n2"].granted == 200
    assert state.free(DAY) == 1_000 - 300 - 200


@pytest.mark.req("BEY-07")
def test_all_of_a_budget_can_be_spent_by_whoever_asks_last() -> None:
    state = State()
    for name in NODES:
        apply(state, move("asked", name, wanted_nano_usd=10_000))
    for name in NODES:
        held = state.days[DAY].nodes[name].granted
        apply(state, move("returned", name, amount_nano_usd=held))
    apply(state, move("asked", "n3", needed_nano_usd=LIMIT, wanted_nano_usd=LIMIT, number=2))
    node = state.days[DAY].nodes["n3"]
    assert node.granted - node.returned == LIMIT


@pytest.mark.req("COST-02")
def test_days_count_into_their_month_and_into_the_total() -> None:
    state = State()
    limits = terms(daily=None, monthly=500, total=700)
    for day, node in ((DAY, "n1"), (NEXT, "n2")):
        ask = {"needed_nano_usd": 400, "wanted_nano_usd": 400, "terms": limits}
        apply(state, move("asked", node, day, **ask))
    assert state.days[DAY].nodes["n1"].granted == 400
    assert state.days[NEXT].nodes["n2"].needed == 400  # another month, but 300 are left in all
    apply(state, move("spent", "n1", amount_nano_usd=300))
    apply(state, move("returned", "n1", amount_nano_usd=100))
    assert state.days[NEXT].nodes["n2"].granted == 400
    row = EscrowRow(
        event_id="e", occurred_at_us=1, entity="b", partition=0, offset=0, **freeze(state)
    )
    assert (spent_in(row, DAY), spent_in(row, "2026-11"), spent_in(row, "total")) == (300, 300, 300)


@pytest.mark.req("COST-02", "OPS-01")
def test_a_crossing_is_told_once_and_taken_back_with_its_window() -> None:
    state = State()
    told: list[tuple[str, str]] = []

    def hear(event: EscrowMoved) -> None:
        for alert in apply(state, event):
            assert isinstance(alert, AlertChanged)
            told.append((alert.alert_id, alert.status))

    hear(move("asked", "n1", needed_nano_usd=900, wanted_nano_usd=LIMIT))
    for _ in range(3):
        hear(move("spent", "n1", amount_nano_usd=290))
    assert told == [(f"budget:b:{DAY}|warning", "open")]
    hear(move("asked", "n2", needed_nano_usd=200, wanted_nano_usd=200))
    assert told[1:] == []  # it waits, and may be refused: who refuses it says so
    hear(move("refused", "n2", needed_nano_usd=130))
    assert told[1:] == []  # so much is left by now
    for _ in range(2):
        hear(move("refused", "n2", needed_nano_usd=200))
    assert told[1:] == [(f"budget:b:{DAY}|exceeded", "open")]
    hear(move("spent", "n1", amount_nano_usd=10))  # one that fits is no end of it
    assert told[2:] == []
    hear(move("asked", "n1", day=NEXT))
    assert sorted(told[2:]) == [
        (f"budget:b:{DAY}|exceeded", "resolved"),
        (f"budget:b:{DAY}|warning", "resolved"),
    ]


@pytest.mark.req("COST-02", "OPS-01")
def test_a_budget_that_refuses_every_call_is_exceeded_until_its_limit_is_another() -> None:
    state = State()
    (opened,) = apply(state, move("refused", "n1", needed_nano_usd=LIMIT + 1, terms=terms()))
    assert isinstance(opened, AlertChanged)
    assert (opened.status, opened.alert_id) == ("open", f"budget:b:{DAY}|exceeded")
    assert "a call that may cost 0.000001001 USD was refused" in opened.message
    assert not state.days  # nobody holds anything
    raised = terms(2, daily=2 * LIMIT)
    (ended,) = apply(state, move("asked", "n1", needed_nano_usd=0, terms=raised))
    assert isinstance(ended, AlertChanged)
    assert (ended.status, ended.alert_id) == ("resolved", opened.alert_id)


@pytest.mark.req("BEY-07")
def test_rows_stay_small_and_the_total_whole_over_many_days() -> None:
    state = State()
    for number in range(600):
        day = f"{2026 + number // 336}-{number // 28 % 12 + 1:02}-{number % 28 + 1:02}"
        ask = {"needed_nano_usd": 5, "wanted_nano_usd": 5, "terms": terms(total=10_000)}
        apply(state, move("asked", "n1", day, **ask))
        apply(state, move("spent", "n1", day, amount_nano_usd=5))
    assert (len(state.days), len(state.months)) == (DAYS, MONTHS_MAX)
    assert sum(len(day.nodes) for day in state.days.values()) == 2
    fields = {"event_id": "e", "occurred_at_us": 1, "entity": "b", "partition": 0, "offset": 0}
    row = EscrowRow(**fields, **freeze(state))
    assert spent_in(row, "total") == 3_000
    assert spent_in(row, "2027-05") == 28 * 5


@pytest.mark.req("BEY-07")
def test_a_day_on_which_somebody_holds_money_is_kept_until_he_gives_it_back() -> None:
    state = State()
    ask = {"needed_nano_usd": 300, "wanted_nano_usd": 300, "terms": terms(daily=None, total=LIMIT)}
    apply(state, move("asked", "late", "2026-01-01", **ask))
    for day in range(2, 9):
        apply(state, move("spent", "n1", f"2026-01-{day:02}", amount_nano_usd=10))
    assert min(state.days) == "2026-01-01"
    assert state.free("2026-01-08") == LIMIT - 300 - 70
    apply(state, move("spent", "late", "2026-01-01", amount_nano_usd=100))
    apply(state, move("closed", "late", day=""))
    assert state.free("2026-01-08") == LIMIT - 100 - 70
    apply(state, move("spent", "n1", "2025-12-31", amount_nano_usd=5))  # counted though late
    assert state.free("2026-01-08") == LIMIT - 105 - 70
