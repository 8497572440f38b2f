"""Analysts' SQL: statements run in killable children, on snapshots."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

import projections
from projections.settings import ProjectionsSettings
from projections.snapshots import Snapshot
from projections.worker import Answer, Query, receive, send
from schemas.errors import InvalidRequest, PermissionDenied, Unavailable

_log = logging.getLogger(__name__)

_START_S = 30.0
"""A child that has not read its first statement by then is not counted as a slow statement."""


class StatementTooSlow(InvalidRequest):
    status = 408
    code = "statement_timeout"
    action = "Add a filter, aggregate earlier, or raise timeout_seconds."


class StatementTooLarge(InvalidRequest):
    code = "statement_memory"
    action = "Aggregate earlier, select fewer columns or add a filter."


class Result(msgspec.Struct, frozen=True):
    """Rows of a statement, and how old the data was that it read."""

    columns: list[dict[str, str]]
    rows: msgspec.Raw
    row_count: int
    truncated: str | None
    snapshot_age_ms: int
    elapsed_ms: int


class Analyst:
    """A small pool of children. Each runs one statement at a time and dies of a late one."""

    def __init__(
        self,
        settings: ProjectionsSettings,
        snapshot: Callable[[float | None], Snapshot],
        tables: list[str],
    ) -> None:
        self._settings = settings
        self._snapshot = snapshot
        self._tables = tables
        self._idle: queue.LifoQueue[_Child] = queue.LifoQueue()
        self._closed = threading.Event()
        self._waiters = ThreadPoolExecutor(settings.sql_workers, thread_name_prefix="sql-wait")
        for _ in range(settings.sql_workers):
            self._idle.put(_Child())

    def run(
        self,
        statement: str,
        *,
        rows: int | None = None,
        timeout_s: float | None = None,
        age_max_s: float | None = None,
        database: Path | None = None,
    ) -> Result:
        """Run one statement and return its rows. Blocks; from any thread.

        `database` names a database of the past instead of a snapshot of now. Raises
        InvalidRequest, PermissionDenied, StatementTooSlow, StatementTooLarge or Unavailable.
        """
        settings = self._settings
        started = time.monotonic()
        timeout_s = min(timeout_s or settings.sql_timeout_s, settings.sql_timeout_max_s)
        if database is None:
            snapshot = self._snapshot(age_max_s)
            path, taken_at = snapshot.path, snapshot.taken_at
        else:
            path, taken_at = database, started
        query = Query(
            path=str(path),
            statement=statement,
            tables=self._tables,
            rows_max=min(settings.sql_rows if rows is None else rows, settings.sql_rows_max),
            bytes_max=settings.sql_result_bytes_max,
            memory_bytes=settings.sql_memory_bytes,
            threads=settings.sql_threads,
        )
        answer = self._ask(query, timeout_s)
        _raise_for(answer)
        now = time.monotonic()
        return Result(
            columns=answer.columns,
            rows=answer.rows,
            row_count=answer.row_count,
            truncated=answer.truncated,
            snapshot_age_ms=round((now - taken_at) * 1000),
            elapsed_ms=round((now - started) * 1000),
        )

    def close(self) -> None:
        """Kill the children."""
        self._closed.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().kill()
        self._waiters.shutdown(wait=False)

    def _ask(self, query: Query, timeout_s: float) -> Answer:
        try:
            child = self._idle.get(timeout=self._settings.sql_queue_s)
        except queue.Empty:
            raise Unavailable(
                f"all {self._settings.sql_workers} workers are busy with other statements"
            ) from None
        try:
            child.ensure(self._waiters)
            answer = self._waiters.submit(child.ask, query).result(timeout_s)
        except NotInTime:
            child.kill()
            raise StatementTooSlow(
                f"the statement was stopped after {timeout_s:g} seconds"
            ) from None
        except BaseException:
            child.kill()
            raise
        finally:
            self._idle.put(child)
            if self._closed.is_set():
                child.kill()
        if answer is None:
            child.kill()
            raise StatementTooLarge(
                f"the statement took more than {query.memory_bytes >> 20} MiB and was stopped"
            )
        return answer


class _Child:
    """A worker process, started when first needed and again after each kill."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def ensure(self, waiters: ThreadPoolExecutor) -> None:
        """Start the process unless it runs, and wait until it reads statements."""
        if self._process is not None and self._process.poll() is None:
            return
        self._process = subprocess.Popen(
            [sys.executable, "-m", "projections.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=_environment(),
        )
        _, output = self._streams()
        try:
            hello = waiters.submit(receive, output).result(_START_S)
        except NotInTime:
            hello = None
        if hello is None:
            raise Unavailable("the worker for statements did not start")

    def ask(self, query: Query) -> Answer | None:
        """Send a statement and wait for its answer; None when the process died of it."""
        source, output = self._streams()
        try:
            send(source, query)
            data = receive(output)
        except (OSError, ValueError):
            return None
        return None if data is None else msgspec.json.decode(data, type=Answer)

    def kill(self) -> None:
        """End the process, whatever it does."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for stream in self._streams():
            with contextlib.suppress(OSError):
                stream.close()
        self._process = None

    def _streams(self) -> tuple[BinaryIO, BinaryIO]:
        process = self._process
        assert process is not None
        return cast("BinaryIO", process.stdin), cast("BinaryIO", process.stdout)


def _environment() -> dict[str, str]:
    """What a child needs to import this package: none of the secrets of ours."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return kept | {"PYTHONPATH": str(Path(projections.__file__).parent.parent)}


def _raise_for(answer: Answer) -> None:
    if answer.error is None:
        return
    if answer.kind == "memory":
        raise StatementTooLarge(answer.error, action=answer.action)
    if answer.kind == PermissionDenied.code:
        raise PermissionDenied(answer.error, action=answer.action)
    if answer.kind == Unavailable.code:
        raise Unavailable(answer.error)
    raise InvalidRequest(answer.error, action=answer.action)
