"""The utility of a candidate: how good, sure, fast and cheap it is for this call (RT-04).

Each part lies within 0–1, 1 the best:

- quality for the call's task, from the target's description; unknown counts as the others' mean, give or
  take what the price hints at: vendors charge more for better models;
- success, the live estimate;
- latency and cost as ``1 - norm``, where ``norm = x / (x + the least positive x of all)``: the best
  has a half, twice as much a third, nothing at all (a free model) one. So a factor of two weighs
  the same among cheap models as among dear ones. An unknown latency counts as the best, so that
  it becomes known; an unknown price as the highest, so that nobody is surprised.

The sum, weighted, times the rule's priority: each step of priority below the highest halves it, and
so does an entry that does not name the call's task beside one that does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from gateway.strategies.base import Standing, Weights, availability

TEMPERATURE = 0.04
"""How sharp the choice is: a candidate whose utility is lower by this gets 1/e of the share."""
EXPLORED = 0.01
"""The share of first choices that goes to the others whatever the utility, so that what is known
of them stays true and records of one strategy can be weighed for another."""
QUALITY_UNKNOWN = 0.5
PRICE_HINT = 0.1
"""How much better the dearest of all is thought than the cheapest, by the logarithm of expected cost: it
outweighs the cost of a demanding call, is even with that of a usual one, and loses for a simple one."""
LEANS = {
    "simple": Weights(quality=0.25, success=1.0, latency=1.0, cost=4.0),
    "complex": Weights(quality=3.0, success=1.0, latency=0.5, cost=0.25),
}
"""What complexity makes of the weights: simple calls go where it is cheap, demanding ones where
it is good."""


def leaning(weights: Weights, complexity: str | None) -> Weights:
    """Return the weights for calls of a complexity."""
    lean = LEANS.get(complexity or "")
    if lean is None:
        return weights
    return Weights(
        quality=weights.quality * lean.quality,
        success=weights.success * lean.success,
        latency=weights.latency * lean.latency,
        cost=weights.cost * lean.cost,
    )


def valued(standings: Sequence[Standing], weights: Weights) -> list[Standing]:
    """Return the standings with their utility."""
    total = weights.quality + weights.success + weights.latency + weights.cost
    known = [item.quality for item in standings if item.quality is not None]
    usual = sum(known) / len(known) if known else QUALITY_UNKNOWN
    hints = hinted([item.cost_nano_usd for item in standings])
    speeds = goodness([item.p95_us for item in standings], math.inf)
    savings = goodness([item.cost_nano_usd for item in standings], -math.inf)
    first = max(rank(item) for item in standings)
    return [
        msgspec.structs.replace(
            item,
            utility=(
                weights.quality * (usual + hint if item.quality is None else item.quality)
                + weights.success * item.success
                + weights.latency * speed
                + weights.cost * saving
            )
            / total
            * 2.0 ** (rank(item) - first),
        )
        for item, hint, speed, saving in zip(standings, hints, speeds, savings, strict=True)
    ]


def best(standings: Sequence[Standing]) -> list[float]:
    """Share by utility: the best takes nearly all, equals share alike, the rest is explored.

    Trouble counts beyond its part in the utility: below about nine of ten calls succeeding the
    whole utility shrinks with what the target can take.
    """
    worth = [item.utility * min(1.0, 2 * availability(item)) for item in standings]
    top = max(worth)
    shares = [
        0.0 if item.cooling else item.weight * math.exp((value - top) / TEMPERATURE)
        for item, value in zip(standings, worth, strict=True)
    ]
    total = sum(shares)
    able = [index for index, item in enumerate(standings) if not item.cooling and item.weight]
    if total <= 0 or len(able) < 2:
        return shares
    shares = [share / total * (1 - EXPLORED) for share in shares]
    for index in able:
        shares[index] += EXPLORED / len(able)
    return shares


def rank(standing: Standing) -> int:
    """Return how the route prefers a target: its priority, a step more where it names the task."""
    return standing.priority + standing.named


def hinted(costs: Sequence[int | None]) -> list[float]:
    """Return by how much each quality differs from the usual one, as far as its price tells."""
    logs = [None if cost is None else math.log(max(1, cost)) for cost in costs]
    known = [value for value in logs if value is not None]
    span = max(known) - min(known) if known else 0.0
    if not span:
        return [0.0] * len(costs)
    middle = (max(known) + min(known)) / 2
    return [0.0 if value is None else PRICE_HINT * (value - middle) / span for value in logs]


def goodness(values: Sequence[float | None], unknown: float) -> list[float]:
    """Return ``1 - norm`` of each; `unknown` says whether no value is the best or the worst."""
    known = [value for value in values if value is not None]
    if not known:
        return [0.5] * len(values)
    least = min((value for value in known if value > 0), default=1.0)
    stand_in = min(known) if unknown > 0 else max(known)
    return [least / (least + (stand_in if value is None else max(0.0, value))) for value in values]
