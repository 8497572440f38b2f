"""The figures that this machine's gateway workers write of themselves, read for `/status` and the
command line.
"""

from pathlib import Path
from typing import Any

import msgspec
import psutil

from gateway.figures import FOLDER
from schemas.clock import now_us


def worker_figures(home: Path) -> list[dict[str, Any]]:
    """Return what each living worker said last, by name; `age_seconds` tells how long ago."""
    found = []
    for file in sorted((home / "gateway" / FOLDER).glob("*.json")):
        said = _read(file)
        if said is not None and psutil.pid_exists(said["pid"]):
            age_s = (now_us() - said.pop("written_at_us")) / 1e6
            found.append({**said, "age_seconds": round(age_s, 1)})
    return found


def _read(file: Path) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError):
        return None  # its worker has just ended


def summary(said: dict[str, Any]) -> list[str]:
    """Return a worker's figures as a line of a table: see `COLUMNS`."""
    lanes = [lane for lane in said["providers"] if lane["waiting"] or lane["closed_s"]]
    shown = (
        f"{lane['target']} {lane['waiting']} waiting, closed {lane['closed_s']} s" for lane in lanes
    )
    return [
        said["worker"],
        str(said["calls"]),
        str(said["calls_refused"]),
        str(said["outbox"]["entries_waiting"]),
        f"{said['lag_seconds'] * 1000:.0f} ms",
        "yes" if said["compiled"] else "no",
        "; ".join(shown),
    ]


COLUMNS = (
    "worker",
    "in flight",
    "refused",
    "not in Kafka yet",
    "loop late",
    "compiled",
    "vendors' limits",
)
