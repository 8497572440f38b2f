"""To whoever has the least to do: calls in flight against weight and capacity."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.strategies.base import Standing, Strategy, availability, by_priority, cascade


def share(standings: Sequence[Standing]) -> list[float]:
    """Return weight × availability, less the more of a target's share is already in flight."""
    weights = [
        standing.weight
        * availability(standing)
        / (1.0 + standing.load / max(1, standing.weight)) ** 2
        for standing in standings
    ]
    return cascade(standings, by_priority(standings), weights)


LOAD_BALANCED = Strategy("load_balanced", share)
