"""Which target is tried next, and after which wait: one deadline and one budget for a whole call."""

from __future__ import annotations

import random
from collections.abc import Callable

from schemas.errors import NoTargetAvailable, UpstreamError, UpstreamTimeout
from schemas.routing import Decision, Target

BACKOFF_S = 0.2
BACKOFF_S_MAX = 2.0
RETRY_HINT_S = 1.0
"""What a caller whom no target answered is told to wait where its vendor named no time."""
RETRY_AFTER_S_MAX = 5.0
"""A vendor that wants a longer wait is not waited for: its wait is told to the caller."""


class Failover:
    """The attempts of one call; neither a retry nor a fallback begins its budget anew.

    First each target of the decision's order, then a second try where it is worth one. The last
    attempt is kept for a last resort, if there is one: a model of one's own, or a target that was
    left out for its circuit. Better one in doubt than none.
    """

    def __init__(
        self,
        decision: Decision,
        attempts: int,
        deadline_s: float,
        clock: Callable[[], float],
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._decision = decision
        self._left = attempts
        self._deadline_s = deadline_s
        self._clock = clock
        self._draw = draw
        self._errors: dict[str, UpstreamError] = {}
        self._tries: dict[str, int] = {}

    def next(self) -> tuple[Target, float] | None:
        """Return the next target and how long (s) to wait before it; None when it is over."""
        if self._left <= 0 or (self._errors and self._clock() >= self._deadline_s):
            return None
        step = self._step()
        if step is not None:
            self._left -= 1
            self._tries[step[0].id] = self._tries.get(step[0].id, 0) + 1
        return step

    @property
    def has_more(self) -> bool:
        """Whether a target of the order is left that was not tried yet, and an attempt for it."""
        order = self._decision.order
        if self._left <= 0 or len(order) == 1:
            return False
        return any(one.id not in self._tries for one in order)

    def failed(self, target: Target, error: UpstreamError) -> None:
        """Note why the target that `next` gave did not answer."""
        self._errors[target.id] = error

    def told(self, name: str, last: UpstreamError) -> NoTargetAvailable | None:
        """Return what a caller hears when there were several targets and each has failed."""
        tried = len(self._errors)
        there = len(self._decision.order) + len(self._decision.last_resort)
        if tried < 2 or tried < there or not last.retryable:
            return None
        return NoTargetAvailable(
            f"no target of '{name}' answers: {last.message}",
            retry_after_seconds=last.retry_after_seconds or RETRY_HINT_S,
        )

    def _step(self) -> tuple[Target, float] | None:
        for target in self._decision.order:
            if target.id not in self._errors:
                return target, 0.0
        resort = next(
            (one for one in self._decision.last_resort if one.id not in self._errors), None
        )
        again = None if resort is not None and self._left == 1 else self._again()
        if again is None and resort is not None:
            return resort, 0.0
        return again

    def _again(self) -> tuple[Target, float] | None:
        """The target that is worth a second try soonest."""
        waits = [
            (self._wait_s(target), target)
            for target in self._decision.order
            # A silent target stays silent: what is left of the time is not spent on it again.
            if (error := self._errors[target.id]).retryable
            and not isinstance(error, UpstreamTimeout)
        ]
        if not waits:
            return None
        wait_s, target = min(waits, key=lambda item: item[0])
        if wait_s > RETRY_AFTER_S_MAX or self._clock() + wait_s >= self._deadline_s:
            return None
        return target, wait_s

    def _wait_s(self, target: Target) -> float:
        """Full jitter, on top of what the vendor asked for."""
        longest_s = min(BACKOFF_S_MAX, BACKOFF_S * 2 ** (self._tries[target.id] - 1))
        asked_s = self._errors[target.id].retry_after_seconds or 0.0
        return asked_s + self._draw(0.0, longest_s)
