"""Claim: what is injected into a world's traffic is found within a minute, with who made the difference, and little else.

Each of `--size` seeded worlds lives for an hour of simulated time with one incident, and a tenth as many grow for an
hour or meet a team that was never there (`bench/anomaly_slow.py`); the traffic goes through the very fold and ledger of the streams. An incident counts as found when an anomaly of a metric that it
touches is opened within sixty seconds of its start; every anomaly that no incident explains is a false
one. The worlds are the simulator's: nothing of the detector has a part in their randomness. `--sabotage` lets
the consumer skip four of five seconds.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import msgspec
import numpy as np

from bench import anomaly_slow
from bench.anomaly_runs import driver_of, simulate
from bench.claim import Arguments, Limit, Verdict, main
from bench.simulator import HOUR_S, Incident, World, drawn_incidents, drawn_world
from schemas.events.operations import AnomalyChanged

KINDS = ("surge", "errors", "tokens", "slow", "drop", "price", "outage")
TOUCHED = {
    "surge": {"calls", "cost_nano_usd", "tokens"},
    "drop": {"calls", "cost_nano_usd", "tokens"},
    "tokens": {"tokens", "cost_nano_usd", "latency_us", "failure_rate"},
    "price": {"cost_nano_usd", "price"},
    "slow": {"latency_us", "failure_rate", "cost_nano_usd", "tokens"},
    "errors": {"failure_rate", "cost_nano_usd", "tokens", "latency_us"},
    "outage": {"failure_rate", "cost_nano_usd", "tokens", "latency_us"},
}
"""Metrics that an incident changes: calls that fail cost nothing, calls that time out fail."""

SLOW_PART = 10
"""So many times fewer worlds have an anomaly that is no incident of minutes."""
RATE_PER_S = 4.0
LENGTH_S = 3_600
CALM_S = 2_000
AFTER_S = 120.0
"""What is opened so soon after an incident's end is an echo of it."""
WITHIN_S = 60.0


def measure(arguments: Arguments) -> Verdict:
    """Run the worlds on both cores, and compare what was found with the truth."""
    with ProcessPoolExecutor(2) as pool:
        work = partial(one, seed=arguments.seed, sabotage=arguments.sabotage)
        results = list(pool.map(work, range(arguments.size)))
        work = partial(anomaly_slow.one, seed=arguments.seed, sabotage=arguments.sabotage)
        slow = list(pool.map(work, range(max(2, arguments.size // SLOW_PART))))
    with (arguments.out / "worlds.jsonl").open("w", encoding="utf-8") as ledger:
        ledger.writelines(json.dumps(result) + "\n" for result in [*results, *slow])
    opened = sum(len(result["found"]) for result in results)
    true = sum(item["true"] for result in results for item in result["found"])
    delays = [result["delay_s"] for result in results if result["delay_s"] is not None]
    told = [result for result in results if result["delay_s"] is not None]
    figures = {
        "series": len(results),
        "recall": round(sum(delay <= WITHIN_S for delay in delays) / len(results), 4),
        "recall_later": round(len(delays) / len(results), 4),
        "precision": round(true / opened, 4) if opened else None,
        "found_p50_s": round(float(np.median(delays)), 1) if delays else None,
        "driver_right": round(sum(result["driver_right"] for result in told) / len(told), 4)
        if told
        else None,
        "false_per_series_day": round((opened - true) / len(results) * 86_400 / LENGTH_S, 2),
        "told_twice": sum(result["twice"] for result in results),
        "recall_by_kind": {kind: _recall(results, kind) for kind in KINDS},
        "slow_series": len(slow),
        "trends_told": _told(slow, "trend"),
        "newcomers_told": _told(slow, "new_value"),
    }
    return Verdict(
        figures,
        [
            Limit("recall", 0.9, "min"),
            Limit("precision", 0.8, "min"),
            Limit("driver_right", 0.9, "min"),
            Limit("told_twice", 0),
            Limit("trends_told", 0.9, "min"),
            Limit("newcomers_told", 0.9, "min"),
        ],
    )


def _recall(results: list[dict[str, object]], kind: str) -> float | None:
    mine = [result["delay_s"] for result in results if result["kind"] == kind]
    if not mine:
        return None
    return round(sum(d is not None and float(str(d)) <= WITHIN_S for d in mine) / len(mine), 4)


def _told(results: list[dict[str, object]], kind: str) -> float:
    return round(
        float(np.mean([result["told"] for result in results if result["kind"] == kind])), 4
    )


def one(number: int, seed: int, sabotage: bool) -> dict[str, object]:
    """Run one world; return what was found, and what was to be found."""
    kind = KINDS[number % len(KINDS)]
    world_seed = seed * 10_000 + number
    rng = np.random.default_rng([world_seed, 77])
    from_s = int(rng.integers(8, 17) * HOUR_S)
    world = drawn_world(world_seed, rate_per_s=RATE_PER_S)
    incident = injected(world, kind, from_s, rng)
    world = msgspec.structs.replace(world, incidents=(incident,))
    run = simulate(world, from_s, from_s + LENGTH_S, deaf=sabotage)
    start_us = (world.start_s + incident.start_s) * 1e6
    end_us = (world.start_s + incident.end_s + AFTER_S) * 1e6
    true = [change for change in run.found if _explained(change, kind, start_us, end_us)]
    first = min(true, key=lambda change: change.found_at_us or 0, default=None)
    return {
        "kind": kind,
        "incident": msgspec.to_builtins(incident),
        "found": [
            {
                "id": c.anomaly_id,
                "true": c in true,
                "why": c.explanation,
                "found_at_us": c.found_at_us,
            }
            for c in run.found
        ],
        "delay_s": None if first is None else round(((first.found_at_us or 0) - start_us) / 1e6, 1),
        "driver_right": first is not None and _is_driver(first, incident),
        "twice": len(run.changes) - len({(c.anomaly_id, c.number) for c in run.changes}),
    }


def injected(world: World, kind: str, from_s: int, rng: np.random.Generator) -> Incident:
    """Return an incident of a kind, of five to fifteen minutes, after a calm."""
    begin_s = from_s + CALM_S
    if kind != "drop":
        (drawn,) = drawn_incidents(
            world,
            (kind,),
            from_s=begin_s,
            to_s=from_s + LENGTH_S - 300,
            count=1,
            lasting_s=(300, 900),  # type: ignore[arg-type]
        )
        return drawn
    start_s = begin_s + float(rng.uniform(0, 300))
    team = f"team-{int(rng.integers(4))}"
    size = float(rng.uniform(0.0, 0.1))
    return Incident("surge", "team", team, start_s, start_s + float(rng.uniform(300, 900)), size)


def _explained(change: AnomalyChanged, kind: str, start_us: float, end_us: float) -> bool:
    found_us = change.found_at_us or 0
    return change.metric in TOUCHED[kind] and start_us <= found_us <= end_us


def _is_driver(change: AnomalyChanged, incident: Incident) -> bool:
    """Whether the first driver is the one; a team has one key here, so its key is as good a name."""
    if not change.drivers:
        return False
    named = f"{change.drivers[0].dimension}:{change.drivers[0].name}"
    right = {driver_of(incident)}
    if incident.dimension == "team":
        right.add(f"key:key-{incident.name}")
    return named in right


if __name__ == "__main__":
    main("anomalies", 200, measure)
