"""Runs a fold as a Faust agent over a table in Kafka. All of Faust is in here, one trap per function.

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
from aiokafka.errors import KafkaError
from faust.types import TP, Message
from faust.types.tuples import ConsumerMessage

from schemas.codec import Headers, headers
from schemas.errors import BrokerUnavailable, LogTruncated
from schemas.event import Topic
from schemas.log import Connection, Cursor, Log, Record
from streams.fold import AnyFold
from streams.partition import OFFSET_HEADER, PartitionFold, Row, Tombstone, recovered
from streams.settings import StreamsSettings

_log = logging.getLogger(__name__)

_CHUNKS_MAX = 8
"""Chunks folded at once, each at most a fetch of one partition."""

_STEP_RECORDS = 2_000
"""Records folded without giving way: with a row for each, a tenth of a second or two.

The members of a consumer group must answer the broker meanwhile.
"""

_REREAD_RECORDS = 5_000
_REREAD_WAIT_S = 0.5

Span = tuple[int | None, int | None]
"""Offsets from, and to but not including; None is a partition's beginning, or its end as of now."""


class FoldRunner:
    """One fold, run by a Faust app of its own, in the current event loop.

    An app, and so a consumer group, per fold: folds then share no rebalance and no failure, and
    can be shared out over processes.
    """

    def __init__(
        self, fold: AnyFold, settings: StreamsSettings, log: Log, topic_id: str | None
    ) -> None:
        self.fold = fold
        self._settings = settings
        self._log = log
        self._topic_id = topic_id
        self._partitions: dict[int, PartitionFold] = {}
        self.assigned = asyncio.Event()
        self._busy = asyncio.Lock()
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._app = faust.App(f"weir-{fold.name}", **_options(fold, settings, log.connection))
        source = _raw_topic(self._app, fold.source)
        self._app.agent(source, name=f"weir-{fold.name}", concurrency=1)(self._consume)
        self._app.on_rebalance_complete.connect(self._open_partitions)
        self._app.on_partitions_revoked.connect(self._close_partitions)

    async def run(self, stop: asyncio.Event) -> None:
        """Fold until `stop`. Raises whatever a batch or Faust itself failed with."""
        app = self._app
        _quiet_loggers()
        app.finalize()
        _read_from_cursors(app, self._positions)
        _hand_over_chunks(app)
        await app.start()
        waits: list[asyncio.Future[Any]] = [
            asyncio.create_task(stop.wait()),
            asyncio.create_task(_crash_of(app)),
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

    def positions(self) -> dict[int, int]:
        """Return the next source offset by partition, of the partitions that this process has."""
        return {number: part.next_offset for number, part in self._partitions.items()}

    def leads(self) -> bool:
        """Return whether this process is the one, among those of its fold, that decides."""
        return 0 in self._partitions

    async def lag(self) -> int:
        """Return how many source records of our partitions are not folded yet.

        Raises LogTruncated when the source ends below a cursor: never an automatic reset.
        Raises BrokerUnavailable.
        """
        positions = self.positions()
        ends = await self._ends(self.fold.source, positions)
        lag = 0
        for tp, end in ends.items():
            behind = end - positions[tp.partition]
            if behind < 0:
                raise LogTruncated(
                    f"{tp.topic}|{tp.partition} ends at {end}, "
                    f"the {self.fold.name} table already includes {-behind} records more"
                )
            lag += behind
        return lag

    async def _ends(self, topic: Topic, partitions: Iterable[int]) -> Mapping[TP, int]:
        tps = [TP(topic.name, partition) for partition in partitions]
        if not tps:
            return {}
        try:
            ends: Mapping[TP, int] = await self._app.consumer.highwaters(*tps)
        except KafkaError as error:
            raise BrokerUnavailable("the broker does not tell the log's end") from error
        return ends

    # --- partitions come and go ----------------------------------------------------------------

    async def _open_partitions(self, *_: Any, **__: Any) -> None:
        """Recover the partitions of a new assignment, before Faust seeks and feeds them.

        Until here a batch finds no partition open and is left alone: it will be read again from
        the cursor.
        """
        self._partitions.clear()
        source = self.fold.source.name
        mine = [tp.partition for tp in self._app.consumer.assignment() if tp.topic == source]
        rows = await self._recover(mine)
        self._partitions.update(
            (number, PartitionFold(self.fold, number, rows[number], self._topic_id))
            for number in mine
        )
        self.assigned.set()
        _log.info("%s reads on from %s", self.fold.name, self.positions())

    async def _close_partitions(self, *_: Any, **__: Any) -> None:
        """Let go of all partitions, when what is under way is written: no late write follows."""
        async with self._busy:
            self._partitions.clear()

    async def _recover(self, partitions: Sequence[int]) -> dict[int, dict[bytes, bytes]]:
        records = await self._reread(self.fold.table, dict.fromkeys(partitions, (None, None)))
        return recovered(records, partitions)

    def _positions(self) -> dict[TP, int]:
        return {TP(self.fold.source.name, part): at for part, at in self.positions().items()}

    # --- records -------------------------------------------------------------------------------

    async def _consume(self, stream: AsyncIterable[Any]) -> None:
        wait_s = self._settings.batch_wait_s if self.fold.wait_s is None else self.fold.wait_s
        batches = stream.take(  # type: ignore[attr-defined]  # faust brings no types
            _CHUNKS_MAX, within=wait_s
        )
        async for chunks in batches:
            try:
                await self._fold(chunks)
            except Exception as error:  # noqa: BLE001 - ends the process
                await self._fail(error)

    async def _fail(self, error: Exception) -> None:
        """End the process, and take no further batch until then.

        Faust would skip the batch for good and go on with the next, whose cursor would then
        vouch for rows that were never written.
        """
        if not self._failure.done():
            self._failure.set_exception(error)
        self._partitions.clear()
        await asyncio.Event().wait()

    async def _fold(self, chunks: Iterable[list[Record]]) -> None:
        by_partition: dict[int, list[Record]] = {}
        for chunk in chunks:
            by_partition.setdefault(chunk[0].partition, []).extend(chunk)
        async with self._busy:
            await asyncio.gather(*(self._fold_partition(*part) for part in by_partition.items()))

    async def _fold_partition(self, partition: int, records: Sequence[Record]) -> None:
        part = self._partitions.get(partition)
        if part is None:
            return
        whole = await self._without_gaps(part, records)
        for at in range(0, len(whole), _STEP_RECORDS):
            await self._step(part, whole[at : at + _STEP_RECORDS])

    async def _step(self, part: PartitionFold, records: Sequence[Record]) -> None:
        """Fold and publish: emissions, rows, the cursor, tombstones, each acknowledged."""
        step = part.take(records)
        for emission in step.emissions:
            await self._log.publish(emission)
        await self._publish(part.partition, step.rows)
        if step.cursor is not None:
            await self._publish(part.partition, [step.cursor])
        await self._publish(part.partition, step.swept)
        part.published(step)

    async def _without_gaps(
        self, part: PartitionFold, records: Sequence[Record]
    ) -> Sequence[Record]:
        """Return the records from the partition's cursor on, with those that Faust left out.

        Faust resumes its streams before it seeks them, and commits may have passed an event in
        flight, so that records may come twice, or from too far on.
        """
        expected = part.next_offset
        whole: list[Record] = []
        for record in records:
            if record.offset < expected:
                continue
            if record.offset > expected:
                whole.extend(await self._reread_gap(record.partition, expected, record.offset))
            whole.append(record)
            expected = record.offset + 1
        return whole

    async def _reread_gap(self, partition: int, start: int, end: int) -> list[Record]:
        source = self.fold.source
        _log.warning("%s reads %s|%d again from %d", self.fold.name, source.name, partition, start)
        return await self._reread(source, {partition: (start, end)})

    async def _reread(self, topic: Topic, spans: Mapping[int, Span]) -> list[Record]:
        """Read spans of a topic with a plain reader. Raises LogTruncated when one is gone."""
        ends = await self._ends(topic, range(topic.partitions))
        at = {tp.partition: offset for tp, offset in ends.items()}
        until = {number: at[number] if end is None else end for number, (_, end) in spans.items()}
        for number, (start, _) in spans.items():
            if start is None:
                del at[number]
            else:
                at[number] = start
        found: list[Record] = []
        async with self._log.reader([topic], Cursor(positions={topic.name: at})) as reader:
            next_offset = reader.cursor.next_offset
            while any(next_offset(topic.name, number) < end for number, end in until.items()):
                found.extend(
                    record
                    for record in await reader.batch(_REREAD_RECORDS, _REREAD_WAIT_S)
                    if record.offset < until.get(record.partition, 0)
                )
        return found

    async def _publish(self, partition: int, rows: Sequence[Row | Tombstone]) -> None:
        """Append rows to the table's topic and wait until all in-sync replicas have them.

        One producer and one partition, so rows keep their order even where a send is repeated.
        """
        producer, topic, source = self._app.producer, self.fold.table.name, self._log.source
        sent = [
            await producer.send(topic, row.key, value, partition, None, told)
            for row in rows
            for value, told in [_value_and_headers(row, source)]
        ]
        await asyncio.gather(*sent)


def _value_and_headers(row: Row | Tombstone, source: str) -> tuple[bytes | None, Headers]:
    """Return what a row or tombstone says; both say by how much of the source."""
    if isinstance(row, Tombstone):
        return None, [(OFFSET_HEADER, str(row.offset).encode())]
    offset = str(row.event.offset).encode()
    return row.value, [*headers(row.event, source), (OFFSET_HEADER, offset)]


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


def _hand_over_chunks(app: faust.App) -> None:
    """Make Faust pass on what a fetch brought of a partition as one message, a list of records.

    Faust spends over 100 µs of processor time on each message that it delivers to an agent,
    three times what decoding and folding cost.
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


def _options(fold: AnyFold, settings: StreamsSettings, connection: Connection) -> dict[str, Any]:
    """Return the settings of the Faust app; what is not said here is Faust's default."""
    return {
        "broker": [f"kafka://{address}" for address in connection.bootstrap.split(",")],
        "broker_credentials": _credentials(connection),
        "autodiscover": False,
        "store": "memory://",
        "web_enabled": False,
        "stream_wait_empty": False,
        "producer_acks": -1,
        "producer_linger": 0.0,  # a step's rows are sent together; waiting would only add up
        "producer_compression_type": "zstd",
        "producer_max_request_size": 16 * 1024 * 1024,
        **_deaf_to_the_environment(),
        **_folder(fold, settings),
        **_no_topics_of_its_own(fold),
        **_static_member(fold, settings),
        **_bounded(settings),
    }


def _deaf_to_the_environment() -> dict[str, Any]:
    """Return another prefix of variables: BROKER_URL and the like would win over what we say."""
    return {"env_prefix": "WEIR_FAUST_"}


def _folder(fold: AnyFold, settings: StreamsSettings) -> dict[str, Any]:
    """Return the folder that Faust wants, whose parent it does not make."""
    folder = settings.data_dir / fold.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    return {"datadir": str(folder)}


def _no_topics_of_its_own(fold: AnyFold) -> dict[str, Any]:
    """Keep Faust from declaring topics: it would make a missing source with its own settings."""
    return {
        "topic_allow_declare": False,
        "topic_disable_leader": True,
        "topic_partitions": fold.source.partitions,
        "table_standby_replicas": 0,
    }


def _static_member(fold: AnyFold, settings: StreamsSettings) -> dict[str, Any]:
    """Give the process a name in its group, and so its partitions back at once after a death.

    Else they wait until the session of the dead one has timed out.
    """
    return {
        "consumer_group_instance_id": f"weir-{fold.name}-{settings.worker}",
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
