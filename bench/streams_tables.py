"""The folds' table topics, followed without any code of the product: the last record per key."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition

from bench.rawlog import decode
from bench.streams_load import PARTITIONS
from bench.streams_recount import Figures, figures_of

CURSOR = ":cursor"


class Followed(NamedTuple):
    """A fold: its name, what it reads and what it writes."""

    name: str
    source: str
    table: str


FOLLOWED = (
    Followed("health", "weir.llm.responses.v1", "weir.health.tables.v1"),
    Followed("circuits", "weir.llm.responses.v1", "weir.circuits.tables.v1"),
    Followed("spend", "weir.llm.costs.v1", "weir.spend.tables.v1"),
    Followed("feedback", "weir.llm.feedback.v1", "weir.feedback.tables.v1"),
    Followed("budgets", "weir.budgets.escrow.v1", "weir.budgets.tables.v1"),
)
"""The tables that `bench.streams_recount` knows the rules of."""


class Tables:
    """Rows of the tables, and when each cursor was written, by the broker's clock."""

    def __init__(self, bootstrap: str, folds: Iterable[Followed] = FOLLOWED) -> None:
        self.folds = tuple(folds)
        self.values: dict[tuple[str, str], bytes] = {}
        self.cursors: dict[tuple[str, int], list[tuple[int, int]]] = {}
        """(table, partition) → (source offset included, when the row was appended, ms)."""

        self._first_ms = self._last_ms = 0
        words = {
            "bootstrap.servers": bootstrap,
            "group.id": "tables",
            "enable.auto.commit": False,
            "log_level": 2,
        }
        self._consumer, self._asking = Consumer(words), Consumer(words)
        # Asked of a consumer that reads, the end of each partition waits behind a fetch.
        self._consumer.assign(
            [
                TopicPartition(fold.table, partition, 0)
                for fold in self.folds
                for partition in range(PARTITIONS)
            ]
        )

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()
        self._asking.close()

    def read(self) -> None:
        """Take in what there is."""
        while messages := self._consumer.consume(2_000, timeout=0.3):
            for message in messages:
                if message.error() is None:
                    self._take(message)

    def _take(self, message: Any) -> None:
        table, key, value = message.topic(), message.key().decode(), message.value()
        self._last_ms = message.timestamp()[1]
        self._first_ms = self._first_ms or self._last_ms
        if value is None:
            self.values.pop((table, key), None)
            return
        self.values[table, key] = value
        if key.startswith(CURSOR):
            offset = _body(value)["offset"]
            found = self.cursors.setdefault((table, message.partition()), [])
            if not found or offset > found[-1][0]:
                found.append((offset, self._last_ms))

    def forget_times(self) -> None:
        """Measure from here on."""
        self._first_ms = 0

    def busy_s(self) -> float:
        """Return the time between the first and the last row, by the broker's clock."""
        return (self._last_ms - self._first_ms) / 1_000

    def behind(self, names: Iterable[str] = ()) -> int:
        """Return how many source records no cursor row vouches for yet."""
        self.read()
        wanted = set(names)
        missing = 0
        for fold in self.folds:
            if wanted and fold.name not in wanted:
                continue
            for partition in range(PARTITIONS):
                where = TopicPartition(fold.source, partition)
                _, end = self._asking.get_watermark_offsets(where, timeout=10)
                cursors = self.cursors.get((fold.table, partition), [(-1, 0)])
                missing += end - 1 - cursors[-1][0]
        return missing

    def caught_up(self, names: Iterable[str] = (), limit_s: float = 300.0) -> float:
        """Wait until the tables include everything; return the seconds. Raises TimeoutError."""
        begun = time.monotonic()
        while (behind := self._behind_if_known(names)) != 0:
            if time.monotonic() - begun > limit_s:
                raise TimeoutError(f"the tables are {behind} records behind")
        return time.monotonic() - begun

    def _behind_if_known(self, names: Iterable[str]) -> int | None:
        try:
            return self.behind(names)
        except KafkaException:
            return None  # the broker is on its way back

    def rows(self) -> Iterator[tuple[Followed, dict[str, Any]]]:
        """Yield the rows of all tables, decoded."""
        by_table = {fold.table: fold for fold in self.folds}
        for (table, key), value in self.values.items():
            if not key.startswith(CURSOR):
                yield by_table[table], _body(value)

    def figures(self, prefix: str) -> Figures:
        """Return what the tables say of a load's entities."""
        figures: Figures = {}
        for fold, row in self.rows():
            if f"{prefix}-" in row["entity"] or f"{prefix}/" in row["entity"]:
                figures |= figures_of(fold.name, row)
        return figures

    def lag_ms(self, fold: Followed, partition: int, offset: int, appended_ms: int) -> int:
        """Return how long after a source record's appending a cursor vouched for it."""
        cursors = self.cursors[fold.table, partition]
        return cursors[bisect_left(cursors, (offset, 0))][1] - appended_ms


class Follower:
    """Reads tables in a thread of its own, so that no cursor is compacted away unseen."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.2):
            self._tables.read()


def _body(value: bytes) -> dict[str, Any]:
    _, body = decode(value)
    if body is None:
        raise ValueError("a table holds a row that its published schema does not decode")
    return body
