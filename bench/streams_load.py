"""A seeded load for the folds, and the recount of what their tables must hold.

The recount works on the ledger of what was sent and shares no code with the folds.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from bench.rawlog import decode
from schemas.codec import encode
from schemas.event import Event
from schemas.events.feedback import FeedbackRecorded
from schemas.events.llm import Attempt, CostEntry, ResponseCompleted
from schemas.log import partition_of

TOPICS = ("weir.llm.responses.v1", "weir.llm.costs.v1", "weir.llm.feedback.v1")
TABLES = ("weir.health.tables.v1", "weir.spend.tables.v1", "weir.feedback.tables.v1")
PARTITIONS = 4
HEALTH_KEEP_S = 120
ERRORS = (
    ("failed", "server"),
    ("failed", "timeout"),
    ("failed", "request"),
    ("cancelled", None),
)


@dataclass
class Sent:
    """One event of the ledger: what the recount needs of it."""

    kind: str
    partition: int
    occurred_s: int
    fields: dict[str, Any]


@dataclass
class Load:
    """Draws events of a virtual stretch of time and sends them, some of them twice."""

    seed: int
    prefix: str
    start_s: int
    events_per_s: int = 2_000
    """Of event time, which is unrelated to how fast they are sent."""

    repeats: float = 0.02
    feedback: float = 0.1
    ledger: list[Sent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._sequence = 0
        self._sent = 0

    def events(self, count: int) -> Iterator[Event]:
        """Yield as many events, each already in the ledger."""
        for _ in range(count):
            number = self._sent
            self._sent += 1
            # Up to three minutes late: some events belong to buckets that have expired.
            late_s = self._random.randrange(180) if self._random.random() < 0.05 else 0
            at_s = self.start_s + number // self.events_per_s - late_s
            request_id = f"{self.prefix}-{number}"
            draw = self._random.random()
            if draw < self.feedback:
                yield self._feedback(request_id, at_s)
            elif draw < self.feedback + (1 - self.feedback) / 2:
                yield self._response(request_id, at_s)
            else:
                yield self._cost(request_id, at_s)

    def send(self, producer: Producer, count: int) -> None:
        """Send as many events as one outbox would, with repeats; returns when all are acked."""
        recent: list[tuple[str, int, bytes, bytes, int]] = []
        for event in self.events(count):
            key = event.key.encode()
            partition = partition_of(key, PARTITIONS)
            record = (event.topic.name, partition, key, encode(event), self._sequence)
            self._sequence += 1
            self._produce(producer, *record)
            recent = [*recent[-20:], record]
            if self._random.random() < self.repeats:
                # As after a lost acknowledgement: again from the lowest that is not confirmed.
                for again in recent[self._random.randrange(len(recent)) :]:
                    self._produce(producer, *again)
        producer.flush(60)

    def _produce(
        self, producer: Producer, topic: str, partition: int, key: bytes, value: bytes, number: int
    ) -> None:
        headers = [
            ("weir-outbox", f"{self.prefix}:{self.seed}".encode()),
            ("weir-seq", str(number).encode()),
        ]
        while True:
            try:
                producer.produce(topic, value, key, partition=partition, headers=headers)
                producer.poll(0)
                return
            except BufferError:
                producer.poll(0.1)

    def _base(self, request_id: str, at_s: int) -> dict[str, Any]:
        return {
            "event_id": request_id,
            "occurred_at_us": at_s * 1_000_000 + self._random.randrange(1_000_000),
            "request_id": request_id,
            "key_id": f"{self.prefix}-key{self._random.randrange(20)}",
            "team": f"{self.prefix}-team{self._random.randrange(4)}",
            "project": f"{self.prefix}-project{self._random.randrange(6)}",
            "route": "r",
            "target": f"{self.prefix}/model{self._random.randrange(5)}",
        }

    def _note(self, kind: str, request_id: str, at_s: int, **fields: Any) -> None:
        partition = partition_of(request_id.encode(), PARTITIONS)
        self.ledger.append(Sent(kind, partition, at_s, fields))

    def _response(self, request_id: str, at_s: int) -> Event:
        base = self._base(request_id, at_s)
        outcome, error = ("success", None)
        if self._random.random() < 0.2:
            outcome, error = self._random.choice(ERRORS)
        attempts = [
            Attempt(base["target"], outcome, error, 200, self._random.randrange(1, 9**7), 9)
        ]
        if outcome == "failed":
            second = f"{self.prefix}/model{self._random.randrange(5)}"
            attempts.append(Attempt(second, "success", None, 200, 5_000, None))
        self._note(
            "response",
            request_id,
            at_s,
            attempts=[(a.target, a.outcome, a.error_class) for a in attempts],
        )
        return ResponseCompleted(
            **base,
            outcome="success",
            status=200,
            attempts=attempts,
            input_tokens=10,
            output_tokens=20,
            usage_basis="reported",
            stream=False,
            latency_us=5_000,
        )

    def _cost(self, request_id: str, at_s: int) -> Event:
        base = self._base(request_id, at_s)
        cost = None if self._random.random() < 0.05 else self._random.randrange(10**9)
        tokens = self._random.randrange(5_000)
        owners = [f"key:{base['key_id']}", f"team:{base['team']}", f"project:{base['project']}"]
        owners += [f"target:{base['target']}"]
        self._note("cost", request_id, at_s, owners=owners, cost=cost, tokens=tokens)
        return CostEntry(
            **base,
            entry="settled" if cost is not None else "unpriced",
            input_tokens=tokens,
            output_tokens=None,
            cost_nano_usd=cost,
            basis="reported",
        )

    def _feedback(self, request_id: str, at_s: int) -> Event:
        model = f"{self.prefix}-model{self._random.randrange(3)}"
        self._note("feedback", request_id, at_s, model=model)
        return FeedbackRecorded(
            event_id=request_id,
            occurred_at_us=at_s * 1_000_000,
            feedback_id=request_id,
            request_id=request_id,
            key_id="k",
            user_id="u",
            feedback_type="correction",
            satisfaction_score=0.5,
            has_correction=True,
            model_id=model,
            data_key_id="d",
            nonce=b"n" * 12,
            ciphertext=b"c" * 200,
        )


def producer(bootstrap: str) -> Producer:
    """Return a fast producer that keeps order and loses nothing."""
    return Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "message.timeout.ms": 0,
            "linger.ms": 20,
            "queue.buffering.max.messages": 200_000,
            "compression.type": "zstd",
        }
    )


Figures = dict[tuple[str, int, str], tuple[int, ...]]
"""(entity, partition, window) → sums."""


def expected(ledger: Iterable[Sent]) -> Figures:
    """Recount the ledger."""
    health: dict[tuple[str, int, int], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    figures: dict[tuple[str, int, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for sent in ledger:
        if sent.kind == "response":
            for target, outcome, error in sent.fields["attempts"]:
                sums = health[target, sent.partition, sent.occurred_s // 10 * 10]
                sums[0] += outcome != "cancelled"
                sums[1] += outcome == "failed" and error != "request"
                sums[2] += outcome == "success"
                sums[3] += outcome != "success"
        elif sent.kind == "cost":
            for owner in sent.fields["owners"]:
                for window, seconds in (("day", 86_400), ("hour", 3_600)):
                    start_s = sent.occurred_s // seconds * seconds
                    sums = figures[owner, sent.partition, f"{window}@{start_s}"]
                    sums[0] += 1
                    sums[1] += sent.fields["cost"] or 0
                    sums[2] += sent.fields["cost"] is None
                    sums[3] += sent.fields["tokens"]
        else:
            figures[f"model:{sent.fields['model']}", sent.partition, "ever"][0] += 1
    newest: dict[tuple[str, int], int] = {}
    for target, partition, start_s in health:
        newest[target, partition] = max(newest.get((target, partition), 0), start_s)
    for (target, partition, start_s), sums in health.items():
        if start_s > newest[target, partition] - HEALTH_KEEP_S:
            figures[target, partition, f"10s@{start_s}"] = sums
    return {key: tuple(sums) for key, sums in figures.items()}


class Tables:
    """The table topics, followed without any code of the product: the last record per key."""

    def __init__(self, bootstrap: str) -> None:
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": "tables", "enable.auto.commit": False}
        )
        self.rows: dict[tuple[str, str], tuple[str | None, dict[str, Any]]] = {}
        self._times_ms: list[int] = []
        self._consumer.assign([TopicPartition(t, p, 0) for t in TABLES for p in range(PARTITIONS)])

    def close(self) -> None:
        self._consumer.close()

    def read(self) -> None:
        """Take in what there is."""
        while messages := self._consumer.consume(2_000, timeout=0.5):
            for message in messages:
                if message.error() is not None:
                    continue
                kind, body = decode(message.value())
                if body is not None:
                    self.rows[message.topic(), message.key().decode()] = (kind, body)
                    self._times_ms = [*self._times_ms[:1], message.timestamp()[1]]

    def forget_times(self) -> None:
        """Measure from here on."""
        self._times_ms = []

    def busy_s(self) -> float:
        """Return the time between the first and the last row, by the broker's clock."""
        return (self._times_ms[-1] - self._times_ms[0]) / 1_000

    def behind(self, sources: Iterable[str] = TOPICS) -> int:
        """Return how many source records no cursor row vouches for yet."""
        self.read()
        missing = 0
        for source in sources:
            table = TABLES[TOPICS.index(source)]
            for partition in range(PARTITIONS):
                where = TopicPartition(source, partition)
                _, end = self._consumer.get_watermark_offsets(where, timeout=10)
                _, cursor = self.rows.get((table, f":cursor|{partition}"), (None, {"offset": -1}))
                missing += end - 1 - cursor["offset"]
        return missing

    def figures(self, prefix: str) -> Figures:
        """Return what the tables say of a load's entities."""
        figures: Figures = {}
        for kind, row in self.rows.values():
            if kind and kind.endswith(".row") and _belongs(row["entity"], prefix):
                figures |= _figures(row, health=row["entity"].startswith(f"{prefix}/"))
        return figures


def _belongs(entity: str, prefix: str) -> bool:
    return f"{prefix}-" in entity or f"{prefix}/" in entity


def _figures(row: dict[str, Any], *, health: bool) -> Figures:
    entity, partition = row["entity"], row["partition"]
    if health:
        return {
            (entity, partition, f"10s@{found['start_s']}"): (
                found["calls"],
                found["failures"],
                sum(found["latency"].values()),
                sum(found["errors"].values()),
            )
            for found in row["buckets"]
        }
    if "total" in row:
        return {(entity, partition, "ever"): (row["total"], 0, 0, 0)}
    return {
        (entity, partition, f"{found['window']}@{found['start_s']}"): (
            found["entries"],
            found["cost_nano_usd"],
            found["unpriced"],
            found["input_tokens"],
        )
        for found in row["windows"]
        if found["window"] in {"day", "hour"}
    }


def differences(wanted: Figures, found: Figures) -> list[str]:
    """Return a line for every figure that is wrong, missing or too many."""
    return [
        f"{key}: {found.get(key)} instead of {wanted.get(key)}"
        for key in sorted(wanted.keys() | found.keys())
        if wanted.get(key) != found.get(key)
    ]
