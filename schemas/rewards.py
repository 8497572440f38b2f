"""The words that the folds of rewards and adaptive routing share."""

from __future__ import annotations

TASK_TYPES = frozenset(
    {
        "creative",
        "analytical",
        "conversational",
        "code",
        "summarization",
        "extraction",
        "general",
    }
)
"""Tasks that are learned apart (RT-05); callers may name others, which count under `ANY_TASK`."""
ANY_TASK = "*"
BLOCK_SECONDS = 30
BLOCKS_KEPT = 40
"""Twenty minutes are remembered."""
LIKING_SECONDS = 6 * 3_600
LIKING_KEPT = 28
"""Feedback is rare, so a week of it is."""
LOG_UNITS = 1_000
"""Logarithms are kept in thousandths, as integers: sums then do not depend on their order."""

USUAL_FIRST_US = 500_000
USUAL_TOKEN_US = 10_000


def usual_us(output_tokens: int | None) -> int:
    """Return how long an answer of a length takes somewhere usual (µs), whatever the target.

    Latency is measured against it: else a target that is asked for long answers would seem slow.
    """
    return USUAL_FIRST_US + USUAL_TOKEN_US * (output_tokens or 0)


def entity_of(task_type: str | None, target: str) -> str:
    """Return the entity of the rows of a task at a target."""
    return f"{task_type if task_type in TASK_TYPES else ANY_TASK}|{target}"


def entities_of(task_type: str | None, target: str) -> set[str]:
    """Return every entity that a call of a task at a target counts under."""
    return {entity_of(task_type, target), entity_of(None, target)}
