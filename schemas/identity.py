"""Identifiers that sort by time."""

from __future__ import annotations

import os
import time


def uuid7(now_ms: int | None = None) -> str:
    """Return a UUIDv7 (RFC 9562 §5.7) as text: 48 bits of milliseconds, then 74 random bits.

    Hand-written because the standard library has it only from Python 3.14 on and the hot path
    draws several a request.
    """
    milliseconds = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    global _prefix
    known_ms, prefix = _prefix
    if known_ms != milliseconds:
        high = f"{milliseconds & (1 << 48) - 1:012x}"
        prefix = f"{high[:8]}-{high[8:]}-7"
        _prefix = (milliseconds, prefix)  # one assignment, so threads never see half of it
    while True:
        try:
            return prefix + _tails.pop()  # atomic, so threads never share a draw
        except IndexError:
            _draw()


_DRAWS = 256
_DRAW_HEX = 20
_VARIANT = str.maketrans("0123456789abcdef", "89ab" * 4)
"""From a random digit to the one that names the variant: 0b10 and two random bits."""
_tails: list[str] = []
_prefix = (-1, "")


def _draw() -> None:
    """Draw random ends for many ids at once, since each call of the system costs more than an id."""
    digits = os.urandom(_DRAWS * _DRAW_HEX // 2).hex()
    variants = digits.translate(_VARIANT)
    for at in range(0, _DRAWS * _DRAW_HEX, _DRAW_HEX):
        head, rest = digits[at : at + 3], digits[at + 4 : at + 7]
        _tails.append(f"{head}-{variants[at + 3]}{rest}-{digits[at + 7 : at + 19]}")


os.register_at_fork(after_in_child=_tails.clear)


def uuid7_ms(identifier: str) -> int:
    """Return the Unix milliseconds inside a UUIDv7. Raises ValueError for anything else."""
    text = identifier.replace("-", "")
    if len(text) != 32 or text[12] != "7":
        raise ValueError(f"not a UUIDv7: {identifier!r}")
    return int(text[:12], 16)
