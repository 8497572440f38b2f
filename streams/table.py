"""One fold over the partitions that this process has: gathers what arrives, folds it, writes rows.

However many events concern an entity while a batch gathers, it has one row of them. The more there
is to do, the more gathers while a batch is written, and the fewer rows an event costs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

from schemas.log import Log
from streams.arrival import Arrival
from streams.fold import AnyFold
from streams.partition import PartitionFold, Row, Tombstone
from streams.writer import TableWriter

GATHERED_MAX = 8_000
"""So many records are folded without further waiting."""

WAITING_MAX = 2 * GATHERED_MAX
"""So many wait at most; whoever brings more waits himself."""

_STEP_RECORDS = 500
_STEP_ROWS = 2_000
"""Records folded, and rows made, without giving way: a tenth of a second or two at most.

The members of a consumer group must answer the broker meanwhile.
"""


class FoldRunner:
    """One fold. `wait_s` is how long a batch gathers, unless the fold says so itself."""

    def __init__(self, fold: AnyFold, wait_s: float, log: Log, writer: TableWriter) -> None:
        self.fold = fold
        self.wait_s = wait_s if fold.wait_s is None else fold.wait_s
        self._log = log
        self._writer = writer
        self._parts: dict[int, PartitionFold] = {}
        self._waiting: dict[int, list[Arrival]] = {}
        self._late_before = 0
        self._count = 0
        self._some, self._enough, self._room = (asyncio.Event() for _ in range(3))
        self._room.set()
        self._busy = asyncio.Lock()

    def positions(self) -> dict[int, int]:
        """Return the next source offset by partition, of the partitions that this process has."""
        return {number: part.next_offset for number, part in self._parts.items()}

    def leads(self) -> bool:
        """Return whether this process is the one, among those of its fold, that decides."""
        return 0 in self._parts

    @property
    def late(self) -> int:
        """Return how many events came too late for a row, since the start of the process."""
        return self._late_before + sum(part.late for part in self._parts.values())

    def open(self, parts: Mapping[int, PartitionFold]) -> None:
        """Begin with these partitions, as they were recovered."""
        self._forget()
        self._parts.update(parts)

    async def close(self) -> None:
        """Let go of all partitions, when what is under way is written: no late write follows."""
        async with self._busy:
            self._forget()

    def _forget(self) -> None:
        self._late_before = self.late
        self._parts.clear()
        self._empty()

    def _empty(self) -> dict[int, list[Arrival]]:
        waiting, self._waiting, self._count = self._waiting, {}, 0
        self._some.clear()
        self._enough.clear()
        self._room.set()
        return waiting

    async def has_room(self) -> None:
        """Wait while too much waits already."""
        await self._room.wait()

    def put(self, partition: int, arrivals: Sequence[Arrival]) -> None:
        """Take what came of a partition that is open, without gaps."""
        self._waiting.setdefault(partition, []).extend(arrivals)
        self._count += len(arrivals)
        self._some.set()
        if self._count >= GATHERED_MAX:
            self._enough.set()
        if self._count >= WAITING_MAX:
            self._room.clear()

    async def run(self) -> None:
        """Fold what comes, until cancelled. Raises whatever a batch failed with.

        Nothing follows a batch that failed: the cursor of the next would vouch for rows that were
        never written.
        """
        while True:
            await self._some.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._enough.wait(), self.wait_s)
            async with self._busy:
                await self.flush()

    async def flush(self) -> None:
        """Fold and write what waits."""
        waiting = self._empty()
        await asyncio.gather(*(self._fold(*part) for part in waiting.items()))

    async def _fold(self, partition: int, arrivals: Sequence[Arrival]) -> None:
        part = self._parts[partition]
        for at in range(0, len(arrivals), _STEP_RECORDS):
            part.add(arrivals[at : at + _STEP_RECORDS])
            if part.changed >= _STEP_ROWS:
                await self._write(part)
            else:
                await asyncio.sleep(0)
        await self._write(part)

    async def _write(self, part: PartitionFold) -> None:
        """Publish emissions, then rows, then the cursor, then tombstones."""
        step = part.step()
        # Each is handed over before the next, so those of one key keep their order.
        await asyncio.gather(*(self._log.publish(emission) for emission in step.emissions))
        last: list[Row | Tombstone] = [] if step.cursor is None else [step.cursor]
        last += step.swept
        await self._writer.append(self.fold.table, part.partition, step.rows, last)
        part.published(step)
