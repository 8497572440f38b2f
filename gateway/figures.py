"""A worker's own figures in a file, for whoever asks of all workers (GW-07).

Workers share one port, so a request reaches any of them; a file each reaches all. It is replaced as
a whole every second and removed at the end; after a kill its process id tells that nobody is there.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from gateway import call
from schemas.clock import now_us

FOLDER = "workers"
EVERY_S = 1.0
_log = logging.getLogger(__name__)


def is_compiled() -> bool:
    """Whether this worker's calls run through compiled modules (`make compiled`), not their source."""
    return not str(call.__file__).endswith(".py")


async def publish(folder: Path, name: str, figures: Callable[[], dict[str, Any]]) -> None:
    """Write ``NAME.json`` below `folder` every second until cancelled."""
    file = folder / FOLDER / f"{name}.json"
    told = False
    _log.info("calls run through %s code", "compiled" if is_compiled() else "interpreted")
    try:
        while True:
            body = {"pid": os.getpid(), "written_at_us": now_us(), **figures()}
            try:
                await asyncio.to_thread(_replace, file, msgspec.json.encode(body))
                told = False
            except OSError as error:  # calls are served all the same
                if not told:
                    _log.warning("the worker's figures cannot be written: %s", error)
                told = True
            await asyncio.sleep(EVERY_S)
    finally:
        file.unlink(missing_ok=True)


def _replace(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_suffix(".half")
    half.write_bytes(data)
    half.replace(file)
