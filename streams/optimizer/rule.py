"""What a rule is, and what rules share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from schemas.events.optimizer import OptimizerActed
from schemas.statistics import rises
from streams.agents.performance import RECENT_S
from streams.optimizer.scene import Scene, Sums, milliseconds, total

UNCLEAR, HELPED, WORSE = "unclear", "helped", "worse"
HELPED_ALPHA, WORSE_ALPHA = 0.05, 1e-4
"""That a change helps may be believed sooner than that it does harm, which is asked again and again."""


@dataclass(frozen=True)
class Finding:
    """A target should give calls away: why, to whom, and what the change aims at.

    `floor` is the part that it keeps in any case. `line` is the limit that the metric is held
    against; `evidence` are the figures that the reason rests on. `window_s` is over how long it
    shows, None for the optimizer's own window.
    """

    metric: str
    reason: str
    floor: float
    line: float = 0.0
    alternative: str | None = None
    before: float | None = None
    evidence: Mapping[str, float] = field(default_factory=dict)
    window_s: int | None = None


@dataclass(frozen=True)
class Reading:
    """The metric of some targets over a time: `value` for people, `hits` of `trials` for tests."""

    value: float
    hits: int
    trials: int

    @property
    def counts(self) -> tuple[int, int]:
        """(hits, trials)."""
        return self.hits, self.trials


@dataclass(frozen=True)
class Rule:
    """One reason to shift calls away from a target, all of it pure.

    `find(scene, target, since_us)` looks at calls since a moment; `read(metric, line, sums)` is the
    metric that the change aims at, of all targets that could take the calls; `cleared` whether
    the reason has gone, with some distance to the threshold and enough calls to say so. `judge` is for a
    rule whose metric is no share of calls.
    """

    name: str
    find: Callable[[Scene, str, int], Finding | None]
    read: Callable[[str, float, Sums], Reading]
    cleared: Callable[[Scene, OptimizerActed], bool]
    judge: Callable[[Scene, OptimizerActed], tuple[str, float | None]] | None = None


def group(scene: Scene, target: str, alternative: str | None) -> list[str]:
    """Return the targets among which a change shifts calls."""
    return [target, alternative] if alternative else [target, *scene.config.peers(target)]


def judged(rule: Rule, scene: Scene, acted: OptimizerActed) -> tuple[str, float | None]:
    """Return what a change has done to its metric: a verdict, and the metric since.

    Which target a call gets is drawn, so the calls since are an experiment: it helps as long as those
    that the target kept fare worse than those of the others. It does harm when the others fare
    worse than the target, or worse than before so that all calls together do.
    """
    if rule.judge is not None:
        return rule.judge(scene, acted)
    since_us = scene.window_us(acted.stepped_at_us, acted.window_s)
    peers = group(scene, acted.target, acted.alternative)[1:]
    line = acted.evidence["line"]

    def read(sums: Sums) -> Reading:
        return rule.read(acted.metric, line, sums)

    mine, others = scene.sums([acted.target], since_us), scene.sums(peers, since_us)
    here, there, both = read(mine), read(others), read(total([mine, others]))
    if both.trials < scene.rules.calls_min:
        return acted.verdict, acted.after  # nothing new is known
    was = _counts(acted, "")
    theirs = _counts(acted, "others_")
    spoilt = rises(theirs, there.counts) < WORSE_ALPHA and rises(was, both.counts) < WORSE_ALPHA
    if spoilt or rises(here.counts, there.counts) < WORSE_ALPHA:
        return WORSE, both.value
    return (HELPED if rises(there.counts, here.counts) < HELPED_ALPHA else UNCLEAR), both.value


def _counts(acted: OptimizerActed, prefix: str) -> tuple[int, int]:
    return int(acted.evidence[f"{prefix}hits"]), int(acted.evidence[f"{prefix}trials"])


def onset_us(rule: Rule, finding: Finding, scene: Scene, target: str) -> int:
    """Return since when in the window a target does worst: what was before its trouble is no "before"."""
    begin_us = scene.window_us(window_s=finding.window_s)
    steps = range(begin_us, scene.until_us, RECENT_S * 1_000_000)
    worst, found = -1.0, begin_us
    for start_us in steps:
        seen = rule.read(finding.metric, finding.line, scene.sums([target], start_us))
        if seen.trials >= scene.rules.calls_min and seen.hits / seen.trials > worst:
            worst, found = seen.hits / seen.trials, start_us
    return found


def failures(_: str, __: float, sums: Sums) -> Reading:
    """The share of calls that failed."""
    return Reading(round(sums.failed, 5), sums.failures, sums.calls)


def slowness(_: str, line: float, sums: Sums) -> Reading:
    """The 95th percentile in ms; tested is the share of answers above the line (µs)."""
    return Reading(milliseconds(sums.latency_us(0.95)), sums.slower(line), sums.successes)


def any_better(scene: Scene, peers: Sequence[str], better: Callable[[Sums], bool]) -> bool:
    """Whether somebody could take the calls: a peer that does better, or of whom little is known."""
    least = scene.rules.calls_min
    return any(sums.calls < least or better(sums) for sums in map(scene.now, peers))
