"""What a key may use: which targets are left of a name, and how refused callers are counted."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Protocol, TypeVar

from schemas.access import Grant
from schemas.errors import WeirError
from schemas.routing import Target

REPORT_S = 10.0
_log = logging.getLogger(__name__)


class HasTarget(Protocol):
    """A member of a plan."""

    @property
    def target(self) -> Target:
        """Who would answer."""
        ...


M = TypeVar("M", bound=HasTarget)


def left_of(grant: Grant | None, name: str, members: list[M], *, by_target: bool) -> list[M]:
    """Return the members of a name that a key may use. Raises PermissionDenied for none.

    Who may ask for the name may use all of it. `by_target`: a name that says nothing by itself,
    as `auto`, still stands for those of its targets that the key may ask for.
    """
    if grant is None or grant.allows(name):
        return members
    left = [it for it in members if grant.allows(it.target.id)] if by_target else []
    if not left:
        raise grant.refusal(name)
    return left


class Refusals:
    """Counts callers who were not let in, by error code, and says so at most every ten seconds.

    A flood of unknown keys costs a hash and an answer each, no line of the log and no event.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._told: Counter[str] = Counter()
        self._told_s = time.monotonic()

    def note(self, error: WeirError) -> None:
        """Count one."""
        self.counts[error.code] += 1
        now_s = time.monotonic()
        if now_s - self._told_s >= REPORT_S:
            new = self.counts - self._told
            told = ", ".join(f"{count} {code}" for code, count in sorted(new.items()))
            _log.warning("callers refused in the last %.0f s: %s", now_s - self._told_s, told)
            self._told, self._told_s = Counter(self.counts), now_s
