"""A record as it lies in an outbox and is read again."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """A record on its way to Kafka; `sequence` ascends within the outbox, time is in ms.

    `origin` names the headers that it shares with others (`schemas.codec.shared_headers`); who wrote
    before there was such a field wrote all of them among `headers`. An entry without a topic is a
    note to the adopter (see `segment.carry`) and is never sent.
    """

    sequence: int
    topic: str
    partition: int
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    timestamp_ms: int
    origin: str = ""
