"""What the log says of the whole: views to be followed, and what is told of them (ANA-13, ANA-15)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Any, TypeVar

from infra.alerting.book import AlertBook
from infra.budgets_api import BudgetBoard, BudgetStatus
from infra.circuits_api import CircuitBoard
from infra.savings_api import Saving, SavingsBoard
from infra.steering import forms
from schemas.clock import now_us
from schemas.errors import NotFound
from schemas.events.changes import ModelVersionChanged, ProviderChanged
from schemas.events.operations import Heartbeat
from schemas.events.opinions import OpinionRow
from schemas.events.optimizer import (
    OptimizerActed,
    OptimizerRan,
    OptimizerRuleChanged,
    PerformanceRow,
)
from schemas.events.preferences import PreferenceChanged
from schemas.events.traffic import TrafficRow
from schemas.log import Record
from schemas.money import to_usd
from schemas.optimizer import ACTIVE, LIVE, PROPOSED, TUNED_MODEL
from schemas.table_view import TableView
from schemas.traffic import FINE, HOURS, NO_SUMS, TOTAL, TrafficTable, added
from schemas.traffic import Sums as TrafficSums
from streams.optimizer.scene import Memory, Sums
from trainer.journal import Journal

R = TypeVar("R", bound=PerformanceRow | OpinionRow)
DAY_S, NOW_S = 86_400, 900
"""What a day was like, and what is now: long enough to count calls, short enough to forget what is over."""
HISTORY_MAX = 1_000
LOOKS_AWAY_S = 120.0
DEGRADED, UNHEALTHY = 0.95, 0.8
"""Success below these is so called; of at least `CALLS_MIN` calls."""
CALLS_MIN = 20
_WORSE = {"closed": 0, "half_open": 1, "open": 2}


class History(TableView[OptimizerActed]):
    """Each target's last change, and the last thousand of all."""

    def __init__(self) -> None:
        super().__init__(OptimizerActed)
        self.acts: deque[OptimizerActed] = deque(maxlen=HISTORY_MAX)
        self.listen(self._note)

    def _note(self, _: str, event: OptimizerActed | None) -> None:
        if event is not None:
            self.acts.append(event)


class Slots(TableView[R]):
    """How targets perform and are liked; the rows are kept once, in a memory by target and time."""

    def __init__(self, row_type: type[R], memory: Memory) -> None:
        super().__init__(row_type)
        self.memory = memory

    def apply(self, record: Record) -> None:
        """Fold one record in."""
        super().apply(record)
        key = (record.key or b"").decode("utf-8", "replace")
        row = self.entries.pop(key, None)
        if row is not None:
            self.memory.take(row)


@dataclass(frozen=True)
class Sources:
    """What others follow already."""

    circuits: CircuitBoard
    budgets: BudgetBoard
    savings: SavingsBoard
    alerts: AlertBook
    heartbeats: TableView[Heartbeat]
    providers: TableView[ProviderChanged]
    rules: TableView[OptimizerRuleChanged]
    journal: Journal
    versions: TableView[ModelVersionChanged]


