"""What a simulated world is made of: who calls, which targets answer how, and what goes wrong when.

All times are simulated seconds after `World.start_s`, a Monday at midnight (UTC). Everything that
is random is drawn from `World.seed`, so a world is a value: the same one gives the same calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec
import numpy as np

MINUTE_S, HOUR_S, DAY_S, WEEK_S = 60.0, 3_600.0, 86_400.0, 604_800.0
START_S = 1_788_739_200
"""Monday, 7 September 2026, midnight (UTC), as a Unix time."""

TASKS = ("general", "creative", "analytical", "conversational", "code", "summarization")

Dimension = Literal["total", "target", "team", "user", "task_type"]
Kind = Literal[
    "outage",  # every call of the target fails
    "errors",  # `size` of its calls fail
    "slow",  # its latency is `size` times as long
    "flapping",  # an outage for the first half of every `period_s`
    "price",  # its calls cost `size` times as much
    "quality",  # its answers are liked `size` times as often (size < 1)
    "surge",  # the dimension's calls are `size` times as many; below 1 it is a drop
    "tokens",  # the dimension's calls have `size` times the tokens, both ways
]
ON_TARGETS: frozenset[Kind] = frozenset(
    {"outage", "errors", "slow", "flapping", "price", "quality"}
)


class Season(msgspec.Struct, frozen=True):
    """How traffic goes up and down: `daily` is the relative amplitude of a day's wave."""

    daily: float = 0.5
    peak_hour: float = 14.0
    weekend: float = 0.5
    """Traffic on Saturdays and Sundays, relative to a weekday's."""

    def factor(self, at_s: np.ndarray) -> np.ndarray:
        """Return the relative rate at simulated times; its mean over a weekday is 1."""
        hour = at_s % DAY_S / HOUR_S
        wave = 1.0 + self.daily * np.cos((hour - self.peak_hour) * (2.0 * np.pi / 24.0))
        return np.asarray(wave * np.where(at_s % WEEK_S >= 5 * DAY_S, self.weekend, 1.0))


class Process(msgspec.Struct, frozen=True):
    """How a target behaves when nothing special happens.

    Time to the first token is log-normal: median, `sigma` of its logarithm, `tail_share` of calls
    are `tail_factor` times as slow. The logarithm of the median drifts like an Ornstein-Uhlenbeck
    process with the standard deviation `drift` and the memory `drift_memory_s`.
    """

    target: str
    median_us: float = 400_000.0
    sigma: float = 0.35
    tail_share: float = 0.02
    tail_factor: float = 4.0
    drift: float = 0.1
    drift_memory_s: float = 4 * HOUR_S
    per_token_us: float = 8_000.0
    failing: float = 0.002
    """Share of calls that fail in the best of times."""
    failure_us: float = 60_000.0
    """How long a failure takes to show, in the median."""
    weight: float = 1.0
    """Share of the traffic that static routing, or its users, send there."""
    quality: float = 0.8
    """Probability that an answer is liked."""
    task_quality: Mapping[str, float] = {}
    input_price: int = 500_000_000
    output_price: int = 1_500_000_000
    """Nano-USD per million tokens."""


class User(msgspec.Struct, frozen=True):
    """Who calls: `weight` is the relative number of calls."""

    name: str
    team: str
    weight: float
    input_tokens: float
    """Median."""


class Incident(msgspec.Struct, frozen=True):
    """Something that went wrong, as it is known to be true: the oracle of every detector."""

    kind: Kind
    dimension: Dimension
    name: str
    """Of the target, team, user or task; ``all`` for the dimension total."""
    start_s: float
    end_s: float
    size: float = 1.0
    period_s: float = 60.0

    def __post_init__(self) -> None:
        if self.kind in ON_TARGETS and self.dimension != "target":
            raise ValueError(f"{self.kind} happens to a target, not to a {self.dimension}")
        if not self.start_s < self.end_s or self.size < 0 or self.period_s <= 0:
            raise ValueError("an incident needs a span, a size of at least 0, a period above 0")

    def active(self, at_s: np.ndarray) -> np.ndarray:
        """Return when it is in force, as booleans."""
        within = (at_s >= self.start_s) & (at_s < self.end_s)
        if self.kind == "flapping":
            within &= (at_s - self.start_s) % self.period_s < self.period_s / 2
        return np.asarray(within)


