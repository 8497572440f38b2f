"""What the optimizer's changes make of a strategy's shares (RT-09).

A change says which part of its calls a target keeps; the others go to the alternative that it names, or
to whom the strategy would choose if the target were not there. So it means the same in every
strategy, and a route's tiers and weights still say who comes next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.strategies.base import Standing, Strategy, probabilities
from schemas.events.optimizer import OptimizerActed

Find = Callable[[str], OptimizerActed | None]


def shifted(
    standings: Sequence[Standing], strategy: Strategy, find: Find
) -> tuple[list[float], dict[str, str]]:
    """Return the shares after the changes in force, and what is to be said of whom they concern.

    Nothing is shifted where nobody is left to take it.
    """
    shares = probabilities(standings, strategy.share(standings))
    acts = {item.target: act for item in standings if (act := find(item.target)) is not None}
    if not acts or len(acts) == len(standings):
        return shares, {}
    places = {item.target: index for index, item in enumerate(standings)}
    free = [index for index, item in enumerate(standings) if item.target not in acts]
    others = [standings[index] for index in free]
    remarks: dict[str, str] = {}
    parts: list[float] | None = None
    for target, act in acts.items():
        to = places.get(act.alternative) if act.alternative is not None else None
        if act.alternative is not None and (to is None or act.alternative in acts):
            continue
        given = shares[places[target]] * (1.0 - act.factor)
        shares[places[target]] -= given
        remarks[target] = f", keeps {act.factor:.0%} of its calls ({act.rule}: {act.reason})"
        if to is not None:
            shares[to] += given
            remarks.setdefault(act.alternative or "", f", takes calls of {target} ({act.rule})")
            continue
        if parts is None:
            parts = probabilities(others, strategy.share(others))
        for index, part in zip(free, parts, strict=True):
            shares[index] += given * part
    return shares, remarks
