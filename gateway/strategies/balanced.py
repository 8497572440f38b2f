"""Weight, live success and speed together: the default."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.strategies.base import Standing, Strategy, availability, by_priority, cascade

SPEED_MIN, SPEED_MAX = 0.25, 4.0
"""Bounds on how much speed may shift: at most a factor of 16 between two targets."""


def share(standings: Sequence[Standing]) -> list[float]:
    """Return weight × availability × speed relative to the mean, in tiers of priority."""
    times = [standing.answer_us for standing in standings if standing.answer_us]
    mean_us = sum(times) / len(times) if times else 0.0
    weights = [
        standing.weight * availability(standing) * _speed(standing, mean_us)
        for standing in standings
    ]
    return cascade(standings, by_priority(standings), weights)


def _speed(standing: Standing, mean_us: float) -> float:
    if not standing.answer_us:
        return 1.0
    return min(SPEED_MAX, max(SPEED_MIN, mean_us / standing.answer_us))


BALANCED = Strategy("balanced", share)
