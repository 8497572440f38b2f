"""A simulator of a gateway's world: seeded, pure, with the truth of everything that goes wrong in it.

    world = drawn_world(7, targets=3, users=40, rate_per_s=2.0)          # or World(...) by hand
    troubles = drawn_incidents(world, ("errors", "slow", "surge"), from_s=DAY_S, to_s=2 * DAY_S, count=6)
    world = msgspec.structs.replace(world, incidents=troubles)

    found = series(world, "calls", "user", from_s=0, to_s=2 * DAY_S, step_s=10)
    found.values["user-3"]            # integers per step
    found.truth                       # incidents: kind, dimension, name, start_s, end_s, size

    for event in events(world, from_s=0, to_s=3_600): ...   # ResponseCompleted, CostEntry: for folds
    for made in calls(world, 0, 3_600): outcomes(world, made)   # columns; what every target would do
    volume(world, from_s=0, to_s=8 * WEEK_S, step_s=HOUR_S)     # long series, fast

Times are simulated seconds after the world's start (a Monday, midnight UTC). What a world has:
seasons of the day and the week, growth, minutes busier than others, users in teams with tasks and
tastes, targets with log-normal latency that drifts, heavy tails, failures, prices and quality.
"""

from __future__ import annotations

from bench.simulator.events import Policy, as_wanted, events
from bench.simulator.series import Series, series, volume
from bench.simulator.traffic import Calls, Outcomes, calls, outcomes, rate_per_s, tasks
from bench.simulator.world import (
    DAY_S,
    HOUR_S,
    WEEK_S,
    Incident,
    Process,
    Season,
    User,
    World,
    drawn_incidents,
    drawn_world,
)

__all__ = [
    "DAY_S",
    "HOUR_S",
    "WEEK_S",
    "Calls",
    "Incident",
    "Outcomes",
    "Policy",
    "Process",
    "Season",
    "Series",
    "User",
    "World",
    "as_wanted",
    "calls",
    "drawn_incidents",
    "drawn_world",
    "events",
    "outcomes",
    "rate_per_s",
    "series",
    "tasks",
    "volume",
]
