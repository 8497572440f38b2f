"""Seeded calls for the benches of the projections, straight onto the topics.

They look as the gateway writes them (headers, keys, sequences of an outbox, candidates, attempts),
but need no gateway, so that what is measured is the way from Kafka into tables and nothing else.
The books that it returns are kept while producing: plain sums, no code of the projections.
"""

from __future__ import annotations

import asyncio
import random
import resource
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from bench.claim import Arguments, Verdict
from infra.broker import Broker, BrokerSettings, free_port
from infra.topics import ensure_topics
from schemas.clock import now_us
from schemas.codec import encode, headers
from schemas.connection import librdkafka_options
from schemas.event import Event
from schemas.events.feedback import FeedbackRecorded
from schemas.events.llm import Attempt, Candidate, CostEntry, RequestAdmitted, ResponseCompleted
from schemas.identity import uuid7
from schemas.log import OUTBOX_HEADER, SEQUENCE_HEADER, Connection
from schemas.partition import partition_of

TEAMS = [f"team-{number}" for number in range(12)]
MODELS = ["openai/gpt-5.2", "anthropic/claude-haiku-4.5", "openai/gpt-5-mini", "local/tiny"]
FEEDBACK_SHARE = 0.1
FAILED_SHARE = 0.02
PRICES = (1_250_000_000, 10_000_000_000)
"""Of a million tokens read and written, in nano-dollars."""


@dataclass
class Books:
    """What was produced: events, calls, and sums that a recount can check."""

    events: int = 0
    calls: int = 0
    failed: int = 0
    feedback: int = 0
    cost_nano_usd: int = 0
    input_tokens: int = 0
    cost_by_team: dict[str, int] = field(default_factory=dict)


class _Call:
    """One made-up call: what its events say in common, and what it came to."""

    def __init__(self, rng: random.Random, at_us: int) -> None:
        self.at_us = at_us
        team, self.user = rng.choice(TEAMS), f"user-{rng.randrange(5_000)}"
        self.target = rng.choices(MODELS, [5, 3, 3, 1])[0]
        provider, model = self.target.split("/")
        self.team = team
        self.common: dict[str, Any] = {
            "request_id": uuid7(),
            "key_id": f"key-{team}",
            "team": team,
            "project": f"{team}-web",
            "user_id": self.user,
            "route": "auto",
            "task_type": rng.choice(["chat", "code", "summary"]),
            "target": self.target,
            "provider": provider,
            "model": model,
        }
        self.tokens_in, self.tokens_out = rng.randrange(20, 4_000), rng.randrange(5, 900)
        self.latency_us = rng.randrange(80_000, 6_000_000)
        self.failed = rng.random() < FAILED_SHARE
        tokens = (self.tokens_in, self.tokens_out)
        self.cost = sum(n * price for n, price in zip(tokens, PRICES, strict=True)) // 1_000_000

    def admitted(self, rng: random.Random) -> RequestAdmitted:
        """Return the event that begins the call."""
        scores = [rng.random() for _ in MODELS]
        return RequestAdmitted(
            event_id=uuid7(),
            occurred_at_us=self.at_us,
            **self.common,
            session_id=f"session-{rng.randrange(20_000)}",
            tags={"environment": "production"},
            dialect="openai",
            endpoint="/v1/chat/completions",
            model_requested="auto",
            strategy="balanced",
            stream=rng.random() < 0.5,
            propensity=0.25 + 0.75 * rng.random(),
            candidates=[
                Candidate(name, score, True, "healthy")
                for name, score in zip(MODELS, scores, strict=True)
            ],
            input_tokens_estimate=self.tokens_in,
            max_output_tokens=1_024,
            reserved_nano_usd=2 * self.cost,
            worker="gateway-1",
            outbox_id="0123456789abcdef",
            decision_us=rng.randrange(20, 90),
        )

    def completed(self) -> ResponseCompleted:
        """Return the event that ends the call."""
        failed = self.failed
        outcome, status = ("failed", 502) if failed else ("success", 200)
        fault = "server" if failed else None
        return ResponseCompleted(
            event_id=uuid7(),
            occurred_at_us=self.at_us + self.latency_us,
            **self.common,
            outcome=outcome,
            status=status,
            error_code="upstream_error" if failed else None,
            attempts=[Attempt(self.target, outcome, fault, status, self.latency_us, 90)],
            input_tokens=None if failed else self.tokens_in,
            output_tokens=None if failed else self.tokens_out,
            usage_basis="none" if failed else "reported",
            finish_reason=None if failed else "stop",
            stream=False,
            latency_us=self.latency_us,
            cost_nano_usd=0 if failed else self.cost,
        )

    def settled(self) -> CostEntry:
        """Return what the call cost."""
        failed = self.failed
        return CostEntry(
            event_id=uuid7(),
            occurred_at_us=self.at_us + self.latency_us,
            **self.common,
            entry="settled",
            input_tokens=None if failed else self.tokens_in,
            output_tokens=None if failed else self.tokens_out,
            input_price=PRICES[0],
            output_price=PRICES[1],
            cost_nano_usd=0 if failed else self.cost,
            price_version="bench",
            basis="none" if failed else "reported",
        )

    def praised(self) -> FeedbackRecorded:
        """Return a caller's word on the answer."""
        return FeedbackRecorded(
            event_id=uuid7(),
            occurred_at_us=self.at_us + self.latency_us + 1,
            feedback_id=uuid7(),
            request_id=self.common["request_id"],
            key_id=self.common["key_id"],
            user_id=self.user,
            feedback_type="thumbs_up",
            satisfaction_score=1.0,
            has_correction=False,
            model_id=self.target,
            data_key_id="none",
            nonce=b"0" * 12,
            ciphertext=b"0" * 64,
        )


