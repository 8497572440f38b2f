"""Fixed weights, of which only trouble takes anything away."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.strategies.base import Standing, Strategy, availability, by_priority, cascade


def share(standings: Sequence[Standing]) -> list[float]:
    """Return weight × availability, in tiers of priority."""
    weights = [standing.weight * availability(standing) for standing in standings]
    return cascade(standings, by_priority(standings), weights)


WEIGHTED = Strategy("weighted", share)
