"""RT-11: a target that fails too often gives calls away; one that fails badly is drained."""

from __future__ import annotations

from schemas.events.optimizer import OptimizerActed
from schemas.statistics import exceeds
from streams.optimizer.rule import Finding, Rule, any_better, failures
from streams.optimizer.scene import Scene

CLEARED = 0.6
"""The reason has gone when the share of failures is below this part of the threshold."""


def find(scene: Scene, target: str, since_us: int) -> Finding | None:
    """Shift away above the first threshold, drain above the second; both must be significant."""
    rules, sums = scene.rules, scene.now(target, since_us)
    if sums.calls < rules.calls_min:
        return None
    if not exceeds(sums.failures, sums.calls, rules.error_shift, rules.alpha):
        return None
    if not any_better(scene, scene.peers(target), lambda p: p.failed < sums.failed / 2):
        return None
    drains = sums.failed > rules.error_drain
    passed = rules.error_drain if drains else rules.error_shift
    return Finding(
        metric="error_rate",
        reason=f"{sums.failures} of {sums.calls} calls failed, more than {passed:.0%}",
        floor=rules.probe_share if drains else 1.0 - rules.change_max,
        line=passed,
        evidence={"target_calls": sums.calls, "target_failures": sums.failures},
    )


def cleared(scene: Scene, acted: OptimizerActed) -> bool:
    """Whether it fails clearly less than the threshold."""
    sums = scene.now(acted.target, acted.stepped_at_us)
    return sums.calls >= scene.rules.calls_min and sums.failed <= CLEARED * scene.rules.error_shift


ERROR_RATE = Rule("error_rate", find, failures, cleared)
