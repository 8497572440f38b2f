"""Copies of the live database that others may read."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from projections.database import Database, Folder
from projections.settings import ProjectionsSettings
from schemas.errors import Unavailable

_COPIER = """
import json, shutil, sys
for line in sys.stdin:
    try:
        shutil.copyfile(*json.loads(line))
        print(flush=True)
    except OSError as error:
        print(error, flush=True)
"""
_KEPT = 2


class Snapshot(msgspec.Struct, frozen=True):
    """A copy: everything committed by `taken_at` (monotonic seconds) is in it."""

    path: Path
    taken_at: float
    commits: int
    cost_s: float


class Snapshots:
    """Takes copies on demand, one at a time, and removes those that newer ones replaced.

    The file is copied by a child process: closing the file here would drop DuckDB's lock. Commits
    go on meanwhile, since after a checkpoint they touch only the write-ahead log and blocks that
    the copied header does not name; the next checkpoint waits.
    """

    def __init__(self, settings: ProjectionsSettings, folder: Folder) -> None:
        self._settings = settings
        self._folder = folder
        self._busy = threading.Lock()
        self._number = 0
        self._last: Snapshot | None = None
        self._source: Database | None = None
        self._old: list[Path] = []
        self._copier = _Copier()

    @property
    def age_max_s(self) -> float:
        """How old a snapshot may grow: longer where taking one is dear, within bounds."""
        if self._last is None:
            return 0.0
        settings = self._settings
        affordable = self._last.cost_s / settings.snapshot_share
        return max(settings.snapshot_age_s, min(affordable, settings.snapshot_age_max_s))

    def fresh(self, live: Callable[[], Database], age_max_s: float | None = None) -> Snapshot:
        """Return a snapshot that is young enough or whole, taking one if need be. Blocks."""
        asked_at = time.monotonic()
        with self._busy:
            database = live()
            last = self._last
            if last is not None and database is self._source:
                limit = self.age_max_s if age_max_s is None else age_max_s
                if last.commits == database.commits or asked_at - last.taken_at <= limit:
                    return last
            return self._take(database)

    def exclusively(self, action: Callable[[], None]) -> None:
        """Run an action while no snapshot is being taken."""
        with self._busy:
            action()

    def close(self) -> None:
        """End the copying child."""
        with self._busy:
            self._copier.close()

    def _take(self, database: Database) -> Snapshot:
        started = time.monotonic()
        self._number += 1
        path = self._folder.snapshots / f"{database.path.stem}-{self._number:06d}.duckdb"
        commits = database.commits
        database.checkpoint()
        try:
            self._copier.copy(database.path, path)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise Unavailable(
                f"a snapshot of the database could not be copied: {error}",
                action="Free space on the disk of WEIR_HOME and try again.",
            ) from error
        if self._last is not None:
            self._old.append(self._last.path)
        while len(self._old) >= _KEPT:  # who has an old one open keeps it: only its name goes
            self._old.pop(0).unlink(missing_ok=True)
        self._source = database
        self._last = Snapshot(path, started, commits, time.monotonic() - started)
        return self._last


class _Copier:
    """A child that copies files one after the other: starting one for each would cost more."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def copy(self, source: Path, target: Path) -> None:
        """Copy a file. Raises OSError."""
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _COPIER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(source), str(target)]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if answer != "\n":
            raise OSError(answer.strip() or "the copying process died")

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
