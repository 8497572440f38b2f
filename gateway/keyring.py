"""Several keys of one provider: used in turn, one that the vendor refuses is set aside for a while."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

ASIDE_S = 60.0
"""How long a refused key rests unless the vendor says something else."""
ASIDE_S_MAX = 600.0
_log = logging.getLogger(__name__)


class KeyRing:
    """The references of a provider's keys (``env:NAME``, ``file:PATH``), at least one."""

    def __init__(
        self, references: Sequence[str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.references = tuple(references)
        self._clock = clock
        self._next = 0
        self._aside: dict[str, float] = {}

    def take(self) -> str:
        """Return the next key that is not set aside; when all are, the one that comes back first."""
        usable = self._usable()
        if not usable:
            return min(self._aside, key=self._aside.__getitem__)
        self._next += 1
        return usable[self._next % len(usable)]

    def set_aside(self, reference: str, why: str, wait_s: float | None = None) -> str | None:
        """Let a key rest; return another one that can be used, None when there is none.

        The last one left is still used by `take`: a provider is never without a key because of us.
        """
        if reference not in self.references:
            return None
        rest_s = min(wait_s if wait_s is not None else ASIDE_S, ASIDE_S_MAX)
        self._aside[reference] = self._clock() + rest_s
        left = self._usable()
        _log.warning(
            "the key %s rests for %.0f s, %d of %d are left: %s",
            reference,
            rest_s,
            len(left),
            len(self.references),
            why,
        )
        return left[0] if left else None

    def _usable(self) -> list[str]:
        now_s = self._clock()
        for reference in [it for it, until_s in self._aside.items() if until_s <= now_s]:
            del self._aside[reference]
        return [it for it in self.references if it not in self._aside]
