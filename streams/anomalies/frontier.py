"""Up to when the traffic table is whole, so that streams which lag do not look like traffic that dropped."""

from __future__ import annotations

from schemas.event import FACT_PARTITIONS
from schemas.events.operations import Heartbeat
from schemas.events.traffic import TrafficCursor

STREAMS = "streams"
_SILENT_US = 10_000_000
"""An instance that has not been heard for so long after another is gone."""


class Frontier:
    """Event time up to which every partition has been folded.

    A partition is as far as its newest event; where none comes, as far as a heartbeat that says that
    nothing is left to fold.
    """

    def __init__(self) -> None:
        self._folded: dict[int, int] = {}
        self._beats: dict[str, tuple[int, int]] = {}
        """By instance: its last heartbeat, and its last one without lag."""

    def cursor(self, row: TrafficCursor) -> None:
        """Take in how far the fold is."""
        self._folded[row.partition] = max(self._folded.get(row.partition, 0), row.occurred_at_us)

    def beat(self, beat: Heartbeat) -> None:
        """Take in a heartbeat of the streams."""
        if beat.part == STREAMS:
            _, idle_us = self._beats.get(beat.instance, (0, 0))
            at_us = beat.occurred_at_us
            self._beats[beat.instance] = (at_us, at_us if beat.lag == 0 else idle_us)

    @property
    def at_us(self) -> int:
        """Return the time, Unix µs; 0 while nothing is known."""
        newest = max((at for at, _ in self._beats.values()), default=0)
        heard = [idle for at, idle in self._beats.values() if at > newest - _SILENT_US]
        idle_us = min(heard, default=0)
        return min(max(self._folded.get(part, 0), idle_us) for part in range(FACT_PARTITIONS))