class World(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a simulation is a function of."""

    seed: int
    targets: tuple[Process, ...]
    users: tuple[User, ...]
    rate_per_s: float = 2.0
    """Mean calls per second on a weekday at the start."""
    season: Season = Season()
    growth_per_week: float = 0.05
    burstiness: float = 0.1
    """Standard deviation of each minute's rate around its mean, relative."""
    tasks: Mapping[str, float] = msgspec.field(default_factory=lambda: dict.fromkeys(TASKS, 1.0))
    feedback: float = 0.1
    """Share of answers that somebody judges."""
    incidents: tuple[Incident, ...] = ()
    start_s: int = START_S

    def __post_init__(self) -> None:
        known = {
            "total": {"all"},
            "target": {item.target for item in self.targets},
            "team": {user.team for user in self.users},
            "user": {user.name for user in self.users},
            "task_type": set(self.tasks),
        }
        for incident in self.incidents:
            if incident.name not in known[incident.dimension]:
                raise ValueError(f"no {incident.dimension} {incident.name} to have an incident")


def drawn_world(
    seed: int,
    *,
    targets: int = 3,
    teams: int = 4,
    users: int = 40,
    rate_per_s: float = 2.0,
    incidents: tuple[Incident, ...] = (),
) -> World:
    """Return a plausible world: a few busy users and many quiet ones, targets that differ."""
    rng = np.random.default_rng([seed, 11])
    processes = tuple(
        Process(
            target=f"{'abcdefghij'[index % 10]}/model-{index // 10}",
            median_us=float(np.exp(rng.normal(np.log(400_000), 0.4))),
            sigma=float(rng.uniform(0.25, 0.5)),
            drift=float(rng.uniform(0.05, 0.2)),
            per_token_us=float(np.exp(rng.normal(np.log(8_000), 0.4))),
            failing=float(rng.uniform(0.0005, 0.005)),
            quality=float(rng.uniform(0.6, 0.95)),
            task_quality={task: float(rng.uniform(0.5, 0.98)) for task in TASKS},
            input_price=int(np.exp(rng.normal(np.log(5e8), 0.7))),
            output_price=int(np.exp(rng.normal(np.log(2e9), 0.7))),
        )
        for index in range(targets)
    )
    people = tuple(
        User(
            name=f"user-{index}",
            team=f"team-{index % teams}",
            weight=1.0 / (index + 3),
            input_tokens=float(np.exp(rng.normal(np.log(300), 0.5))),
        )
        for index in range(users)
    )
    season = Season(
        daily=float(rng.uniform(0.3, 0.7)),
        peak_hour=float(rng.uniform(11, 16)),
        weekend=float(rng.uniform(0.3, 0.8)),
    )
    return World(
        seed=seed,
        targets=processes,
        users=people,
        rate_per_s=rate_per_s,
        season=season,
        growth_per_week=float(rng.uniform(0.0, 0.1)),
        incidents=incidents,
    )


def drawn_incidents(
    world: World,
    kinds: tuple[Kind, ...],
    *,
    from_s: float,
    to_s: float,
    count: int,
    lasting_s: tuple[float, float] = (300.0, 1_200.0),
) -> tuple[Incident, ...]:
    """Return `count` incidents of the kinds in turn, one after the other, never two at once.

    Each begins in an own slot of the span and ends within the slot's first three quarters, so that
    there is a calm before and after it.
    """
    rng = np.random.default_rng([world.seed, 12])
    slot_s = (to_s - from_s) / count
    found = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        lasting = min(float(rng.uniform(*lasting_s)), slot_s / 2)
        start_s = from_s + number * slot_s + float(rng.uniform(slot_s / 8, slot_s / 4))
        dimension, name = _where(world, kind, rng)
        found.append(Incident(kind, dimension, name, start_s, start_s + lasting, _size(kind, rng)))
    return tuple(found)


def _where(world: World, kind: Kind, rng: np.random.Generator) -> tuple[Dimension, str]:
    if kind in ON_TARGETS:
        return "target", world.targets[int(rng.integers(len(world.targets)))].target
    busy = sorted(world.users, key=lambda user: -user.weight)[: max(1, len(world.users) // 4)]
    chosen = busy[int(rng.integers(len(busy)))]
    if rng.random() < 0.5:
        return "user", chosen.name
    return "team", chosen.team


def _size(kind: Kind, rng: np.random.Generator) -> float:
    match kind:
        case "errors":
            return float(rng.uniform(0.3, 0.8))
        case "quality":
            return float(rng.uniform(0.3, 0.6))
        case "price":
            return float(rng.uniform(2.0, 4.0))
        case "slow":
            return float(rng.uniform(3.0, 8.0))
        case "surge" | "tokens":
            return float(rng.uniform(5.0, 20.0))
    return 1.0
