"""What a fold is: a pure description of how events become the rows of a live table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from schemas.event import Event, Topic
from schemas.events.tables import CursorRow, TableRow

E = TypeVar("E", bound=Event)
R = TypeVar("R", bound=TableRow)
S = TypeVar("S")
P = TypeVar("P")

NOTHING: Sequence[Event] = ()


@dataclass(frozen=True)
class Fold(Generic[E, R, S, P]):
    """How events of one type become rows, one per entity and source partition.

    All functions are pure apart from `apply`, which changes the state that it is given. States
    hold integers and their change is commutative, so that the rows depend neither on the order of
    events, nor on how the records were cut into batches, nor on how partitions interleave. Nothing
    here may look at a clock or draw a random number: decisions are events, made elsewhere and
    read back. `tests/streams/test_folds.py` holds every fold to this.
    """

    name: str
    """Names the consumer group and the dead letters' consumer; version it, never reuse it."""

    event: type[E]
    """What is folded; its topic is the source."""

    row: type[R]
    """What is published; its topic is the table, compacted, partitioned like the source."""

    cursor: type[CursorRow]
    """Where the fold's cursors are kept: in the same topic as its rows."""

    split: Callable[[E], Iterable[tuple[str, P]]]
    """The entities that an event concerns, each with what it contributes there."""

    new: Callable[[], S]
    """An entity's empty state."""

    apply: Callable[[S, P], Sequence[Event]]
    """Adds a contribution to a state; returns what is to be emitted, usually `NOTHING`.

    Emitted events get their id from the source's position.
    """

    freeze: Callable[[S], dict[str, Any]]
    """The row's own fields, in a canonical order."""

    thaw: Callable[[R], S]
    """The inverse of `freeze`."""

    expires: Callable[[str], int | None] | None = None
    """When the row of an entity is swept, Unix µs of event time; None keeps it for ever.

    Of the entity's name alone, as ``total:@1790000000`` says it (`streams.windows.Window.expires`),
    since an expiry that depended on the state would depend on the order of events.
    """

    ordered: bool = False
    """Whether the order of events of a key matters, as for who came first; all else holds then too."""

    wait_s: float | None = None
    """How long a batch may gather, seconds; None for the part's own setting."""

    @property
    def source(self) -> Topic:
        """The topic whose records are folded."""
        return self.event.topic

    @property
    def table(self) -> Topic:
        """The topic to which rows and cursors are published."""
        return self.row.topic


AnyFold = Fold[Any, Any, Any, Any]