class SteeringBoard:
    """Answers from views alone; belongs to the event loop's thread."""

    def __init__(self, sources: Sources, clock_us: Callable[[], int] = now_us) -> None:
        self._from = sources
        self._clock_us = clock_us
        self.history = History()
        self.memory = Memory()
        """How targets perform and are liked, by time."""
        self._slots: list[TableView[Any]] = [
            Slots(PerformanceRow, self.memory),
            Slots(OpinionRow, self.memory),
        ]
        self._ran = TableView(OptimizerRan)
        self._preferences = TableView(PreferenceChanged)
        self._rows = TableView(TrafficRow)
        self._traffic = TrafficTable()
        self._rows.listen(self._hear)

    @property
    def views(self) -> list[TableView[Any]]:
        """The views that are to be followed."""
        return [self.history, *self._slots, self._ran, self._preferences, self._rows]

    def _hear(self, key: str, row: TrafficRow | None) -> None:
        if row is None:
            self._traffic.removed(key)
        else:
            self._traffic.apply(row)

    # --- the whole ---------------------------------------------------------------------------

    def health(
        self, insights: list[forms.Insight], canaries: list[forms.CanaryState]
    ) -> forms.AiHealth:
        """Return the state of the whole."""
        providers = self.providers()
        end_s = self._clock_us() // 1_000_000 + 1
        lately = self._traffic.total(TOTAL, FINE, end_s - NOW_S, end_s)
        rate = _share_good(lately.calls, lately.failures)
        reasons = self._reasons(providers, rate, lately.calls)
        bad = [one for one in providers if one.status == "unhealthy"]
        serving = [one for one in providers if one.status not in {"disabled", "idle"}]
        down = rate is not None and rate < UNHEALTHY and lately.calls >= CALLS_MIN
        unhealthy = down or (bool(serving) and len(bad) == len(serving))
        return forms.AiHealth(
            status="unhealthy" if unhealthy else "degraded" if reasons else "healthy",
            reasons=reasons,
            as_of=moment(self._clock_us()),
            success_rate=rate,
            total_cost_usd=to_usd(self._traffic.total(TOTAL, HOURS, *self._day()).cost_nano_usd),
            average_latency_ms=_mean_ms(lately.latency_us, lately.successes),
            providers=providers,
            tasks=self._tasks(),
            budgets=self.budgets(),
            rules=self.rules(),
            optimization=forms.Optimization(
                running=self.runs,
                last_run=self.last_run,
                active=[told(act) for act in self.live()],
            ),
            fine_tuning=self.fine_tuning(),
            canaries=canaries,
            recommendations=insights,
            alerts=[
                forms.AlertState(
                    id=alert.alert_id,
                    severity=alert.severity,
                    status=alert.status,
                    message=alert.message,
                )
                for alert in self._from.alerts.standing[:100]
            ],
        )

    def _reasons(
        self, providers: list[forms.ProviderHealth], rate: float | None, calls: int
    ) -> list[str]:
        found = [f"{one.name} is {one.status}" for one in providers if one.status in _BAD]
        if rate is not None and calls >= CALLS_MIN and rate < DEGRADED:
            found.append(f"{rate:.1%} of the calls of the last 15 minutes succeeded")
        if not self.streams_alive:
            found.append("the stream processor is silent")
        worst = [it for it in self._from.alerts.standing if it.severity in {"error", "critical"}]
        return found + [f"alert: {alert.message}" for alert in worst[:10]]

    @property
    def streams_alive(self) -> bool:
        """Whether the stream processor reported within ten seconds."""
        beat = self._from.heartbeats.get("streams")
        return beat is not None and self._clock_us() - beat.occurred_at_us < 10_000_000

    # --- providers and tasks -------------------------------------------------------------------

    def providers(self) -> list[forms.ProviderHealth]:
        """Return every provider that is set up or was called within a day."""
        day: dict[str, TrafficSums] = {}
        for target, sums in self._traffic.members("target", HOURS, *self._day()).items():
            name = target.partition("/")[0]
            day[name] = added(day.get(name, NO_SUMS), sums)
        lately: dict[str, Sums] = {}
        now_us = self._clock_us()
        for target in self.memory.targets:
            tried = self.memory.recent(target, now_us - NOW_S * 1_000_000, now_us + 1)
            lately.setdefault(target.partition("/")[0], Sums()).add(tried)
        everything = sum(sums.calls for sums in day.values())
        circuits: dict[str, str] = {}
        for one in self._from.circuits.states():
            worst = circuits.get(one.provider, "closed")
            circuits[one.provider] = max(worst, one.state, key=_WORSE.__getitem__)
        set_up = {row.name for row in self._from.providers.entries.values()}
        return [
            self._provider(
                name,
                day.get(name, NO_SUMS),
                lately.get(name, Sums()),
                circuits.get(name, "closed"),
                everything,
            )
            for name in sorted((set_up | set(day)) - {""})
        ]

    def _provider(
        self, name: str, day: TrafficSums, lately: Sums, circuit: str, everything: int
    ) -> forms.ProviderHealth:
        rate = _share_good(lately.calls, lately.failures)
        configured = self._from.providers.get(f"provider:{name}")
        if configured is None or not configured.enabled:
            status = "disabled"
        elif rate is None:
            status = "idle" if circuit == "closed" else "degraded"
        elif rate < UNHEALTHY and lately.calls >= CALLS_MIN:
            status = "unhealthy"
        elif circuit != "closed" or (rate < DEGRADED and lately.calls >= CALLS_MIN):
            status = "degraded"
        else:
            status = "healthy"
        return forms.ProviderHealth(
            name=name,
            status=status,
            circuit=circuit,
            success_rate=rate,
            latency_ms=_mean_ms(lately.busy_us, lately.calls),
            cost_usd=to_usd(day.cost_nano_usd),
            tasks=day.successes,
            share=round(day.calls / everything, 4) if everything else 0.0,
        )

    def _day(self) -> tuple[int, int]:
        """Return the last 24 hours as [from, to) in Unix s; the hour that they begin in counts whole."""
        end_s = self._clock_us() // 1_000_000 + 1
        return HOURS.bucket_start_s(end_s - DAY_S), end_s

    def _tasks(self) -> forms.Tasks:
        tasks = self._traffic.members("task", HOURS, *self._day())
        hours = self._traffic.series(TOTAL, HOURS, *self._day())
        return forms.Tasks(
            distribution={name: sums.calls for name, sums in sorted(tasks.items())},
            history=[
                forms.TaskHour(
                    hour=moment(start_s * 1_000_000), calls=sums.calls, failures=sums.failures
                )
                for start_s, sums in hours.items()
            ],
        )

    def whole_budgets(self) -> list[BudgetStatus]:
        """Return all budgets with what was spent."""
        return [self._from.budgets.status(budget) for budget in self._from.budgets.all()]

    def budgets(self) -> list[forms.BudgetState]:
        """Return all budgets in short."""
        found = self.whole_budgets()
        return [
            forms.BudgetState(
                id=one.id,
                status=one.status,
                limit_usd=one.limit,
                spent_usd=one.spent,
                percent=one.percent,
            )
            for one in found
        ]

    # --- what was changed ----------------------------------------------------------------------

    @property
    def last_run(self) -> datetime | None:
        """When the optimizer looked last."""
        ran = self._ran.get("optimizer")
        return None if ran is None else moment(ran.occurred_at_us)

    @property
    def runs(self) -> bool:
        """Whether the optimizer looked lately."""
        ran = self._ran.get("optimizer")
        return ran is not None and self._clock_us() - ran.occurred_at_us < LOOKS_AWAY_S * 1e6

    def rules(self) -> list[forms.RuleState]:
        """Return the rules as the optimizer has them, or will at its next look, with whom each concerns."""
        ran = self._ran.get("optimizer")
        if ran is None:
            return []
        since = [
            it for it in self._from.rules.entries.values() if it.occurred_at_us > ran.occurred_at_us
        ]
        modes = ran.modes | {it.rule: it.mode for it in since if it.rule in ran.modes}
        concerned: dict[str, list[str]] = {}
        for act in self.live():
            concerned.setdefault(act.rule, []).append(act.target)
        concerned[TUNED_MODEL] = [it.target for it in self.preferences() if it.state == ACTIVE]
        return [
            forms.RuleState(
                rule=name,
                mode=mode,
                targets=concerned.get(name, []),
            )
            for name, mode in modes.items()
        ]

    def live(self) -> list[OptimizerActed]:
        """Return the changes in force, by target."""
        acts = self.history.entries.values()
        return sorted((it for it in acts if it.state in LIVE), key=lambda it: it.target)

    def proposals(self) -> list[OptimizerActed]:
        """Return the changes that wait for somebody, by target."""
        now = self._clock_us()
        acts = self.history.entries.values()
        waiting = [it for it in acts if it.state == PROPOSED and (it.expires_at_us or 0) > now]
        return sorted(waiting, key=lambda it: it.target)

    def fine_tuning(self) -> forms.FineTuning:
        """Return training in short."""
        runs = self._from.journal.listed()
        open_runs = [run for run in runs if run.ending is None]
        counts = Counter(run.status for run in runs if run.ending is not None)
        gains = {}
        for version in self._from.versions.entries.values():
            gain = version.metrics.get("gain")
            if gain is not None:
                gains[version.model_version_id] = gain
        return forms.FineTuning(
            active=len(open_runs),
            completed=counts.pop("completed", 0),
            failed=sum(counts.values()),
            gain=gains,
            preferences=self.preferences(),
        )

    def preferences(self) -> list[forms.Preference]:
        """Return what tuned models are preferred for, by target."""
        held = sorted(self._preferences.entries.values(), key=lambda it: it.target)
        return [
            forms.Preference(
                target=it.target,
                baseline=it.baseline,
                model_version_id=it.model_version_id,
                state=it.state,
                gains=it.gains,
                reason=it.reason,
                metric=it.metric,
                before=it.before,
                after=it.after,
                at=moment(it.occurred_at_us),
            )
            for it in held
        ]

    def _saved(self) -> Saving | None:
        """Return what this month has saved; None while no model that is listed has a price."""
        try:
            return self._from.savings.savings(None, None, None).total
        except NotFound:
            return None

    def phase3(self, monitoring: dict[str, Any]) -> forms.Phase3Status:
        """Return the state of what acts by itself."""
        acts = list(self.history.entries.values())
        gains: dict[str, list[float]] = {}
        for act in self.history.acts:
            if act.verdict == "helped" and act.before and act.after is not None:
                gain = (act.before - act.after) / act.before
                gains.setdefault(act.rule, []).append(-gain if act.metric in RISING else gain)
        costs = [act for act in self.live() if act.rule == "cost"]
        return forms.Phase3Status(
            optimizer=forms.OptimizerStatus(
                running=self.runs,
                last_run=self.last_run,
                active_rules=[one.rule for one in self.rules() if one.mode != "off"],
                changes=dict(Counter(act.state for act in acts)),
                gain={rule: round(median(found), 4) for rule, found in sorted(gains.items())},
            ),
            fine_tuning=self.fine_tuning(),
            cost=forms.CostStatus(
                budgets=self.budgets(),
                month=self._saved(),
                savings={
                    act.target: round(
                        1
                        - act.evidence["alternative_cost_nano_usd"] / act.evidence["cost_nano_usd"],
                        4,
                    )
                    for act in costs
                },
            ),
            monitoring={
                "streams_alive": self.streams_alive,
                "alerts": len(self._from.alerts.standing),
                **monitoring,
            },
        )


RISING = frozenset({"success_rate", "liked_share"})
"""Metrics of which more is better."""
_BAD = frozenset({"degraded", "unhealthy"})


def told(act: OptimizerActed) -> forms.Action:
    """Return a change as it is told."""
    return forms.Action(
        id=act.action_id,
        rule=act.rule,
        target=act.target,
        alternative=act.alternative,
        state=act.state,
        keeps=act.factor,
        reason=act.reason,
        metric=act.metric,
        before=act.before,
        after=act.after,
        verdict=act.verdict,
        step=act.step,
        share_before=act.share_before,
        share_after=act.share_after,
        at=moment(act.occurred_at_us),
        expires_at=None if act.expires_at_us is None else moment(act.expires_at_us),
        actor=act.actor,
    )


def moment(at_us: int) -> datetime:
    """Return a Unix time in µs as people read it."""
    return datetime.fromtimestamp(at_us / 1e6, UTC)


def _share_good(calls: int, failures: int) -> float | None:
    return round(1.0 - failures / calls, 5) if calls else None


def _mean_ms(total_us: int, count: int) -> float | None:
    return round(total_us / count / 1000, 1) if count else None
