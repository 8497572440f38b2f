"""Worlds whose anomaly is no incident of minutes: a total that grows for an hour, a team that was never there.

Both are made of the simulator's surges: a stair of small ones is a slope, and one of size 0 from the beginning on
keeps a team away until it ends.
"""

from __future__ import annotations

import msgspec
import numpy as np

from bench.anomaly_runs import simulate
from bench.simulator import HOUR_S, Incident, drawn_world

KINDS = ("trend", "new_value")
RATE_PER_S = 4.0
LENGTH_S = 5_400
STEP_S = 120
BEGIN_S = {"trend": 1_800, "new_value": 3_900}
"""Whoever is new must come after an hour in which he was not there."""
WITHIN_S = {"trend": 3_600.0, "new_value": 60.0}
"""A trend is an hour that rises."""


def one(number: int, seed: int, sabotage: bool) -> dict[str, object]:
    """Run one world; return whether the kind was told in time, with the name of who is new."""
    kind = KINDS[number % len(KINDS)]
    world_seed = seed * 10_000 + 5_000 + number
    rng = np.random.default_rng([world_seed, 78])
    from_s = int(rng.integers(8, 15) * HOUR_S)
    begin_s = from_s + BEGIN_S[kind] + int(rng.integers(0, 300))
    world = drawn_world(world_seed, rate_per_s=RATE_PER_S)
    team = f"team-{int(rng.integers(4))}"
    if kind == "new_value":
        incidents = (Incident("surge", "team", team, 0.0, begin_s, 0.0),)
    else:
        slope = float(rng.uniform(0.6, 1.2)) / 1_800
        incidents = tuple(
            Incident("surge", "total", "all", at_s, at_s + STEP_S, 1.0 + slope * (at_s - begin_s))
            for at_s in range(begin_s, from_s + LENGTH_S, STEP_S)
        )
    world = msgspec.structs.replace(world, incidents=incidents)
    run = simulate(world, from_s, from_s + LENGTH_S, deaf=sabotage)
    start_us = (world.start_s + begin_s) * 1e6
    told = [
        change
        for change in run.found
        if change.kind == kind
        and 0 <= (change.found_at_us or 0) - start_us <= WITHIN_S[kind] * 1e6
        and (kind == "trend" or change.dimension in (f"team:{team}", f"key:key-{team}"))
    ]
    return {
        "kind": kind,
        "told": bool(told),
        "found": [(change.kind, change.explanation, change.found_at_us) for change in run.found],
        "before": sum((change.found_at_us or 0) < start_us for change in run.found),
        "begins_us": start_us,
    }
