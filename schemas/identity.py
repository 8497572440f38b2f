"""Identifiers that sort by time."""

from __future__ import annotations

import os
import time
from typing import Final


def uuid7(now_ms: int | None = None) -> str:
    """Return a UUIDv7 (RFC 9562 §5.7) as text: 48 bits of milliseconds, then 74 random bits.

    Hand-written because the standard library has it only from Python 3.14 on and the hot path
    draws several a request.
    """
    milliseconds = _time_ns() // 1_000_000 if now_ms is None else now_ms
    known_ms, prefix = _prefix.last
    if known_ms != milliseconds:
        prefix = _prefix_of(milliseconds)
    try:
        return prefix + _tails.pop()  # atomic, so threads never share a draw
    except IndexError:
        _draw()
        return uuid7(milliseconds)


def _prefix_of(milliseconds: int) -> str:
    # Widths inside an f-string become calls of str.format where this is compiled.
    text = format(milliseconds & 0xFFFFFFFFFFFF, "012x")
    prefix = f"{text[:8]}-{text[8:]}-7"
    _prefix.last = (milliseconds, prefix)
    return prefix


_DRAWS: Final = 256
_DIGITS: Final = 18
"""An id's random hexadecimal digits beside the one of its variant."""
_VARIANT: Final = bytes(b"89ab"[byte % 4] for byte in range(256))
"""From a random byte to the digit that names the variant: 0b10 and two random bits."""
_FORM: Final = b"ddd-vddd-dddddddddddd"
"""How an id ends: `d` for a digit, `v` for the one of its variant."""
_tails: Final[list[str]] = []
_time_ns: Final = time.time_ns


class _Prefix:
    """How the ids of the last millisecond begin."""

    def __init__(self) -> None:
        self.last: tuple[int, str] = (-1, "")
        """Read and set as one, so that threads never see half of it."""


_prefix: Final = _Prefix()


def _draw() -> None:
    """Draw random ends for many ids at once, since each call of the system costs more than an id.

    All ids get their first digit at once, then their second, and so on: put together one by one
    they take twice as long (0.36 us each).
    """
    digits = os.urandom(_DRAWS * _DIGITS // 2).hex().encode()
    ends, size, drawn = bytearray(_FORM * _DRAWS), len(_FORM), 0
    for place in range(size):
        if _FORM[place] == ord("d"):
            ends[place::size] = digits[drawn::_DIGITS]
            drawn += 1
    ends[_FORM.index(b"v") :: size] = os.urandom(_DRAWS).translate(_VARIANT)
    text = ends.decode("ascii")
    _tails.extend([text[at : at + size] for at in range(0, len(text), size)])


os.register_at_fork(after_in_child=_tails.clear)


def uuid7_ms(identifier: str) -> int:
    """Return the Unix milliseconds inside a UUIDv7. Raises ValueError for anything else."""
    text = identifier.replace("-", "")
    if len(text) != 32 or text[12] != "7":
        raise ValueError(f"not a UUIDv7: {identifier!r}")
    return int(text[:12], 16)
