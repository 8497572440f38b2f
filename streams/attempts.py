"""What an attempt tells of its target, alike for all folds that judge targets."""

from __future__ import annotations

from schemas.events.llm import Attempt

CALLERS_OWN = frozenset({"request", "context", "filter"})
"""Error classes with which a healthy target refuses what the caller sent."""


def tells_of_target(attempt: Attempt) -> bool:
    """Whether it succeeded or failed by its target's doing: no caller left, none sent nonsense."""
    return attempt.outcome != "cancelled" and attempt.error_class not in CALLERS_OWN


def answered_us(attempt: Attempt) -> int:
    """Return how long its answer took to begin (µs): a stream's first token, else the whole."""
    return attempt.latency_us if attempt.first_token_us is None else attempt.first_token_us
