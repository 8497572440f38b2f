"""The worker's memory: what lives long is spared by the collector, what a peak took is given back.

A free piece of the heap is returned to the machine by itself only when nothing in use lies above it.
After a storm of large bodies 130 of a worker's 240 MiB were such pieces, and 30 MiB cycles that nobody
had collected, since an idle worker makes none that would prompt it (`bench.hostile`).
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
from collections.abc import Callable
from pathlib import Path

GC_OBJECTS = 10_000
"""New objects after which the youngest are looked through."""
GROWTH_BYTES = 16 * 1024 * 1024
"""How much a worker grows before it is worth a look: giving back takes some 30 ms."""
LOOK_S = 2.0
BUSY_LOOKS = 15
"""After so many looks it is done beside running calls, too."""
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_STATM = Path("/proc/self/statm")
_log = logging.getLogger(__name__)


def spare_the_collector() -> None:
    """Leave what lives as long as the worker out of garbage collections, and have fewer of them.

    Calls leave hardly any cycles behind; to walk all modules for them took a twentieth of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_OBJECTS, 20, 20)


class Peaks:
    """Notices when the worker has grown; `resident` says by how many bytes, `give_back` shrinks it."""

    def __init__(self, resident: Callable[[], int], give_back: Callable[[], None]) -> None:
        self._resident = resident
        self._give_back = give_back
        self._usual = resident()
        self._waited = 0

    def look(self, *, busy: bool) -> bool:
        """Give memory back when it has grown; return whether that was done."""
        size = self._resident()
        self._usual = min(self._usual, size)
        if size < self._usual + GROWTH_BYTES:
            self._waited = 0
            return False
        self._waited += 1
        if busy and self._waited < BUSY_LOOKS:
            return False
        self._give_back()
        # What is left is in use: to look for it again would find nothing.
        self._usual, self._waited = self._resident(), 0
        return True


async def give_back_peaks(busy: Callable[[], bool]) -> None:
    """Look after the worker's memory until cancelled; does nothing where the machine has no glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None or not _STATM.exists():
        return

    def give_back() -> None:
        before = _resident_bytes()
        gc.collect()
        trim(0)
        _log.info("%d MiB of memory given back", (before - _resident_bytes()) >> 20)

    peaks = Peaks(_resident_bytes, give_back)
    while True:
        await asyncio.sleep(LOOK_S)
        peaks.look(busy=busy())


def _resident_bytes() -> int:
    return int(_STATM.read_text("ascii").split()[1]) * _PAGE_BYTES
