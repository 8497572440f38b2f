"""A world as time series: sums per step for every dimension, with the incidents as the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bench.simulator.traffic import calls, outcomes, rate_per_s
from bench.simulator.world import Dimension, Incident, World

Metric = Literal[
    "calls", "failures", "cost_nano_usd", "input_tokens", "output_tokens", "latency_us"
]


@dataclass(frozen=True)
class Series:
    """`values[k]` belongs to [start_s + k·step_s, start_s + (k + 1)·step_s) of simulated time.

    Counts and sums; of `latency_us` the sum over good calls (divide by calls − failures). `truth`
    holds every incident of the world that touches the span.
    """

    metric: Metric
    dimension: Dimension
    start_s: float
    step_s: float
    values: Mapping[str, np.ndarray]
    truth: tuple[Incident, ...]


def series(
    world: World,
    metric: Metric,
    dimension: Dimension = "total",
    *,
    from_s: float,
    to_s: float,
    step_s: float,
) -> Series:
    """Return a metric per step and name of the dimension, every call at the target it asks for."""
    steps = int(np.ceil((to_s - from_s) / step_s))
    values = {name: np.zeros(steps, np.int64) for name in _names(world, dimension)}
    for made in calls(world, from_s, to_s):
        rows = np.arange(len(made))
        result = outcomes(world, made)
        good = result.good[rows, made.wanted]
        amounts = {
            "calls": np.ones(len(made)),
            "failures": ~good,
            "cost_nano_usd": result.cost_nano_usd[rows, made.wanted],
            "input_tokens": np.where(good, made.input_tokens, 0),
            "output_tokens": np.where(good, made.output_tokens, 0),
            "latency_us": np.where(good, result.latency_us[rows, made.wanted], 0),
        }[metric]
        step = ((made.at_s - from_s) // step_s).astype(np.int64)
        index = _index(world, dimension, made.user, made.task, made.wanted)
        for number, name in enumerate(values):
            mine = index == number
            sums = np.bincount(step[mine], amounts[mine], minlength=steps)
            values[name] += sums.astype(np.int64)
    return Series(metric, dimension, from_s, step_s, values, _truth(world, from_s, to_s))


def volume(world: World, *, from_s: float, to_s: float, step_s: float) -> Series:
    """Return the number of all calls per step, drawn from the rate: fast over many weeks.

    Incidents of the dimension total alone are in it; the draws are not those of `series`.
    """
    begins_s = np.arange(from_s, to_s, step_s)
    parts = max(1, int(step_s // 60))
    offsets_s = (np.arange(parts) + 0.5) * step_s / parts
    at_s = (begins_s[:, None] + offsets_s[None, :]).ravel()
    mean = rate_per_s(world, at_s).reshape(len(begins_s), parts).mean(axis=1) * step_s
    drawn = np.random.default_rng([world.seed, 4]).poisson(mean)
    return Series("calls", "total", from_s, step_s, {"all": drawn}, _truth(world, from_s, to_s))


def _truth(world: World, from_s: float, to_s: float) -> tuple[Incident, ...]:
    return tuple(item for item in world.incidents if item.start_s < to_s and item.end_s > from_s)


def _names(world: World, dimension: Dimension) -> list[str]:
    match dimension:
        case "target":
            return [process.target for process in world.targets]
        case "team":
            return sorted({user.team for user in world.users})
        case "user":
            return [user.name for user in world.users]
        case "task_type":
            return sorted(world.tasks)
    return ["all"]


def _index(
    world: World, dimension: Dimension, user: np.ndarray, task: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    match dimension:
        case "target":
            return wanted
        case "user":
            return user
        case "task_type":
            return task
        case "team":
            teams = _names(world, "team")
            return np.array([teams.index(person.team) for person in world.users])[user]
    return np.zeros(len(user), np.int64)
