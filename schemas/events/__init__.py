"""Every event of Weir, one module per domain. A new file here is a new event."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from schemas.event import Event, Topic


@cache
def event_types() -> tuple[type[Event], ...]:
    """Return every concrete event class, ordered by type name."""
    for info in pkgutil.iter_modules(__path__, f"{__name__}."):
        importlib.import_module(info.name)
    return tuple(sorted(_concrete(Event), key=lambda event: event.type))


@cache
def topics() -> tuple[Topic, ...]:
    """Return every topic that some event declares, ordered by name."""
    return tuple(
        sorted({event.topic for event in event_types()}, key=lambda topic: topic.name),
    )


def _concrete(base: type[Event]) -> list[type[Event]]:
    found: list[type[Event]] = []
    for child in base.__subclasses__():
        if "type" in vars(child):
            found.append(child)
        found.extend(_concrete(child))
    return found
