"""ANA-05: found once, with the driver named, ended when over, the same after a restart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pytest

from schemas.event import FACT_PARTITIONS, Event
from schemas.events.operations import AlertChanged, AnomalyChanged, Heartbeat
from schemas.events.traffic import TrafficCursor, TrafficRow
from schemas.traffic import FINE, HOURS, TOTAL, Level, Sums, TrafficTable, row_name, slot_of
from streams.anomalies.frontier import Frontier
from streams.anomalies.ledger import AnomalyLedger
from streams.anomalies.panel import CALLS, FAILURES, PRICE, Panel
from streams.anomalies.rules import fired, in_unit
from streams.anomalies.season import Season

START_S = 1_790_000_000 // 604_800 * 604_800 + 345_600
"""A Monday, midnight."""
Rates = Mapping[str, float]
S = 1_000_000


def rows(level: Level, buckets: Mapping[int, Mapping[str, Sums]]) -> list[TrafficRow]:
    """The rows of some buckets ({start, s: {series: sums}}), one partition."""
    found: dict[str, list[tuple[str, int, Sums]]] = {}
    for start_s, series in buckets.items():
        for name, sums in series.items():
            dimension, _, member = name.partition(":")
            entity = row_name(dimension, level, slot_of(dimension, member), start_s)
            place = start_s % level.block_s // level.bucket_s
            found.setdefault(entity, []).append((member, place, sums))
    return [row(entity, cells) for entity, cells in found.items()]


def row(entity: str, cells: list[tuple[str, int, Sums]]) -> TrafficRow:
    members = sorted({member for member, _, _ in cells})
    return TrafficRow(
        event_id="e",
        occurred_at_us=0,
        entity=entity,
        partition=0,
        offset=max(place for _, place, _ in cells),
        members=members,
        member=[members.index(member) for member, _, _ in cells],
        bucket=[place for _, place, _ in cells],
        **{field: [getattr(sums, field) for _, _, sums in cells] for field in Sums._fields},
    )


class Life:
    """A ledger in simulated time: Poisson calls of users, each at a cost, and what became of them."""

    def __init__(self, seed: int = 1) -> None:
        self.rng = np.random.default_rng(seed)
        self.log: list[Event] = []
        self.buckets: dict[int, dict[str, Sums]] = {}
        self.ledger = AnomalyLedger()
        self.now_s = START_S

    @property
    def changes(self) -> list[AnomalyChanged]:
        return [event for event in self.log if isinstance(event, AnomalyChanged)]

    def spend(
        self, minutes: float, rates: Rates, failing: Callable[[str], float] | None = None
    ) -> None:
        """Live on; `rates` are calls a minute by user."""
        for _ in range(int(minutes * 6)):
            made = {name: int(self.rng.poisson(rate / 6)) for name, rate in rates.items()}
            failed = {
                n: int(self.rng.binomial(k, failing(n) if failing else 0.0))
                for n, k in made.items()
            }
            found = {
                name if ":" in name else f"user:{name}": Sums(
                    count,
                    failed[name],
                    count - failed[name],
                    count * 500_000,
                    count * 70,
                    count * 9,
                    0,
                )
                for name, count in made.items()
                if count
            }
            total = (
                Sums(*[sum(column) for column in zip(*found.values(), strict=True)])
                if found
                else Sums()
            )
            self.buckets[self.now_s] = {TOTAL: total, **found}
            self.now_s += 10
            block_s = (self.now_s - 10) // 600 * 600
            self.tell(rows(FINE, {at: b for at, b in self.buckets.items() if at >= block_s}))
            self.decide()

    def tell(self, found: Iterable[Event]) -> None:
        for event in found:
            self.log.append(event)
            self.ledger.apply(event)

    def decide(self) -> None:
        at_us = (self.now_s + 5) * S
        self.ledger.apply(beat(at_us))
        for _ in range(60):
            due = self.ledger.due(at_us)
            assert not due or due == self.ledger.due(at_us)
            self.log += [event for event in due if isinstance(event, AlertChanged)]
            self.tell(event for event in due if isinstance(event, AnomalyChanged))

    def restart(self) -> None:
        self.ledger = AnomalyLedger()
        for event in self.log:
            self.ledger.apply(event)


def beat(at_us: int, lag: int = 0) -> Heartbeat:
    return Heartbeat(
        event_id="b", occurred_at_us=at_us, part="streams", instance="0", started_at_us=0, lag=lag
    )


def cursor(partition: int, at_us: int) -> TrafficCursor:
    return TrafficCursor(
        event_id="c", occurred_at_us=at_us, entity=":cursor", partition=partition, offset=1
    )


CALM = {"ada": 60.0, "bob": 30.0, "cy": 30.0}
BURST = {**CALM, "bob": 200.0}


@pytest.mark.req("ANA-05", "COST-08", "OPS-01")
def test_a_spike_is_found_once_with_its_driver_and_ends() -> None:
    life = Life()
    life.spend(30, CALM)
    assert life.changes == []
    begun_s = life.now_s
    life.spend(5, BURST)
    opened = {change.metric: change for change in life.changes}
    assert set(opened) == {"calls", "cost_nano_usd", "tokens"}
    assert len(life.changes) == 3
    for change in opened.values():
        assert (change.kind, change.status) == ("spike", "open")
        assert change.dimension in (TOTAL, "user:bob")
        assert (change.drivers[0].dimension, change.drivers[0].name) == ("user", "bob")
        assert change.drivers[0].share_before < 0.3 < 0.4 < change.drivers[0].share_after
        assert change.found_at_us is not None
        assert change.found_at_us <= (begun_s + 60) * S
        assert "user bob made" in change.explanation
    life.spend(10, CALM)
    ended = life.changes[3:]
    assert sorted(change.metric for change in ended) == sorted(opened)
    assert all(change.status == "ended" and change.number == 2 for change in ended)
    alerts = [event for event in life.log if isinstance(event, AlertChanged)]
    assert [alert.status for alert in alerts] == ["open"] * 3 + ["resolved"] * 3
    assert {alert.alert_type for alert in alerts} == {"metric_anomaly", "cost_anomaly"}


@pytest.mark.req("ANA-05", "COST-08")
def test_where_everybody_made_a_part_of_it_nobody_is_named() -> None:
    life = Life()
    life.spend(30, dict.fromkeys("abcd", 30.0))
    life.spend(3, dict.fromkeys("abcd", 90.0))
    spike = next(change for change in life.changes if change.metric == "calls")
    assert (spike.kind, spike.dimension, spike.drivers) == ("spike", TOTAL, [])


@pytest.mark.req("ANA-05", "EVT-04")
def test_a_ledger_that_takes_over_finds_nothing_twice_and_ends_what_was_open() -> None:
    life = Life(2)
    life.spend(30, CALM)
    life.spend(3, BURST)
    before = list(life.changes)
    assert len(before) == 3
    life.restart()
    life.spend(3, BURST)
    assert life.changes == before
    life.restart()
    life.spend(10, CALM)
    assert sorted(c.anomaly_id for c in life.changes[3:]) == sorted(c.anomaly_id for c in before)
    assert all(change.status == "ended" for change in life.changes[3:])
    life.restart()
    life.spend(5, CALM)
    assert len(life.changes) == 6
    life.spend(3, BURST)
    again = life.changes[6:]
    assert {change.metric for change in again} == {change.metric for change in before}
    assert not {change.anomaly_id for change in again} & {change.anomaly_id for change in before}


@pytest.mark.req("ANA-05")
def test_silence_is_a_drop_but_lag_is_not() -> None:
    life = Life(3)
    life.spend(20, CALM)
    ledger, at_us = life.ledger, life.now_s * S
    for later_s in range(0, 120, 10):
        ledger.apply(beat(at_us + later_s * S, lag=500))
        assert ledger.due(at_us + later_s * S) == []
    life.spend(2, {})
    drop = life.changes[0]
    assert (drop.kind, drop.dimension, drop.actual) == ("drop", TOTAL, 0.0)


@pytest.mark.req("ANA-05")
def test_failures_of_one_user() -> None:
    life = Life(4)
    life.spend(20, CALM, lambda _: 0.01)
    life.spend(3, CALM, lambda name: 0.5 if name == "cy" else 0.01)
    change = life.changes[0]
    assert (change.metric, change.kind, change.drivers[0].name) == ("failure_rate", "spike", "cy")


@pytest.mark.req("ANA-05")
@pytest.mark.parametrize("quiet", [{}, {"ada": 5 / 8}])
@pytest.mark.parametrize(("busy_min", "quiet_min"), [(0, 2), (0, 8), (20, 70)])
def test_the_first_load_after_a_few_calls_is_a_baseline_and_no_spike(
    busy_min: float, quiet_min: float, quiet: Rates
) -> None:
    life = Life(8)
    life.spend(busy_min, CALM)
    life.spend(quiet_min, quiet)
    before = len(life.changes)
    assert all(change.kind != "spike" for change in life.changes)
    load = {f"u{number}": 90.0 for number in range(8)}
    life.spend(15, load)
    assert [change for change in life.changes[before:] if change.number == 1] == []
    life.spend(2, {**load, "mallory": 1200.0})
    opened = {change.metric: change for change in life.changes[before:] if change.number == 1}
    assert opened["calls"].drivers[0].name == "mallory"


@pytest.mark.req("ANA-05")
def test_what_stays_becomes_the_new_level() -> None:
    life = Life(5)
    life.spend(30, CALM)
    life.spend(45, {name: 3 * rate for name, rate in CALM.items()})
    calls = [change for change in life.changes if change.metric == "calls"]
    last = {change.anomaly_id: change for change in calls}
    assert {(change.kind, change.status) for change in last.values()} == {("level_shift", "ended")}
    assert last["calls|total:#2026-09-21-1"].drivers == []
    assert max(c.found_at_us or 0 for c in calls) < (START_S + 35 * 60) * S


@pytest.mark.req("ANA-05")
def test_a_slow_rise_is_a_trend() -> None:
    life = Life(6)
    for step in range(130):
        life.spend(0.5, {name: rate * (1 + step / 130) for name, rate in CALM.items()})
    kinds = {change.kind for change in life.changes}
    assert "trend" in kinds
    assert not kinds & {"spike", "drop"}


@pytest.mark.req("ANA-05")
def test_a_value_that_was_never_there() -> None:
    life = Life(7)
    life.spend(62, CALM)
    life.spend(3, {**CALM, "model:new": 60.0})
    news = [change for change in life.changes if change.kind == "new_value"]
    assert [change.dimension for change in news] == ["model:new"]


def test_the_frontier_waits_for_every_partition_that_is_behind() -> None:
    frontier = Frontier()
    frontier.beat(beat(50, lag=3))
    assert frontier.at_us == 0
    for partition in range(FACT_PARTITIONS):
        frontier.cursor(cursor(partition, 40 + partition))
    assert frontier.at_us == 40
    frontier.beat(beat(60))
    frontier.beat(beat(70, lag=1))
    assert frontier.at_us == 60


@pytest.mark.req("ANA-05")
def test_the_week_is_learnt_from_hours() -> None:
    table = TrafficTable()
    hours = {}
    for hour in range(14 * 24):
        weekend = hour // 24 % 7 >= 5
        hours[START_S + hour * 3_600] = {TOTAL: Sums(300 if weekend else 1_000)}
    for found in rows(HOURS, hours):
        table.apply(found)
    season = Season()
    friday = season.factor(table, START_S + 14 * 86_400 + 5 * 86_400 - 1)
    saturday = season.factor(table, START_S + 14 * 86_400 + 5 * 86_400)
    assert saturday / friday == pytest.approx(0.3, rel=0.01)
    assert Season().factor(TrafficTable(), START_S) == 1.0


def test_scores_need_thirty_points_and_forget_the_idle() -> None:
    panel = Panel()
    for number in range(400):
        found = {TOTAL: Sums(20, 0, 20, 20, 20, 20, 0)}
        if number < 20:
            found["user:gone"] = Sums(1)
        panel.push(number, found)
        scores = panel.scores()
        assert bool(scores.warm[panel.index[TOTAL]]) == (number >= 29)
    assert "user:gone" in panel.index
    for number in range(400, 721):
        panel.push(number, {TOTAL: Sums(20)})
        panel.scores()
    assert panel.names == [TOTAL]
    assert abs(panel.scores().score[:, CALLS]).max() < 1
    panel.push(721, {TOTAL: Sums(20, 20)})
    assert panel.scores().score[0, FAILURES, 0] > 9
    with pytest.raises(ValueError, match="does not follow"):
        panel.push(800, {})


@pytest.mark.req("COST-08")
def test_a_price_that_rises_is_told_of_the_target_in_half_a_minute() -> None:
    panel, rng = Panel(), np.random.default_rng(8)
    for number in range(200):
        price = 20 if number >= 197 else 10
        tokens = {name: int(rng.integers(1_800, 2_600)) for name in ("target:a/x", "target:b/y")}
        panel.push(
            number,
            {
                "target:a/x": Sums(
                    20, 0, 20, 20, price * tokens["target:a/x"], tokens["target:a/x"]
                ),
                "target:b/y": Sums(20, 0, 20, 20, 10 * tokens["target:b/y"], tokens["target:b/y"]),
                "team:t": Sums(20, 0, 20, 20, price * tokens["target:a/x"], tokens["target:a/x"]),
            },
        )
        scores = panel.scores()
    found = [firing for firing in fired(scores, panel.names) if firing.metric == PRICE]
    assert [panel.names[firing.row] for firing in found] == ["target:a/x"]
    usual, now = in_unit(scores, PRICE, found[0].place, found[0].row)
    assert (usual, now) == (pytest.approx(10e6, rel=0.02), pytest.approx(20e6))


def test_of_a_short_history_more_is_asked() -> None:
    panel = Panel()
    for number in range(300):
        panel.push(number, {TOTAL: Sums(20)})
        scores = panel.scores()
        if number == 29:
            assert scores.doubt[0] == pytest.approx(2.0)
    assert scores.doubt[0] < 1.04
