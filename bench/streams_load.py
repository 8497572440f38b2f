"""A seeded load for the folds: events of every kind they read, sent as an outbox would, some twice."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from confluent_kafka import Producer

from schemas.codec import encode
from schemas.event import Event
from schemas.events.escrow import BudgetTerms, EscrowMoved
from schemas.events.feedback import FeedbackRecorded
from schemas.events.llm import Attempt, CostEntry, ResponseCompleted
from schemas.partition import partition_of

PARTITIONS = 4
ERRORS = (
    ("failed", "server"),
    ("failed", "timeout"),
    ("failed", "request"),
    ("cancelled", None),
)
CANARY_SHARE = 0.2
"""Of all calls, those that were drawn into a trial."""
RECENT_RECORDS = 20
"""So many of the last records may be sent again at once."""


class Sent(NamedTuple):
    """One event of the ledger: what a recount needs of it."""

    kind: str
    event_id: str
    partition: int
    occurred_us: int
    fields: dict[str, Any]


@dataclass
class Load:
    """Draws events of a virtual stretch of time and sends them, some of them twice.

    Everything that was drawn is told to `note`. The shares of feedback and of escrow are of all
    events, that of responses of what they leave; all else are cost entries.
    """

    seed: int
    prefix: str
    start_s: int
    note: Callable[[Sent], object]
    events_per_s: int = 2_000
    """Of event time, which is unrelated to how fast they are sent."""

    repeats: float = 0.02
    feedback: float = 0.1
    escrow: float = 0.05
    responses: float = 0.5
    keys: int = 20
    sent: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._sequence = 0

    def events(self, count: int) -> Iterator[Event]:
        """Yield as many events, each already noted."""
        for _ in range(count):
            number = self.sent
            self.sent += 1
            # Up to three minutes late: some events belong to buckets that have expired.
            late_s = self._random.randrange(180) if self._random.random() < 0.05 else 0
            at_s = self.start_s + number // self.events_per_s - late_s
            at_us = at_s * 1_000_000 + self._random.randrange(1_000_000)
            draw = self._random.random() - self.feedback
            name = f"{self.prefix}-{number}"
            if draw < 0:
                yield self._feedback(name, at_us)
            elif draw < self.escrow:
                yield self._escrow(name, at_us)
            elif draw < self.escrow + (1 - self.feedback - self.escrow) * self.responses:
                yield self._response(name, at_us)
            else:
                yield self._cost(name, at_us)

    def send(self, producer: Producer, count: int) -> None:
        """Send as many events as one outbox would, with repeats; returns when all are acked."""
        recent: list[tuple[str, int, bytes, bytes, int]] = []
        for event in self.events(count):
            key = event.key.encode()
            partition = partition_of(key, PARTITIONS)
            record = (event.topic.name, partition, key, encode(event), self._sequence)
            self._sequence += 1
            self._produce(producer, *record)
            recent = [*recent[-RECENT_RECORDS:], record]
            if self._random.random() < self.repeats:
                # As after a lost acknowledgement: again from the lowest that is not confirmed.
                for again in recent[self._random.randrange(len(recent)) :]:
                    self._produce(producer, *again)
        while producer.flush(60):
            pass

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

    def _note(self, kind: str, event: Event, **fields: Any) -> Event:
        partition = partition_of(event.key.encode(), PARTITIONS)
        self.note(Sent(kind, event.event_id, partition, event.occurred_at_us, fields))
        return event

    def _base(self, name: str, at_us: int) -> dict[str, Any]:
        return {
            "event_id": name,
            "occurred_at_us": at_us,
            "request_id": name,
            "key_id": f"{self.prefix}-key{self._random.randrange(self.keys)}",
            "team": f"{self.prefix}-team{self._random.randrange(4)}",
            "project": f"{self.prefix}-project{self._random.randrange(6)}",
            "user_id": f"{self.prefix}-user{self._random.randrange(8)}",
            "task_type": f"{self.prefix}-task{self._random.randrange(3)}",
            "route": "r",
            **self._target(),
        }

    def _target(self) -> dict[str, str]:
        model = f"model{self._random.randrange(5)}"
        return {"target": f"{self.prefix}/{model}", "provider": self.prefix, "model": model}

    def _response(self, name: str, at_us: int) -> Event:
        base = self._base(name, at_us)
        outcome, error = ("success", None)
        if self._random.random() < 0.2:
            outcome, error = self._random.choice(ERRORS)
        attempts = [
            Attempt(base["target"], outcome, error, 200, self._random.randrange(1, 9**7), 9)
        ]
        if outcome == "failed":
            attempts.append(Attempt(self._target()["target"], "success", None, 200, 5_000, None))
        event = ResponseCompleted(
            **base,
            outcome="success",
            status=200,
            attempts=attempts,
            input_tokens=10,
            output_tokens=20,
            usage_basis="reported",
            stream=False,
            latency_us=5_000,
            cost_nano_usd=self._random.randrange(10**7),
            trials=self._trials(),
        )
        tried = [(a.target, a.outcome, a.error_class, a.latency_us) for a in attempts]
        return self._note("response", event, attempts=tried)

    def _trials(self) -> dict[str, str]:
        if self._random.random() >= CANARY_SHARE:
            return {}
        side = self._random.choice(["canary", "baseline"])
        return {f"{self.prefix}-canary{self._random.randrange(3)}": side}

    def _cost(self, name: str, at_us: int) -> Event:
        base = self._base(name, at_us)
        cost = None if self._random.random() < 0.05 else self._random.randrange(10**9)
        tokens = self._random.randrange(5_000)
        owners = [f"{owner}:{base[f'{owner}']}" for owner in ("team", "project", "target")]
        event = CostEntry(
            **base,
            entry="settled" if cost is not None else "unpriced",
            input_tokens=tokens,
            output_tokens=None,
            cost_nano_usd=cost,
            basis="reported",
        )
        owners = [f"key:{base['key_id']}", *owners]
        return self._note("cost", event, owners=owners, cost=cost, tokens=tokens)

    def _feedback(self, name: str, at_us: int) -> Event:
        model = f"{self.prefix}/model{self._random.randrange(3)}"
        event = FeedbackRecorded(
            event_id=name,
            occurred_at_us=at_us,
            feedback_id=name,
            request_id=name,
            key_id="k",
            user_id="u",
            feedback_type="correction",
            satisfaction_score=self._random.uniform(-1, 1),
            has_correction=True,
            model_id=model,
            task_type=f"{self.prefix}-task{self._random.randrange(3)}",
            data_key_id="d",
            nonce=b"n" * 12,
            ciphertext=b"c" * 200,
        )
        return self._note("feedback", event, model=model)

    def _escrow(self, name: str, at_us: int) -> Event:
        """A node asks ahead, spends, or gives back: what a worker under a hard budget tells."""
        kind = self._random.choice(["asked", "spent", "spent", "spent", "returned"])
        amount = self._random.randrange(10**7)
        asked: dict[str, Any] = {"amount_nano_usd": amount}
        if kind == "asked":
            terms = BudgetTerms(1, 10**12, None, None, 800_000)
            asked = {"wanted_nano_usd": amount, "number": self.sent, "terms": terms}
        event = EscrowMoved(
            event_id=name,
            occurred_at_us=at_us,
            budget_id=f"{self.prefix}-budget{self._random.randrange(8)}",
            kind=kind,
            node=f"node{self._random.randrange(3)}",
            day=datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%d"),
            request_id=name,
            **asked,
        )
        spent = amount if kind == "spent" else 0
        return self._note("escrow", event, budget=event.budget_id, day=event.day, spent=spent)


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
            "log_level": 2,  # an outage is part of the claim, not news
        }
    )
