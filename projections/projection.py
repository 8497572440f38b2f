"""A projection: one SQL file whose header says what it reads, its grain and its audits."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources

import msgspec

from schemas.errors import ConfigurationError, NotFound
from schemas.event import Event, Topic
from schemas.events import event_types

INGEST_COLUMN = "ingested_at"
"""The one column that a rebuild may change, so digests leave it out."""

_HEADER = re.compile(r"^-- (projection|event|from|version|grain|audit)(?: (\w+))?: (.+)$")


class Audit(msgspec.Struct, frozen=True):
    """A statement that returns the rows which break a promise; none is the only good answer."""

    name: str
    query: str


class Projection(msgspec.Struct, frozen=True, kw_only=True):
    """A table of the rows of one event type, or (without `event_type`) a view over others."""

    name: str
    version: int
    grain: str
    query: str
    event_type: type[Event] | None
    sources: tuple[str, ...]
    audits: tuple[Audit, ...]

    @property
    def digest(self) -> str:
        """Changes with anything that a stored table depends on."""
        return hashlib.sha256(f"{self.version}\n{self.query}".encode()).hexdigest()[:16]


def parse(text: str) -> Projection:
    """Read a projection file. Raises ConfigurationError for a header that is not whole."""
    fields: dict[str, str] = {}
    audits: list[Audit] = []
    lines = text.strip().splitlines()
    body = [line for line in lines if not line.startswith("--")]
    for line in lines:
        match = _HEADER.match(line)
        if match is None:
            continue
        word, name, value = match.groups()
        if word == "audit":
            audits.append(Audit(name, value))
        else:
            fields[word] = value
    try:
        event_type = _event_type(fields["event"]) if "event" in fields else None
        sources = (
            tuple(part.strip() for part in fields["from"].split(",")) if not event_type else ()
        )
        return Projection(
            name=fields["projection"],
            version=int(fields["version"]),
            grain=fields["grain"],
            query="\n".join(body),
            event_type=event_type,
            sources=sources,
            audits=tuple(audits),
        )
    except (KeyError, ValueError) as error:
        raise ConfigurationError(f"a projection's header lacks or garbles {error}") from error


def _event_type(name: str) -> type[Event]:
    for event_type in event_types():
        if event_type.type == name:
            return event_type
    raise ConfigurationError(f"no event has the type {name}")


@cache
def projections() -> tuple[Projection, ...]:
    """Return every projection, tables before the views that read them."""
    folder = resources.files("projections") / "sql"
    found = [
        parse(entry.read_text("utf-8")) for entry in folder.iterdir() if entry.name.endswith(".sql")
    ]
    return tuple(sorted(found, key=lambda item: (item.event_type is None, item.name)))


def find(name: str) -> Projection:
    """Return a projection by name. Raises NotFound."""
    for projection in projections():
        if projection.name == name:
            return projection
    names = ", ".join(projection.name for projection in projections())
    raise NotFound(f"there is no projection {name!r}", action=f"Name one of: {names}, or all.")


def closure(name: str) -> tuple[Projection, ...]:
    """Return a projection and all that it reads; every one for ``all``. Raises NotFound."""
    if name == "all":
        return projections()
    wanted = {name}
    waiting = [find(name)]
    while waiting:
        for source in waiting.pop().sources:
            if source not in wanted:
                wanted.add(source)
                waiting.append(find(source))
    return tuple(projection for projection in projections() if projection.name in wanted)


def topics_of(chosen: Iterable[Projection]) -> list[Topic]:
    """Return the topics that these projections read, ordered by name."""
    topics = {item.event_type.topic for item in chosen if item.event_type is not None}
    return sorted(topics, key=lambda topic: topic.name)


def tables(chosen: Sequence[Projection]) -> dict[type[Event], Projection]:
    """Return the tables among projections by the event that fills them."""
    return {item.event_type: item for item in chosen if item.event_type is not None}
