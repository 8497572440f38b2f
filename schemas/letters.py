"""Dead letters: what a consumer could not take, kept with its bytes and the reason."""

from __future__ import annotations

import uuid

from schemas.errors import LogError
from schemas.events.operations import DeadLetter
from schemas.log import Record

VALUE_BYTES_MAX = 8 * 1024 * 1024
"""Kept of a record's value: the letter must fit a record itself."""
_NAMESPACE = uuid.UUID("5f2a3b60-6f0f-5d0e-9a53-0d6c1f1b7a11")


def dead_letter(record: Record, consumer: str, error: LogError) -> DeadLetter:
    """Return the letter; its id is the record's and the consumer's, so a repeat is the same letter."""
    value, message = record.value, error.message
    if value is not None and len(value) > VALUE_BYTES_MAX:
        message += f" (of {len(value)} bytes the first {VALUE_BYTES_MAX} are kept here)"
        value = value[:VALUE_BYTES_MAX]
    where = f"{consumer}|{record.topic}|{record.partition}@{record.offset}"
    return DeadLetter(
        event_id=str(uuid.uuid5(_NAMESPACE, where)),
        occurred_at_us=record.timestamp_ms * 1_000,
        consumer=consumer,
        source_topic=record.topic,
        source_partition=record.partition,
        source_offset=record.offset,
        error_code=error.code,
        error=message,
        record_key=record.key,
        record_value=value,
        record_headers={name: value.decode("utf-8", "replace") for name, value in record.headers},
    )
