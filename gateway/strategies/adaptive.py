"""To whoever is believed the best at the task, as often as that is likely (Thompson sampling).

Thompson (1933) draws a value from each target's belief and takes the greatest; a target is then
chosen with the probability that it is the best. That probability is computed here, by quadrature
over normal beliefs, and the router draws by it: the same choice as sampling, and its propensity is
known exactly (Russo and others, "A tutorial on Thompson sampling", 2018, name it probability
matching).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from operator import mul

from gateway.strategies.base import Standing, Strategy, Weights, availability
from gateway.utility import EXPLORED

REACH = 5.0
"""How far the quadrature goes, in standard deviations; beyond lie 6 of ten million draws."""
HOPELESS = 4.0
"""Who is behind by so many deviations of the difference wins 3 of 100,000 draws at most."""
NODES_MIN, NODES_ALL = 16, 96
"""Points of each quadrature, at the least, and of all of them together where there are few."""
_ROOT_2 = math.sqrt(2.0)


def _nodes(count: int) -> tuple[list[float], list[float]]:
    """Return the points of the midpoint rule, in deviations from the mean, and their weights."""
    step = 2 * REACH / count
    points = [-REACH + (number + 0.5) * step for number in range(count)]
    scale = step / math.sqrt(2.0 * math.pi)
    return points, [math.exp(-z * z / 2) * scale for z in points]


_RULES = {count: _nodes(count) for count in range(NODES_MIN, NODES_ALL // 2 + 1)}


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
    its own mean. Beside surer ones that is a step, which the rule would blur: so the least sure one
    gets what the others leave. Among three and more, an error of a few percent remains where
    several are ten times less sure than another; it changes how well is chosen, never the
    propensity. Who hardly ever beats the one with the best mean is left out, so that the cost
    follows the contenders alone.
    """
    top = max(range(len(means)), key=means.__getitem__)
    contenders = [
        index
        for index, (mean, deviation) in enumerate(zip(means, deviations, strict=True))
        if means[top] - mean <= HOPELESS * math.hypot(deviation, deviations[top])
    ]
    likely = [0.0] * len(means)
    last = max(contenders, key=deviations.__getitem__)
    points, weights = _RULES[max(NODES_MIN, NODES_ALL // max(2, len(contenders)))]
    scales = {index: _ROOT_2 * deviations[index] for index in contenders}
    for index in contenders:
        if index == last:
            continue
        densities: Iterable[float] = weights
        for other in contenders:
            if other != index:
                gap = (means[other] - means[index]) / scales[other]
                slope = deviations[index] / scales[other]
                below = map(math.erfc, [gap - slope * z for z in points])  # twice its distribution
                densities = map(mul, densities, below)
        likely[index] = sum(densities) * 0.5 ** (len(contenders) - 1)
    rest = 1.0 - sum(likely)
    if rest >= 0.0:
        likely[last] = rest
        return likely
    return [probability / (1.0 - rest) for probability in likely]


ADAPTIVE = Strategy(
    "adaptive",
    share,
    Weights(quality=0.3, success=0.3, latency=0.3, cost=0.1),
    by_task=True,
    learns=True,
)
