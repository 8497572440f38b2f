"""RT-13: where one provider is nearly full and another has room, the idle one's share is raised.

How full a provider is: calls and tokens of a minute against its limits, and calls at once (durations
by Little's law) against its concurrency; the fullest of these counts.
"""

from __future__ import annotations

from schemas.events.changes import ProviderChanged
from schemas.events.optimizer import OptimizerActed
from streams.optimizer.rule import HELPED, UNCLEAR, WORSE, Finding, Reading, Rule
from streams.optimizer.scene import Scene, Sums, total

FLOOR = 0.25
CLEARED = 0.85
"""The reason has gone when the load is below this part of the upper threshold."""
STEADY_PARTS = 2
"""The load must lie beyond its threshold in each part of the window: one burst is no load."""
_MINUTE_S = 60.0


def find(scene: Scene, target: str, since_us: int) -> Finding | None:
    """Shift to the idlest provider's target, when one's own provider is full all the time."""
    start_us = scene.window_us(since_us)
    mine = _span(scene, target, start_us)
    if mine is None or mine[0] <= scene.rules.load_high:
        return None
    room = {
        peer: load[1]
        for peer in scene.peers(target)
        if peer.partition("/")[0] != target.partition("/")[0]
        and (load := _span(scene, peer, start_us)) is not None
        and load[1] < scene.rules.load_low
    }
    if not room:
        return None
    peer = min(room, key=lambda name: (room[name], name))
    full, idle = (name.partition("/")[0] for name in (target, peer))
    return Finding(
        metric="provider_load",
        reason=f"{full} is {mine[0]:.0%} full, {idle} {room[peer]:.0%}",
        floor=FLOOR,
        alternative=peer,
        before=round(mine[0], 4),
        evidence={"load": mine[0], "alternative_load": room[peer]},
    )


def load_of(scene: Scene, target: str, since_us: int, until_us: int) -> float | None:
    """Return how full the provider of a target was, None where no limit of it is known."""
    name = target.partition("/")[0]
    provider = scene.config.providers.get(name)
    seconds = (until_us - since_us) / 1e6
    if provider is None or seconds <= 0:
        return None
    its = [item for item in scene.memory.targets if item.partition("/")[0] == name]
    sums = total(scene.memory.recent(item, since_us, until_us) for item in its)
    return _fullness(provider, sums, seconds)


def _fullness(provider: ProviderChanged, sums: Sums, seconds: float) -> float | None:
    tokens = sums.input_tokens + sums.output_tokens
    loads = [
        used / limit
        for used, limit in (
            (sums.calls / seconds * _MINUTE_S, provider.requests_per_minute),
            (tokens / seconds * _MINUTE_S, provider.tokens_per_minute),
            (sums.busy_us / 1e6 / seconds, provider.concurrency),
        )
        if limit
    ]
    return max(loads, default=None)


def _span(scene: Scene, target: str, since_us: int) -> tuple[float, float] | None:
    """Return the least and the greatest load of the window's parts."""
    part_us = (scene.until_us - since_us) // STEADY_PARTS
    if part_us < scene.rules.interval_s * 1_000_000:
        return None
    loads = [
        load_of(scene, target, since_us + number * part_us, since_us + (number + 1) * part_us)
        for number in range(STEADY_PARTS)
    ]
    known = [load for load in loads if load is not None]
    return (min(known), max(known)) if known else None


def read(metric: str, line: float, sums: Sums) -> Reading:
    """The load is a provider's and not of sums: `judge` tells it."""
    del metric, line, sums
    return Reading(0.0, 0, 0)


def judge(scene: Scene, acted: OptimizerActed) -> tuple[str, float | None]:
    """It helped when the full one has less to do, unless the other is full now."""
    since_us = scene.window_us(acted.stepped_at_us)
    here = load_of(scene, acted.target, since_us, scene.until_us)
    there = load_of(scene, acted.alternative or acted.target, since_us, scene.until_us)
    if (
        here is None
        or there is None
        or scene.until_us - since_us < 2 * scene.rules.interval_s * 1e6
    ):
        return UNCLEAR, acted.after
    if there > max(here, scene.rules.load_high):
        return WORSE, here
    return (HELPED if here < 0.9 * acted.evidence["load"] else UNCLEAR), here


def cleared(scene: Scene, acted: OptimizerActed) -> bool:
    """Whether the provider has room again, even with all its calls back."""
    since_us = scene.window_us(acted.stepped_at_us)
    here = load_of(scene, acted.target, since_us, scene.until_us)
    full = scene.rules.load_high
    return here is not None and here / max(acted.factor, FLOOR) < CLEARED * full


LOAD = Rule("load", find, read, cleared, judge)
