"""Dead letters: what a consumer of this part could not take, kept with its bytes and the reason."""

from __future__ import annotations

from schemas.errors import LogError
from schemas.events.operations import DeadLetter
from schemas.log import Record

VALUE_BYTES_MAX = 8 * 1024 * 1024
"""Kept of a record's value: the letter must fit a record itself."""


def dead_letter(record: Record, consumer: str, error: LogError, event_id: str) -> DeadLetter:
    """Return the letter; a deterministic `event_id` makes that of a repeated attempt the same."""
    value, message = record.value, error.message
    if value is not None and len(value) > VALUE_BYTES_MAX:
        message += f" (of {len(value)} bytes the first {VALUE_BYTES_MAX} are kept here)"
        value = value[:VALUE_BYTES_MAX]
    return DeadLetter(
        event_id=event_id,
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
