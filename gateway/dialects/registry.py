"""The dialects by name and surface, and the paths under which clients reach them.

A new file in this package is a new dialect: nothing here has to change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Generic, TypeVar, cast
from urllib.parse import unquote

import msgspec

from gateway.dialects.base import BaseDialect
from gateway.dialects.neutral import ClientDialect, Dialect, Fields, Json
from schemas.discovery import discover

_encode = msgspec.json.encode
_MODEL, _STAND_IN = "{model}", "0model0"
Front = TypeVar("Front", bound=ClientDialect)


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


def provider_paths(spoken: Dialect) -> Mapping[str, Json]:
    """Return where a provider takes the calls of a dialect, below its base URL, as `client_paths`."""
    whole, streamed = (
        spoken.path_of(_STAND_IN, stream).partition("?")[0].replace(_STAND_IN, _MODEL)
        for stream in (False, True)
    )
    return {whole: {}} if whole == streamed else {whole: {}, streamed: {"stream": True}}


class Paths(Generic[Front]):
    """Finds the dialect behind a path, and what the path itself says of the request."""

    def __init__(
        self,
        fronts: Iterable[Front],
        paths: Callable[[Front], Mapping[str, Json]] = lambda front: front.client_paths,
    ) -> None:
        self._plain: dict[str, tuple[Front, Fields]] = {}
        self._patterns: list[tuple[re.Pattern[str], Front, Fields]] = []
        for front in fronts:
            for path, said in paths(front).items():
                fields = {name: msgspec.Raw(_encode(value)) for name, value in said.items()}
                if _MODEL in path:
                    pattern = re.escape(path).replace(re.escape(_MODEL), "(.+)")
                    self._patterns.append((re.compile(pattern, re.DOTALL), front, fields))
                else:
                    self._plain[path] = (front, fields)

    def find(self, path: str) -> tuple[Front, Fields] | None:
        """Return the dialect and the members that the path says, None for any other path."""
        found = self._plain.get(path)
        if found is not None:
            return found
        for pattern, front, fields in self._patterns:
            if (match := pattern.fullmatch(path)) is not None:
                model = msgspec.Raw(_encode(unquote(match.group(1))))
                return front, {**fields, "model": model}
        return None

    @property
    def in_paths(self) -> bool:
        """Whether some of the paths say the model."""
        return bool(self._patterns)

    def of(self, front: ClientDialect) -> list[str]:
        """Return the paths of a dialect."""
        return [path for path, (other, _) in self._plain.items() if other is front]
