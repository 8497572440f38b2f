"""Brings requests together into batches for the engine, which one thread owns.

Bounded: a request that finds the queue full is refused at once, with how long to wait.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from schemas.errors import Unavailable
from trainer.inference import Engine, Row

_log = logging.getLogger(__name__)


@dataclass
class Call:
    """A row on its way through the engine. `updates` hears of each growth, None at the end."""

    row: Row
    loop: asyncio.AbstractEventLoop
    updates: asyncio.Queue[Exception | bool] = field(default_factory=asyncio.Queue)
    told: int = 0

    def tell(self, message: Exception | bool) -> None:
        """Wake the waiting request, from the engine's thread. True: it has grown; False: it is done."""
        self.loop.call_soon_threadsafe(self.updates.put_nowait, message)


@dataclass
class Action:
    """Something to do in the engine's thread between batches."""

    do: Callable[[Engine], None]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]

    def perform(self, engine: Engine) -> None:
        """Do it, and tell the waiting task how it went."""
        try:
            self.do(engine)
        except Exception as error:  # noqa: BLE001 - raised where the caller waits
            self.tell(error)
        else:
            self.tell(None)

    def tell(self, error: Exception | None) -> None:
        """Wake the waiting task, unless it has left."""
        self.loop.call_soon_threadsafe(self._settle, error)

    def _settle(self, error: Exception | None) -> None:
        if not self.done.done():
            if error is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(error)


Work = Call | Action | None


class Batcher:
    """Owns the engine's thread. `batch_max` rows run together, `queue_max` more may wait."""

    def __init__(self, make: Callable[[], Engine], batch_max: int, queue_max: int) -> None:
        self._make = make
        self._batch_max, self._queue_max = batch_max, queue_max
        self._work: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._waiting = 0
        self._seconds_per_batch = 1.0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.engine: Engine | None = None
        self._thread.start()

    def close(self) -> None:
        """Let the thread end after what is queued."""
        self._work.put(None)
        self._thread.join()

    async def with_engine(self, do: Callable[[Engine], None]) -> None:
        """Run `do` in the engine's thread between batches, e.g. to load an adapter."""
        loop = asyncio.get_running_loop()
        action = Action(do, loop, loop.create_future())
        self._work.put(action)
        await action.done

    async def answer(self, row: Row) -> AsyncGenerator[Row]:
        """Yield the row each time it has grown, the last time with its `finish_reason`.

        Leaving early cancels it. Raises Unavailable when the queue is full.
        """
        if self._waiting >= self._queue_max + self._batch_max:
            raise Unavailable(
                f"{self._waiting} requests wait for the model already",
                retry_after_seconds=max(1.0, round(self._seconds_per_batch, 1)),
            )
        call = Call(row, asyncio.get_running_loop())
        self._waiting += 1
        self._work.put(call)
        try:
            while True:
                message = await call.updates.get()
                if isinstance(message, Exception):
                    raise message
                yield row
                if not message:
                    return
        finally:
            self._waiting -= 1
            row.cancelled = True

    def _run(self) -> None:
        try:
            engine = self.engine = self._make()
        except Exception as error:  # noqa: BLE001 - each request hears of it
            _log.exception("no model to serve")
            self._refuse_all(error)
            return
        while (item := self._work.get()) is not None:
            if isinstance(item, Action):
                item.perform(engine)
                continue
            calls, after = self._gather(item)
            began = time.monotonic()
            self._answer(engine, calls)
            self._seconds_per_batch = time.monotonic() - began
            if after is not None:
                after.perform(engine)

    def _refuse_all(self, error: Exception) -> None:
        while (item := self._work.get()) is not None:
            item.tell(error)

    def _gather(self, first: Call) -> tuple[list[Call], Action | None]:
        """Whatever waits already, up to a batch; an action ends it and runs after."""
        calls = [first]
        while len(calls) < self._batch_max:
            try:
                item = self._work.get_nowait()
            except queue.Empty:
                break
            if item is None:
                self._work.put(None)
                break
            if isinstance(item, Action):
                return calls, item
            calls.append(item)
        return calls, None

    @staticmethod
    def _answer(engine: Engine, calls: list[Call]) -> None:
        ended: set[int] = set()
        try:
            for _ in engine.stream([call.row for call in calls]):
                for index, call in enumerate(calls):
                    if index in ended:
                        continue
                    if call.row.finish_reason is not None:
                        ended.add(index)
                        call.tell(message=False)
                    elif len(call.row.text) > call.told:
                        call.told = len(call.row.text)
                        call.tell(message=True)
        except Exception as error:  # noqa: BLE001 - each request hears of it
            _log.exception("a batch of %d rows failed", len(calls))
            for index, call in enumerate(calls):
                if index not in ended:
                    call.tell(error)
