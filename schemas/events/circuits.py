"""Circuits: what the last calls of a target came to, and the decisions made of it (RT-07).

The rows are facts, folded; whether a circuit opens is a decision and so an event of its own.
"""

from __future__ import annotations

import msgspec

from schemas.event import Event, Topic
from schemas.events.tables import CursorRow, TableRow

CIRCUITS = Topic("weir.circuits.changes.v1", partitions=1)
CIRCUIT_TABLE = Topic("weir.circuits.tables.v1", cleanup="compact")


class CircuitCursor(CursorRow, frozen=True, kw_only=True):
    """The cursor of the circuits fold."""

    topic = CIRCUIT_TABLE
    type = "weir.circuits.cursor"


class CircuitOutcome(msgspec.Struct, frozen=True, order=True):
    """One attempt that a target answers for, in Unix µs.

    Ordered by its end; two that are equal in everything are interchangeable, so that this is a
    total order and no id is needed.
    """

    ended_us: int
    started_us: int
    good: bool


class CircuitBucket(msgspec.Struct, frozen=True):
    """Attempts that ended within [start_s, start_s + 5)."""

    start_s: int
    calls: int
    failures: int


class CircuitRow(TableRow, frozen=True, kw_only=True):
    """The recent past of the target `entity`: its last 16 outcomes and 40 s of buckets, oldest first."""

    topic = CIRCUIT_TABLE
    type = "weir.circuits.row"

    outcomes: list[CircuitOutcome]
    buckets: list[CircuitBucket]
    last_failure_at_us: int | None


class CircuitChanged(Event, frozen=True, kw_only=True):
    """A circuit went to another state; carries all of it, so the last one per target is enough.

    `state` is closed, open or half_open. `openings` counts openings in a row, each twice as long
    as the one before; the circuit is half open from `next_probe_at_us` on, event or not.
    `failure_count` and `success_count` are those of the window that was judged. `number` counts
    the changes of this target; a reset by a person carries his name in `actor`.
    """

    topic = CIRCUITS
    type = "weir.circuits.circuit.changed"

    target: str
    provider: str
    model: str
    state: str
    number: int
    since_us: int
    openings: int
    opened_at_us: int | None
    next_probe_at_us: int | None
    failure_count: int
    success_count: int
    last_failure_at_us: int | None
    reason: str
    actor: str = "streams"

    @property
    def key(self) -> str:
        return self.target
