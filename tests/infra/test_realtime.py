"""What is spent and served right now, from rows in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from infra.alerting.book import AlertBook
from infra.budgets_api import BudgetBoard
from infra.circuits_api import CircuitBoard
from infra.event_streams import BEHIND_MAX, Listeners, frame
from infra.realtime import Live
from schemas.circuits import RULES
from schemas.errors import Overloaded
from schemas.events.operations import AlertChanged, Heartbeat
from schemas.events.tables import HealthBucket, HealthRow, SpendRow, SpendWindow
from schemas.events.traffic import TrafficRow
from schemas.money import NANO_USD
from schemas.table_view import TableView
from schemas.traffic import FINE, row_name, slot_of

NOW = 1_790_000_000
US = 1_000_000
ROW: dict[str, Any] = {"event_id": "e", "occurred_at_us": 0, "offset": 0}


def live(alerts: AlertBook | None = None, beats: TableView[Heartbeat] | None = None) -> Live:
    clock = lambda: NOW * US  # noqa: E731
    return Live(
        BudgetBoard(clock),
        CircuitBoard(RULES, clock),
        alerts or AlertBook(),
        beats or TableView(Heartbeat),
        clock,
    )


def traffic(made: Live, dimension: str, name: str, ago_s: int, calls: int, usd: float) -> None:
    at_s = NOW - ago_s
    start_s = at_s - at_s % FINE.block_s
    row = TrafficRow(
        **ROW,
        entity=row_name(dimension, FINE, slot_of(dimension, name), at_s),
        partition=0,
        members=[name],
        member=[0],
        bucket=[(at_s - start_s) // FINE.bucket_s],
        calls=[calls],
        failures=[1],
        successes=[calls - 1],
        latency_us=[(calls - 1) * 250_000],
        cost_nano_usd=[round(usd * NANO_USD)],
        input_tokens=[10],
        output_tokens=[5],
    )
    rows = made.views[2]
    rows.entries[row.key] = row
    made._changed(row.key, row)


def spend(made: Live, partition: int, windows: list[SpendWindow]) -> None:
    row = SpendRow(**ROW, entity="total:", partition=partition, windows=windows)
    made.views[0].entries[row.key] = row


def window(name: str, start_s: int, usd: float) -> SpendWindow:
    return SpendWindow(name, start_s, 1, round(usd * NANO_USD), 0, 0, 0)


@pytest.mark.req("COST-09")
def test_spend_by_window_and_who_spends_most() -> None:
    made = live()
    minute, day = NOW // 60 * 60, NOW // 86_400 * 86_400
    spend(made, 0, [window("minute", minute, 1), window("minute", minute - 3_600, 8)])
    spend(made, 1, [window("minute", minute - 3_540, 2), window("day", day, 11)])
    month = day - 20 * 86_400  # today is the 21st
    spend(made, 2, [window("day", day - 86_400, 99), window("month", month - 31 * 86_400, 999)])
    spend(made, 3, [window("month", month, 120)])
    traffic(made, "total", "", 5, 4, 0.5)
    for name, usd in (("ada", 0.1), ("bob", 0.4)):
        traffic(made, "user", name, 5, 2, usd)
    told = made.cost()
    assert (told.spend.last_minute, told.spend.last_5_minutes) == ("0.5", "0.5")
    assert (told.spend.last_hour, told.spend.day, told.spend.month) == ("3", "11", "120")
    assert told.burn_rate_usd_per_hour == "6"
    assert [(it.name, it.spent, it.calls) for it in told.top_users] == [
        ("bob", "0.4", 2),
        ("ada", "0.1", 2),
    ]


@pytest.mark.req("ANA-04")
def test_the_dashboard_says_what_happens_and_what_is_wrong() -> None:
    alerts, beats = AlertBook(), TableView(Heartbeat)
    made = live(alerts, beats)
    traffic(made, "total", "", 5, 6, 0.5)
    traffic(made, "user", "ada", 5, 1, 0.1)
    traffic(made, "target", "a/m", 65, 3, 0.2)
    bucket = HealthBucket(NOW - 10, 5, 1, {}, {"600": 4}, {})
    row = HealthRow(**ROW, entity="a/m", partition=0, buckets=[bucket])
    made.views[1].entries[row.key] = row
    fine = made.dashboard([{"calls": 2}, {"calls": 1}], 1, {"cpu_percent": 5})
    assert (fine.health, fine.requests_per_second, fine.failure_rate) == ("ok", 0.1, 0.1667)
    assert (fine.latency_ms, fine.active_users, fine.active_calls, fine.active_jobs) == (
        250,
        1,
        3,
        1,
    )
    ((provider),) = fine.providers
    assert (provider.provider, provider.model, provider.circuit, provider.calls) == (
        "a",
        "m",
        "closed",
        3,
    )
    assert provider.latency_p95_ms == fine.latency_p95_ms is not None
    for part, age_s in (("streams", 700), ("gateway-0", 20), ("gateway-9", 700), ("gateway-1", 1)):
        beats.entries[part] = Heartbeat(
            event_id="h",
            occurred_at_us=(NOW - age_s) * US,
            part=part,
            instance="1",
            started_at_us=0,
        )
    alerts.take(
        AlertChanged(
            event_id="a",
            occurred_at_us=NOW * US,
            alert_id="lag:x",
            alert_type="lag",
            severity="error",
            scope="fold:x",
            status="open",
            message="behind",
        )
    )
    bad = made.dashboard([], 0, {})
    assert (bad.health, bad.silent_parts) == ("degraded", ["gateway-0", "streams"])
    assert [it.id for it in bad.alerts] == ["lag:x"]


@pytest.mark.req("COST-09", "OPS-01")
async def test_listeners_are_few_and_the_slow_are_let_go() -> None:
    listeners = Listeners("/x", 1)
    answer = listeners.response(lambda: [frame("x", {"n": 0}, "id-1")])
    frames = answer._frames
    assert await anext(frames) == b'id: id-1\nevent: x\ndata: {"n":0}\n\n'
    assert len(listeners) == 1
    with pytest.raises(Overloaded):
        listeners.response(list)
    listeners.tell(b"1")
    assert await anext(frames) == b"1"
    for _ in range(BEHIND_MAX + 1):
        listeners.tell(b"2")
    with pytest.raises(StopAsyncIteration):
        await anext(frames)
    assert (listeners.dropped, len(listeners)) == (1, 0)
    listening = asyncio.create_task(anext(listeners.response(list)._frames))
    assert await listening == b": \n\n"
    listeners.close()
