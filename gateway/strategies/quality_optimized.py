"""The best at the call's task, whatever it costs."""

from __future__ import annotations

from gateway.strategies.base import Strategy, Weights
from gateway.utility import best

QUALITY_OPTIMIZED = Strategy(
    "quality_optimized",
    best,
    Weights(quality=0.85, success=0.1, latency=0.04, cost=0.01),
    by_task=True,
)
