"""Wall-clock time in the log's unit, and durations as people write them."""

from __future__ import annotations

import re
import time
from datetime import timedelta
from typing import Final

import msgspec

_CLOCK: Final = re.compile(r"(\d+):([0-5]\d):([0-5]\d(?:\.\d+)?)")
_time_ns: Final = time.time_ns


def now_us() -> int:
    """Return the current time as Unix microseconds."""
    return _time_ns() // 1_000


def seconds_of(duration: float | str) -> float:
    """Return a duration in seconds: a number of them, ``hh:mm:ss``, or ISO 8601 (``PT1M30S``).

    Raises ValueError for another text.
    """
    if not isinstance(duration, str):
        return duration
    if clock := _CLOCK.fullmatch(duration):
        hours, minutes, seconds = clock.groups()
        return int(hours) * 3_600 + int(minutes) * 60 + float(seconds)
    try:
        return msgspec.convert(duration, timedelta).total_seconds()
    except msgspec.ValidationError:
        raise ValueError("seconds, hh:mm:ss, or an ISO 8601 duration as PT30S") from None
