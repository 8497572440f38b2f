"""What a kind of entity is: its table, its event, and the way from one to the other."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from schemas.errors import ValidationFailed
from schemas.events.changes import Change

UNNAMEABLE = re.compile(r"[\x00-\x1f\x7f]")
"""What neither a path nor an id may hold: some routes would not match a line's end, and others would,
so that an entity could be made and never be removed."""

C = TypeVar("C", bound=Change)
T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class Kind(Generic[C, T]):
    """One kind of entity. `members(id, table)` are the event's own, `table(event)` the way back."""

    name: str
    plural: str
    event: type[C]
    model: type[T]
    members: Callable[[str, T], dict[str, Any]]
    table: Callable[[C], T]
    identify: Callable[[C], str]
    """The id by which people name an entity: for most kinds the key without its prefix."""
    key: Callable[[str, T | None], str]
    """The event's key for an id; a price's table says since when it holds."""

    def fields(self, entity_id: str, table: T) -> dict[str, Any]:
        """Return the event's own members. Raises ValidationFailed for an id that no path can name."""
        if not entity_id.strip():
            raise ValidationFailed(f"a {self.name.replace('_', ' ')} needs an id: it is empty")
        if UNNAMEABLE.search(entity_id):
            raise ValidationFailed(f"an id holds no control characters: {entity_id!r}")
        return self.members(entity_id, table)


def prefixed(prefix: str) -> Callable[[str, Any], str]:
    return lambda name, _table: f"{prefix}{name}"


def stripped(prefix: str) -> Callable[[Change], str]:
    return lambda event: event.key.removeprefix(prefix)
