"""Anomalies and forecasts as the administration tells them."""

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from infra import cli_foresight
from infra.foresight_api import Foresight, foresight_router
from schemas.errors import NotFound, ValidationFailed
from schemas.events.forecasts import LEVELS, Exhaustion, ForecastMade, ForecastPoint
from schemas.events.operations import AnomalyChanged, AnomalyDriver

S = 1_000_000
DAY_S = 86_400
TODAY_S = 1_790_000_000 // DAY_S * DAY_S


def anomaly(name: str, metric: str, started_s: int, status: str = "open") -> AnomalyChanged:
    return AnomalyChanged(
        event_id="e",
        occurred_at_us=0,
        anomaly_id=name,
        metric=metric,
        dimension="total:",
        kind="spike",
        severity="warning",
        status=status,
        expected=1e9,
        actual=5e9,
        score=8.0,
        started_at_us=started_s * S,
        drivers=[AnomalyDriver("user", "ada", 0.9, 0.1, 0.6, 1e8, 4e9)],
    )


def client() -> TestClient:
    board = Foresight(lambda: (TODAY_S + 3_600) * S)
    anomalies, forecasts = board.views
    for change in (
        anomaly("a", "calls", TODAY_S),
        anomaly("b", "cost_nano_usd", TODAY_S + 10),
        anomaly("c", "cost_nano_usd", TODAY_S - 10, "ended"),
    ):
        anomalies.entries[change.key] = change
    for metric in ("cost_nano_usd", "calls"):
        made = ForecastMade(
            event_id="e",
            occurred_at_us=TODAY_S * S,
            metric=metric,
            scope="total:",
            model="seasonal_mean",
            history_days=40,
            folds=8,
            error=0.1,
            naive_error=0.2,
            coverage=0.96,
            levels=list(LEVELS),
            points=[
                ForecastPoint(TODAY_S + day * DAY_S, 2e9, [1e9, 1e9, 1e9, 4e9, 9e9])
                for day in range(-1, 89)
            ],
            month_total=7e9,
            exhaustions=[Exhaustion("all", "month", 5 * 10**9, TODAY_S + DAY_S, flagged=True)],
            number=1,
            hours=[
                ForecastPoint(TODAY_S + hour * 3_600, 1e8 * (1 + hour % 3), [5e7] * 5)
                for hour in range(168)
            ],
        )
        forecasts.entries[made.key] = made
    app = FastAPI()
    app.include_router(foresight_router(board))
    return TestClient(app)


@pytest.mark.req("ANA-05", "COST-08")
def test_anomalies_with_their_drivers() -> None:
    web = client()
    cost = web.get("/admin/cost/anomalies").json()
    assert [item["id"] for item in cost["items"]] == ["b", "c"]
    assert (cost["items"][0]["expected"], cost["items"][0]["drivers"][0]["actual"]) == (1.0, 4.0)
    assert web.get("/api/v1/admin/cost/anomalies?status=ended").json()["total"] == 1
    every = web.get("/admin/analytics/anomalies").json()
    assert [item["id"] for item in every["items"]] == ["b", "a", "c"]
    assert web.get("/admin/analytics/anomalies?metric=calls").json()["total"] == 1
    assert web.get("/admin/analytics/anomalies?limit=1&offset=1").json()["items"][0]["id"] == "a"


@pytest.mark.req("COST-07", "ANA-08")
def test_forecasts_begin_today_and_have_bands() -> None:
    web = client()
    days = web.get("/admin/cost/forecast").json()
    assert len(days["points"]) == 30
    first = days["points"][0]
    assert first["timestamp"].startswith("2026-09-21")
    assert (first["predicted"], first["lower"], first["upper"]) == (2.0, 0.0, 6.0)
    assert (days["month_total"], days["backtest"]["naive_mape"]) == (7.0, 0.2)
    assert days["exhaustion"][0]["flagged"]
    weeks = web.get("/admin/cost/forecast?granularity=week&horizon_days=10&confidence=0.5").json()
    assert [point["predicted"] for point in weeks["points"]] == [14.0, 6.0]
    capacity = web.get("/admin/analytics/forecast?metric=capacity").json()
    assert capacity["peak_per_minute"] == pytest.approx(6e9 * 3 / 48 / 60)


@pytest.mark.req("COST-07")
def test_hours_of_the_next_days() -> None:
    hours = client().get("/admin/cost/forecast?granularity=hour&horizon_days=2").json()["points"]
    assert len(hours) == 48
    assert hours[1]["timestamp"].startswith("2026-09-21T01:00")
    assert (hours[1]["predicted"], hours[1]["lower"], hours[1]["upper"]) == (0.2, 0.15, 0.25)


def test_what_is_not_there_is_told_with_the_way_out() -> None:
    board = Foresight()
    with pytest.raises(NotFound, match="no forecast of tokens"):
        board.forecast("tokens", "total:", 30, "day", 0.95)
    with pytest.raises(ValidationFailed) as refused:
        board.forecast("cost", "total:", 30, "day", 0.7)
    assert "0.95" in refused.value.advice
    for scope in ("total", "team", "team:", "user:ada"):
        with pytest.raises(ValidationFailed, match="no scope"):
            board.forecast("cost", scope, 30, "day", 0.95)


def test_the_commands_say_it_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    web = client()
    monkeypatch.setattr(cli_foresight, "_get", lambda path, query: _asked(web, path, query))
    run = CliRunner()
    told = run.invoke(cli_foresight.app, ["forecast", "--days", "3"]).output
    assert "2026-09-23" in told
    assert "budget all (5 $ a month) is exhausted on 2026-09-22 00:00" in told
    assert (
        "by seasonal_mean from 40 days; on days not seen wrong by 10% (seasonal naive 20%)" in told
    )
    hours = run.invoke(
        cli_foresight.app, ["forecast", "--granularity", "hour", "--days", "1"]
    ).output
    assert "2026-09-21 23:00" in hours
    told = run.invoke(cli_foresight.app, ["anomalies", "--all", "--limit", "2"]).output
    assert told.count("spike") == 2
    assert "1 more" in told


def _asked(web: TestClient, path: str, query: dict[str, Any]) -> Any:
    given = {name: value for name, value in query.items() if value is not None}
    return web.get(path, params=given).json()
