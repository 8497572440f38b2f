"""Claim: forecasts beat seasonal naive where anything can, and their 95% bands hold.

`--size` seeded series of days (the simulator's seasons and growth under noise of their own) and the real series
inside statsmodels and river. Each is cut; what follows the cut is held against the forecast, and against seasonal
naive, which is computed here. `--sabotage` halves the bands.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from bench.claim import Arguments, Limit, Verdict, main
from bench.simulator import DAY_S, drawn_world, volume
from streams.forecasts.models import forecast

HISTORY, HORIZON = 70, 14
CUTS = 6
"""Of each real series."""


def measure(arguments: Arguments) -> Verdict:
    """Forecast all of them."""
    rows = [
        judged(f"seeded-{number}", values, 7, HISTORY, HORIZON, arguments.sabotage)
        for number, values in enumerate(seeded(arguments.seed, arguments.size))
    ]
    real: list[dict[str, Any]] = []
    for name, values, period in real_series():
        horizon = min(HORIZON, 2 * period if period > 1 else 4)
        first = len(values) - CUTS * horizon
        real += [
            judged(name, values, period, cut, horizon, arguments.sabotage)
            for cut in range(first, len(values) - horizon + 1, horizon)
        ]
    with (arguments.out / "series.jsonl").open("w", encoding="utf-8") as ledger:
        ledger.writelines(json.dumps(row) + "\n" for row in [*rows, *real])
    names = list(dict.fromkeys(row["name"] for row in real))
    figures = {
        "seeded": len(rows),
        "error_ratio": _ratio(rows),
        "beaten": round(float(np.mean([row["error"] <= row["naive"] for row in rows])), 4),
        "coverage": _coverage(rows),
        "real_error_ratio": _ratio(real),
        "real_coverage": _coverage(real),
        "real": {
            name: {
                "error_ratio": _ratio([row for row in real if row["name"] == name]),
                "coverage": _coverage([row for row in real if row["name"] == name]),
            }
            for name in names
        },
        "models": {
            model: sum(row["model"] == model for row in rows)
            for model in sorted({row["model"] for row in rows})
        },
    }
    return Verdict(
        figures,
        [
            Limit("error_ratio", 0.9),
            Limit("coverage", 0.9, "min"),
            Limit("real_error_ratio", 1.0),
            Limit("real_coverage", 0.85, "min"),
        ],
    )


def seeded(seed: int, size: int) -> Iterator[np.ndarray]:
    """Yield series of days; each day has noise of its own that lasts for a few."""
    for number in range(size):
        rng = np.random.default_rng([seed, number, 5])
        world = drawn_world(seed * 10_000 + number)
        days = volume(world, from_s=0, to_s=(HISTORY + HORIZON) * DAY_S, step_s=DAY_S).values["all"]
        noise, spread = np.zeros(len(days)), float(rng.uniform(0.05, 0.3))
        for day in range(1, len(days)):
            noise[day] = 0.4 * noise[day - 1] + rng.normal(0, spread)
        yield np.round(days * np.exp(noise))


def real_series() -> Iterator[tuple[str, np.ndarray, int]]:
    """Yield (name, values, season) of the real series that ship inside the dependencies."""
    import statsmodels.api as sm  # type: ignore[import-untyped]
    from river import datasets

    yield "airline passengers", np.array([y for _, y in datasets.AirlinePassengers()], float), 12
    approval = np.array([y for _, y in datasets.TrumpApproval()], float)
    yield "approval", approval[-200:], 7
    co2 = sm.datasets.co2.load_pandas().data["co2"].resample("MS").mean().interpolate()
    yield "co2", co2.to_numpy(float)[-240:], 12
    elnino = sm.datasets.elnino.load_pandas().data.drop(columns="YEAR").to_numpy(float).ravel()
    yield "el niño", elnino[-240:], 12
    macro = sm.datasets.macrodata.load_pandas().data["realgdp"].to_numpy(float)
    yield "gross domestic product", macro, 4
    yield "nile", sm.datasets.nile.load_pandas().data["volume"].to_numpy(float), 1
    yield "sunspots", sm.datasets.sunspots.load_pandas().data["SUNACTIVITY"].to_numpy(float), 11


def judged(
    name: str, values: np.ndarray, period: int, cut: int, horizon: int, sabotage: bool
) -> dict[str, Any]:
    """Forecast what follows a cut; return the errors, relative to the mean, and what was covered."""
    history, truth = values[:cut], values[cut : cut + horizon]
    found = forecast(history, horizon, [0.95], period)
    naive = history[-period:][np.arange(horizon) % period]
    width = found.widths[0.95] * (0.5 if sabotage else 1.0)
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


if __name__ == "__main__":
    main("forecasts", 100, measure)
