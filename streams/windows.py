"""Windows of event time, whose late events and whose expiry do not depend on arrival order.

Few windows of an entity are buckets in its row. Many are rows of their own, blocks, which the
entity's name tells apart (``total:@1790000000``) and which the partition sweeps.

Either way a window expires when a newer one pushes it out of the last `keep`: the newest bucket of
its row, the newest event of its source partition. What remains in the end is therefore a function
of the set of events alone: an event that belongs to a remaining window was never refused, since
the newest only grows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TypeVar

from schemas.events.tables import block_key, block_of

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

    def block(self, name: str, time_us: int) -> str:
        """Return the entity under which a moment (Unix µs) of `name` counts, ``NAME@START``."""
        return block_key(name, self.start_s(self.index(time_us)))

    def expires(self, entity: str) -> int:
        """Return when the block `entity` is swept, Unix µs of event time: a `Fold.expires`.

        As a bucket is, with the start of the window that is `keep` windows newer.
        """
        _, start_s = block_of(entity)
        return self.start_s(self.index_of_start(start_s) + self.keep) * _SECOND_US


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
