"""The log as it lies in Kafka, read without any code of the product that could share its bugs.

Only the published Avro schemas are used: no event class, no deduplicator, no fold. What a consumer
would drop as a repeat is here on purpose, so that the rule that drops it can be checked.
"""

from __future__ import annotations

import io
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from fastavro import parse_schema, schemaless_reader
from fastavro.schema import fingerprint, to_parsing_canonical_form

PUBLISHED = Path(__file__).parent.parent / "schemas" / "published"
MARKER = b"\xc3\x01"
POLL_S = 1.0
IDLE_POLLS_MAX = 30
"""Empty polls (1 s each) before a partition that should hold more counts as unreadable."""


class Raw(msgspec.Struct):
    """A record as it lies on the topic; `body` is the decoded event, None when nothing decodes it."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: str | None
    type: str | None
    outbox: str | None
    sequence: int | None
    body: dict[str, Any] | None

    @property
    def event_id(self) -> str:
        """The id of the event, or the position of a record that is none."""
        if self.body is None:
            return f"{self.topic}|{self.partition}@{self.offset}"
        return str(self.body["event_id"])


class Audit(msgspec.Struct):
    """How the rule of (outbox, sequence) fares against the ids of the events.

    `lost` events would be dropped by the rule though their id was never seen, `doubled` ones are
    let through a second time; `holes` are sequences of an outbox that lie on no topic read.
    """

    records: int = 0
    events: int = 0
    repeats: int = 0
    undecodable: int = 0
    lost: int = 0
    doubled: int = 0
    holes: int = 0


def read_topics(bootstrap: str, topics: Iterable[str]) -> list[Raw]:
    """Return every record of these topics up to their ends as of now, in partition order.

    Raises KafkaException when the broker does not answer, TimeoutError when a partition cannot be
    read to its end.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "recount",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
        }
    )
    try:
        ends = _ends(consumer, topics)
        consumer.assign([TopicPartition(*where, low) for where, (low, _) in ends.items()])
        return list(
            _drain(consumer, {where: end for where, (low, end) in ends.items() if end > low})
        )
    finally:
        consumer.close()


def _ends(consumer: Consumer, topics: Iterable[str]) -> dict[tuple[str, int], tuple[int, int]]:
    known = consumer.list_topics(timeout=10).topics
    return {
        (topic, partition): consumer.get_watermark_offsets(
            TopicPartition(topic, partition), timeout=10
        )
        for topic in topics
        if topic in known
        for partition in known[topic].partitions
    }


def _drain(consumer: Consumer, missing: dict[tuple[str, int], int]) -> Iterator[Raw]:
    idle = 0
    while missing:
        messages = consumer.consume(5_000, timeout=POLL_S)
        idle = 0 if messages else idle + 1
        if idle > IDLE_POLLS_MAX:
            raise TimeoutError(f"records are missing below the end of {sorted(missing)}")
        for message in messages:
            if message.error() is not None:
                if message.error().code() == KafkaError._PARTITION_EOF:
                    continue
                raise KafkaException(message.error())
            where = (message.topic(), message.partition())
            if where in missing and message.offset() < missing[where]:
                yield _raw(message)
            if where in missing and message.offset() + 1 >= missing[where]:
                del missing[where]
        # A compacted partition may end in records that were cleaned away.
        for where in [key for key in missing if idle]:
            if consumer.position([TopicPartition(*where)])[0].offset >= missing[where]:
                del missing[where]


def _raw(message: Any) -> Raw:
    headers = {name: value or b"" for name, value in message.headers() or []}
    sequence = headers.get("weir-seq")
    kind, body = decode(message.value())
    key = message.key()
    return Raw(
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
        timestamp_ms=message.timestamp()[1],
        key=None if key is None else key.decode("utf-8", "replace"),
        type=kind,
        outbox=headers["weir-outbox"].decode() if "weir-outbox" in headers else None,
        sequence=None if sequence is None else int(sequence),
        body=body,
    )


def decode(value: bytes | None) -> tuple[str | None, dict[str, Any] | None]:
    """Return the CloudEvents type and the fields of a record value, (None, None) if it is no event."""
    if value is None or value[:2] != MARKER:
        return None, None
    known = _published().get(value[2:10])
    if known is None:
        return None, None
    kind, schema = known
    body = io.BytesIO(value[10:])
    try:
        fields = schemaless_reader(body, schema, None)
    except Exception:  # noqa: BLE001 - fastavro raises many kinds; a broken record is counted
        return None, None
    if body.tell() != len(value) - 10 or not isinstance(fields, dict):
        return None, None
    return kind, fields


@cache
def _published() -> dict[bytes, tuple[str, Any]]:
    """Every published schema by its fingerprint: (CloudEvents type, parsed schema)."""
    known = {}
    for path in sorted(PUBLISHED.glob("*.avsc")):
        schema = json.loads(path.read_text("utf-8"))
        print_ = bytes.fromhex(fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))
        known[print_] = (
            str(schema["weir.type"]),
            parse_schema(schema, named_schemas={}, _write_hint=False),
        )
    return known


def unique(records: Iterable[Raw]) -> list[Raw]:
    """Return the first record of each event id: deduplication by identity alone."""
    seen: set[str] = set()
    kept = []
    for record in records:
        if record.event_id not in seen:
            seen.add(record.event_id)
            kept.append(record)
    return kept


def audit(records: Iterable[Raw]) -> Audit:
    """Check the rule of consumers (drop what is not above the highest sequence) against the ids."""
    result = Audit()
    marks: dict[tuple[str, int, str], int] = {}
    kept: set[str] = set()
    seen: set[str] = set()
    sequences: defaultdict[str, set[int]] = defaultdict(set)
    for record in records:
        result.records += 1
        result.undecodable += record.body is None
        seen.add(record.event_id)
        if record.outbox is not None and record.sequence is not None:
            sequences[record.outbox].add(record.sequence)
            mark = (record.topic, record.partition, record.outbox)
            if record.sequence <= marks.get(mark, -1):
                result.repeats += 1
                continue
            marks[mark] = record.sequence
        result.doubled += record.event_id in kept
        kept.add(record.event_id)
    result.events = len(seen)
    result.lost = len(seen - kept)
    result.holes = sum(max(found) - min(found) + 1 - len(found) for found in sequences.values())
    return result


def spoil_one(records: list[Raw], lines: Sequence[int], seed: int) -> str:
    """Drop or double one of the records at `lines`, as the seed says; return what was done."""
    draw = random.Random(f"sabotage {seed}")
    chosen = draw.choice(lines)
    if draw.random() < 0.5:
        return f"dropped one {records.pop(chosen).type}"
    record = records[chosen]
    body = (record.body or {}) | {"event_id": "doubled"}
    records.append(msgspec.structs.replace(record, body=body, outbox=None, sequence=None))
    return f"doubled one {record.type}"


def read_log(path: Path) -> list[Raw]:
    """Return the records that `dump` kept."""
    decoder = msgspec.json.Decoder(Raw)
    return [decoder.decode(line) for line in path.read_bytes().splitlines()]


def dump(records: Iterable[Raw], path: Path) -> None:
    """Keep records as JSONL, sealed bytes as base64."""
    encode = msgspec.json.Encoder().encode
    with path.open("wb") as out:
        for record in records:
            out.write(encode(record) + b"\n")
