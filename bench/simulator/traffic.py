"""From a world to its calls and to what each target would have made of each, as columns.

Calls come from a Poisson process whose rate has seasons, growth and minutes of its own, by thinning
(Lewis and Shedler, "Simulation of nonhomogeneous Poisson processes by thinning", 1979). Time is cut
into hours with a random stream each, so any span can be made without what came before it.

Outcomes are drawn for every target, whoever is asked in the end: policies meet the same luck, and
what another choice would have brought is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from bench.simulator.world import DAY_S, HOUR_S, MINUTE_S, WEEK_S, Incident, World

BLOCK_S = HOUR_S
DRIFT_STEP_S = 300.0
OUTPUT_TOKENS = {
    "general": 150.0,
    "creative": 400.0,
    "analytical": 300.0,
    "conversational": 60.0,
    "code": 350.0,
    "summarization": 120.0,
}
"""Median length of an answer by task."""
OUTPUT_TOKENS_OTHER = 150.0
TIMEOUT_US = 300_000_000.0
"""Nobody waits longer."""


@dataclass(frozen=True)
class Calls:
    """Columns, one row per call in the order of time.

    `user`, `task` and `wanted` index the world's users, tasks (sorted) and targets; `wanted` is
    the target that static routing, or the user, asks. `failing`, `normal`, `tail` and `liking` are
    the luck of each call at each target, `judged` says whether somebody gives feedback.
    """

    number: np.ndarray
    at_s: np.ndarray
    user: np.ndarray
    task: np.ndarray
    wanted: np.ndarray
    input_tokens: np.ndarray
    output_tokens: np.ndarray
    judged: np.ndarray
    failing: np.ndarray
    normal: np.ndarray
    tail: np.ndarray
    liking: np.ndarray

    def __len__(self) -> int:
        return len(self.at_s)


@dataclass(frozen=True)
class Outcomes:
    """What every target makes of every call: arrays of calls × targets."""

    good: np.ndarray
    first_token_us: np.ndarray
    latency_us: np.ndarray
    cost_nano_usd: np.ndarray
    """Of a failed call 0."""
    liked: np.ndarray


def tasks(world: World) -> list[str]:
    """Return the names that `Calls.task` indexes."""
    return sorted(world.tasks)


def calls(world: World, from_s: float, to_s: float) -> Iterator[Calls]:
    """Yield the calls of a span of simulated time, at most an hour at once."""
    for number in range(int(from_s // BLOCK_S), int(np.ceil(to_s / BLOCK_S))):
        block = _block(world, number)
        within = (block.at_s >= from_s) & (block.at_s < to_s)
        yield block if within.all() else _pick(block, within)


def outcomes(world: World, made: Calls) -> Outcomes:
    """Return what every target would have made of each call."""
    shape = (len(made), len(world.targets))
    good, liked = np.ones(shape, bool), np.ones(shape, bool)
    first, latency = np.empty(shape), np.empty(shape)
    cost = np.zeros(shape, np.int64)
    names = tasks(world)
    for index, process in enumerate(world.targets):
        on_it = [
            item
            for item in world.incidents
            if item.dimension == "target" and item.name == process.target
        ]
        factor, failing = conditions(world, index, made.at_s)
        tail = np.where(made.tail[:, index] < process.tail_share, process.tail_factor, 1.0)
        spread = np.exp(process.sigma * made.normal[:, index])
        first[:, index] = process.median_us * factor * tail * spread
        rest = process.per_token_us * factor * made.output_tokens
        latency[:, index] = first[:, index] + rest
        good[:, index] = made.failing[:, index] >= failing
        good[:, index] &= latency[:, index] < TIMEOUT_US
        failed_us = np.minimum(process.failure_us * spread, TIMEOUT_US)
        latency[:, index] = np.where(
            good[:, index], latency[:, index], np.minimum(failed_us, latency[:, index])
        )
        tokens = made.input_tokens * process.input_price + made.output_tokens * process.output_price
        price = tokens / 1e6 * _product(on_it, "price", made.at_s)
        cost[:, index] = np.where(good[:, index], price, 0).astype(np.int64)
        quality = np.array([process.task_quality.get(name, process.quality) for name in names])
        chance = quality[made.task] * _product(on_it, "quality", made.at_s)
        liked[:, index] = made.liking[:, index] < chance
    return Outcomes(good, first, latency, cost, liked)


def conditions(world: World, index: int, at_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return by which factor a target's latency is longer at each time, and which share fails."""
    process = world.targets[index]
    on_it = [
        item
        for item in world.incidents
        if item.dimension == "target" and item.name == process.target
    ]
    factor = np.exp(_drift(world, index, at_s)) * _product(on_it, "slow", at_s)
    return np.asarray(factor), _failing(process.failing, on_it, at_s)


