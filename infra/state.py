"""What a running installation says of itself on disk: `state.json` and the supervisor's lock.

The lock is the kernel's: it is free the moment its holder dies, however it dies.
"""

import fcntl
import os
import time
from pathlib import Path

import msgspec

_CLOCK_TOLERANCE_S = 0.05


class PartState(msgspec.Struct, kw_only=True):
    """One part as `weir status` shows it; `created_s` tells a pid that was given anew."""

    name: str
    status: str = "waiting"
    pid: int | None = None
    created_s: float | None = None
    restarts: int = 0
    exit_code: int | None = None
    detail: str = ""

    def alive(self) -> bool:
        """Whether its process still runs."""
        return self.pid is not None and _runs(self.pid, self.created_s)


class InstallationState(msgspec.Struct, kw_only=True):
    """The whole installation; written on every change."""

    version: str
    supervisor_pid: int
    fingerprint: str
    port: int
    public_url: str
    kafka: str
    embedded: bool
    started_at_us: int
    sandbox: bool = False
    trainer_environment: str = "off"
    parts: list[PartState] = []

    def save(self, home: Path) -> None:
        """Replace the file as a whole, so that a reader never sees half of it."""
        half = home / f"state.json.{os.getpid()}"
        half.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2))
        half.replace(home / "state.json")


def load_state(home: Path) -> InstallationState | None:
    """The last written state, None where there is none that this version can read."""
    try:
        return msgspec.json.decode((home / "state.json").read_bytes(), type=InstallationState)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def seen_state(home: Path) -> InstallationState | None:
    """The last written state, as far as it is still true: on a full disk none can be written."""
    state = load_state(home)
    for part in state.parts if state else ():
        if part.pid is not None and not part.alive():
            part.status, part.detail = "gone", part.detail or "its process is not there"
    return state


def created_s(pid: int) -> float | None:
    """When a process was started, None when it is gone."""
    import psutil  # 4 MiB, of which a gateway worker's use is its end alone

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def _runs(pid: int, started_s: float | None) -> bool:
    found = created_s(pid)
    if found is None or (started_s is not None and abs(found - started_s) > _CLOCK_TOLERANCE_S):
        return False
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


class HomeLock:
    """An exclusive claim on a home folder: one supervisor at a time."""

    def __init__(self, home: Path) -> None:
        self._path = home / "supervisor.lock"
        self._descriptor: int | None = None

    def take(self, wait_s: float = 1.5) -> bool:
        """Try to claim it; parts look at the lock for moments, hence the short wait."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(descriptor)
                    return False
                time.sleep(0.05)
            else:
                self._descriptor = descriptor
                return True

    def release(self) -> None:
        """Give it back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def supervised(home: Path) -> bool:
    """Whether a living supervisor holds this home."""
    try:
        descriptor = os.open(home / "supervisor.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)
