"""What a kind of entity is: its table, its event, and the way from one to the other."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from schemas.events.changes import Change

C = TypeVar("C", bound=Change)
T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class Kind(Generic[C, T]):
    """One kind of entity. `fields(id, table)` are the event's own, `table(event)` the way back."""

    name: str
    plural: str
    event: type[C]
    model: type[T]
    fields: Callable[[str, T], dict[str, Any]]
    table: Callable[[C], T]
    identify: Callable[[C], str]
    """The id by which people name an entity: for most kinds the key without its prefix."""
    key: Callable[[str, T | None], str]
    """The event's key for an id; a price's table says since when it holds."""


def prefixed(prefix: str) -> Callable[[str, Any], str]:
    return lambda name, _table: f"{prefix}{name}"


def stripped(prefix: str) -> Callable[[Change], str]:
    return lambda event: event.key.removeprefix(prefix)
