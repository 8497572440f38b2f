"""Header names in lower case: one object for each that comes often, whose hash is known already."""

from __future__ import annotations

from typing import Final

KNOWN_MAX = 512
"""Strangers can send any name: the first so many are kept, of a length that a real one has."""
NAME_BYTES_MAX = 64
LOWERED: Final[dict[bytes, bytes]] = {}
"""Names as they came. Whoever reads headers looks here first: a call by itself costs as much."""


def lowered(name: bytes) -> bytes:
    """Return a name in lower case, and keep it."""
    lower = name.lower()
    if len(LOWERED) < KNOWN_MAX and len(name) <= NAME_BYTES_MAX:
        LOWERED[name] = lower
    return lower
