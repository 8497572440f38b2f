"""The connections of a relay: one for batches, and a lane per topic while somebody waits.

A broker answers the requests of one connection one after another, and librdkafka sends one request
per partition. The four records of a call lie on four topics: on one connection whoever waits for
them waits for four turns, on a connection each for one. Batches that nobody waits for are cheaper
on one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, Producer

LANES = 4
"""The records of a call; further topics (alerts, feedback, keys) share these connections."""
BATCH_LINGER_MS = 20.0
"""The relay itself waits for a batch; this is longer than it takes to hand one over. At 5 ms the last
ones of a batch went by themselves: 440 requests for 14,000 records, now 320 (librdkafka's count)."""


class Lanes:
    """Idempotent producers, opened when they are needed first."""

    def __init__(self, options: dict[str, Any], on_error: Callable[[KafkaError], None]) -> None:
        self._options = {**options, "error_cb": on_error}
        self._batches: Any = self._opened(BATCH_LINGER_MS)
        self._swift: list[Any] = []
        self._by_topic: dict[str, Any] = {}
        self._hurried = False

    def choose(self, *, hurried: bool) -> None:
        """Say which connections carry what is sent from now on.

        Only while nothing is in flight: two producers would overtake each other on a partition.
        """
        self._hurried = hurried

    def of(self, topic: str) -> Any:
        """Return the producer that carries a topic now."""
        return self._lane(topic) if self._hurried else self._batches

    def poll(self, wait_s: float = 0.0) -> None:
        """Hear what was delivered, waiting (whole milliseconds) where something is in flight."""
        for producer in (self._batches, *self._swift):
            # Whoever waits needs all of them: in which order they are waited for is no matter.
            producer.poll(wait_s if wait_s and len(producer) else 0)

    def ask_broker(self, timeout_s: float) -> None:
        """Return when a broker answers. Raises KafkaException when none does in time."""
        self._batches.list_topics(timeout=timeout_s)

    def purge(self) -> None:
        """Forget what is queued."""
        for producer in (self._batches, *self._swift):
            producer.purge()
            producer.poll(0)

    def _lane(self, topic: str) -> Any:
        lane = self._by_topic.get(topic)
        if lane is None:
            if len(self._swift) < LANES:
                self._swift.append(self._opened(0))
            lane = self._by_topic[topic] = self._swift[len(self._by_topic) % len(self._swift)]
        return lane

    def _opened(self, linger_ms: float) -> Any:
        return Producer({**self._options, "linger.ms": linger_ms})
