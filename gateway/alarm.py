"""A deadline that is moved far more often than it is reached."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

NEVER_S: Final = 1e18
"""A time that the loop's clock does not come to."""
TICK_S: Final = 0.001
"""uvloop's clock counts milliseconds: a timer may come this much early."""


class Alarm:
    """Calls `ring` when the time last set has come.

    A timer of the loop is set anew only when the deadline comes nearer; one that moves away, or is
    cleared, is noticed when the timer that stands already runs out. So a deadline per step of an
    exchange costs a comparison, not a timer.
    """

    __slots__ = ("_due_s", "_handle", "_loop", "_ring", "_timer_s")

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._due_s = NEVER_S
        self._timer_s = NEVER_S
        self._handle: asyncio.TimerHandle | None = None

    def set(self, due_s: float) -> None:
        """Ring at a time of the loop's clock, in seconds, and at no other."""
        self._due_s = due_s
        if due_s < self._timer_s:
            if self._handle is not None:
                self._handle.cancel()
            self._timer_s = due_s
            self._handle = self._loop.call_at(due_s, self._look)

    def clear(self) -> None:
        """Do not ring."""
        self._due_s = NEVER_S

    def stop(self) -> None:
        """Do not ring, and let go of the loop: the end of whoever would be called."""
        self._due_s = self._timer_s = NEVER_S
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _look(self) -> None:
        self._handle, self._timer_s = None, NEVER_S
        if self._due_s == NEVER_S:
            return
        if self._loop.time() + TICK_S >= self._due_s:
            self._due_s = NEVER_S
            self._ring()
        else:
            self.set(self._due_s)
