"""How old a worker's knowledge of the log is, and when it is too old to serve with (BEY-19).

While Kafka is away a worker serves with what it last heard: keys, routes, prices. A key that was
revoked since is still accepted, so this has an end: after `stale_s_max` nobody is let in any more,
with 503 and not 401, since nothing is wrong with the caller's key.
"""

from __future__ import annotations

from collections.abc import Callable

from schemas.clock import now_us
from schemas.errors import StateTooOld

STALE_S_MAX = 24 * 3600
RETRY_S = 30.0


class Freshness:
    """Knows when the log was heard last; times are Unix µs."""

    def __init__(
        self, stale_s_max: float = STALE_S_MAX, clock_us: Callable[[], int] = now_us
    ) -> None:
        self.heard_us = clock_us()
        self._stale_us = int(stale_s_max * 1_000_000)
        self._clock_us = clock_us

    def heard(self, at_us: int | None = None) -> None:
        """Note that something was heard that was written then (None: that the log's end was read).

        Other machines' clocks may be ahead of ours: nothing is heard from the future.
        """
        now_us = self._clock_us()
        self.heard_us = max(self.heard_us, now_us if at_us is None else min(at_us, now_us))

    def began(self, heard_us: int) -> None:
        """Begin with what a cache file kept, which was heard then."""
        self.heard_us = min(heard_us, self._clock_us())

    @property
    def age_s(self) -> float:
        """Seconds since the log was heard last."""
        return (self._clock_us() - self.heard_us) / 1e6

    def check(self) -> None:
        """Raise StateTooOld when nobody may be let in any more."""
        if self._clock_us() - self.heard_us > self._stale_us:
            raise StateTooOld(
                f"the log was last heard {self.age_s / 3600:.1f} h ago, and with keys older than "
                f"{self._stale_us / 3.6e9:g} h nobody is let in",
                retry_after_seconds=RETRY_S,
            )
