"""RT-10: a target whose 95th percentile is far above its usual one, or too high, gives calls away."""

from __future__ import annotations

from schemas.events.optimizer import OptimizerActed
from schemas.statistics import exceeds
from streams.optimizer.rule import Finding, Rule, any_better, slowness
from streams.optimizer.scene import DAY_S, Scene, Sums, milliseconds

TAIL = 0.05
"""That p95 lies above a line means that more than this share of calls does: a binomial test."""
CLEARED = 1.2
"""The reason has gone when p95 lies below the line by this factor."""
FLOOR = 0.25


def find(scene: Scene, target: str, since_us: int) -> Finding | None:
    """Compare with the lower of the two lines: 1.5 × the last 24 hours' p95, and 5,000 ms."""
    rules, sums = scene.rules, scene.now(target, since_us)
    if sums.successes < rules.calls_min:
        return None
    usual = scene.usual(target, DAY_S)
    usual_us = usual.every.latency_us(0.95) if usual is not None else None
    line_us = rules.latency_max_ms * 1000
    if usual_us is not None:
        line_us = min(line_us, rules.latency_factor * usual_us)
    if not exceeds(sums.slower(line_us), sums.successes, TAIL, rules.alpha):
        return None

    def faster(peer: Sums) -> bool:
        return peer.slower(line_us) <= TAIL * peer.successes

    if not any_better(scene, scene.peers(target), faster):
        return None
    now_ms = milliseconds(sums.latency_us(0.95))
    usually = f", usually {milliseconds(usual_us):g} ms" if usual_us is not None else ""
    return Finding(
        metric="latency_p95_ms",
        reason=f"p95 is {now_ms:g} ms, above {line_us / 1000:.0f} ms{usually}",
        floor=max(FLOOR, rules.probe_share),
        line=line_us,
        evidence={"target_calls": sums.calls, "target_p95_ms": now_ms},
    )


def cleared(scene: Scene, acted: OptimizerActed) -> bool:
    """Whether p95 lies clearly below the line."""
    sums = scene.now(acted.target, acted.stepped_at_us)
    slow = sums.slower(acted.evidence["line"] / CLEARED)
    return sums.successes >= scene.rules.calls_min and slow <= TAIL * sums.successes


HIGH_LATENCY = Rule("high_latency", find, slowness, cleared)
