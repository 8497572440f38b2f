"""An event's bytes: Avro single-object encoding, and CloudEvents 1.0 headers in binary mode.

Value: ``C3 01``, the 8-byte little-endian CRC-64-AVRO fingerprint of the writer's schema, the
Avro body. Source: Avro specification ("Single-object encoding"), CloudEvents Kafka protocol
binding 1.0 ("Binary content mode").
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache
from importlib import resources
from typing import Any, Final, TypeVar, cast

import msgspec
from fastavro import parse_schema, schemaless_reader

from schemas.avro import Schema, fingerprint_of, schema_of
from schemas.decoder import Decoder, decoder_of
from schemas.encoder import Encoder
from schemas.encoder_source import encoder_of
from schemas.encoders import ENCODERS
from schemas.errors import CorruptRecord, UnknownSchema
from schemas.event import Event
from schemas.events import event_types

MARKER = b"\xc3\x01"
HEADER_BYTES = 10
CONTENT_TYPE = b"application/avro"
ORIGINS_MAX = 1_024
"""Kinds of records whose shared headers are kept: each outbox that is adopted brings its own."""
LINKS: tuple[str, str, str] = ("ce_correlationid", "ce_causationid", "ce_traceparent")

Headers = list[tuple[str, bytes]]
E = TypeVar("E", bound=Event)


@dataclass(frozen=True, slots=True)
class Writer:
    """A writer's schema: of which event class it is, and the schema itself."""

    event_type: type[Event]
    schema: Schema
    parsed: Any
    prefix: bytes


@cache
def writer_of(event_type: type[Event]) -> Writer:
    """Return the current writer of an event class."""
    schema = schema_of(event_type)
    return Writer(event_type, schema, _parse(schema), MARKER + fingerprint_of(schema))


@cache
def writers() -> dict[bytes, Writer]:
    """Return every known writer by its prefix: the current ones and all published versions."""
    current = {event.type: event for event in event_types()}
    known: dict[bytes, Writer] = {}
    for schema in published_schemas():
        event_type = current.get(schema["weir.type"])
        if event_type is not None:
            prefix = MARKER + fingerprint_of(schema)
            known[prefix] = Writer(event_type, schema, _parse(schema), prefix)
    for event_type in event_types():
        writer = writer_of(event_type)
        known[writer.prefix] = writer
    return known


def published_schemas() -> list[Schema]:
    """Return the committed schema of every version that was ever released."""
    folder = resources.files("schemas") / "published"
    return [
        cast("Schema", json.loads(entry.read_text("utf-8")))
        for entry in sorted(folder.iterdir(), key=lambda item: item.name)
        if entry.name.endswith(".avsc")
    ]


@cache
def _decoder(event_type: type[Event]) -> Decoder:
    return decoder_of(event_type)


@cache
def encoder(event_type: type[Event]) -> Encoder:
    """Return the function from an event of this class to its record value."""
    writer = writer_of(event_type)
    return ENCODERS.get(writer.prefix) or encoder_of(writer.schema, writer.prefix)


def encode(event: Event) -> bytes:
    """Return the record value of an event."""
    return encoder(type(event))(event)


def decode(value: bytes) -> Event:
    """Return the event in a record value, read with its writer's schema.

    Raises UnknownSchema for a fingerprint that nobody published, CorruptRecord for bytes that
    are not what the fingerprint promises, trailing ones included.
    """
    writer = writers().get(value[:HEADER_BYTES])
    if writer is None:
        raise unknown_schema(value)
    try:
        event, end = _read(writer, value)
        if end != len(value):
            raise ValueError(f"{len(value) - end} bytes are left over")
        return event
    except Exception as error:  # fastavro raises many kinds, IndexError and EOFError among them
        raise CorruptRecord(
            f"a record of {writer.event_type.type} cannot be decoded: {error}"
        ) from error


def _read(writer: Writer, value: bytes) -> tuple[Event, int]:
    current = writer_of(writer.event_type)
    if writer is current:
        return _decoder(writer.event_type)(value, HEADER_BYTES)
    body = io.BytesIO(value)
    body.seek(HEADER_BYTES)
    fields = schemaless_reader(body, writer.parsed, current.parsed)
    return msgspec.convert(fields, writer.event_type, builtin_types=(bytes,)), body.tell()


def decode_as(value: bytes, event_type: type[E]) -> E | None:
    """Return the event if it is of this type, else None; raises as `decode`."""
    writer = writers().get(value[:HEADER_BYTES])
    if writer is not None and writer.event_type is not event_type:
        return None
    return cast("E", decode(value))


def unknown_schema(value: bytes) -> UnknownSchema:
    """Return the error for a value whose writer is unknown."""
    if value[:2] != MARKER:
        return UnknownSchema("a record does not begin with the Avro single-object marker C3 01")
    return UnknownSchema(f"no published schema has the fingerprint {value[2:HEADER_BYTES].hex()}")


def headers(
    event: Event,
    source: str,
    *,
    correlation_id: str | None = None,
    causation_id: str | None = None,
    traceparent: str | None = None,
) -> Headers:
    """Return the CloudEvents headers of an event; `source` names its producer (``/gateway/1``).

    `correlation_id` is the request or run that the event belongs to, `causation_id` the event
    that caused it.
    """
    return [
        *shared_headers(origin_of(type(event), source)),
        *event_headers(event),
        *link_headers(correlation_id, causation_id, traceparent),
    ]


def origin_of(event_type: type[Event], source: str) -> str:
    """Return what names the headers that all events of a type from one producer share."""
    return f"{event_type.type} {event_type.version} {source}"


@lru_cache(ORIGINS_MAX)
def shared_headers(origin: str) -> Headers:
    """Return the headers that `origin_of` names; none for an empty origin."""
    if not origin:
        return []
    name, version, source = origin.split(" ", 2)
    return [
        ("content-type", CONTENT_TYPE),
        ("ce_specversion", b"1.0"),
        ("ce_type", name.encode()),
        ("ce_dataschema", f"urn:weir:schema:{name}:v{version}".encode()),
        ("ce_source", source.encode()),
    ]


def event_headers(event: Event) -> Headers:
    """Return the headers that an event has for itself."""
    return [("ce_id", event.event_id.encode()), ("ce_time", timestamp(event.occurred_at_us))]


def link_headers(
    correlation_id: str | None, causation_id: str | None, traceparent: str | None
) -> Headers:
    """Return the headers that the events of one cause share."""
    values = (correlation_id, causation_id, traceparent)
    return [(name, value.encode()) for name, value in zip(LINKS, values, strict=True) if value]


class _Second:
    """The last second as text: the hot path formats thousands of times within one."""

    def __init__(self) -> None:
        self.last: tuple[int, bytes] = (0, b"1970-01-01T00:00:00.")
        """Read and set as one, so that threads never see half of it."""


_second: Final = _Second()


def timestamp(time_us: int) -> bytes:
    """Return a time as CloudEvents write it (RFC 3339)."""
    seconds, fraction = time_us // 1_000_000, time_us % 1_000_000
    known, text = _second.last
    if known != seconds:
        text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.").encode()
        _second.last = (seconds, text)
    return b"%b%bZ" % (text, str(1_000_000 + fraction)[1:].encode())


def _parse(schema: Schema) -> Any:
    return parse_schema(schema, named_schemas={}, _write_hint=False)
