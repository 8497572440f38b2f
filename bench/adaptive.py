"""Claim: the adaptive strategy finds the best target, says with which probability it chose, and follows change.

The product's router, folds and tables in simulated time, on `--size` seeded worlds of four targets.
Half way through each run, the target that was the best so far becomes slow or fails, and recovers
later. Regret counts against the best fixed target in hindsight, which knows all of it beforehand.
`--sabotage` records the propensities of another target.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from pathlib import Path

import msgspec
import numpy as np

from bench import bandits
from bench.bandits import Choices
from bench.claim import Arguments, Limit, Verdict, main
from bench.simulator import HOUR_S, Incident, World, calls, drawn_world, outcomes
from bench.simulator.gateway import Gateway, reward

TARGETS = 4
RATE_PER_S = 1.0
BEGIN_S = 9 * HOUR_S
ONSET_S = BEGIN_S + 4_500.0
RECOVERY_S = ONSET_S + 1_800.0
END_S = RECOVERY_S + 2_700.0
WEIGHTS = (0.3, 0.3, 0.3, 0.1)
"""Of the strategy: quality, success, latency, cost."""
BEFORE_S = 900.0
BUSY_PER_S, BUSY_S = 100.0, 90.0
"""The calls whose decisions are timed: a busy worker's."""


def measure(arguments: Arguments) -> Verdict:
    """Run every seed, then judge by the ledgers alone."""
    seeds = range(arguments.seed * 1_000, arguments.seed * 1_000 + arguments.size)
    workers = min(len(os.sched_getaffinity(0)), arguments.size)
    with ProcessPoolExecutor(workers) as pool:
        victims = list(pool.map(_run, seeds, [arguments.out] * len(seeds)))
    runs = [bandits.read(arguments.out / f"choices-{seed}.jsonl", seed) for seed in seeds]
    if arguments.sabotage:
        runs = [_spoilt(run) for run in runs]
    regret = bandits.interval(map(bandits.regret_share, runs), arguments.seed)
    calm = bandits.interval([bandits.regret_share(bandits.until(run, ONSET_S)) for run in runs], 1)
    gap = bandits.interval(map(bandits.gap_closed, runs), arguments.seed)
    left, returned = _changes(runs, victims)
    figures = {
        "runs": len(runs),
        "choices": sum(len(run.chosen) for run in runs),
        "regret_share": round(regret[0], 4),
        "regret_share_upper": round(regret[2], 4),
        "calm_regret_share": round(calm[0], 4),
        "calm_regret_share_upper": round(calm[2], 4),
        "gap_closed": round(gap[0], 3),
        "gap_closed_lower": round(gap[1], 3),
        "calibration_z": round(bandits.calibration_z(runs), 2),
        "estimates_z": round(bandits.estimates_z(runs), 2),
        "left_after_s": _median(left),
        "left_after_s_max": max(left),
        "returned_after_s": _median(returned),
        "never_returned": sum(value == float("inf") for value in returned),
        **_timed(arguments.seed),
    }
    return Verdict(
        figures=figures,
        limits=[
            Limit("regret_share_upper", 0.01),
            Limit("calm_regret_share_upper", 0.02),
            Limit("gap_closed_lower", 0.3, "min"),
            Limit("calibration_z", 4.0),
            Limit("estimates_z", 4.0),
            Limit("left_after_s", 60.0),
            Limit("returned_after_s", 600.0),
            Limit("decision_us", 200.0),
        ],
    )


def _run(seed: int, out: Path) -> int:
    """Write one seed's ledger; return the target whose fortune changed."""
    world = drawn_world(seed, targets=TARGETS, rate_per_s=RATE_PER_S)
    victim = _best(world)
    kind, size = ("slow", 5.0) if seed % 2 else ("errors", 0.5)
    name = world.targets[victim].target
    trouble = Incident(kind, "target", name, ONSET_S, RECOVERY_S, size)  # type: ignore[arg-type]
    world = msgspec.structs.replace(world, incidents=(trouble,))
    served, rewards = [], []
    for made, result, rows in Gateway(world, "adaptive").run(BEGIN_S, END_S):
        served.append(rows)
        rewards.append(reward(world, made, result, WEIGHTS))
    rows = list(chain.from_iterable(served))
    bandits.write(
        out / f"choices-{seed}.jsonl",
        Choices(
            seed,
            at_s=np.array([row.at_s for row in rows]),
            task=np.array([row.task for row in rows]),
            chosen=np.array([row.chosen for row in rows]),
            propensity=np.array([row.propensity for row in rows]),
            shares=np.array([row.shares for row in rows]),
            rewards=np.concatenate(rewards),
        ),
    )
    return victim


def _best(world: World) -> int:
    """Return the target with the greatest mean reward until the change."""
    rewards = [
        reward(world, made, outcomes(world, made), WEIGHTS)
        for made in calls(world, BEGIN_S, ONSET_S)
    ]
    return int(np.concatenate(rewards).mean(axis=0).argmax())


def _changes(runs: list[Choices], victims: list[int]) -> tuple[list[float], list[float]]:
    """Return per run after how long the victim had half its share of before, and had it back."""
    left, returned = [], []
    for run, victim in zip(runs, victims, strict=True):
        before = bandits.share_of(run, victim, ONSET_S - BEFORE_S, ONSET_S) or 0.0
        gone = bandits.reached_after_s(
            run, victim, ONSET_S, RECOVERY_S, below=before / 2, above=None
        )
        back = bandits.reached_after_s(run, victim, RECOVERY_S, END_S, below=None, above=before / 2)
        left.append(float("inf") if gone is None else gone)
        returned.append(float("inf") if back is None else back)
    return left, returned


def _timed(seed: int) -> dict[str, float]:
    """Return the processor time of a decision where nearly every one has to be worked out anew."""
    gateway = Gateway(drawn_world(seed, targets=TARGETS, rate_per_s=BUSY_PER_S), "adaptive")
    for _ in gateway.run(BEGIN_S, BEGIN_S + BUSY_S):
        pass
    spent_us = np.array(gateway.decided_ns) / 1e3
    return {
        "decision_us": round(float(spent_us.mean()), 1),
        "decision_p99_us": round(float(np.quantile(spent_us, 0.99)), 1),
    }


def _median(values: list[float]) -> float:
    return float(np.median(values))


def _spoilt(run: Choices) -> Choices:
    """Return the run with each choice's shares of the target beside it."""
    columns = vars(run) | {"shares": np.roll(run.shares, 1, axis=1)}
    return Choices(**columns)


if __name__ == "__main__":
    main("adaptive", 20, measure)
