"""RT-12: where an alternative is nearly as good and clearly cheaper, it is preferred.

What a call costs follows from the price lists: the calls that the target got, with the
alternative's own length of answers where that is known. Whether it was true shows in calls that came by chance
to the one or the other at the same time.
"""

from __future__ import annotations

from schemas.events.changes import PriceChanged
from schemas.events.optimizer import OptimizerActed
from schemas.pricing import price_for
from schemas.statistics import rises
from streams.optimizer.rule import HELPED, UNCLEAR, WORSE, Finding, Reading, Rule
from streams.optimizer.scene import DAY_S, Scene, Sums

FLOOR = 0.25
HALF_HOUR_US = 1_800_000_000
COMPARED_MIN = 50
"""Calls of each from which on what they really cost is compared: lengths of answers differ much."""
KEPT = 0.5
"""The reason has gone when the saving is below this part of the threshold."""
_PER_TOKEN = 1_000_000


def find(scene: Scene, target: str, since_us: int) -> Finding | None:
    """Return the cheapest alternative that is good enough, if it saves enough."""
    del since_us  # prices hold for a day's calls, not for a window's
    found = _best(scene, target, scene.peers(target), scene.rules.saving_min)
    if found is None:
        return None
    peer, cost, less = found
    return Finding(
        metric="cost_per_call_usd",
        reason=f"{peer} costs {1 - less / cost:.0%} less, and is as good within "
        f"{scene.rules.quality_margin:.0%}",
        floor=FLOOR,
        alternative=peer,
        evidence={"cost_nano_usd": cost, "alternative_cost_nano_usd": less},
    )


def _best(
    scene: Scene, target: str, peers: list[str], saving: float
) -> tuple[str, float, float] | None:
    usual = scene.usual(target, DAY_S)
    price = scene.config.price(target, scene.at_us)
    if usual is None or price is None or not usual.every.completed:
        return None
    calls = usual.every
    cost = _cost(price, calls, calls)
    if not cost:
        return None
    costs = {
        peer: less
        for peer in peers
        if _as_good(scene, target, peer)
        and (listed := scene.config.price(peer, scene.at_us)) is not None
        and (less := _cost(listed, calls, _own(scene, peer, calls))) is not None
        and less <= (1.0 - saving) * cost
    }
    if not costs:
        return None
    peer = min(costs, key=lambda name: (costs[name], name))
    return peer, cost, costs[peer]


def _own(scene: Scene, peer: str, calls: Sums) -> Sums:
    """Whose length of answers to count with: the alternative's own, where it is known."""
    known = scene.usual(peer, DAY_S)
    return known.every if known is not None and known.every.completed else calls


def _cost(price: PriceChanged, asked: Sums, answered: Sums) -> float | None:
    """Return the mean cost of a call in nano-USD, None where a price is missing."""
    mean_tokens = asked.input_tokens / asked.completed
    price = price_for(price, round(mean_tokens))
    if price.input_price is None or price.output_price is None:
        return None
    inputs = mean_tokens * price.input_price
    outputs = answered.output_tokens / answered.completed * price.output_price
    return (inputs + outputs) / _PER_TOKEN


def _as_good(scene: Scene, target: str, peer: str) -> bool:
    """Whether an alternative can do the same, nearly as well, and works."""
    mine, other = scene.config.targets.get(target), scene.config.targets.get(peer)
    if mine is None or other is None or mine.quality is None or other.quality is None:
        return False
    least = 1.0 - scene.rules.quality_margin
    if other.quality < least * mine.quality or not set(mine.capabilities) <= set(
        other.capabilities
    ):
        return False
    if any(
        other.task_quality.get(task, other.quality) < least * value
        for task, value in mine.task_quality.items()
    ):
        return False
    now, here = scene.now(peer), scene.now(target)
    return now.calls < scene.rules.calls_min or now.failed <= here.failed + scene.rules.error_shift


def read(metric: str, line: float, sums: Sums) -> Reading:
    """The mean cost of a call in USD; no share of calls, so nothing to test."""
    del metric, line
    return Reading(round((sums.cost_per_call or 0.0) / 1e9, 9), 0, 0)


def judge(scene: Scene, acted: OptimizerActed) -> tuple[str, float | None]:
    """Compare calls that came to the two by chance at the same time; failures must not rise."""
    peer = acted.alternative or acted.target
    since_us = max(acted.stepped_at_us, scene.until_us - HALF_HOUR_US)
    here = scene.memory.recent(acted.target, since_us, scene.until_us)
    there = scene.memory.recent(peer, since_us, scene.until_us)
    both = scene.sums([acted.target, peer], since_us)
    after = read("", 0.0, both).value
    least = scene.rules.calls_min
    if here.calls >= least and there.calls >= least:
        failing = rises((here.failures, here.calls), (there.failures, there.calls))
        if failing < scene.rules.alpha:
            return WORSE, after
    mine, other = here.cost_per_call, there.cost_per_call
    if mine is None or other is None or min(here.priced, there.priced) < COMPARED_MIN:
        return acted.verdict, after  # nothing new is known
    if other >= mine:
        return WORSE, after
    return (HELPED if other <= (1 - KEPT * scene.rules.saving_min) * mine else UNCLEAR), after


def cleared(scene: Scene, acted: OptimizerActed) -> bool:
    """Whether the alternative saves little by now, or is no longer good enough."""
    peers = [acted.alternative] if acted.alternative else []
    return _best(scene, acted.target, peers, KEPT * scene.rules.saving_min) is None


COST = Rule("cost", find, read, cleared, judge)
