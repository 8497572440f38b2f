"""What rules look at: how every target performs now and did before, and how it is configured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from statistics import median

from schemas.event import Event
from schemas.events.changes import (
    Change,
    DeploymentChanged,
    ModelVersionChanged,
    PriceChanged,
    ProviderChanged,
    RouteChanged,
    TargetChanged,
)
from schemas.events.opinions import OpinionRow
from schemas.events.optimizer import OptimizerRuleChanged, PerformanceRow
from schemas.histogram import bucket_of, quantile
from schemas.optimizer import OptimizerRules
from schemas.prices import PriceBook, list_of
from streams.agents.performance import HOUR_S, RECENT_S, RECENT_SLOTS

DAY_S = 86_400
WEEK_S = 7 * DAY_S
CANARY_STATES = frozenset({"observing", "analyzing", "promoting"})
SPREADS = 3.5
MAD_SCALE = 1.4826
"""What makes the median absolute deviation of a normal distribution its standard deviation."""
Row = PerformanceRow | OpinionRow
QUIET_S = HOUR_S
"""A baseline ends so long before now: an incident must not become what is usual."""


@dataclass(slots=True)
class Sums:
    """What some blocks of a target, or of several, come to together."""

    calls: int = 0
    failures: int = 0
    answer: dict[str, int] = field(default_factory=dict)
    busy_us: int = 0
    completed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    priced: int = 0
    cost_nano_usd: int = 0
    opinions: int = 0
    disliked: int = 0
    satisfaction: int = 0
    satisfaction_squared: int = 0

    def add(self, other: Row | Sums) -> None:
        """Count what another has counted."""
        if not isinstance(other, PerformanceRow):
            self.opinions += other.opinions
            self.disliked += other.disliked
            self.satisfaction += other.satisfaction
            self.satisfaction_squared += other.satisfaction_squared
        if isinstance(other, OpinionRow):
            return
        self.calls += other.calls
        self.failures += other.failures
        self.busy_us += other.busy_us
        self.completed += other.completed
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.priced += other.priced
        self.cost_nano_usd += other.cost_nano_usd
        for name, count in other.answer.items():
            self.answer[name] = self.answer.get(name, 0) + count

    @property
    def successes(self) -> int:
        """Calls that were answered."""
        return sum(self.answer.values())

    def slower(self, line_us: float) -> int:
        """Return how many answers took longer than a time."""
        line = bucket_of(int(line_us))
        return sum(count for name, count in self.answer.items() if int(name) > line)

    def latency_us(self, q: float) -> float | None:
        """Return a quantile of the time to the first bytes."""
        return quantile(self.answer, q)

    @property
    def failed(self) -> float:
        """The share of calls that failed, 0 without calls."""
        return self.failures / self.calls if self.calls else 0.0

    @property
    def displeased(self) -> float:
        """The share of feedback that was bad, 0 without any."""
        return self.disliked / self.opinions if self.opinions else 0.0

    @property
    def cost_per_call(self) -> float | None:
        """Nano-USD of a priced call, None without one."""
        return self.cost_nano_usd / self.priced if self.priced else None


def total(parts: Iterable[Row | Sums]) -> Sums:
    """Return all of them together."""
    sums = Sums()
    for part in parts:
        sums.add(part)
    return sums


@dataclass(frozen=True)
class Baseline:
    """What was usual: all of it, and its hours; `hour` is when it was looked at."""

    hour: int
    every: Sums
    hours: list[Sums]
    _found: dict[float, float | None] = field(default_factory=dict)
    """By quantile: a baseline is asked at every look of its hour."""

    def worst_us(self, q: float, rules: OptimizerRules) -> float | None:
        """Return up to where the hours' quantiles of latency usually vary, None where that is unknown.

        The median of their logarithms and `SPREADS` robust standard deviations (Rousseeuw and Croux,
        "Alternatives to the Median Absolute Deviation", JASA 1993): calls of one hour are alike, so
        how much hours differ counts, not how many calls there were, and an incident among
        them moves nothing.
        """
        if q not in self._found:
            self._found[q] = self._worst_us(q, rules)
        return self._found[q]

    def _worst_us(self, q: float, rules: OptimizerRules) -> float | None:
        known = [hour.latency_us(q) for hour in self.hours if hour.successes >= rules.calls_min]
        logs = [math.log(value) for value in known if value]
        if len(logs) < rules.baseline_hours_min:
            return None
        middle = median(logs)
        spread = MAD_SCALE * median(abs(value - middle) for value in logs)
        return math.exp(middle + SPREADS * spread)


class Memory:
    """The rows of the tables of performance and opinions, by target and block."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], Row] = {}
        self._blocks: dict[str, dict[tuple[int, int], dict[tuple[str, int], Row]]] = {}
        self._baselines: dict[tuple[str, int], Baseline] = {}
        self._sums: dict[tuple[str, int, int], Sums] = {}
        """What was summed since the last row came."""

    def take(self, row: Row) -> None:
        """Hold a row; it takes the place of the one before in its slot."""
        name, partial = (row.type, row.key), (row.type, row.partition)
        known = self._rows.get(name)
        if known is not None and row.offset < known.offset:
            return
        self._sums.clear()
        self._rows[name] = row
        blocks = self._blocks.setdefault(row.target, {})
        if known is not None and known.start_s != row.start_s:
            before = blocks.get((known.seconds, known.start_s), {})
            before.pop(partial, None)
            if not before:
                blocks.pop((known.seconds, known.start_s), None)
        blocks.setdefault((row.seconds, row.start_s), {})[partial] = row

    @property
    def targets(self) -> Iterable[str]:
        """All that were ever called."""
        return self._blocks

    def recent(self, target: str, since_us: int, until_us: int) -> Sums:
        """Return what lies between two moments, in whole steps of 30 s that begin within them."""
        name = (target, since_us, until_us)
        if name not in self._sums:
            self._sums[name] = self._summed(target, since_us, until_us)
        return self._sums[name]

    def _summed(self, target: str, since_us: int, until_us: int) -> Sums:
        blocks = self._blocks.get(target, {})
        first = -(-since_us // 1_000_000 // RECENT_S)
        last = -(-until_us // 1_000_000 // RECENT_S)
        return total(
            row
            for index in range(max(first, last - RECENT_SLOTS), last)
            for row in blocks.get((RECENT_S, index * RECENT_S), {}).values()
        )

    def hours(self, target: str, at_us: int, reach_s: int) -> Sums:
        """Return the sums of the hours that reach back so far, the running one included."""
        end_s = at_us // 1_000_000
        first = (end_s - reach_s) // HOUR_S
        blocks = self._blocks.get(target, {})
        return total(
            row
            for index in range(first, end_s // HOUR_S + 1)
            for row in blocks.get((HOUR_S, index * HOUR_S), {}).values()
        )

    def baseline(self, target: str, at_us: int, reach_s: int) -> Baseline:
        """Return what was usual until an hour ago; summed once an hour, since the blocks are hours."""
        hour = at_us // 1_000_000 // HOUR_S
        cached = self._baselines.get((target, reach_s))
        if cached is not None and cached.hour == hour:
            return cached
        end_s = hour * HOUR_S - QUIET_S
        blocks = self._blocks.get(target, {})
        hours = [
            total(found.values())
            for start_s in range(end_s - reach_s, end_s, HOUR_S)
            if (found := blocks.get((HOUR_S, start_s)))
        ]
        result = Baseline(hour, total(hours), hours)
        self._baselines[target, reach_s] = result
        return result


class Config:
    """The configuration that rules look at, by name; what is disabled is not there."""

    def __init__(self) -> None:
        self._held: dict[str, Change] = {}
        self.routes: dict[str, RouteChanged] = {}
        self.providers: dict[str, ProviderChanged] = {}
        self.targets: dict[str, TargetChanged] = {}
        self.canaries: dict[str, DeploymentChanged] = {}
        self.prices = PriceBook()
        self.modes: dict[str, str] = {}
        self.versions: dict[str, ModelVersionChanged] = {}
        self.passed: list[DeploymentChanged] = []
        """Deployments that were canaries and are promoted."""
        self._canaried: set[str] = set()
        self._stale = False

    def take(self, event: Event) -> None:
        """Take in a change that follows the one in force."""
        if not isinstance(event, Change) or not event.follows(self._held.get(event.key)):
            return
        if event.deleted:
            self._held.pop(event.key, None)
        else:
            self._held[event.key] = event
        if isinstance(event, DeploymentChanged) and _is_canary(event):
            self._canaried.add(event.key)
        self._stale = True

    def refresh(self) -> None:
        """Order what was taken in by names, before it is looked at."""
        if not self._stale:
            return
        self._stale = False
        held = list(self._held.values())
        self.routes = {it.name: it for it in held if isinstance(it, RouteChanged) and it.enabled}
        self.providers = {
            it.name: it for it in held if isinstance(it, ProviderChanged) and it.enabled
        }
        self.targets = {
            f"{it.provider}/{it.model}": it
            for it in held
            if isinstance(it, TargetChanged) and it.enabled
        }
        self.canaries = {
            f"{it.provider}/{it.model}": it
            for it in held
            if isinstance(it, DeploymentChanged) and _is_canary(it)
        }
        self.passed = [
            it
            for it in held
            if isinstance(it, DeploymentChanged)
            and it.state == "promoted"
            and it.key in self._canaried
        ]
        self.versions = {it.key: it for it in held if isinstance(it, ModelVersionChanged)}
        self.modes = {it.rule: it.mode for it in held if isinstance(it, OptimizerRuleChanged)}
        self.prices = PriceBook(it for it in held if isinstance(it, PriceChanged))

    def baseline(self, deployment: DeploymentChanged) -> str | None:
        """Return the target beside which a canary was tried, None where none is named."""
        named = deployment.baseline_deployment_id
        held = self._held.get(named) if named is not None else None
        return f"{held.provider}/{held.model}" if isinstance(held, DeploymentChanged) else named

    def state_of(self, deployment_id: str) -> str:
        """Return the state of a deployment, `gone` where there is none."""
        held = self._held.get(deployment_id)
        return held.state if isinstance(held, DeploymentChanged) else "gone"

    def price(self, target: str, at_us: int) -> PriceChanged | None:
        """Return the price of a target's tokens at a moment."""
        name, _, model = target.partition("/")
        return self.prices.find(list_of(name, self.providers), model, at_us)

    def peers(self, target: str) -> list[str]:
        """Return who could take a target's calls: all that share a route with it.

        A target in no route gets its calls by `auto`, which takes any that is listed. A canary takes
        part in no rule: its share is decided by its own test.
        """
        groups = [
            {entry.target for entry in route.targets}
            for route in self.routes.values()
            if route.options.get("optimizer", "on") != "off"
        ]
        mine = [group for group in groups if target in group]
        found = set().union(*mine) if mine else set(self.targets)
        return sorted(
            peer
            for peer in found
            if peer != target
            and peer.partition("/")[0] in self.providers
            and peer not in self.canaries
        )


def _is_canary(event: DeploymentChanged) -> bool:
    return event.percentage > 0 and event.state in CANARY_STATES


@dataclass(frozen=True)
class Scene:
    """Everything at one moment. `shifted` are targets that give calls away, and so take none."""

    memory: Memory
    config: Config
    rules: OptimizerRules
    at_us: int
    shifted: AbstractSet[str] = frozenset()

    def peers(self, target: str) -> list[str]:
        """Return who could take a target's calls and does not give calls away itself."""
        return [peer for peer in self.config.peers(target) if peer not in self.shifted]

    @property
    def until_us(self) -> int:
        """The end of the last step of 30 s that is over: a begun one would look like less load."""
        return self.at_us - self.at_us % (RECENT_S * 1_000_000)

    def window_us(self, since_us: int = 0, window_s: float | None = None) -> int:
        """Return where the last window begins, of what came after a moment."""
        return max(since_us, self.until_us - int((window_s or self.rules.window_s) * 1_000_000))

    def now(self, target: str, since_us: int = 0) -> Sums:
        """Return a target's last window, of what came after a moment."""
        return self.memory.recent(target, self.window_us(since_us), self.until_us)

    def usual(self, target: str, reach_s: int) -> Baseline | None:
        """Return what is usual for a target, None where too little is known."""
        found = self.memory.baseline(target, self.at_us, reach_s)
        return found if found.every.successes >= self.rules.baseline_calls_min else None

    def sums(self, targets: Sequence[str], since_us: int) -> Sums:
        """Return what several targets did since a moment."""
        return total(self.memory.recent(target, since_us, self.until_us) for target in targets)

    def quality(self, target: str) -> float | None:
        """Return what is known of a target's quality (0–1)."""
        row = self.config.targets.get(target)
        return row.quality if row is not None else None


def milliseconds(time_us: float | None) -> float:
    """Return a time for people; not a number where none is known."""
    return math.nan if time_us is None else round(time_us / 1000, 1)


def shares(scene: Scene, targets: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Yield each target's part of their calls in the last window."""
    calls = {target: scene.now(target).calls for target in targets}
    everything = sum(calls.values())
    for target, count in calls.items():
        yield target, count / everything if everything else 0.0