def call_events(rng: random.Random, books: Books, spread_us: int = 0) -> Iterator[Event]:
    """Yield the events of one call, and enter it in the books.

    `spread_us` dates the call back by up to so much, so that a load looks older than its load.
    """
    call = _Call(rng, now_us() - rng.randrange(spread_us + 1))
    yield call.admitted(rng)
    yield call.completed()
    yield call.settled()
    books.calls += 1
    books.events += 3
    if call.failed:
        books.failed += 1
    else:
        books.cost_nano_usd += call.cost
        books.input_tokens += call.tokens_in
        books.cost_by_team[call.team] = books.cost_by_team.get(call.team, 0) + call.cost
    if rng.random() < FEEDBACK_SHARE:
        books.feedback += 1
        books.events += 1
        yield call.praised()


class Outbox:
    """Sends events as one outbox would: one id, a sequence per record, gapless and idempotent."""

    def __init__(self, connection: Connection, outbox_id: str) -> None:
        self._id = outbox_id.encode()
        self._sequence = 0
        self._failed = 0
        self._producer = Producer(
            librdkafka_options(connection)
            | {
                "acks": "all",
                "enable.idempotence": True,
                "compression.type": "zstd",
                "linger.ms": 20,
                "queue.buffering.max.messages": 200_000,
                "queue.buffering.max.kbytes": 262_144,
            }
        )

    def send(self, event: Event, repeat: bool = False) -> None:
        """Hand an event over; `repeat` sends it twice with one sequence, as a restart would."""
        key = event.key.encode()
        described = [
            *headers(event, "/bench", correlation_id=getattr(event, "request_id", None)),
            (OUTBOX_HEADER, self._id),
            (SEQUENCE_HEADER, str(self._sequence).encode()),
        ]
        self._sequence += 1
        value = encode(event)
        for _ in range(2 if repeat else 1):
            while True:
                try:
                    self._producer.produce(
                        event.topic.name,
                        key=key,
                        value=value,
                        partition=partition_of(key, event.topic.partitions),
                        headers=described,
                        on_delivery=self._delivered,
                    )
                    break
                except BufferError:
                    self._producer.poll(0.1)
        self._producer.poll(0)

    def _delivered(self, error: Any, _message: Any) -> None:
        self._failed += error is not None

    def flush(self) -> None:
        """Wait for every acknowledgement. Raises RuntimeError when one failed."""
        self._producer.flush()
        if self._failed:
            raise RuntimeError(f"{self._failed} events were not acknowledged")


@contextmanager
def own_log(folder: Path) -> Iterator[Connection]:
    """A broker of the bench's own with empty topics."""
    broker = Broker(BrokerSettings(folder, port=free_port(), controller_port=free_port()))
    broker.start()
    try:
        connection = Connection(broker.bootstrap)
        asyncio.run(ensure_topics(connection))
        yield connection
    finally:
        broker.stop()


def on_own_log(
    measure: Callable[[Connection, Arguments, Path], Coroutine[Any, Any, Verdict]],
    arguments: Arguments,
) -> Verdict:
    """Measure on an own log, with a folder for projections; both are removed afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="weir-bench-") as folder,
        own_log(Path(folder) / "kafka") as connection,
    ):
        return asyncio.run(measure(connection, arguments, Path(folder) / "projections"))


def cpu_seconds() -> float:
    """Return the processor time of this process so far, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def produce(connection: Connection, rng: random.Random, events: int) -> Books:
    """Produce calls until there are so many events; every thousandth is sent twice."""
    books = Books()

    def work() -> None:
        outbox = Outbox(connection, f"{rng.getrandbits(64):016x}")
        while books.events < events:
            for event in call_events(rng, books, spread_us=86_400_000_000):
                outbox.send(event, repeat=rng.random() < 0.001)
        outbox.flush()

    await asyncio.to_thread(work)
    return books
