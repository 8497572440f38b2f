"""How targets fare, as this worker sees it: its own outcomes first, the live tables beside them.

Each target has two numbers that forget: how many outcomes, how many good ones. An outcome weighs
0.9 of the next one and half of itself after 30 s, so about the last ten calls decide: at 10 calls
a second, a target that fails half of them has lost its traffic within two seconds. The table of
all workers' outcomes (last minute) stands in for the experience that a worker lacks, like two
calls at most: enough to warn a newcomer, too little to hold a recovered target down, or a failing
one up. When the stream processor is silent, an optimistic guess takes its place.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from gateway.strategies.base import Standing
from schemas.errors import UpstreamError
from schemas.routing import TargetHealth

MEMORY: Final = 0.9
HALF_LIFE_S: Final = 30.0
FADE_STEP_S: Final = 0.05
GUESS_CALLS = 2.0
GUESS_CALLS_MIN = 0.2
FULL_EXPERIENCE = 8.0
COOLDOWN_S_MAX = 60.0
TARGETS_MAX = 10_000
"""Clients may name models that nobody listed: the least recently used are forgotten."""
CALLER_ERRORS = frozenset({"request", "context", "filter"})
"""Error classes that say nothing about the target."""


class Experience:
    """Fading counts of one target; `answer_us` is a fading mean of the time to first bytes,
    `output_tokens` one of the length of its answers. `in_flight` counts this worker's own calls.
    """

    def __init__(self, seen_s: float) -> None:
        self.calls = self.good = 0.0
        self.answer_us: float | None = None
        self.output_tokens: float | None = None
        self.in_flight = 0
        self.seen_s = seen_s
        self.cool_until_s = 0.0

    def fade(self, now_s: float) -> None:
        """Forget by time, in steps that are worth it."""
        if now_s - self.seen_s < FADE_STEP_S:
            return
        factor = 0.5 ** ((now_s - self.seen_s) / HALF_LIFE_S)
        self.calls *= factor
        self.good *= factor
        self.seen_s = now_s


class HealthBook:
    """The worker's experience with every target."""

    def __init__(
        self,
        table: Callable[[str], TargetHealth],
        streams_alive: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table = table
        self._streams_alive = streams_alive
        self.clock = clock
        self._book: dict[str, Experience] = {}

    def succeeded(self, target: str, answer_us: int) -> None:
        """Note a good call and the time until its first bytes."""
        experience = self._remember(target)
        experience.calls = experience.calls * MEMORY + 1
        experience.good = experience.good * MEMORY + 1
        experience.cool_until_s = 0.0
        mean = experience.answer_us
        experience.answer_us = answer_us if mean is None else mean + (answer_us - mean) * 0.1

    def failed(self, target: str, error: UpstreamError) -> None:
        """Note a failure, unless it is the caller's own."""
        if error.error_class in CALLER_ERRORS:
            return
        experience = self._remember(target)
        experience.calls = experience.calls * MEMORY + 1
        experience.good *= MEMORY
        if error.retry_after_seconds:
            wait_s = min(error.retry_after_seconds, COOLDOWN_S_MAX)
            experience.cool_until_s = self.clock() + wait_s

    def begun(self, target: str) -> None:
        """Note that a call is on its way; `ended` must follow."""
        self._find(target).in_flight += 1

    def ended(self, target: str) -> None:
        """Note that a call is over, however it ended."""
        experience = self._find(target)
        experience.in_flight = max(0, experience.in_flight - 1)

    def produced(self, target: str, output_tokens: int) -> None:
        """Note the length of an answer."""
        experience = self._find(target)
        mean = experience.output_tokens
        experience.output_tokens = (
            output_tokens if mean is None else mean + (output_tokens - mean) * 0.1
        )

    def standing(self, target: str, weight: int, priority: int) -> Standing:
        """Return what is known of a target now."""
        experience = self._remember(target)
        table = self._table(target) if self._streams_alive() else None
        known = table.success_rate if table is not None else None
        guess = 1.0 if known is None else known
        lacking = max(GUESS_CALLS_MIN, GUESS_CALLS * (1 - experience.calls / FULL_EXPERIENCE))
        success = (experience.good + guess * lacking) / (experience.calls + lacking)
        answer_us = experience.answer_us
        if answer_us is None and table is not None:
            answer_us = table.first_token_p95_us or table.latency_p50_us
        p95_us = table.first_token_p95_us or table.latency_p95_us if table is not None else None
        return Standing(
            target,
            weight,
            priority,
            success,
            answer_us,
            cooling=experience.cool_until_s > self.clock(),
            p95_us=p95_us or answer_us,
            output_tokens=experience.output_tokens,
            load=float(experience.in_flight),
        )

    def _remember(self, target: str) -> Experience:
        experience = self._find(target)
        experience.fade(self.clock())
        return experience

    def _find(self, target: str) -> Experience:
        experience = self._book.get(target)
        if experience is None:
            experience = self._book[target] = Experience(self.clock())
            if len(self._book) > TARGETS_MAX:
                del self._book[min(self._book, key=lambda name: self._book[name].seen_s)]
        return experience
