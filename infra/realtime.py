"""What is spent and served right now, from the live tables in control's memory (COST-09, ANA-04).

Days, months and the hour are the ledger's sums, exact; the last minutes, users and models come from the
traffic table's buckets of ten seconds. What changed is seen when streams have folded it, within two
seconds. Nothing here asks a database.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from infra.alerting.book import AlertBook
from infra.budgets_api import BudgetBoard
from infra.circuits_api import CircuitBoard
from infra.realtime_forms import (
    Budget,
    CostNow,
    DashboardNow,
    Provider,
    Spend,
    Standing,
    Top,
)
from schemas.clock import now_us
from schemas.events.operations import Heartbeat
from schemas.events.tables import HealthRow, SpendRow, block_of
from schemas.events.traffic import TrafficRow
from schemas.histogram import merge, quantile
from schemas.money import to_usd
from schemas.table_view import TableView
from schemas.traffic import (
    FINE,
    LEVELS,
    NO_SUMS,
    TOTAL,
    Sums,
    TrafficTable,
    added,
    cells,
)

TOP = 10
BUDGETS_MAX = 100
ALERTS_MAX = 20
SILENT_S, GONE_S = 15.0, 600.0
_HOUR_S, _MINUTE_S = 3_600, 60
_US = 1_000_000


class Live:
    """The tables; `views` are to be followed."""

    def __init__(
        self,
        budgets: BudgetBoard,
        circuits: CircuitBoard,
        alerts: AlertBook,
        heartbeats: TableView[Heartbeat],
        clock_us: Callable[[], int] = now_us,
    ) -> None:
        self._budgets = budgets
        self._circuits = circuits
        self._alerts = alerts
        self._heartbeats = heartbeats
        self._clock_us = clock_us
        self._spend = TableView(SpendRow)
        self._health = TableView(HealthRow)
        self._rows = TableView(TrafficRow)
        self._traffic = TrafficTable()
        self._members: dict[str, tuple[TrafficRow, dict[str, Sums]]] = {}
        self._rows.listen(self._changed)

    @property
    def views(self) -> list[TableView[Any]]:
        """The views that this is made of."""
        return [self._spend, self._health, self._rows]

    def _changed(self, key: str, row: TrafficRow | None) -> None:
        if row is None:
            self._traffic.removed(key)
            self._members.pop(key, None)
        else:
            self._traffic.apply(row)

    # --- money -----------------------------------------------------------------------------------

    def cost(self) -> CostNow:
        """Return what is spent now."""
        at_s = self._clock_us() // _US
        now = datetime.fromtimestamp(at_s, UTC)
        day, month = f"{now:%Y-%m-%d}", f"{now:%Y-%m}"
        last, five = self._last(TOTAL, at_s, 1), self._last(TOTAL, at_s, 5)
        spent = {kind: self._spent(kind, at_s) for kind in ("hour", "day", "month")}
        an_hour = five.cost_nano_usd * _HOUR_S // (5 * _MINUTE_S)
        return CostNow(
            at=now,
            spend=Spend(
                last_minute=to_usd(last.cost_nano_usd),
                last_5_minutes=to_usd(five.cost_nano_usd),
                last_hour=to_usd(spent["hour"]),
                day=to_usd(spent["day"]),
                month=to_usd(spent["month"]),
            ),
            burn_rate_usd_per_hour=to_usd(an_hour),
            burn_rate_usd_per_day=to_usd(an_hour * 24),
            tokens_last_minute=last.tokens,
            day=day,
            month=month,
            top_users=self._top("user", at_s),
            top_models=self._top("model", at_s),
            top_teams=self._top("team", at_s),
            budgets=self._budget_list(),
        )

    def _last(self, name: str, at_s: int, minutes: int) -> Sums:
        from_s = FINE.bucket_start_s(at_s - minutes * _MINUTE_S) + FINE.bucket_s
        return self._traffic.total(name, FINE, from_s, at_s + 1)

    def _spent(self, kind: str, at_s: int) -> int:
        """Nano-USD of the ledger: the last 60 minutes, or the UTC day or month."""
        window, since = kind, 0
        if kind == "hour":
            window, since = "minute", (at_s - _HOUR_S) // 60 * 60 + 60
        now = datetime.fromtimestamp(at_s, UTC).replace(hour=0, minute=0, second=0)
        if kind == "day":
            since = int(now.timestamp())
        elif kind == "month":
            since = int(now.replace(day=1).timestamp())
        rows = (row for row in self._spend.entries.values() if row.entity == TOTAL)
        return sum(
            sums.cost_nano_usd
            for row in rows
            for sums in row.windows
            if sums.window == window and sums.start_s >= since
        )

    def _top(self, dimension: str, at_s: int) -> list[Top]:
        """Who spent most in the last hour; blocks of ten minutes that the hour cuts count whole."""
        found: dict[str, Sums] = {}
        for key, row in self._rows.entries.items():
            kind, level, _ = row.entity.split(".", 2)
            start_s = block_of(row.entity)[1]
            if kind != dimension or level != FINE.name or start_s + FINE.block_s <= at_s - _HOUR_S:
                continue
            for name, sums in self._sums_of(key, row).items():
                if name:
                    found[name] = added(found.get(name, NO_SUMS), sums)
        ranked = sorted(found.items(), key=lambda item: (-item[1].cost_nano_usd, item[0]))
        return [
            Top(name=name, spent=to_usd(sums.cost_nano_usd), calls=sums.calls, tokens=sums.tokens)
            for name, sums in ranked[:TOP]
        ]

    def _sums_of(self, key: str, row: TrafficRow) -> dict[str, Sums]:
        """A row's sums by member, added up once for each state of the row."""
        known = self._members.get(key)
        if known is not None and known[0] is row:
            return known[1]
        sums: dict[str, Sums] = {}
        start_s = block_of(row.entity)[1]
        for name, _, part in cells(row, LEVELS[FINE.name], start_s):
            sums[name] = added(sums.get(name, NO_SUMS), part)
        self._members[key] = row, sums
        return sums

    def _budget_list(self) -> list[Budget]:
        states = [self._budgets.status(it) for it in self._budgets.all()[:BUDGETS_MAX]]
        states.sort(key=lambda it: -it.percent)
        return [
            Budget(
                id=it.id,
                scope=it.scope,
                limit=it.limit,
                spent=it.spent,
                percent=it.percent,
                projected=it.projected,
                status=it.status,
            )
            for it in states
        ]

    # --- everything else -------------------------------------------------------------------------

    def dashboard(
        self, workers: list[dict[str, Any]], jobs: int, machine: dict[str, Any]
    ) -> DashboardNow:
        """Return what happens now. What lies outside the tables is handed in."""
        at_us = self._clock_us()
        at_s = at_us // _US
        last = self._last(TOTAL, at_s, 1)
        standing = self._alerts.standing
        silent = self._silent(at_us)
        worst = {alert.severity for alert in standing}
        health = "ok"
        if silent or worst & {"error", "critical"}:
            health = "degraded"
        users = {
            name
            for key, row in self._rows.entries.items()
            if row.entity.startswith("user.fine.")
            and block_of(row.entity)[1] + FINE.block_s > at_s - FINE.block_s
            for name in self._sums_of(key, row)
            if name
        }
        return DashboardNow(
            at=datetime.fromtimestamp(at_s, UTC),
            health=health,
            silent_parts=silent,
            requests_per_second=round(last.calls / _MINUTE_S, 3),
            failure_rate=round(last.failures / last.calls, 4) if last.calls else None,
            latency_ms=_mean_ms(last),
            latency_p95_ms=self._p95_ms(at_s),
            cost_usd_per_hour=to_usd(last.cost_nano_usd * 60),
            active_users=len(users),
            active_calls=sum(worker["calls"] for worker in workers),
            active_jobs=jobs,
            providers=self._providers(at_s),
            alerts_standing=len(standing),
            alerts=[
                Standing(
                    id=it.alert_id,
                    type=it.alert_type,
                    severity=it.severity,
                    status=it.status,
                    message=it.message,
                )
                for it in standing[:ALERTS_MAX]
            ],
            resources=machine,
        )

    def _silent(self, at_us: int) -> list[str]:
        """Parts whose heartbeat is late; a worker that is long gone is no part any more."""
        ages_s = {
            beat.part: (at_us - beat.occurred_at_us) / 1e6
            for beat in self._heartbeats.entries.values()
        }
        return sorted(
            part
            for part, age_s in ages_s.items()
            if age_s > SILENT_S and (part == "streams" or age_s < GONE_S)
        )

    def _p95_ms(self, at_s: int, target: str | None = None) -> float | None:
        found = merge(
            bucket.latency
            for row in self._health.entries.values()
            if target is None or row.entity == target
            for bucket in row.buckets
            if bucket.start_s > at_s - _MINUTE_S
        )
        p95 = quantile(found, 0.95)
        return None if p95 is None else round(p95 / 1_000, 3)

    def _providers(self, at_s: int) -> list[Provider]:
        circuits = {f"{it.provider}/{it.model}": it.state for it in self._circuits.states()}
        names = {row.entity for row in self._health.entries.values()} | set(circuits)
        found = []
        for name in sorted(names):
            sums = self._last(f"target:{name}", at_s, 5)
            provider, _, model = name.partition("/")
            found.append(
                Provider(
                    provider=provider,
                    model=model,
                    circuit=circuits.get(name, "closed"),
                    calls=sums.calls,
                    failure_rate=round(sums.failures / sums.calls, 4) if sums.calls else None,
                    latency_ms=_mean_ms(sums),
                    latency_p95_ms=self._p95_ms(at_s, name),
                    spent=to_usd(sums.cost_nano_usd),
                )
            )
        return found


def _mean_ms(sums: Sums) -> float | None:
    return round(sums.latency_us / sums.successes / 1_000, 3) if sums.successes else None
