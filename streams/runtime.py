"""Runs folds as Faust agents, one per source. All of Faust is in here, one trap per function.

Faust shares out partitions and feeds the agent. Its guarantees are not enough (it loses and
doubles events over restarts), so exactness comes from `streams.partition`: rows say what they
include, a cursor row follows them, and reading starts at the cursor. The published table topic is
the changelog: whoever gets a partition first reads the rows of it (ADR 0007 says why Faust's own
tables do not).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

import faust
from faust.types import TP, Message
from faust.types.tuples import ConsumerMessage

from schemas.event import Topic
from schemas.log import Connection, Cursor, Log, Reader, Record
from streams.arrival import read
from streams.ends import EndsReader
from streams.partition import PartitionFold, recovered
from streams.settings import StreamsSettings
from streams.table import FoldRunner

_log = logging.getLogger(__name__)

_CHUNKS_MAX = 8
"""Chunks that wait for a source's folds, each at most a fetch of one partition."""

_STEP_RECORDS = 500
"""Records decoded without giving way: the members of a consumer group must answer the broker."""

_PAUSE_S_MAX = 0.1
"""So long nothing is taken after a fetch: one per record costs more than folding it."""

_MANY_RECORDS = 1_000
"""After a fetch of so many there is no rest: there is a backlog."""

_REREAD_RECORDS = 5_000
_REREAD_WAIT_S = 0.5


class SourceRunner:
    """The folds of one source, fed by one Faust app in the current event loop.

    They share what is read and decoded, the rebalances and the group, which is named after them
    all: a process that runs other folds of the source is then no member of it.
    """

    def __init__(
        self,
        folds: Sequence[FoldRunner],
        settings: StreamsSettings,
        log: Log,
        ends: EndsReader,
        topic_id: str | None,
    ) -> None:
        self.folds = folds
        self.source: Topic = folds[0].fold.source
        self.assigned = asyncio.Event()
        self._log = log
        self._ends = ends
        self._topic_id = topic_id
        self._next: dict[int, int] = {}
        """What is read next, by partition: before it, every fold has everything."""
        self._openings = 0
        """Counts assignments and their ends: what was begun under another one is left alone."""
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._app = faust.App(_group(folds), **_options(folds, settings, log.connection))
        self._app.agent(_raw_topic(self._app, self.source), name=_group(folds), concurrency=1)(
            self._consume
        )
        self._app.on_rebalance_complete.connect(self._open_partitions)
        self._app.on_partitions_revoked.connect(self._close_partitions)

    async def run(self, stop: asyncio.Event) -> None:
        """Fold until `stop`. Raises whatever a batch or Faust itself failed with."""
        app = self._app
        _quiet_loggers()
        app.finalize()
        _read_from_cursors(app, self.positions)
        _hand_over_chunks(app, min(_PAUSE_S_MAX, *(fold.wait_s / 2 for fold in self.folds)))
        await app.start()
        waits: list[asyncio.Future[Any]] = [
            asyncio.create_task(stop.wait()),
            asyncio.create_task(_crash_of(app)),
            *(asyncio.create_task(fold.run()) for fold in self.folds),
            self._failure,
        ]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in done:
                wait.result()
        finally:
            for wait in waits:
                wait.cancel()
            await app.stop()

    def positions(self) -> dict[TP, int]:
        """Return the next offset that is read, of the partitions that this process has."""
        return {TP(self.source.name, number): at for number, at in self._next.items()}

    # --- partitions come and go ----------------------------------------------------------------

    async def _open_partitions(self, *_: Any, **__: Any) -> None:
        """Recover the partitions of a new assignment, before Faust seeks and feeds them.

        Until here what comes finds no partition open and is left alone: it will be read again
        from the cursors.
        """
        await self._close_partitions()
        opening, name = self._openings, self.source.name
        mine = [tp.partition for tp in self._app.consumer.assignment() if tp.topic == name]
        rows = await self._recover(mine)
        if self._openings != opening:
            return  # another assignment has taken the place of this one
        for runner in self.folds:
            found = rows[runner.fold.table.name]
            runner.open(
                {
                    number: PartitionFold(runner.fold, number, found[number], self._topic_id)
                    for number in mine
                }
            )
        self._next.update(
            (number, min(runner.positions()[number] for runner in self.folds)) for number in mine
        )
        self.assigned.set()
        _log.info("%s read on from %s", _group(self.folds), self._next)

    async def _close_partitions(self, *_: Any, **__: Any) -> None:
        """Let go of all partitions, when what is under way is written: no late write follows."""
        self._next.clear()
        self._openings += 1
        await asyncio.gather(*(runner.close() for runner in self.folds))

    async def _recover(self, partitions: Sequence[int]) -> dict[str, dict[int, dict[bytes, bytes]]]:
        """Return the rows of every table by topic and partition.

        A reader learns of all topics at once; Faust's consumer, asked where they end, would learn of
        one after the other, with a second and a half between.
        """
        tables = [runner.fold.table for runner in self.folds]
        async with self._log.reader(tables) as reader:
            until = _flat(await reader.end_positions())
            records: dict[str, list[Record]] = {table.name: [] for table in tables}
            for record in await _read_until(reader, until):
                if record.partition in partitions:
                    records[record.topic].append(record)
        return {name: recovered(found, partitions) for name, found in records.items()}

    # --- records -------------------------------------------------------------------------------

    async def _consume(self, stream: AsyncIterable[list[Record]]) -> None:
        async for chunk in stream:
            try:
                await self._take(chunk)
            except Exception as error:  # noqa: BLE001 - ends the process
                await self._fail(error)

    async def _fail(self, error: Exception) -> None:
        """End the process, and take nothing further until then: Faust would skip it for good."""
        if not self._failure.done():
            self._failure.set_exception(error)
        self._next.clear()
        await asyncio.Event().wait()

    async def _take(self, chunk: Sequence[Record]) -> None:
        """Decode what came of a partition and give it to every fold, when all have room."""
        partition, opening = chunk[0].partition, self._openings
        if partition not in self._next:
            return
        whole = await self._without_gaps(partition, chunk)
        for at in range(0, len(whole), _STEP_RECORDS):
            records = whole[at : at + _STEP_RECORDS]
            arrivals = read(records, self.folds[0].fold.event)
            for runner in self.folds:
                await runner.has_room()
            await asyncio.sleep(0)
            if self._openings != opening:
                return
            for runner in self.folds:
                runner.put(partition, arrivals)
            self._next[partition] = records[-1].offset + 1

    async def _without_gaps(self, partition: int, records: Sequence[Record]) -> Sequence[Record]:
        """Return the records from where we are, with those that Faust left out.

        Faust resumes its streams before it seeks them, and commits may have passed an event in
        flight, so that records may come twice, or from too far on.
        """
        expected = self._next[partition]
        whole: list[Record] = []
        for record in records:
            if record.offset < expected:
                continue
            if record.offset > expected:
                whole.extend(await self._reread(partition, expected, record.offset))
            whole.append(record)
            expected = record.offset + 1
        return whole

    async def _reread(self, partition: int, start: int, end: int) -> list[Record]:
        """Read what is missing with a plain reader. Raises LogTruncated when it is gone."""
        name = self.source.name
        _log.warning("%s: %s|%d again from %d", _group(self.folds), name, partition, start)
        until = _flat({name: (await self._ends.now())[name]})
        at = {number: start if number == partition else until[name, number] for _, number in until}
        until[name, partition] = end
        async with self._log.reader([self.source], Cursor(positions={name: at})) as reader:
            found = await _read_until(reader, until)
        return [record for record in found if record.partition == partition]


