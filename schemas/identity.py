"""Identifiers that sort by time."""

from __future__ import annotations

import os
import struct
import time


def uuid7(now_ms: int | None = None) -> str:
    """Return a UUIDv7 (RFC 9562 §5.7) as text: 48 bits of milliseconds, then 74 random bits.

    Hand-written because the standard library has it only from Python 3.14 on and the hot path
    draws several a request.
    """
    milliseconds = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    known_ms, prefix = _prefix
    if known_ms != milliseconds:
        prefix = _prefix_of(milliseconds)
    try:
        return prefix + _tails.pop()  # atomic, so threads never share a draw
    except IndexError:
        _draw()
        return uuid7(milliseconds)


def _prefix_of(milliseconds: int) -> str:
    global _prefix
    prefix = f"{milliseconds >> 16 & 0xFFFFFFFF:08x}-{milliseconds & 0xFFFF:04x}-7"
    _prefix = (milliseconds, prefix)  # one assignment, so threads never see half of it
    return prefix


_DRAWS = 256
_DIGITS = struct.Struct("3s3s12s")
_VARIANT = bytes(b"89ab"[byte % 4] for byte in range(256))
"""From a random byte to the digit that names the variant: 0b10 and two random bits."""
_tails: list[str] = []
_prefix = (-1, "")


def _draw() -> None:
    """Draw random ends for many ids at once, since each call of the system costs more than an id."""
    digits = os.urandom(_DRAWS * _DIGITS.size // 2).hex().encode()
    variants = os.urandom(_DRAWS).translate(_VARIANT)
    ends = [
        b"%b-%c%b-%b" % (head, variant, rest, node)
        for (head, rest, node), variant in zip(_DIGITS.iter_unpack(digits), variants, strict=True)
    ]
    _tails.extend(b" ".join(ends).decode().split(" "))


os.register_at_fork(after_in_child=_tails.clear)


def uuid7_ms(identifier: str) -> int:
    """Return the Unix milliseconds inside a UUIDv7. Raises ValueError for anything else."""
    text = identifier.replace("-", "")
    if len(text) != 32 or text[12] != "7":
        raise ValueError(f"not a UUIDv7: {identifier!r}")
    return int(text[:12], 16)