def rate_per_s(world: World, at_s: np.ndarray) -> np.ndarray:
    """Return the rate of all calls without incidents of single users, teams, tasks and targets."""
    growth = (1.0 + world.growth_per_week) ** (at_s / WEEK_S)
    rate = world.rate_per_s * growth * world.season.factor(at_s) * _burst(world, at_s)
    on_all = [item for item in world.incidents if item.dimension == "total"]
    return np.asarray(rate * _product(on_all, "surge", at_s))


# --- calls ------------------------------------------------------------------------------------


def _block(world: World, number: int) -> Calls:
    """Return the calls of one hour: candidates at the highest rate, thinned to the true one."""
    rng = np.random.default_rng([world.seed, 1, number])
    begin_s = number * BLOCK_S
    grid_s = begin_s + np.arange(0.0, BLOCK_S, 1.0)
    highest = float(rate_per_s(world, grid_s).max()) * 1.01
    active = [
        item
        for item in world.incidents
        if item.start_s < begin_s + BLOCK_S and item.end_s > begin_s
    ]
    names = tasks(world)
    kinds = (
        ([user.weight for user in world.users], _of_users(world, active)),
        ([world.tasks[name] for name in names], _of_names("task_type", names, active)),
        (
            [item.weight for item in world.targets],
            _of_names("target", [item.target for item in world.targets], active),
        ),
    )
    drawn, most = [], 1.0
    scaled = []
    for weights, surges in kinds:
        share = np.array(weights) / sum(weights)
        peak = np.array([_peak(found) for found in surges])
        scaled.append(share * peak)
        most *= float((share * peak).sum())
    count = int(rng.poisson(highest * most * BLOCK_S))
    at_s = np.sort(rng.uniform(begin_s, begin_s + BLOCK_S, count))
    kept = rate_per_s(world, at_s) / highest
    for (_, surges), weighed in zip(kinds, scaled, strict=True):
        index = rng.choice(len(weighed), count, p=weighed / weighed.sum())
        kept = kept * _thinning(surges, index, at_s)
        drawn.append(index)
    kept_rows = rng.random(count) < kept
    user, task, wanted = (index[kept_rows] for index in drawn)
    return _luck(world, rng, number, at_s[kept_rows], user, task, wanted)


def _luck(
    world: World,
    rng: np.random.Generator,
    number: int,
    at_s: np.ndarray,
    user: np.ndarray,
    task: np.ndarray,
    wanted: np.ndarray,
) -> Calls:
    """Give calls their sizes and their luck at every target."""
    count, shape = len(at_s), (len(at_s), len(world.targets))
    names = tasks(world)
    medians = np.array([person.input_tokens for person in world.users])[user]
    lengths = np.array([OUTPUT_TOKENS.get(name, OUTPUT_TOKENS_OTHER) for name in names])[task]
    bigger = np.ones(count)
    for item in world.incidents:
        if item.kind == "tokens":
            hit = item.active(at_s) & _concerned(world, item, user, task, wanted)
            bigger[hit] *= item.size
    return Calls(
        number=number * 10_000_000 + np.arange(count),
        at_s=at_s,
        user=user,
        task=task,
        wanted=wanted,
        input_tokens=(medians * np.exp(rng.normal(0, 0.8, count)) * bigger).astype(np.int64) + 1,
        output_tokens=(lengths * np.exp(rng.normal(0, 0.6, count)) * bigger).astype(np.int64) + 1,
        judged=rng.random(count) < world.feedback,
        failing=rng.random(shape),
        normal=rng.normal(0, 1, shape),
        tail=rng.random(shape),
        liking=rng.random(shape),
    )


