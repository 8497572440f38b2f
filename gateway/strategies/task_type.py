"""The best for what is asked: quality at the call's task first, and by its complexity."""

from __future__ import annotations

from gateway.strategies.base import Strategy, Weights
from gateway.utility import best

TASK_TYPE = Strategy(
    "task_type", best, Weights(quality=0.6, success=0.2, latency=0.1, cost=0.1), by_task=True
)
