"""Replays that were asked for over the API: one at a time, in a thread with a loop of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import msgspec

from projections.projection import closure
from projections.replay import Moment, Replayer, Report
from schemas.clock import now_us
from schemas.errors import Conflict, NotFound, WeirError
from schemas.identity import uuid7

_log = logging.getLogger(__name__)

_KEPT = 50


class Job(msgspec.Struct, kw_only=True):
    """A replay. `status` is running, done or failed; `report` is there once it is done."""

    id: str
    name: str
    verify: bool
    as_of: str | None
    started_at_us: int
    status: str = "running"
    records_read: int = 0
    records_total: int | None = None
    report: dict[str, Any] | None = None
    passed: bool | None = None
    error: str | None = None
    action: str | None = None


class Replays:
    """Starts replays and remembers the last ones."""

    def __init__(self, replayer: Replayer) -> None:
        self._replayer = replayer
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()

    def start(self, name: str, verify: bool, as_of: str | None) -> Job:
        """Begin a replay in the background.

        Raises NotFound, InvalidRequest for a moment that is none, Conflict while another runs.
        """
        closure(name)
        moment = None if as_of is None else Moment.parse(as_of)
        job = Job(id=uuid7(), name=name, verify=verify, as_of=as_of, started_at_us=now_us())
        with self._lock:
            running = [other for other in self._jobs.values() if other.status == "running"]
            if running:
                raise Conflict(
                    f"replay {running[0].id} of {running[0].name} still runs",
                    action=f"Wait for it: GET /api/v1/replays/{running[0].id}",
                )
            self._jobs[job.id] = job
            while len(self._jobs) > _KEPT:
                del self._jobs[next(iter(self._jobs))]
        thread = threading.Thread(target=self._run, args=(job, moment), name="replay", daemon=True)
        thread.start()
        return job

    def get(self, job_id: str) -> Job:
        """Return a replay. Raises NotFound."""
        if job_id not in self._jobs:
            raise NotFound(f"there is no replay {job_id}")
        return self._jobs[job_id]

    def all(self) -> list[Job]:
        """Return the remembered replays, newest first."""
        return list(self._jobs.values())[::-1]

    def _run(self, job: Job, moment: Moment | None) -> None:
        def progress(done: int, total: int) -> None:
            job.records_read, job.records_total = done, total

        try:
            report: Report = asyncio.run(
                self._replayer.replay(job.name, verify=job.verify, as_of=moment, progress=progress)
            )
            job.report, job.passed = report.to_dict(), report.passed
            job.status = "done"
        except WeirError as error:
            job.error, job.action, job.status = error.message, error.advice, "failed"
        except Exception as error:  # noqa: BLE001 - a thread of its own: whoever asked must learn of it
            _log.exception("replay %s of %s failed", job.id, job.name)
            job.error, job.status = f"{type(error).__name__}: {error}", "failed"
