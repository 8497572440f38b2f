"""Calls made up for the tests, and a reader of everything that reached the log."""

from collections import Counter
from pathlib import Path

import msgspec

from gateway.ledger import Recorder, cost_entry
from gateway.outbox import OutboxSettings
from infra.kafka import KafkaLog
from schemas import codec
from schemas.clock import now_us
from schemas.event import Event
from schemas.events.changes import PriceChanged
from schemas.events.feedback import FEEDBACK
from schemas.events.llm import (
    CONTENT,
    COSTS,
    REQUESTS,
    RESPONSES,
    RequestAdmitted,
    ResponseCompleted,
)
from schemas.events.operations import HEARTBEATS, PRIVACY_KEYS
from schemas.identity import uuid7
from schemas.log import Cursor, Record
from schemas.privacy import MasterKey
from schemas.publish import sample

MASTER = MasterKey(bytes(range(32)))
TOPICS = [REQUESTS, RESPONSES, COSTS, CONTENT, FEEDBACK, PRIVACY_KEYS, HEARTBEATS]
PRICE = msgspec.structs.replace(
    sample(PriceChanged),
    provider="openai",
    model="gpt",
    valid_from_us=0,
    input_price=2_000_000_000,
    cached_input_price=500_000_000,
    output_price=8_000_000_000,
    tiers=[],
)


def settings(folder: Path, **changes: int | float) -> OutboxSettings:
    return OutboxSettings(folder / "outbox", **changes)


def request(request_id: str | None = None, **changes: object) -> RequestAdmitted:
    fields = {
        "event_id": uuid7(),
        "occurred_at_us": now_us(),
        "request_id": request_id or uuid7(),
        "reserved_nano_usd": 1_000,
        "candidates": [],
    }
    return msgspec.structs.replace(sample(RequestAdmitted), **(fields | changes))


def response(admitted: RequestAdmitted, **changes: object) -> ResponseCompleted:
    fields = {
        "event_id": uuid7(),
        "occurred_at_us": now_us(),
        "request_id": admitted.request_id,
        "key_id": admitted.key_id,
        "user_id": admitted.user_id,
        "outcome": "success",
        "usage_basis": "reported",
        "input_tokens": 100,
        "cached_input_tokens": 40,
        "output_tokens": 10,
        "cache_write_input_tokens": None,
        "units": {},
        "attempts": [],
    }
    return msgspec.structs.replace(sample(ResponseCompleted), **(fields | changes))


def call(recorder: Recorder, content: bytes | None = b'{"request":1}') -> tuple[str, int]:
    """Record one whole call; its request id and the sequence to wait for."""
    admitted = request()
    recorder.admitted(admitted, len(content or b"") + 256)
    answer = response(admitted)
    sequence = recorder.completed(answer, cost_entry(answer, PRICE, 7), content, mode="full")
    return admitted.request_id, sequence


class Seen:
    """What a consumer has after deduplication."""

    def __init__(self, records: list[Record], dropped: int) -> None:
        self.records = records
        self.dropped = dropped
        self.events: list[Event] = [codec.decode(r.value) for r in records if r.value is not None]

    def ids(self, kind: type[Event], **fields: object) -> Counter[str]:
        """How often each request id occurs among events of a type with these fields."""
        return Counter(
            event.request_id  # type: ignore[attr-defined]
            for event in self.events
            if isinstance(event, kind)
            and all(getattr(event, name) == value for name, value in fields.items())
        )


async def here(log: KafkaLog) -> Cursor:
    """The end of the log as of now."""
    return Cursor(positions=await log.end_positions(TOPICS))


async def seen_since(log: KafkaLog, cursor: Cursor) -> Seen:
    """Everything up to the present end."""
    records: list[Record] = []
    raw = 0
    async with log.reader(TOPICS, cursor) as reader:
        start = {t: dict(p) for t, p in cursor.positions.items()}
        while await reader.lag() > 0:
            records += await reader.batch(5_000, 0.5)
        for topic, partitions in reader.cursor.positions.items():
            raw += sum(end - start.get(topic, {}).get(p, 0) for p, end in partitions.items())
    return Seen(records, raw - len(records))
