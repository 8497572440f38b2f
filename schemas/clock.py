"""Wall-clock time in the log's unit."""

from __future__ import annotations

import time


def now_us() -> int:
    """Return the current time as Unix microseconds."""
    return time.time_ns() // 1_000
