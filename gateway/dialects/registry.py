"""The dialects by name and surface, and the paths under which clients reach them.

A new file in this package is a new dialect: nothing here has to change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import cast
from urllib.parse import unquote

import msgspec

from gateway.dialects.base import BaseDialect
from gateway.dialects.neutral import ClientDialect, Dialect, Fields
from schemas.discovery import discover

_encode = msgspec.json.encode
_MODEL = "{model}"


@cache
def _by_name() -> dict[tuple[str, str], Dialect]:
    found = cast("list[Dialect]", discover("gateway.dialects", BaseDialect))
    return {(dialect.name, dialect.surface): dialect for dialect in found}


def dialect(name: str, surface: str = "chat") -> Dialect | None:
    """Return the dialect that a provider speaks under this name on this surface, if any."""
    return _by_name().get((name, surface))


def dialects() -> list[Dialect]:
    """Return every dialect."""
    return list(_by_name().values())


class Paths:
    """Finds the dialect behind a path, and what the path itself says of the request."""

    def __init__(self, fronts: Iterable[ClientDialect]) -> None:
        self._plain: dict[str, tuple[ClientDialect, Fields]] = {}
        self._patterns: list[tuple[re.Pattern[str], ClientDialect, Fields]] = []
        for front in fronts:
            for path, said in front.client_paths.items():
                fields = {name: msgspec.Raw(_encode(value)) for name, value in said.items()}
                if _MODEL in path:
                    pattern = re.escape(path).replace(re.escape(_MODEL), "(.+)")
                    self._patterns.append((re.compile(pattern, re.DOTALL), front, fields))
                else:
                    self._plain[path] = (front, fields)

    def find(self, path: str) -> tuple[ClientDialect, Fields] | None:
        """Return the dialect and the members that the path says, None for any other path."""
        found = self._plain.get(path)
        if found is not None:
            return found
        for pattern, front, fields in self._patterns:
            if (match := pattern.fullmatch(path)) is not None:
                model = msgspec.Raw(_encode(unquote(match.group(1))))
                return front, {**fields, "model": model}
        return None

    def of(self, front: ClientDialect) -> list[str]:
        """Return the paths of a dialect."""
        return [path for path, (other, _) in self._plain.items() if other is front]
