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
    random = int.from_bytes(_draw(), "big")
    return "%08x-%04x-7%03x-%04x-%012x" % (  # noqa: UP031 - half the time of an f-string here
        milliseconds >> 16 & 0xFFFFFFFF,
        milliseconds & 0xFFFF,
        random & 0xFFF,
        0x8000 | random >> 12 & 0x3FFF,  # the variant, 0b10
        random >> 26 & 0xFFFFFFFFFFFF,
    )


_DRAWS = 128
_pool: list[bytes] = []


def _draw() -> bytes:
    """Return ten random bytes; the system is asked for many at once, since each call costs more
    than everything else here.
    """
    try:
        return _pool.pop()  # atomic, so threads never share a draw
    except IndexError:
        fresh = os.urandom(10 * _DRAWS)
        _pool.extend(fresh[start : start + 10] for start in range(10, 10 * _DRAWS, 10))
        return fresh[:10]


os.register_at_fork(after_in_child=_pool.clear)


def uuid7_ms(identifier: str) -> int:
    """Return the Unix milliseconds inside a UUIDv7. Raises ValueError for anything else."""
    text = identifier.replace("-", "")
    if len(text) != 32 or text[12] != "7":
        raise ValueError(f"not a UUIDv7: {identifier!r}")
    return int(text[:12], 16)