Place = tuple[str, int]
"""Topic and partition."""


def _flat(offsets: Mapping[str, Mapping[int, int]]) -> dict[Place, int]:
    return {(name, at): end for name, found in offsets.items() for at, end in found.items()}


async def _read_until(reader: Reader, until: Mapping[Place, int]) -> list[Record]:
    """Read on up to these offsets, and nothing beyond."""
    found: list[Record] = []
    while any(reader.cursor.next_offset(*place) < end for place, end in until.items()):
        found.extend(
            record
            for record in await reader.batch(_REREAD_RECORDS, _REREAD_WAIT_S)
            if record.offset < until[record.topic, record.partition]
        )
    return found


def _group(folds: Sequence[FoldRunner]) -> str:
    return "weir-" + ".".join(runner.fold.name for runner in folds)


def _raw_topic(app: faust.App, topic: Topic) -> Any:
    """Return the source as Faust sees it: plain bytes, and nothing to commit.

    The group's committed offsets mean nothing to us, and Faust's bookkeeping of acknowledgements
    counts every offset between two messages.
    """
    return app.topic(
        topic.name,
        key_type=bytes,
        value_type=bytes,
        key_serializer="raw",
        value_serializer="raw",
        partitions=topic.partitions,
        allow_empty=True,
        acks=False,
    )


def _read_from_cursors(app: faust.App, positions: Callable[[], Mapping[TP, int]]) -> None:
    """Make Faust seek to our cursors where it would go to the group's committed offsets.

    Those may lie beyond events that were in flight, and on a quiet topic no later record would
    ever show the gap.
    """
    consumer = app.consumer

    async def seek_to_cursors() -> Mapping[TP, int]:
        wanted = positions()
        await consumer.seek_wait(wanted)
        return wanted

    consumer.seek_to_committed = seek_to_cursors


