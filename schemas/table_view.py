"""The last event per key of one type, followed in memory: what a worker knows of the log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, MutableMapping
from typing import Generic, TypeVar

from mypy_extensions import mypyc_attr

from schemas.codec import HEADER_BYTES, decode_as, encode
from schemas.errors import CorruptRecord, UnknownSchema
from schemas.event import Event, Topic
from schemas.log import Cursor, Record

E = TypeVar("E", bound=Event)


@mypyc_attr(allow_interpreted_subclasses=True)
class TableView(Generic[E]):
    """The last event per key of one type, followed in memory.

    A tombstone, or an event with `deleted`, removes its key. An event that does not follow what the
    view holds (`Event.follows`) changes nothing and is counted in `refused`. `generation` counts
    changes, so that a reader can cache what it derives. `unread` has the prefixes of records whose
    schema is not known here, as while a newer version is rolled out: whoever knows it must read anew.
    """

    def __init__(self, event_type: type[E], entries: MutableMapping[str, E] | None = None) -> None:
        self.event_type = event_type
        self.topic: Topic = event_type.topic
        self.entries: MutableMapping[str, E] = {} if entries is None else entries
        self.cursor = Cursor()
        self.generation = 0
        self.refused = 0
        self.unread: set[bytes] = set()
        self.caught_up = asyncio.Event()
        self._listeners: list[Callable[[str, E | None], None]] = []

    def listen(self, listener: Callable[[str, E | None], None]) -> None:
        """Call `listener(key, event or None)` after each change."""
        self._listeners.append(listener)

    def get(self, key: str) -> E | None:
        """Return the current event under a key."""
        return self.entries.get(key)

    def records(self) -> Mapping[str, bytes]:
        """Return the current events as record values; they must not be changed."""
        return {key: encode(event) for key, event in self.entries.items()}

    def entries_of(self, records: Mapping[str, bytes]) -> MutableMapping[str, E]:
        """Return what `records` gave, as this view holds it. Raises as `schemas.codec.decode`."""
        found = ((key, decode_as(value, self.event_type)) for key, value in records.items())
        return {key: event for key, event in found if event is not None}

    def keep(self, key: str, event: E, value: bytes) -> None:
        """Set the current event under a key; `value` is the record value that it came in."""
        del value
        self.entries[key] = event

    def apply(self, record: Record) -> None:
        """Fold one (already deduplicated) record in. Raises as `schemas.codec.decode`."""
        if record.key is None:
            raise CorruptRecord(f"a record of {record.topic} has no key")
        key = record.key.decode("utf-8", "replace")
        event: E | None = None
        if record.value is not None:
            try:
                event = decode_as(record.value, self.event_type)
            except UnknownSchema:
                self.unread.add(record.value[:HEADER_BYTES])
                raise
            if event is None:
                return
            if not event.follows(self.entries.get(key)):
                self.refused += 1
                return
        if event is None or getattr(event, "deleted", False):
            if self.entries.pop(key, None) is None:
                return
            event = None
        elif record.value is not None:
            self.keep(key, event, record.value)
        self.generation += 1
        for listener in self._listeners:
            listener(key, event)