def _concerned(
    world: World, item: Incident, user: np.ndarray, task: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """Return which calls an incident of any dimension concerns."""
    match item.dimension:
        case "user":
            return np.array([person.name == item.name for person in world.users])[user]
        case "team":
            return np.array([person.team == item.name for person in world.users])[user]
        case "task_type":
            return np.array([name == item.name for name in tasks(world)])[task]
        case "target":
            return np.array([process.target == item.name for process in world.targets])[wanted]
    return np.ones(len(user), bool)


def _of_users(world: World, active: list[Incident]) -> list[list[Incident]]:
    """Return the surges that each user takes part in."""
    return [
        [
            item
            for item in active
            if item.kind == "surge"
            and (item.dimension, item.name) in {("user", user.name), ("team", user.team)}
        ]
        for user in world.users
    ]


def _of_names(dimension: str, names: list[str], active: list[Incident]) -> list[list[Incident]]:
    return [
        [i for i in active if i.kind == "surge" and (i.dimension, i.name) == (dimension, name)]
        for name in names
    ]


def _peak(surges: list[Incident]) -> float:
    return float(np.prod([max(1.0, item.size) for item in surges]))


def _thinning(surges: list[list[Incident]], index: np.ndarray, at_s: np.ndarray) -> np.ndarray:
    """Return which part of the candidates remains, by what is in force when they come."""
    kept = np.ones(len(at_s))
    for number, found in enumerate(surges):
        if found:
            mine = index == number
            kept[mine] = _product(found, "surge", at_s[mine]) / _peak(found)
    return kept


def _pick(block: Calls, within: np.ndarray) -> Calls:
    return Calls(**{name: column[within] for name, column in vars(block).items()})


# --- processes --------------------------------------------------------------------------------


def _product(incidents: list[Incident], kind: str, at_s: np.ndarray) -> np.ndarray:
    """Return the product of the sizes of the incidents of a kind that are in force."""
    factor = np.ones(len(at_s))
    for item in incidents:
        if item.kind == kind:
            factor[item.active(at_s)] *= item.size
    return factor


def _failing(share: float, incidents: list[Incident], at_s: np.ndarray) -> np.ndarray:
    """Return the probability of failure at each time."""
    failing = np.full(len(at_s), share)
    for item in incidents:
        if item.kind in ("outage", "flapping"):
            failing[item.active(at_s)] = 1.0
        elif item.kind == "errors":
            failing[item.active(at_s)] = np.maximum(failing[item.active(at_s)], item.size)
    return failing


def _burst(world: World, at_s: np.ndarray) -> np.ndarray:
    """Return each minute's own factor, of mean 1."""
    if world.burstiness <= 0:
        return np.ones(len(at_s))
    minutes = (at_s // MINUTE_S).astype(np.int64)
    found = np.empty(len(at_s))
    sigma = np.sqrt(np.log1p(world.burstiness**2))
    for day in np.unique(minutes * MINUTE_S // DAY_S):
        mine = minutes * MINUTE_S // DAY_S == day
        of_day = _bursts(world.seed, int(day), float(sigma))
        found[mine] = of_day[(minutes[mine] - int(day * DAY_S / MINUTE_S))]
    return found


@lru_cache(maxsize=64)
def _bursts(seed: int, day: int, sigma: float) -> np.ndarray:
    rng = np.random.default_rng([seed, 2, day])
    return np.asarray(np.exp(rng.normal(-(sigma**2) / 2, sigma, int(DAY_S / MINUTE_S))))


def _drift(world: World, index: int, at_s: np.ndarray) -> np.ndarray:
    """Return a target's drift of the logarithm of its latency, interpolated between steps."""
    process = world.targets[index]
    if process.drift <= 0 or not len(at_s):
        return np.zeros(len(at_s))
    weeks = int(at_s[-1] // WEEK_S) + 1
    walk = _walk(world.seed, index, process.drift, process.drift_memory_s, weeks)
    return np.interp(at_s, np.arange(len(walk)) * DRIFT_STEP_S, walk)


@lru_cache(maxsize=256)
def _walk(seed: int, index: int, deviation: float, memory_s: float, weeks: int) -> np.ndarray:
    """Return an Ornstein-Uhlenbeck walk; a longer one begins like a shorter one."""
    rng = np.random.default_rng([seed, 3, index])
    keep = float(np.exp(-DRIFT_STEP_S / memory_s))
    steps = rng.normal(0, deviation * np.sqrt(1 - keep**2), int(weeks * WEEK_S / DRIFT_STEP_S) + 1)
    walk, value = np.empty(len(steps)), 0.0
    for number, step in enumerate(steps):
        value = keep * value + step
        walk[number] = value
    return walk
