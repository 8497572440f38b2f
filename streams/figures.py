"""Figures of what was spent and served in a window, from the spend and traffic tables.

Money and tokens of whoever the ledger names come from the spend table, which is exact; everything
else from the traffic table. A bucket that the window's edge cuts counts whole: a minute, ten seconds
or an hour.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from schemas.event import Event
from schemas.events.tables import SPEND_TABLE, SpendRow
from schemas.events.traffic import TRAFFIC_TABLE, TrafficRow
from schemas.money import NANO_USD
from schemas.traffic import FINE, NO_SUMS, Sums, TrafficTable, added, hours_of

TABLES = (SPEND_TABLE, TRAFFIC_TABLE)
ROLLING_S = {"1m": 60, "5m": 300, "15m": 900, "1h": 3_600, "6h": 21_600, "24h": 86_400}
IN_LEDGER = frozenset(
    {"global", "key", "team", "project", "cost_center", "organization", "provider", "target"}
)
_SPENT = frozenset({"cost_usd", "tokens"})
_HOUR_S = 3_600
_US = 1_000_000


class Figures:
    """What the two tables say. `restless` names owners (``SCOPE:ID``) of whom something is new."""

    def __init__(self) -> None:
        self._spend: dict[str, dict[int, SpendRow]] = {}
        self._targets: dict[str, set[str]] = {}
        self._traffic = TrafficTable()
        self.restless: set[str] = set()

    def apply(self, event: Event) -> None:
        """Take in a row of either table; an older one changes nothing."""
        if isinstance(event, SpendRow):
            partials = self._spend.setdefault(event.entity, {})
            known = partials.get(event.partition)
            if known is not None and event.offset < known.offset:
                return
            partials[event.partition] = event
            self.restless.add("global:" if event.entity == "total:" else event.entity)
            kind, _, name = event.entity.partition(":")
            if kind == "target":
                provider = name.partition("/")[0]
                self._targets.setdefault(provider, set()).add(name)
                self.restless.add(f"provider:{provider}")
        elif isinstance(event, TrafficRow):
            self._traffic.apply(event)
            dimension = event.entity.partition(".")[0]
            self.restless.update(f"{dimension}:{name}" for name in event.members if name)

    def removed(self, topic: str, key: bytes) -> None:
        """Take in that a row has expired."""
        if topic == TRAFFIC_TABLE.name:
            self._traffic.removed(key.decode())

    def value(self, metric: str, scope: str, owner: str, window: str, at_us: int) -> float | None:
        """Return a figure in its metric's unit, None where there is none (nothing was called)."""
        if metric in _SPENT and scope in IN_LEDGER:
            cost, tokens = self._spent(scope, owner, window, at_us)
            return cost / NANO_USD if metric == "cost_usd" else float(tokens)
        sums = self._served(scope, owner, window, at_us)
        match metric:
            case "cost_usd":
                return sums.cost_nano_usd / NANO_USD
            case "tokens":
                return float(sums.tokens)
            case "calls":
                return float(sums.calls)
            case "failures":
                return float(sums.failures)
            case "failure_rate":
                return sums.failures / sums.calls if sums.calls else None
            case "latency_ms":
                return sums.latency_us / sums.successes / 1_000 if sums.successes else None
        raise ValueError(f"there is no metric {metric!r}")

    def _spent(self, scope: str, owner: str, window: str, at_us: int) -> tuple[int, int]:
        kind, from_s = _ledger_window(window, at_us // _US)
        cost = tokens = 0
        for entity in self._entities(scope, owner):
            for row in self._spend.get(entity, {}).values():
                for sums in row.windows:
                    if sums.window == kind and sums.start_s >= from_s:
                        cost += sums.cost_nano_usd
                        tokens += sums.input_tokens + sums.output_tokens
        return cost, tokens

    def _served(self, scope: str, owner: str, window: str, at_us: int) -> Sums:
        at_s = at_us // _US
        length_s = ROLLING_S.get(window)
        level = FINE if length_s is not None and length_s <= _HOUR_S else hours_of(scope)
        from_s = _calendar_s(window, at_s) if length_s is None else at_s - length_s
        from_s = level.bucket_start_s(from_s)
        together = NO_SUMS
        for entity in self._entities(scope, owner):
            together = added(together, self._traffic.total(entity, level, from_s, at_s + 1))
        return together

    def _entities(self, scope: str, owner: str) -> Iterable[str]:
        if scope == "global":
            return ("total:",)
        if scope == "provider":
            return [f"target:{target}" for target in self._targets.get(owner, ())]
        return (f"{scope}:{owner}",)


def _ledger_window(window: str, at_s: int) -> tuple[str, int]:
    """Return the kind of the spend table's windows and the start of the first that counts."""
    if window in ("day", "month"):
        return window, _calendar_s(window, at_s)
    length_s = ROLLING_S[window]
    kind, bucket_s = ("minute", 60) if length_s <= _HOUR_S else ("hour", _HOUR_S)
    return kind, (at_s - length_s) // bucket_s * bucket_s


def _calendar_s(window: str, at_s: int) -> int:
    """Return when the UTC day or month of a moment began."""
    day = datetime.fromtimestamp(at_s, UTC).replace(hour=0, minute=0, second=0)
    return int((day if window == "day" else day.replace(day=1)).timestamp())
