"""Claim: forecasts beat seasonal naive where anything can, and their 95% bands hold.

`--size` seeded series of days (the simulator's seasons and growth under noise of their own), the same with one
day in thirty disturbed, and the real series inside statsmodels and river. Each is cut; what follows the cut is
held against the forecast, and against seasonal naive, which is computed here. `--sabotage` halves the bands.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from bench.claim import Arguments, Limit, Verdict, main
from bench.simulator import DAY_S, drawn_world, volume
from streams.forecasts.models import forecast

HISTORY, HORIZON = 70, 14
CUTS = 6
"""Of each real series; fewer where less than two seasons would be left before the first."""
DISTURBED = 1 / 30
BAND = 0.95


def measure(arguments: Arguments) -> Verdict:
    """Forecast all of them."""
    begun_s = time.process_time()
    rows = [
        judged(f"seeded-{number}", values, 7, HISTORY, HORIZON, arguments.sabotage)
        for number, values in enumerate(seeded(arguments.seed, arguments.size))
    ]
    took_s = time.process_time() - begun_s
    rough = [
        judged(f"disturbed-{number}", values, 7, HISTORY, HORIZON, arguments.sabotage)
        for number, values in enumerate(seeded(arguments.seed, arguments.size, disturbed=True))
    ]
    real = list(_judged_real(arguments.sabotage))
    with (arguments.out / "series.jsonl").open("w", encoding="utf-8") as ledger:
        ledger.writelines(json.dumps(row) + "\n" for row in [*rows, *rough, *real])
    figures = {
        "seeded": len(rows),
        "error_ratio": _ratio(rows),
        "beaten": round(float(np.mean([row["error"] <= row["naive"] for row in rows])), 4),
        "coverage": _coverage(rows),
        "coverage_off": _off(rows),
        "disturbed_error_ratio": _ratio(rough),
        "real_error_ratio": _ratio(real),
        "real_coverage": _coverage(real),
        "real_coverage_off": _off(real),
        "cpu_ms_per_series": round(took_s / max(1, len(rows)) * 1e3, 1),
        "real": {
            name: {"error_ratio": _ratio(mine), "coverage": _coverage(mine)}
            for name in dict.fromkeys(row["name"] for row in real)
            if (mine := [row for row in real if row["name"] == name])
        },
        "models": {
            model: sum(model in row["model"].split("+") for row in rows)
            for model in sorted({name for row in rows for name in row["model"].split("+")})
        },
    }
    return Verdict(
        figures,
        [
            Limit("error_ratio", 0.85),
            Limit("coverage_off", 0.03),
            Limit("disturbed_error_ratio", 0.85),
            Limit("real_error_ratio", 0.9),
            Limit("real_coverage_off", 0.05),
        ],
    )


def _judged_real(sabotage: bool) -> Iterator[dict[str, Any]]:
    for name, values, period in real_series():
        horizon = min(HORIZON, 2 * period if period > 1 else 4)
        cuts = min(CUTS, (len(values) - 3 * period) // horizon)
        for cut in range(len(values) - cuts * horizon, len(values), horizon):
            yield judged(name, values, period, cut, horizon, sabotage)


def seeded(seed: int, size: int, *, disturbed: bool = False) -> Iterator[np.ndarray]:
    """Yield series of days; each day has noise of its own that lasts for a few.

    When `disturbed`, some days of the history have three to ten times the calls, or hardly any.
    """
    for number in range(size):
        rng = np.random.default_rng([seed, number, 5])
        world = drawn_world(seed * 10_000 + number)
        days = volume(world, from_s=0, to_s=(HISTORY + HORIZON) * DAY_S, step_s=DAY_S).values["all"]
        noise, spread = np.zeros(len(days)), float(rng.uniform(0.05, 0.3))
        for day in range(1, len(days)):
            noise[day] = 0.4 * noise[day - 1] + rng.normal(0, spread)
        days = np.round(days * np.exp(noise))
        if disturbed:
            hit = np.flatnonzero(rng.random(HISTORY) < DISTURBED)
            days[hit] *= rng.choice([0.05, 3.0, 10.0], len(hit))
        yield days


def real_series() -> Iterator[tuple[str, np.ndarray, int]]:
    """Yield (name, values, season) of the real series that ship inside the dependencies."""
    from river import datasets

    yield "airline passengers", np.array([y for _, y in datasets.AirlinePassengers()], float), 12
    approval = np.array([y for _, y in datasets.TrumpApproval()], float)
    yield "approval", approval[-200:], 7
    hours, days = _water_flow(datasets.WaterFlow())
    yield "water flow, hours", hours[-504:], 24
    yield "water flow, days", days, 7
    co2 = _table("co2")["co2"].resample("MS").mean().interpolate()
    yield "co2", co2.to_numpy(float)[-240:], 12
    elnino = _table("elnino").drop(columns="YEAR").to_numpy(float).ravel()
    yield "el niño", elnino[-240:], 12
    yield "electrical equipment", _table("elec_equip").to_numpy(float).ravel(), 12
    macro = _table("macrodata")
    for name, column in (
        ("gross domestic product", "realgdp"),
        ("investment", "realinv"),
        ("consumer prices", "cpi"),
        ("money", "m1"),
        ("unemployment", "unemp"),
        ("treasury bills", "tbilrate"),
    ):
        yield name, macro[column].to_numpy(float), 4
    yield "nile", _table("nile")["volume"].to_numpy(float), 1
    yield "sunspots", _table("sunspots")["SUNACTIVITY"].to_numpy(float), 11


def _table(name: str) -> Any:
    """Return a data set of statsmodels, a pandas frame."""
    return importlib.import_module(f"statsmodels.datasets.{name}").load_pandas().data


def _water_flow(measured: Iterable[tuple[Any, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the means of each hour, gaps filled, and the sums of whole days."""
    import pandas as pd  # type: ignore[import-untyped]

    rows = [(found["Time"], value) for found, value in measured]
    times, values = zip(*rows, strict=True)
    flow = pd.Series(values, pd.to_datetime(times, utc=True)).resample("h").mean().interpolate()
    return flow.to_numpy(float), flow.resample("D").sum().to_numpy(float)[1:-1]


def judged(
    name: str, values: np.ndarray, period: int, cut: int, horizon: int, sabotage: bool
) -> dict[str, Any]:
    """Forecast what follows a cut; return the errors, relative to the mean, and what was covered."""
    history, truth = values[:cut], values[cut : cut + horizon]
    found = forecast(history, horizon, [BAND], period)
    naive = history[-period:][np.arange(horizon) % period]
    width = found.widths[BAND] * (0.5 if sabotage else 1.0)
    scale = float(np.abs(history).mean())
    return {
        "name": name,
        "model": found.model,
        "error": float(np.abs(truth - found.predicted).mean() / scale),
        "naive": float(np.abs(truth - naive).mean() / scale),
        "covered": int((np.abs(truth - found.predicted) <= width).sum()),
        "points": horizon,
    }


def _ratio(rows: list[dict[str, Any]]) -> float | None:
    """Return the summed errors relative to seasonal naive's: below 1 is better."""
    naive = sum(row["naive"] for row in rows)
    return round(sum(row["error"] for row in rows) / naive, 4) if naive else None


def _coverage(rows: list[dict[str, Any]]) -> float | None:
    points = sum(row["points"] for row in rows)
    return round(sum(row["covered"] for row in rows) / points, 4) if points else None


def _off(rows: list[dict[str, Any]]) -> float | None:
    coverage = _coverage(rows)
    return None if coverage is None else round(abs(coverage - BAND), 4)


if __name__ == "__main__":
    main("forecasts", 100, measure)
