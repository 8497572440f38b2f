"""Claim: steering beats static routes in p50 and p95, and answers while every provider fails in turn.

First in simulated time, with the product's router, folds and tables: `--size` seeded worlds of three
providers, each of which goes away, becomes slow, fails half its calls and flaps, one after the
other. The same calls with the same luck go by static routing, by fixed weights and an order for
failover. Then once over real sockets (`bench.steering_sockets`). `--sabotage` takes the
steered calls for the static ones.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from bench.bandits import interval
from bench.claim import Arguments, Limit, Verdict, main
from bench.simulator import HOUR_S, Incident
from bench.simulator.gateway import ATTEMPTS_MAX, Gateway
from bench.steering_sockets import fail_in_turn
from bench.steering_world import LATENCY, foreseeing, static, troubled, world_of

RATE_PER_S = 1.5
BEGIN_S = 9 * HOUR_S
LASTING_S, CALM_S = 120.0, 240.0
KINDS = range(4)
END_S = BEGIN_S + 12 * (LASTING_S + CALM_S) + CALM_S
BEFORE_S = 120.0
WINDOW_CALLS = 5
NOTICED = 0.2
"""Incidents of targets with a smaller share of the calls are not timed: nobody goes there anyway."""


def measure(arguments: Arguments) -> Verdict:
    """Run every seed in simulated time, then one over sockets."""
    seeds = range(arguments.seed * 1_000, arguments.seed * 1_000 + arguments.size)
    workers = min(len(os.sched_getaffinity(0)), arguments.size)
    with ProcessPoolExecutor(workers) as pool:
        incidents = list(pool.map(_run, seeds, [arguments.out] * len(seeds)))
    runs = [_read(arguments.out / f"calls-{seed}.jsonl") for seed in seeds]
    if arguments.sabotage:
        runs = [swapped(run) for run in runs]
    figures = gains_of(runs, arguments.seed) | _timed(runs, incidents)
    figures |= fail_in_turn(arguments)
    return Verdict(
        figures=figures,
        limits=[
            Limit("p50_gain_lower", 0.15, "min"),
            Limit("p95_gain_lower", 0.15, "min"),
            Limit("answered_share", 0.999, "min"),
            Limit("sockets_answered_share", 0.999, "min"),
            Limit("sockets_p50_of_possible", 0.5, "min"),
            Limit("sockets_p95_gain", 0.15, "min"),
            Limit("left_after_s_max", 5.0),
            Limit("back_after_s_max", 30.0),
            Limit("lost", 0),
            Limit("doubled", 0),
            Limit("drift_nano_usd", 0),
        ],
    )


def _run(seed: int, out: Path) -> list[Incident]:
    """Write one seed's calls, steered and static side by side; return its incidents."""
    world = troubled(
        world_of(seed, RATE_PER_S),
        from_s=BEGIN_S,
        lasting_s=LASTING_S,
        calm_s=CALM_S,
        kinds=KINDS,
    )
    names = [process.target for process in world.targets]
    gateway = Gateway(world, "adaptive", options=LATENCY)
    with (out / f"calls-{seed}.jsonl").open("w", encoding="utf-8") as file:
        for made, result, served in gateway.run(BEGIN_S, END_S):
            static_us, answered = static(made, result, ATTEMPTS_MAX)
            possible_us = foreseeing(world, made, result, ATTEMPTS_MAX)
            for row, call in enumerate(served):
                line = {
                    "at_s": round(call.at_s, 3),
                    "steered_us": int(call.latency_us),
                    "steered_answered": call.served is not None,
                    "static_us": int(static_us[row]),
                    "static_answered": bool(answered[row]),
                    "possible_us": int(possible_us[row]),
                    "first": names[call.chosen],
                    "shares": dict(zip(names, call.shares, strict=True)),
                    "static_first": names[made.wanted[row]],
                }
                file.write(json.dumps(line, separators=(",", ":")) + "\n")
    return list(world.incidents)


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def gains_of(runs: list[list[dict[str, Any]]], seed: int) -> dict[str, Any]:
    """Return by how much the steered calls were faster: the mean over seeds and its interval."""
    figures: dict[str, Any] = {"runs": len(runs), "calls": sum(map(len, runs))}
    for name, quantile in (("p50", 0.5), ("p95", 0.95)):
        steered, fixed, possible = (
            np.array([np.quantile([row[column] for row in run], quantile) for run in runs])
            for column in ("steered_us", "static_us", "possible_us")
        )
        gains = 1 - steered / fixed
        mean, low, high = interval(gains, seed)
        figures |= {
            f"{name}_gain": round(mean, 3),
            f"{name}_gain_lower": round(low, 3),
            f"{name}_gain_upper": round(high, 3),
            f"{name}_gain_worst_seed": round(float(gains.min()), 3),
            f"{name}_gain_possible": round(float((1 - possible / fixed).mean()), 3),
        }
    answered = [row["steered_answered"] for run in runs for row in run]
    return figures | {"answered_share": round(float(np.mean(answered)), 6)}


