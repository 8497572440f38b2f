"""The cheapest that works, by the expected cost of the call."""

from __future__ import annotations

from gateway.strategies.base import Strategy, Weights
from gateway.utility import best

COST_OPTIMIZED = Strategy(
    "cost_optimized", best, Weights(quality=0.1, success=0.1, latency=0.05, cost=0.75)
)
