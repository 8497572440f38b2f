"""Identifiers that sort by time."""

from __future__ import annotations

import os
import time

_VERSION_7 = 0x7 << 76
_VARIANT = 0b10 << 62
_RANDOM_MASK = (1 << 74) - 1
_HIGH_RANDOM = 0xFFF << 62


def uuid7(now_ms: int | None = None) -> str:
    """Return a UUIDv7 (RFC 9562 §5.7) as text: 48 bits of milliseconds, then 74 random bits.

    Hand-written because the standard library has it only from Python 3.14 on and the hot path
    draws several a request.
    """
    milliseconds = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    random = int.from_bytes(os.urandom(10), "big") & _RANDOM_MASK
    value = (
        (milliseconds & 0xFFFFFFFFFFFF) << 80
        | _VERSION_7
        | (random & _HIGH_RANDOM) << 2
        | _VARIANT
        | random & ~_HIGH_RANDOM & ((1 << 62) - 1)
    )
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def uuid7_ms(identifier: str) -> int:
    """Return the Unix milliseconds inside a UUIDv7. Raises ValueError for anything else."""
    text = identifier.replace("-", "")
    if len(text) != 32 or text[12] != "7":
        raise ValueError(f"not a UUIDv7: {identifier!r}")
    return int(text[:12], 16)