def _timed(runs: list[list[dict[str, Any]]], incidents: list[list[Incident]]) -> dict[str, Any]:
    """Return by kind: the median seconds to leave and to return, and calls hurt beside static ones.

    Left and back are the moments at which the target's share of the choices falls below, or comes
    back to, half of what it was before. Hurt is who was sent to the target first while it lasted.
    """
    told: dict[str, dict[str, list[float]]] = {}
    for run, troubles in zip(runs, incidents, strict=True):
        for trouble in troubles:
            of_kind = told.setdefault(
                trouble.kind, {"left": [], "back": [], "hurt": [], "static": []}
            )
            during = [row for row in run if trouble.start_s <= row["at_s"] < trouble.end_s]
            of_kind["hurt"].append(sum(row["first"] == trouble.name for row in during))
            of_kind["static"].append(sum(row["static_first"] == trouble.name for row in during))
            before = _mean_share(run, trouble, trouble.start_s - BEFORE_S, trouble.start_s)
            if before >= NOTICED:
                of_kind["left"].append(_crossing(during, trouble, before / 2, below=True))
                after = [
                    row for row in run if trouble.end_s <= row["at_s"] < trouble.end_s + CALM_S
                ]
                of_kind["back"].append(_crossing(after, trouble, before / 2, below=False))
    return {
        "simulated_incidents": {
            kind: {
                "timed": len(found["left"]),
                "left_after_s": round(float(np.median(found["left"])), 1),
                "back_after_s": round(float(np.median(found["back"])), 1),
                "hurt_per_incident": round(float(np.mean(found["hurt"])), 1),
                "hurt_per_incident_static": round(float(np.mean(found["static"])), 1),
            }
            for kind, found in told.items()
            if found["left"]
        }
    }


def _mean_share(run: list[dict[str, Any]], trouble: Incident, from_s: float, to_s: float) -> float:
    shares = [row["shares"][trouble.name] for row in run if from_s <= row["at_s"] < to_s]
    return float(np.mean(shares)) if shares else 0.0


def _crossing(rows: list[dict[str, Any]], trouble: Incident, share: float, *, below: bool) -> float:
    """Return the seconds until the mean share of a few calls is below or above; inf if never."""
    for at in range(len(rows) - WINDOW_CALLS + 1):
        window = rows[at : at + WINDOW_CALLS]
        mean = float(np.mean([row["shares"][trouble.name] for row in window]))
        if (mean < share) if below else (mean >= share):
            return float(window[-1]["at_s"]) - (trouble.start_s if below else trouble.end_s)
    return float("inf")


def swapped(run: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the run with steered and static latencies taken for each other."""
    return [row | {"steered_us": row["static_us"], "static_us": row["steered_us"]} for row in run]


if __name__ == "__main__":
    main("steering_seeds", 20, measure)
