"""The fastest that works, by the 95th percentile."""

from __future__ import annotations

from gateway.strategies.base import Strategy, Weights
from gateway.utility import best

LATENCY_OPTIMIZED = Strategy(
    "latency_optimized", best, Weights(quality=0.1, success=0.1, latency=0.75, cost=0.05)
)
