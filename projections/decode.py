"""Records → Arrow: whole batches at once, and one by one where a record is bad."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from typing import Any

import msgspec
import pyarrow as pa
import pyruhvro

from schemas.avro import Schema
from schemas.codec import HEADER_BYTES, Writer, decode, unknown_schema, writer_of, writers
from schemas.errors import CorruptRecord, LogError
from schemas.event import Event
from schemas.log import Record

_PRIMITIVES = {
    "string": pa.string(),
    "long": pa.int64(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "bytes": pa.binary(),
}
_LAST_TIME_US = 253_402_300_799_999_999
"""The end of the year 9999: a time beyond it would fail the batch of everybody else."""


class Rejected(msgspec.Struct, frozen=True):
    """A record that no table can take, and why."""

    record: Record
    error: LogError


class Decoded(msgspec.Struct, frozen=True):
    """The rows of a batch per event type, in log order, and what could not be read."""

    rows: dict[type[Event], pa.Table]
    rejected: list[Rejected]


def decode_batch(records: Iterable[Record], wanted: Collection[type[Event]]) -> Decoded:
    """Decode the events of the wanted types; other known events are passed over."""
    known = writers()
    groups: dict[tuple[str, bytes], list[Record]] = {}
    rejected: list[Rejected] = []
    for record in records:
        value = record.value
        if value is None:
            rejected.append(Rejected(record, CorruptRecord("a record of a fact has no value")))
            continue
        groups.setdefault((record.topic, value[:HEADER_BYTES]), []).append(record)

    parts: dict[type[Event], list[pa.Table]] = {}
    for (topic, prefix), members in groups.items():
        writer = known.get(prefix)
        if writer is None or writer.event_type.topic.name != topic:
            rejected.extend(Rejected(record, _stranger(record, writer)) for record in members)
        elif writer.event_type in wanted:
            table, refused = _decode_group(members, writer)
            rejected.extend(refused)
            if table.num_rows:
                parts.setdefault(writer.event_type, []).append(table)
    rows = {event_type: pa.concat_tables(tables) for event_type, tables in parts.items()}
    return Decoded(rows, rejected)


def empty(event_type: type[Event]) -> pa.Table:
    """Return a table without rows that has the columns of an event and of its record."""
    return _with_places(arrow_schema(event_type).empty_table(), [])


@cache
def arrow_schema(event_type: type[Event]) -> pa.Schema:
    """Return the Arrow schema of an event's Avro schema."""
    return pa.schema(_fields(writer_of(event_type).schema, {}))


def _stranger(record: Record, writer: Writer | None) -> LogError:
    if writer is None:
        return unknown_schema(record.value or b"")
    return CorruptRecord(f"{writer.event_type.type} does not belong on {record.topic}")


def _decode_group(records: list[Record], writer: Writer) -> tuple[pa.Table, list[Rejected]]:
    table = _decode_together(records, writer)
    if table is not None:
        return _with_places(table, records), []
    good: list[Record] = []
    rows: list[dict[str, Any]] = []
    rejected: list[Rejected] = []
    for record in records:
        try:
            rows.append(_decode_alone(record))
            good.append(record)
        except LogError as error:
            rejected.append(Rejected(record, error))
    table = pa.Table.from_pylist(rows, arrow_schema(writer.event_type))
    return _with_places(table, good), rejected


def _decode_together(records: Sequence[Record], writer: Writer) -> pa.Table | None:
    """Return the rows of one writer's records, or None when they must be read one by one.

    The batch decoder knows no bytes and no schema resolution, fails as a whole, and does not
    notice what is left over behind a record: encoding its result again proves that each record
    held exactly this.
    """
    if writer != writer_of(writer.event_type) or _holds_bytes(writer.event_type):
        return None
    bodies = [record.value[HEADER_BYTES:] for record in records if record.value is not None]
    text = _schema_text(writer.event_type)
    try:
        batch = pyruhvro.deserialize_array(bodies, text)
        batch.validate(full=True)  # it takes over text that is no UTF-8
        again = pyruhvro.serialize_record_batch(batch, text, 1)
    except Exception:  # noqa: BLE001 - it raises what its language has; reading one by one tells why
        return None
    if len(again) != 1 or not again[0].equals(pa.array(bodies, pa.binary())):
        return None
    times = batch.column("occurred_at_us").to_numpy()
    if times.min() < 0 or times.max() > _LAST_TIME_US:
        return None
    table = pa.Table.from_batches([batch])
    return table.cast(arrow_schema(writer.event_type))


def _decode_alone(record: Record) -> dict[str, Any]:
    event = decode(record.value or b"")
    if not 0 <= event.occurred_at_us <= _LAST_TIME_US:
        raise CorruptRecord(f"occurred_at_us lies outside the calendar: {event.occurred_at_us}")
    fields: dict[str, Any] = msgspec.to_builtins(event, builtin_types=(bytes,))
    return fields


def _with_places(table: pa.Table, records: Sequence[Record]) -> pa.Table:
    # By index: on a million records the names of the tuple's fields cost a second.
    columns = {
        "log_topic": pa.repeat(pa.scalar(records[0].topic if records else ""), len(records)),
        "log_partition": pa.array([record[1] for record in records], pa.int32()),
        "log_offset": pa.array([record[2] for record in records], pa.int64()),
        "appended_at_ms": pa.array([record[3] for record in records], pa.int64()),
    }
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table


@cache
def _schema_text(event_type: type[Event]) -> str:
    return json.dumps(writer_of(event_type).schema)


@cache
def _holds_bytes(event_type: type[Event]) -> bool:
    return '"bytes"' in _schema_text(event_type)


def _fields(schema: Schema, named: dict[str, pa.DataType]) -> list[pa.Field]:
    return [
        pa.field(field["name"], _arrow_type(field["type"], named)) for field in schema["fields"]
    ]


def _arrow_type(avro: Any, named: dict[str, pa.DataType]) -> pa.DataType:
    if isinstance(avro, list):  # a union is ["null", type] in our events
        return _arrow_type(avro[1], named)
    if isinstance(avro, str):
        return named[avro] if avro in named else _PRIMITIVES[avro]
    match avro["type"]:
        case "array":
            return pa.list_(_arrow_type(avro["items"], named))
        case "map":
            return pa.map_(pa.string(), _arrow_type(avro["values"], named))
        case "record":
            named[avro["name"]] = pa.struct(_fields(avro, named))
            return named[avro["name"]]
    return _arrow_type(avro["type"], named)
