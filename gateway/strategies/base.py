"""What a strategy is, and what strategies share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

SHARPNESS = 8
"""Success to this power is a target's weight: half of the calls failing leaves it 0.4%."""
TRICKLE = 0.015
"""The share that an unhealthy target keeps, so that real requests can show its recovery."""
TRICKLE_TOTAL = 0.03


class Standing(msgspec.Struct, frozen=True):
    """What a strategy may look at.

    `success` is an estimate within 0–1, `quality` what is known for the call's task (0–1),
    `cost_nano_usd` the expected cost of this call, `utility` what the strategy's weights make of
    it all. `load` is this worker's calls in flight, by unit of the provider's capacity where that
    is known. `named`: the route's entry names the call's task. Where the strategy learns, `utility` is a
    belief with the standard deviation `doubt`, of so many calls `seen`.
    """

    target: str
    weight: int
    priority: int
    success: float
    answer_us: float | None
    cooling: bool
    p95_us: float | None = None
    output_tokens: float | None = None
    load: float = 0.0
    quality: float | None = None
    cost_nano_usd: int | None = None
    named: bool = False
    utility: float = 1.0
    doubt: float = 0.0
    seen: float = 0.0


class Weights(msgspec.Struct, frozen=True):
    """How much each part counts in a standing's utility; only their proportions matter."""

    quality: float = 0.0
    success: float = 0.0
    latency: float = 0.0
    cost: float = 0.0


class Strategy(msgspec.Struct, frozen=True):
    """A named rule. `share` gives each standing a share ≥ 0 of the first choices, in any scale.

    With `weights` each standing brings its utility (`gateway.utility`). `by_task`: what is asked
    matters, so the router finds out the task and the complexity where the caller does not say.
    `learns`: utilities are beliefs of the live tables of rewards (`gateway.learning`).
    """

    name: str
    share: Callable[[Sequence[Standing]], list[float]]
    weights: Weights | None = None
    by_task: bool = False
    learns: bool = False


def availability(standing: Standing) -> float:
    """Return how much of its share a target can be given (0–1), 0 only while it cools down."""
    return 0.0 if standing.cooling else max(standing.success**SHARPNESS, 1e-9)


def cascade(
    standings: Sequence[Standing],
    tiers: Sequence[Sequence[int]],
    weights: Sequence[float],
) -> list[float]:
    """Share by tiers: each gives what its best target cannot take to the next one.

    `tiers` holds indexes of `standings`, the first tier first; inside a tier `weights` decide.
    """
    shares = [0.0] * len(standings)
    rest = 1.0
    for tier in tiers:
        total = sum(weights[index] for index in tier)
        best = max((availability(standings[index]) for index in tier), default=0.0)
        # Nearly healthy is healthy: a tier is left for trouble, not for a single failure.
        taken = rest * (1.0 if best > 0.5 else best)
        if total > 0:
            for index in tier:
                shares[index] = taken * weights[index] / total
            rest -= taken
        if rest <= 0:
            break
    return shares


def by_priority(standings: Sequence[Standing]) -> list[list[int]]:
    """Return the indexes of standings in tiers, highest priority first."""
    if len({standing.priority for standing in standings}) == 1:
        return [list(range(len(standings)))]
    tiers: dict[int, list[int]] = {}
    for index, standing in enumerate(standings):
        tiers.setdefault(standing.priority, []).append(index)
    return [tiers[priority] for priority in sorted(tiers, reverse=True)]


def probabilities(standings: Sequence[Standing], shares: Sequence[float]) -> list[float]:
    """Turn shares into probabilities in which an unhealthy target keeps a trickle.

    A target with no share at all (another tier serves, or it cools down) gets none; when nothing
    is left, all share alike: there is always a first choice.
    """
    total = sum(shares)
    if total <= 0:
        return [1.0 / len(standings)] * len(standings)
    scaled = [share / total for share in shares]
    starved = [
        index
        for index, standing in enumerate(standings)
        if 0 < scaled[index] < TRICKLE and standing.success < 0.9
    ]
    if not starved:
        return scaled
    trickle = min(TRICKLE, TRICKLE_TOTAL / len(starved))
    for index in starved:
        scaled[index] = max(scaled[index], trickle)
    total = sum(scaled)
    return [share / total for share in scaled]
