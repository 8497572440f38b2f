"""How much a worker takes on: beyond it calls are refused at once, before their bodies are read.

Late refusals are the costly ones: a call that waits until its caller has given up has cost as much
as one that was served. Two signs count: calls in progress, and a loop that is late all the time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from schemas.errors import Overloaded

TICK_S = 0.1
TICKS = 10
"""The loop is late when even the least late of so many ticks was: a spike is no overload."""
CALLS_FLOOR = 32
"""A loop that is late with so few calls is not late because of them."""
RETRY_S = 1.0
_log = logging.getLogger(__name__)


class Load:
    """Holds the number of calls in progress, which whoever serves them counts, and watches the loop.

    `calls_max` and `lag_s_max` are the bounds; `refused` counts the calls turned away.
    """

    def __init__(self, calls_max: int, lag_s_max: float) -> None:
        self.calls = 0
        self.refused = 0
        self._calls_max = calls_max
        self._lag_s_max = lag_s_max
        self._lags_s: deque[float] = deque([0.0] * TICKS, maxlen=TICKS)
        self._told = False

    @property
    def lag_s(self) -> float:
        """By how much the loop has been late throughout the last second."""
        return min(self._lags_s)

    def refusal(self) -> Overloaded | None:
        """Return why a further call is refused, None when it is welcome."""
        if self.calls >= self._calls_max:
            reason = f"{self.calls} calls are in progress"
        elif self.calls >= CALLS_FLOOR and self.lag_s > self._lag_s_max:
            reason = f"the gateway is {self.lag_s:.1f} s behind"
        else:
            self._told = False
            return None
        self.refused += 1
        if not self._told:
            self._told = True
            _log.warning("calls are refused: %s", reason)
        return Overloaded(f"{reason}: this worker takes no more", retry_after_seconds=RETRY_S)

    def note_lag(self, lag_s: float) -> None:
        """Note by how much a tick was late."""
        self._lags_s.append(lag_s)

    async def watch(self) -> None:
        """Tick until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + TICK_S
            await asyncio.sleep(TICK_S)
            self.note_lag(loop.time() - due_s)
