"""RT-14: a target that is worse than in the last seven days gives calls away, down to a probe.

Worse by at least 15% in success, latency or what people say of its answers, beyond what chance explains,
and, in latency, beyond what its hours usually differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from schemas.events.optimizer import OptimizerActed
from schemas.statistics import exceeds, upper_share
from streams.optimizer.rule import Finding, Reading, Rule, any_better, failures
from streams.optimizer.scene import WEEK_S, Scene, Sums, milliseconds

SUCCESS, LATENCY, LIKED = "success_rate", "latency_p50_ms", "liked_share"
OPINION_WINDOWS = (300, 600, 1200, 1800)
"""People speak seldom, so longer times are looked at too (s)."""
CLEARED = 1.07
"""The reason has gone when the metric lies clearly on the good side of its line."""


class Worse(NamedTuple):
    """How a target is worse than it was, and whether somebody else could take its calls."""

    finding: Finding
    avoidable: bool


def find(scene: Scene, target: str, since_us: int) -> Finding | None:
    """Return in what a target is worse, where others do better."""
    found = worse(scene, target, since_us)
    return next((one.finding for one in found if one.avoidable), None)


def worse(scene: Scene, target: str, since_us: int) -> Iterator[Worse]:
    """Look at success, then at the median of latency, then at feedback."""
    sums, usual = scene.now(target, since_us), scene.usual(target, WEEK_S)
    if sums.calls < scene.rules.calls_min or usual is None:
        return
    for found in (
        _success(scene, target, sums, usual.every),
        _latency(scene, target, sums, usual.every, usual.worst_us(0.5, scene.rules)),
        _liked(scene, target, usual.every, since_us),
    ):
        if found is not None:
            yield found


def _success(scene: Scene, target: str, sums: Sums, usual: Sums) -> Worse | None:
    rules = scene.rules
    worse = 1.0 - (1.0 - rules.degradation) * (1.0 - usual.failed)
    line = max(worse, upper_share(usual.failures, usual.calls))
    if not exceeds(sums.failures, sums.calls, line, rules.alpha):
        return None
    avoidable = any_better(scene, scene.peers(target), lambda peer: peer.failed < sums.failed / 2)
    finding = Finding(
        metric=SUCCESS,
        reason=f"{1 - sums.failed:.1%} of calls succeed, in seven days {1 - usual.failed:.1%}",
        floor=rules.probe_share,
        line=line,
        evidence={"target_calls": sums.calls, "usual": 1 - usual.failed},
    )
    return Worse(finding, avoidable)


def _latency(
    scene: Scene, target: str, sums: Sums, usual: Sums, varies_us: float | None
) -> Worse | None:
    rules, usual_us, now_us = scene.rules, usual.latency_us(0.5), sums.latency_us(0.5)
    if varies_us is None or usual_us is None or now_us is None or sums.successes < rules.calls_min:
        return None
    line = max((1.0 + rules.degradation) * usual_us, varies_us)
    if not exceeds(sums.slower(line), sums.successes, 0.5, rules.alpha):
        return None

    def faster(peer: Sums) -> bool:
        """Whether the calls would be answered sooner there."""
        return peer.slower(now_us) <= 0.5 * peer.successes

    finding = Finding(
        metric=LATENCY,
        reason=f"the median is {milliseconds(now_us):g} ms, "
        f"in seven days {milliseconds(usual_us):g} ms",
        floor=rules.probe_share,
        line=line,
        evidence={"target_calls": sums.successes, "usual_ms": milliseconds(usual_us)},
    )
    return Worse(finding, any_better(scene, scene.peers(target), faster))


def _liked(scene: Scene, target: str, usual: Sums, since_us: int) -> Worse | None:
    rules = scene.rules
    if usual.opinions < rules.baseline_calls_min:
        return None
    worse = 1.0 - (1.0 - rules.degradation) * (1.0 - usual.displeased)
    line = max(worse, upper_share(usual.disliked, usual.opinions))
    alpha = rules.alpha / len(OPINION_WINDOWS)
    bad = (
        (begin_us, sums)
        for begin_us, sums in _heard(scene, target, since_us)
        if exceeds(sums.disliked, sums.opinions, line, alpha)
    )
    begin_us, heard = next(bad, (0, None))
    if heard is None:
        return None
    others = [scene.sums([peer], begin_us) for peer in scene.peers(target)]
    avoidable = any(peer.opinions < rules.calls_min or peer.displeased <= line for peer in others)
    finding = Finding(
        metric=LIKED,
        reason=f"{1 - heard.displeased:.0%} of {heard.opinions} pieces of feedback are good, "
        f"in seven days {1 - usual.displeased:.0%}",
        floor=rules.probe_share,
        line=line,
        evidence={"target_opinions": heard.opinions, "usual": 1 - usual.displeased},
        window_s=OPINION_WINDOWS[-1],
    )
    return Worse(finding, avoidable)


def _heard(scene: Scene, target: str, since_us: int) -> Iterator[tuple[int, Sums]]:
    """Yield what was said since several moments, the latest first, where it is enough."""
    for window_s in OPINION_WINDOWS:
        begin_us = scene.window_us(since_us, window_s)
        sums = scene.sums([target], begin_us)
        if sums.opinions >= scene.rules.calls_min:
            yield begin_us, sums


def read(metric: str, line: float, sums: Sums) -> Reading:
    """Success, the share of good feedback, or the median in ms; tested is the share on the bad side."""
    if metric == LIKED:
        return Reading(round(1.0 - sums.displeased, 5), sums.disliked, sums.opinions)
    if metric == SUCCESS:
        found = failures(metric, line, sums)
        return Reading(1.0 - found.value, found.hits, found.trials)
    return Reading(milliseconds(sums.latency_us(0.5)), sums.slower(line), sums.successes)


def cleared(scene: Scene, acted: OptimizerActed) -> bool:
    """Whether it does as well as usual again."""
    line, sums = acted.evidence["line"], scene.now(acted.target, acted.stepped_at_us)
    if acted.metric == LIKED:
        middle = (line + 1.0 - acted.evidence["usual"]) / 2.0
        _, heard = next(_heard(scene, acted.target, acted.stepped_at_us), (0, None))
        return heard is not None and heard.displeased <= middle
    if acted.metric == SUCCESS:
        return sums.calls >= scene.rules.calls_min and sums.failed <= line / 2
    enough = sums.successes >= scene.rules.calls_min
    return enough and sums.slower(line / CLEARED) <= 0.5 * sums.successes


DEGRADATION = Rule("degradation", find, read, cleared)
