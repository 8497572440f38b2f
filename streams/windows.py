"""Buckets of event time, whose late events and whose expiry do not depend on arrival order.

A bucket expires when a newer one pushes it out of the last `keep`. What remains in the end is
therefore a function of the set of events alone: an event that belongs to a remaining bucket was
never refused, since the newest bucket only grows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")

_SECOND_US = 1_000_000


@dataclass(frozen=True)
class Window:
    """A kind of window: how an event time (Unix µs) becomes an index, and how many are kept."""

    name: str
    keep: int
    seconds: int | None
    """Length, None for calendar months (UTC)."""

    def index(self, time_us: int) -> int:
        """Return the number of the window that a moment falls into."""
        second = time_us // _SECOND_US
        return _month(second // 86_400) if self.seconds is None else second // self.seconds

    def start_s(self, index: int) -> int:
        """Return the Unix second at which a window starts."""
        if self.seconds is not None:
            return index * self.seconds
        return int(datetime(index // 12, index % 12 + 1, 1, tzinfo=UTC).timestamp())

    def index_of_start(self, start_s: int) -> int:
        """Return the inverse of `start_s`."""
        return self.index(start_s * _SECOND_US)


@lru_cache(maxsize=4096)
def _month(day: int) -> int:
    date = datetime.fromtimestamp(day * 86_400, UTC)
    return date.year * 12 + date.month - 1


def bucket(buckets: dict[int, T], index: int, keep: int, new: Callable[[], T]) -> T | None:
    """Return the bucket of an index, made by `new` if need be; None when it has expired.

    `buckets` never holds an index outside the last `keep` up to its newest.
    """
    found = buckets.get(index)
    if found is not None:
        return found
    newest = max(buckets, default=index)
    if index <= newest - keep:
        return None
    for old in [other for other in buckets if other <= index - keep]:
        del buckets[old]
    made = buckets[index] = new()
    return made
