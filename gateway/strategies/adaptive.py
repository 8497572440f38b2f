"""To whoever is believed the best at the task, as often as that is likely (Thompson sampling).

Thompson (1933) draws a value from each target's belief and takes the greatest; a target is then
chosen with the probability that it is the best. That probability is computed here, by quadrature
over normal beliefs, and the router draws by it: the same choice as sampling, and its propensity is
known exactly (Russo and others, "A tutorial on Thompson sampling", 2018, name it probability
matching).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from gateway.health import Standing
from gateway.strategies.base import Strategy, Weights, availability
from gateway.utility import EXPLORED

NODES = 48
REACH = 4.0
"""How far the quadrature goes, in standard deviations; beyond lie 6 of 100,000 draws."""
_ROOT_2 = math.sqrt(2.0)
_ROOT_2_PI = math.sqrt(2.0 * math.pi)


def share(standings: Sequence[Standing]) -> list[float]:
    """Return the probability that each is the best of those that can be called.

    Trouble that this worker sees now counts beyond the belief, as in `gateway.utility.best`, and 1%
    goes to all alike: a propensity that is never tiny keeps estimates from records possible.
    """
    able = [index for index, item in enumerate(standings) if not item.cooling and item.weight]
    if not able:
        return [0.0] * len(standings)
    means = [
        standings[index].utility * min(1.0, 2 * availability(standings[index])) for index in able
    ]
    likely = best_of(means, [standings[index].doubt for index in able])
    shares = [0.0] * len(standings)
    for index, probability in zip(able, likely, strict=True):
        shares[index] = probability * (1 - EXPLORED) + EXPLORED / len(able)
    return shares


def best_of(means: Sequence[float], deviations: Sequence[float]) -> list[float]:
    """Return for independent normal variables the probability of each to be the greatest.

    The integral over x of its density times the others' distributions, by the midpoint rule around
    each one's own mean, scaled to a sum of 1. What the rule errs by, a few percent at most and only
    beside beliefs ten times as sure, changes how well is chosen, never the propensity. Who cannot
    reach the best one's lower end is left out, so that the cost follows the contenders alone.
    """
    floor = max(m - REACH * d for m, d in zip(means, deviations, strict=True))
    reach = [m + REACH * d for m, d in zip(means, deviations, strict=True)]
    contenders = [index for index, upper in enumerate(reach) if upper >= floor]
    likely = [0.0] * len(means)
    if len(contenders) == 1:
        likely[contenders[0]] = 1.0
        return likely
    step = 2 * REACH / NODES
    nodes = [-REACH + (number + 0.5) * step for number in range(NODES)]
    densities = [math.exp(-z * z / 2) * step / _ROOT_2_PI for z in nodes]
    for index in contenders:
        others = [
            (means[other], deviations[other] * _ROOT_2) for other in contenders if other != index
        ]
        total = 0.0
        for z, density in zip(nodes, densities, strict=True):
            x = means[index] + z * deviations[index]
            for mean, scale in others:
                density *= 0.5 * math.erfc((mean - x) / scale)
            total += density
        likely[index] = total
    whole = sum(likely)
    return [probability / whole for probability in likely]


ADAPTIVE = Strategy(
    "adaptive",
    share,
    Weights(quality=0.3, success=0.3, latency=0.3, cost=0.1),
    by_task=True,
    learns=True,
)
