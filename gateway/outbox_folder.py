"""The folder of an outbox: made locked, locked by whoever finishes it, synced after a change of names."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

LOCK_FILE = "lock"


def create_folder(folder: Path) -> int:
    """Create an outbox folder that appears already locked; return the lock's descriptor."""
    hidden = folder.with_name(f".{folder.name}")
    hidden.mkdir(parents=True, mode=0o700)
    lock = lock_folder(hidden)
    assert lock is not None
    hidden.rename(folder)
    sync_folder(folder.parent)
    return lock


def lock_folder(folder: Path) -> int | None:
    """Return a descriptor that holds the folder's lock until closed, None while another has it.

    Raises FileNotFoundError when the folder is gone.
    """
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def sync_folder(folder: Path) -> None:
    """Make new names inside a folder survive power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
