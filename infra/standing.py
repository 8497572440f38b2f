"""The parts that `weir up` starts."""

import sys
from pathlib import Path
from typing import Any

from infra.handover import FROM_INPUT
from infra.parts import Part
from infra.settings import WeirSettings
from infra.words import handover_of
from streams import READY_FILE

_LEAN_HEAP = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": str(2**22),
    "MALLOC_TRIM_THRESHOLD_": str(2**23),
}
"""For glibc, which else gives each of a worker's dozen threads a heap of its own, and keeps as much free
memory as twice the largest block ever freed, like the view cache: 7 MiB of a worker with 30,000 keys. Lower
thresholds save two more, but a call with a body of 2 MB takes a third more processor time."""


def standing_parts(settings: WeirSettings, *, sandbox: bool) -> list[Part]:
    """Every part that runs all the time, the broker apart. Raises ConfigurationError."""
    parts = [
        _told(
            f"gateway-{index}",
            settings,
            order=2,
            probe="http",
            port=settings.port,
            stop_s=45,  # running calls have 30 s, then the outbox is handed over
            environment=_LEAN_HEAP,
        )
        for index in range(settings.workers)
    ]
    # It reads the settings itself, for all that it administers.
    command = _command("control")
    parts.append(Part("control", command, order=1, probe="http", port=settings.control_port))
    parts.append(
        _told(
            "streams",
            settings,
            order=1,
            probe="file",
            ready_file=settings.home / "streams" / READY_FILE,
            awaited=False,
            # More threads only wait for each other: forecasts of small matrices take three times as long.
            environment={"OPENBLAS_NUM_THREADS": "1"},
        )
    )
    if sandbox:
        parts.append(_told("sandbox", settings, order=0, probe="tcp", port=settings.sandbox_port))
    if settings.trainer == "on":
        parts.append(_told("trainer", settings, order=1, needed=False, stop_s=30))
    return parts


def models_part(settings: WeirSettings, python: Path) -> Part:
    """The model server; it alone runs in the trainer's environment. Raises ConfigurationError."""
    return _told(
        "models",
        settings,
        str(python),
        order=1,
        probe="tcp",
        port=settings.models_port,
        needed=False,
        stop_s=30,
    )


def _command(name: str, python: str = sys.executable) -> tuple[str, ...]:
    return (python, "-m", "infra.start", name)


def _told(name: str, settings: WeirSettings, python: str = sys.executable, **traits: Any) -> Part:
    """A part that is told its settings."""
    handed = handover_of(name, settings).dump()
    return Part(name, (*_command(name, python), FROM_INPUT), handed=handed, **traits)
