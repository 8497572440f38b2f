"""Runs batches: one worker claims each, and if it dies another one takes over.

Every line runs under an idempotency key of its own, so whoever takes over gets the answers of what
was run already, and nothing is billed twice.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator

import msgspec

from gateway.attempts import ERROR_CODE
from gateway.batches import lines
from gateway.batches.commits import Commits
from gateway.batches.files import Files, FileWriter
from gateway.batches.lines import Line
from gateway.inner import InnerCall
from schemas.clock import now_us
from schemas.errors import IdempotencyConflict, IdempotencyUnrepeatable, WeirError
from schemas.events.batches import BatchChanged
from schemas.table_view import TableView

WINDOW_US = 24 * 3600 * 1_000_000
"""How long a batch may take; idempotency keys live as long."""
AT_ONCE = 8
"""Calls of one batch that run at the same time."""
BATCHES_AT_ONCE = 4
LOOK_S = 0.5
PROGRESS_S = 2.0
ATTEMPTS = 5
BACKOFF_S, BACKOFF_S_MAX = 1.0, 60.0
AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
OPEN = frozenset({"validating", "in_progress", "finalizing", "cancelling"})
_log = logging.getLogger(__name__)


class Runner:
    """Runs the batches of this worker; belongs to the event loop's thread."""

    def __init__(
        self,
        view: TableView[BatchChanged],
        files: Files,
        commits: Commits,
        call: Callable[[InnerCall], Awaitable[None]],
        was_run: Callable[[str, str], bool],
        outbox_closed: Callable[[str], bool],
    ) -> None:
        self._view = view
        self._files = files
        self._commits = commits
        self._call = call
        self._was_run = was_run
        self._outbox_closed = outbox_closed
        self._running: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Look for work until cancelled; what runs then is taken over by another worker."""
        try:
            while True:
                for batch in list(self._view.entries.values()):
                    if batch.status in OPEN:
                        await self._look(batch)
                await asyncio.sleep(LOOK_S * random.uniform(0.5, 1.5))
        finally:
            tasks = list(self._running.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self, batch: BatchChanged) -> None:
        """Claim a batch that nobody runs; run one that is ours."""
        mine = self._commits.outbox.id
        if batch.batch_id in self._running or len(self._running) >= BATCHES_AT_ONCE:
            return
        if batch.outbox_id is None or self._outbox_closed(batch.outbox_id):
            try:
                await self._change(batch, outbox_id=mine)
            except WeirError as error:
                _log.warning("a batch waits: %s", error.message)
            return
        if batch.outbox_id == mine:
            task = asyncio.create_task(self._guarded(batch))
            self._running[batch.batch_id] = task
            task.add_done_callback(lambda _: self._running.pop(batch.batch_id, None))

    async def _guarded(self, batch: BatchChanged) -> None:
        try:
            await _Run(self, batch.batch_id).run()
        except WeirError as error:
            # The log or a file is away for now: the next look tries again.
            _log.warning("batch %s pauses: %s", batch.batch_id, error.message)
            await asyncio.sleep(BACKOFF_S)
        except Exception:  # noqa: BLE001 - one broken batch must not stop the others
            _log.exception("batch %s broke down", batch.batch_id)
            await self._end(batch, "failed", errors=["an internal error has occurred"])

    async def _change(self, batch: BatchChanged, **fields: object) -> bool:
        changed = msgspec.structs.replace(batch, **fields)
        return await self._commits.commit(self._view, changed, version=batch.entity_version + 1)

    async def _end(self, batch: BatchChanged, status: str, **fields: object) -> None:
        await self.update(batch.batch_id, status=status, **fields)

    # --- what a run needs ----------------------------------------------------------------------

    def current(self, batch_id: str) -> BatchChanged:
        """Return a batch as it is now."""
        return self._view.entries[f"batch:{batch_id}"]

    async def update(self, batch_id: str, **fields: object) -> None:
        """Change a batch, its status with the time. Raises Unavailable."""
        if "status" in fields:
            times = {**self.current(batch_id).times_us, str(fields["status"]): now_us()}
            fields["times_us"] = times
        await self._commits.update(self._view, f"batch:{batch_id}", **fields)

    async def begin(self, batch: BatchChanged, total: int) -> None:
        """Say that a batch of `total` lines runs, unless somebody changes it first: cancels it."""
        times = {**batch.times_us, "in_progress": now_us()}
        await self._change(batch, status="in_progress", total=total, times_us=times)

    @property
    def files(self) -> Files:
        """Where input comes from and output goes."""
        return self._files

    async def call(self, inner: InnerCall) -> None:
        """Serve one call."""
        await self._call(inner)

    def was_run(self, batch: BatchChanged, key: str) -> bool:
        """Whether a call of a batch was begun under this idempotency key."""
        return self._was_run(batch.key_id, key)


class _Run:
    """One batch from its input to its output."""

    def __init__(self, runner: Runner, batch_id: str) -> None:
        self._runner = runner
        self._id = batch_id
        self._completed = self._failed = 0
        self._gives_up = False
        self._not_run: list[Line] = []
        self._writers: dict[str, FileWriter] = {}

    @property
    def _batch(self) -> BatchChanged:
        return self._runner.current(self._id)

    async def run(self) -> None:
        batch = self._batch
        source = await self._runner.files.get(batch.input_file_id, batch.tenant)
        wanted, faults = lines.read(await self._runner.files.content(source), batch.endpoint)
        if faults:
            await self._runner.update(self._id, status="failed", errors=faults)
            return
        if batch.status == "validating":
            await self._runner.begin(batch, len(wanted))
        progress = asyncio.create_task(self._tell())
        try:
            await self._work_together(iter(wanted))
        finally:
            progress.cancel()
        await self._finish(len(wanted))

    def _stops(self) -> str | None:
        """Return how the batch ends before its last line, None while it goes on."""
        batch = self._batch
        if batch.status == "cancelling":
            return "cancelled"
        late = now_us() - batch.times_us["validating"] > WINDOW_US
        return "expired" if late else None

    async def _work_together(self, left: Iterator[Line]) -> None:
        """Run lines, several at a time. Raises as `_work`, when nothing runs any more.

        When one worker fails, the others end their lines, whose answers the next run will be given
        again; cancelled in the middle they would be paid for and asked anew.
        """
        workers = [asyncio.create_task(self._work(left)) for _ in range(AT_ONCE)]
        try:
            await asyncio.gather(*workers)
        except BaseException:  # cancelled, its workers are cancelled too
            self._gives_up = True
            await asyncio.gather(*workers, return_exceptions=True)
            raise

    async def _work(self, left: Iterator[Line]) -> None:
        while not self._gives_up:
            line = next(left, None)
            if line is None:
                return
            # What an earlier run of this batch was given belongs to it, wherever that one stopped.
            if self._stops() is None or self._runner.was_run(self._batch, self._key(line)):
                await self._one(line)
            else:
                self._not_run.append(line)

    def _key(self, line: Line) -> str:
        return f"{self._id}/{line.number}"

    async def _one(self, line: Line) -> None:
        batch = self._batch
        headers = [
            (b"content-type", b"application/json"),
            (b"x-weir-session-id", self._id.encode()),
        ]
        key = self._key(line)
        for attempt in range(ATTEMPTS):
            headers[2:] = [(b"idempotency-key", key.encode())]
            inner = InnerCall(batch.endpoint, headers, line.body, batch.key_id)
            await self._runner.call(inner)
            if inner.status not in AGAIN or attempt == ATTEMPTS - 1 or self._stops():
                break
            told = dict(inner.answer_headers)
            code = told.get(ERROR_CODE, b"").decode()
            if code == IdempotencyUnrepeatable.code:
                break  # it was answered and billed before a worker took over: it is not run again
            if code == IdempotencyConflict.code and b"retry-after" not in told:
                # A worker died in the middle of it: what came of that run nobody will ever know.
                # One that still goes on says when to ask again, and is waited for.
                key = f"{self._key(line)}/{attempt + 1}"
            await asyncio.sleep(_pause_s(inner, attempt))
        answered = dict(inner.answer_headers)
        request_id = answered.get(b"x-weir-request-id", b"").decode()
        text = lines.write(line, self._id, inner.status, request_id, inner.answer)
        good = inner.status < 300
        self._completed += good
        self._failed += not good
        self._writer("output" if good else "error").write(text)

    def _writer(self, kind: str) -> FileWriter:
        if kind not in self._writers:
            self._writers[kind] = self._runner.files.writer(self._batch.key_id)
        return self._writers[kind]

    async def _tell(self) -> None:
        """Say every few seconds how far it is."""
        while True:
            await asyncio.sleep(PROGRESS_S)
            try:
                await self._runner.update(self._id, completed=self._completed, failed=self._failed)
            except WeirError as error:
                _log.warning("the progress of a batch waits: %s", error.message)

    async def _finish(self, total: int) -> None:
        ended = self._stops()
        code = "batch_expired" if ended == "expired" else "batch_cancelled"
        for line in self._not_run:
            message = "This request was not run before the batch ended."
            self._writer("error").write(lines.not_run(line, self._id, code, message))
        if ended is None:
            await self._runner.update(self._id, status="finalizing")
        kept: dict[str, str] = {}
        for kind, writer in self._writers.items():
            name = f"{self._id}_{kind}.jsonl"
            file = writer.close(name, "batch_output", self._batch.tenant)
            await self._runner.files.keep(file)
            kept[f"{kind}_file_id"] = file.file_id
        await self._runner.update(
            self._id,
            status=ended or "completed",
            total=total,
            completed=self._completed,
            failed=self._failed,
            **kept,
        )


def _pause_s(inner: InnerCall, attempt: int) -> float:
    asked = dict(inner.answer_headers).get(b"retry-after", b"")
    if asked.isdigit():
        return float(min(int(asked), BACKOFF_S_MAX))
    return float(min(BACKOFF_S * 2**attempt, BACKOFF_S_MAX) * random.uniform(0.5, 1.0))
