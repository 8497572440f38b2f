"""COST-07: chosen against seasonal naive, honest bands, budgets that will be exhausted."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from schemas.event import Event
from schemas.events.changes import BudgetChanged
from schemas.events.escrow import EscrowDay, EscrowRow
from schemas.events.forecasts import ForecastMade, ForecastPoint
from schemas.events.operations import AlertChanged, Heartbeat
from schemas.traffic import HOURS, TOTAL, Sums
from streams.forecasts.budgets import DAY_S, date_of, exhausted_at_s
from streams.forecasts.candidates import candidates
from streams.forecasts.hours import hours_ahead
from streams.forecasts.ledger import ForecastLedger, Made
from streams.forecasts.models import forecast
from tests.streams.test_anomalies import rows

S = 1_000_000
TODAY_S = 1_790_000_000 // DAY_S * DAY_S
"""21 September 2026."""
USD = 1_000_000_000


def week(days: int, rng: np.random.Generator, noise: float, growth: float = 0.0) -> np.ndarray:
    day = np.arange(days)
    season = np.where(day % 7 < 5, 100.0, 40.0)
    return np.asarray(season * (1 + growth * day) * np.exp(rng.normal(0, noise, days)))


@pytest.mark.req("COST-07")
def test_noise_is_averaged_out_and_a_season_is_kept() -> None:
    history = week(63, np.random.default_rng(1), 0.2)
    found = forecast(history, 14, [0.5, 0.95])
    assert found.model != "seasonal_naive"
    assert found.error < found.naive_error
    assert np.allclose(found.predicted, week(14, np.random.default_rng(1), 0.0), rtol=0.3)
    assert (found.widths[0.5] < found.widths[0.95]).all()
    assert (np.diff(found.widths[0.95]) >= 0).all()


@pytest.mark.req("COST-07")
def test_seasonal_naive_stays_where_nothing_is_better() -> None:
    found = forecast([10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0] * 6, 10, [0.95])
    assert (found.model, found.error) == ("seasonal_naive", 0.0)
    assert found.predicted[:3].tolist() == [10.0, 20.0, 30.0]


@pytest.mark.req("COST-07")
def test_a_short_history_has_no_week_and_a_shorter_one_no_forecast() -> None:
    found = forecast([5.0, 6.0, 5.0, 6.0, 5.0], 3, [0.95])
    assert len(found.predicted) == 3
    assert (found.widths[0.95] > 0).all()
    with pytest.raises(ValueError, match="too few"):
        forecast([1.0, 2.0, 3.0, 4.0], 3, [0.95])


@pytest.mark.req("COST-07")
def test_one_strange_day_changes_little() -> None:
    history = week(63, np.random.default_rng(2), 0.05, growth=0.005)
    calm = forecast(history, 14, [0.95]).predicted
    history[[40, 58]] *= [8.0, 0.1]
    assert np.allclose(forecast(history, 14, [0.95]).predicted, calm, rtol=0.15)


@pytest.mark.req("COST-07")
@pytest.mark.parametrize(
    "history",
    [
        np.zeros(40),
        np.full(40, 7.0),
        np.array([0.0, 0.0, 0.0, 0.0, 3.0]),
        np.where(np.arange(63) % 7 < 5, 100.0, 0.0) + np.arange(63) % 3,
        np.exp(np.arange(20) * 0.4),
        np.concatenate([np.full(69, 1e15), [1e18]]),
    ],
    ids=["nothing", "constant", "short", "idle weekends", "takeoff", "leap"],
)
def test_whatever_the_series_what_is_predicted_is_a_possible_value(history: np.ndarray) -> None:
    found = forecast(history, 90, [0.5, 0.95])
    assert np.isfinite(found.predicted).all()
    assert found.predicted.min() >= 0
    assert found.predicted.max() <= 3.001 * history.max()
    assert found.error <= found.naive_error
    assert all(np.isfinite(width).all() for width in found.widths.values())


@pytest.mark.req("COST-07")
def test_the_best_few_together_have_one_name() -> None:
    found = forecast(week(63, np.random.default_rng(4), 0.25, growth=0.01), 14, [0.95])
    assert set(found.model.split("+")) <= set(candidates(7))
    assert found.error < 0.9 * found.naive_error


def test_exhaustion_of_days_and_months() -> None:
    points = [ForecastPoint(TODAY_S + day * DAY_S, 10.0 * (day + 1), []) for day in range(30)]
    assert exhausted_at_s(points, "day", 25.0, 99.0) == TODAY_S + 2 * DAY_S + int(25 / 30 * DAY_S)
    assert exhausted_at_s(points, "month", 100.0, 85.0) == TODAY_S + DAY_S + DAY_S // 4
    assert exhausted_at_s(points, "month", 1e9, 85.0) is None
    # September's ten days come to 550; October begins anew, its first four days come to 500.
    october = TODAY_S + 14 * DAY_S + int(100 / 150 * DAY_S)
    assert exhausted_at_s(points, "month", 600.0, 0.0) == october


def at_once(work: Callable[[], Made]) -> Future[Made]:
    done: Future[Made] = Future()
    done.set_result(work())
    return done


def budget(limit: int, version: int = 1, **fields: Any) -> BudgetChanged:
    given: dict[str, Any] = {"budget_id": "all", "scope": "global"} | fields
    return BudgetChanged(
        event_id=f"b{version}",
        occurred_at_us=0,
        entity_version=version,
        actor="t",
        monthly_limit_nano_usd=limit,
        **given,
    )


def spent(entity: str, per_day: int, days: int) -> EscrowRow:
    """The row of a budget that spent evenly; the last two days are not closed yet, today is half over."""
    past = {date_of(TODAY_S - day * DAY_S): per_day for day in range(2, days + 1)}
    months: dict[str, int] = {}
    for day, amount in past.items():
        months[day[:7]] = months.get(day[:7], 0) + amount
    last = [
        EscrowDay(date_of(TODAY_S - DAY_S), per_day, per_day, None, []),
        EscrowDay(date_of(TODAY_S), per_day // 2, per_day // 2, None, []),
    ]
    return EscrowRow(
        event_id="e",
        occurred_at_us=0,
        entity=entity,
        partition=0,
        offset=0,
        terms=None,
        days=last,
        months=months,
        before_nano_usd=0,
        alerts=[],
        turn=0,
        past=past,
    )


def beat(at_us: int, lag: int = 0) -> Heartbeat:
    return Heartbeat(
        event_id="h",
        occurred_at_us=at_us,
        part="streams",
        instance="0",
        started_at_us=0,
        lag=lag,
    )


def run(ledger: ForecastLedger, at_us: int) -> list[Event]:
    ledger.apply(beat(at_us))
    found: list[Event] = []
    for _ in range(20):
        due = ledger.due(at_us)
        found += due
        for event in due:
            if isinstance(event, ForecastMade):
                assert not ledger.knows(event)
                ledger.apply(event)
    return found


@pytest.mark.req("COST-07", "ANA-08", "OPS-01", "EVT-04")
def test_forecasts_are_made_of_hours_once_and_anew_and_flag_a_budget() -> None:
    ledger = ForecastLedger(at_once)
    hours = {
        TODAY_S - (day + 1) * DAY_S + hour * 3_600: {TOTAL: Sums(10, 0, 10, 10, USD // 24, 100, 50)}
        for day in range(28)
        for hour in range(24)
    }
    told = [*rows(HOURS, hours), budget(25 * USD)]
    for event in told:
        ledger.apply(event)
    first = run(ledger, TODAY_S * S)
    made = {event.metric: event for event in first if isinstance(event, ForecastMade)}
    assert set(made) == {"calls", "cost_nano_usd", "tokens"}
    assert made["calls"].points[0].predicted == pytest.approx(240, rel=0.05)
    cost = made["cost_nano_usd"]
    assert cost.month_total == pytest.approx(30 * USD, rel=0.02)
    (soon,) = cost.exhaustions
    assert (soon.period, soon.flagged) == ("month", True)
    assert soon.at_s == pytest.approx(TODAY_S + 5 * DAY_S, abs=DAY_S // 2)
    (alert,) = [event for event in first if isinstance(event, AlertChanged)]
    assert (alert.status, alert.scope) == ("open", "budget:all")
    assert run(ledger, TODAY_S * S + 60 * S) == []

    again = ForecastLedger(at_once)
    for event in [*told, *made.values()]:
        again.apply(event)
    assert run(again, TODAY_S * S + 120 * S) == []
    again.apply(budget(900 * USD, 2))
    later = run(again, TODAY_S * S + 3_700 * S)
    assert [event.status for event in later if isinstance(event, AlertChanged)] == ["resolved"]
    assert [e.number for e in later if isinstance(e, ForecastMade)] == [2]


@pytest.mark.req("COST-07")
def test_a_series_that_was_too_short_is_looked_at_again_while_streams_catch_up() -> None:
    ledger = ForecastLedger(at_once)
    assert run(ledger, TODAY_S * S) == []
    hours = {TODAY_S - (day + 1) * DAY_S: {TOTAL: Sums(10)} for day in range(9)}
    for event in rows(HOURS, hours):
        ledger.apply(event)
    assert run(ledger, (TODAY_S + 200) * S) == []
    ledger.apply(beat((TODAY_S + 290) * S, lag=9))
    assert ledger.due((TODAY_S + 390) * S) == ()
    assert len(run(ledger, (TODAY_S + 400) * S)) == 3


@pytest.mark.req("COST-07")
def test_budgets_of_every_scope_have_a_day_on_which_they_are_exhausted() -> None:
    ledger = ForecastLedger(at_once)
    hours = {
        TODAY_S - (day + 1) * DAY_S + hour * 3_600: {
            TOTAL: Sums(20, 0, 20, 20, USD // 6, 100, 50),
            "team:search": Sums(10, 0, 10, 10, USD // 12, 50, 25),
            "target:acme/large": Sums(10, 0, 10, 10, USD // 12, 50, 25),
            "target:acme/small": Sums(10, 0, 10, 10, USD // 12, 50, 25),
        }
        for day in range(28)
        for hour in range(24)
    }
    told = [
        *rows(HOURS, hours),
        budget(46 * USD, budget_id="search", scope="team", scope_id="search"),
        budget(92 * USD, budget_id="acme", scope="provider", scope_id="acme"),
        budget(23 * USD, budget_id="each", scope="user"),
        spent("each/ada", USD, 28),
        spent("each/bob", USD // 100, 28),
        budget(46 * USD, budget_id="sales", scope="cost_center", scope_id="sales"),
        spent("sales", 2 * USD, 28),
        budget(
            10**15,
            budget_id="whole",
            scope="organization",
            scope_id="o",
            total_limit_nano_usd=60 * USD,
        ),
        spent("whole", 2 * USD, 28),
    ]
    for event in told:
        ledger.apply(event)
    found = {
        (one.budget_id, one.owner, one.period): (one.at_s - TODAY_S) / DAY_S
        for event in run(ledger, TODAY_S * S)
        if isinstance(event, ForecastMade)
        for one in event.exhaustions
    }
    assert found == {
        ("search", None, "month"): pytest.approx(3, abs=0.2),
        ("acme", None, "month"): pytest.approx(3, abs=0.2),
        ("each", "ada", "month"): pytest.approx(3, abs=0.2),
        ("sales", None, "month"): pytest.approx(3, abs=0.2),
        ("whole", None, "total"): pytest.approx(2, abs=0.2),
    }


@pytest.mark.req("COST-07")
def test_hours_are_spread_as_those_of_such_days_were_and_their_bands_hold() -> None:
    rng = np.random.default_rng(3)
    wave = 1 + 0.6 * np.cos((np.arange(24) - 14) * 2 * np.pi / 24)
    days = week(70, rng, 0.1) * 50
    hours = rng.poisson(days[:, None] * wave / 24)
    daily = forecast(hours[:56].sum(axis=1), 7, [0.95])
    predicted, widths = hours_ahead(hours[:56], daily.predicted, daily.widths)
    assert predicted.reshape(7, 24).sum(axis=1) == pytest.approx(daily.predicted)
    inside = np.abs(hours[56:63].ravel() - predicted) <= widths[0.95]
    assert 0.9 <= inside.mean() <= 1.0
    assert widths[0.95].max() < predicted.max()