def _hand_over_chunks(app: faust.App, pause_s: float) -> None:
    """Make Faust pass on what a fetch brought of a partition as one message, a list of records.

    Faust spends over 100 µs of processor time on each message that it delivers to an agent,
    three times what decoding and folding cost, and more than that on each fetch: so it rests for
    `pause_s` after one, while the next gathers.
    """
    consumer = app.consumer

    async def getmany(timeout: float) -> AsyncIterator[tuple[TP, Message]]:  # noqa: ASYNC109
        fetched, active = await consumer._wait_next_records(timeout)
        if not fetched or consumer.should_stop:
            return
        generation = app.consumer_generation_id
        for tp, records in fetched.items():
            if not consumer.flow_active or app.consumer_generation_id != generation:
                break  # what is left out will be read again from the cursor
            if tp in active or tp in consumer._buffered_partitions:
                yield tp, _chunk(tp, records, generation)
        if not consumer.flow_active:
            await consumer.perform_seek()
        if sum(map(len, fetched.values())) < _MANY_RECORDS:
            await asyncio.sleep(pause_s)

    consumer.getmany = getmany


def _chunk(tp: TP, records: Iterable[Any], generation: int) -> Message:
    chunk = [
        Record(tp.topic, tp.partition, r.offset, r.timestamp, r.key, r.value, r.headers)
        for r in records
    ]
    last = chunk[-1]
    time_s = last.timestamp_ms / 1_000
    return ConsumerMessage(
        tp.topic,
        tp.partition,
        last.offset,
        time_s,
        0,
        None,
        None,
        chunk,
        None,
        0,
        0,
        tp,
        generation_id=generation,
    )


def _quiet_loggers() -> None:
    """Faust tells of every service that it starts, aiokafka of each attempt to reach a broker.

    Dozens of lines a second while one is away; our heartbeat says it once.
    """
    for name, level in {"faust": "WARNING", "mode": "WARNING", "aiokafka": "CRITICAL"}.items():
        logging.getLogger(name).setLevel(level)


async def _crash_of(app: faust.App) -> None:
    """Wait until Faust gives up on itself (its consumer can die over days), and raise why."""
    await app._crashed.wait()
    raise app.crash_reason or RuntimeError("Faust crashed without a reason")


def _options(
    folds: Sequence[FoldRunner], settings: StreamsSettings, connection: Connection
) -> dict[str, Any]:
    """Return the settings of the Faust app; what is not said here is Faust's default."""
    return {
        "broker": [f"kafka://{address}" for address in connection.bootstrap.split(",")],
        "broker_credentials": _credentials(connection),
        "autodiscover": False,
        "store": "memory://",
        "web_enabled": False,
        "stream_wait_empty": False,
        **_deaf_to_the_environment(),
        **_folder(folds, settings),
        **_no_topics_of_its_own(folds),
        **_static_member(folds, settings),
        **_bounded(settings),
    }


def _deaf_to_the_environment() -> dict[str, Any]:
    """Return another prefix of variables: BROKER_URL and the like would win over what we say."""
    return {"env_prefix": "WEIR_FAUST_"}


def _folder(folds: Sequence[FoldRunner], settings: StreamsSettings) -> dict[str, Any]:
    """Return the folder that Faust wants, whose parent it does not make."""
    folder = settings.data_dir / _group(folds)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return {"datadir": str(folder)}


def _no_topics_of_its_own(folds: Sequence[FoldRunner]) -> dict[str, Any]:
    """Keep Faust from declaring topics: it would make a missing source with its own settings."""
    return {
        "topic_allow_declare": False,
        "topic_disable_leader": True,
        "topic_partitions": folds[0].fold.source.partitions,
        "table_standby_replicas": 0,
    }


def _static_member(folds: Sequence[FoldRunner], settings: StreamsSettings) -> dict[str, Any]:
    """Give the process a name in its group, and so its partitions back at once after a death.

    Else they wait until the session of the dead one has timed out.
    """
    return {
        "consumer_group_instance_id": f"{_group(folds)}-{settings.worker}",
        "broker_session_timeout": settings.session_timeout_s,
        "broker_heartbeat_interval": settings.session_timeout_s / 5,
        "broker_request_timeout": max(30.0, settings.session_timeout_s),
    }


def _bounded(settings: StreamsSettings) -> dict[str, Any]:
    """Bound what waits in memory: Faust's buffer counts messages, and ours are whole chunks."""
    return {
        "broker_max_poll_records": settings.batch_records_max,
        "stream_buffer_maxsize": _CHUNKS_MAX,
        "consumer_max_fetch_size": 4 * 1024 * 1024,
    }


def _credentials(connection: Connection) -> Any:
    protocol = connection.security_protocol
    context = (
        ssl.create_default_context(cafile=connection.ca_file) if protocol.endswith("SSL") else None
    )
    if protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=connection.sasl_username,
            password=connection.sasl_password,
            mechanism=connection.sasl_mechanism,
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context else None
