"""One after the other: each target takes all that those before it cannot."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.strategies.base import Standing, Strategy, availability, cascade


def share(standings: Sequence[Standing]) -> list[float]:
    """Return a cascade in which every target is a tier, by priority, then as listed."""
    order = sorted(range(len(standings)), key=lambda index: -standings[index].priority)
    weights = [availability(standing) for standing in standings]
    return cascade(standings, [[index] for index in order], weights)


FAILOVER = Strategy("failover", share)
