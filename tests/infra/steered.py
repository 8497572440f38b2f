"""Control's steering without a broker: pure views, a log in memory."""

from collections.abc import Mapping
from typing import Any

from fastapi.testclient import TestClient

from infra.admin_desk import Desk
from infra.administration import EVENTS
from infra.alerting.api import Acts as AlertActs
from infra.alerting.book import AlertBook
from infra.audit import Auditor
from infra.budgets_api import BudgetBoard
from infra.circuits_api import CircuitBoard
from infra.commands import Commands
from infra.control import build
from infra.door import Keys
from infra.savings_api import SavingsBoard
from infra.steering.acts import SteeringActs
from infra.steering.api import steering_router
from infra.steering.board import Sources, SteeringBoard
from infra.steering.canaries import CanaryBoard
from schemas.circuits import RULES
from schemas.codec import encode
from schemas.event import Event
from schemas.events.changes import (
    DeploymentChanged,
    ModelVersionChanged,
    ProviderChanged,
)
from schemas.events.operations import Heartbeat
from schemas.events.optimizer import (
    OptimizerActed,
    OptimizerRan,
    OptimizerRuleChanged,
    PerformanceRow,
)
from schemas.events.traffic import TrafficRow
from schemas.key_view import KeyView
from schemas.log import Log, Position, Record
from schemas.table_view import TableView
from schemas.traffic import FINE, HOURS, Level, row_name, slot_of
from streams.agents.performance import RECENT_S
from trainer.journal import Journal

HOUR_S = 3600
NOW_S = 1_790_000_000 // HOUR_S * HOUR_S + 600
NOW = NOW_S * 1_000_000
META: dict[str, Any] = {"event_id": "e", "occurred_at_us": NOW}


class MemoryLog:
    """Appends to a list and to the views that follow; the rest of a log is not asked for."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.views: list[TableView[Any]] = []

    async def publish(self, event: Event, **_: object) -> Position:
        self.events.append(event)
        self.tell(event)
        return Position(event.topic.name, 0, len(self.events))

    def tell(self, event: Event) -> None:
        headers = (("ce_id", event.event_id.encode()),)
        record = Record(event.topic.name, 0, 0, 0, event.key.encode(), encode(event), headers)
        for view in self.views:
            if view.topic is event.topic:
                view.apply(record)


class Noted(Auditor):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, str]] = []

    async def record(
        self, actor: str, action: str, subject: str, detail: Mapping[str, str] | None = None
    ) -> None:
        del detail
        self.told.append((actor, action, subject))


class Place:
    """A control's steering without a broker."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        log: Any = self.log
        typed: Log = log
        self.commands = Commands(typed, EVENTS)
        self.audit = Noted()
        self.circuits = CircuitBoard(RULES, lambda: NOW)
        self.alerts = AlertBook()
        beats = TableView(Heartbeat)
        budgets, self.savings = BudgetBoard(lambda: NOW), SavingsBoard(lambda: NOW)
        sources = Sources(
            self.circuits,
            budgets,
            self.savings,
            self.alerts,
            beats,
            self.commands.view_of(ProviderChanged),
            self.commands.view_of(OptimizerRuleChanged),
            Journal(),
            TableView(ModelVersionChanged),
        )
        self.board = SteeringBoard(sources, lambda: NOW)
        views = [*self.board.views, *self.circuits.views, *budgets.views]
        self.log.views = [*views, *self.commands.views, self.alerts, beats]
        for view in self.log.views:
            view.caught_up.set()
        acts = SteeringActs(
            typed,
            Desk(self.commands, self.audit),
            self.board,
            self.circuits,
            AlertActs(typed, self.alerts, self.audit),
        )
        self.deployments = TableView(DeploymentChanged)
        self.canaries = CanaryBoard(self.deployments, self.board.memory, lambda: NOW)
        self.log.views += self.canaries.views
        router = steering_router(self.board, self.canaries, acts, lambda: {"lag": 0})
        app = build(Keys(KeyView(), "token"), [router])
        self.served: dict[tuple[str, int], tuple[int, int]] = {}
        self.client = TestClient(app, headers={"Authorization": "Bearer token"})
        for name in ("a", "b"):
            self.log.tell(
                ProviderChanged(
                    **META,
                    entity_version=1,
                    actor="x",
                    name=name,
                    dialect="openai",
                    base_url="http://x",
                )
            )
        self.log.tell(Heartbeat(**META, part="streams", instance="0", started_at_us=0, lag=0))
        modes = {"cost": "on", "error_rate": "propose"}
        self.log.tell(OptimizerRan(**META, targets=2, acted=0, modes=modes))

    def called(self, target: str, calls: int, failures: int, hours_ago: int = 0) -> None:
        """Calls of an hour; those of this hour were made lately, too."""
        hour_s = (NOW_S // HOUR_S - hours_ago) * HOUR_S
        self.told_of(target, calls, failures, HOUR_S, hour_s)
        self.served[target, hours_ago] = (calls, failures)
        self.log.tell(self.traffic(HOURS, hour_s, f"target:{target}"))
        self.log.tell(self.traffic(HOURS, hour_s, "total:"))
        if not hours_ago:
            self.told_of(target, calls, failures, RECENT_S, NOW_S // RECENT_S * RECENT_S - RECENT_S)
            self.log.tell(self.traffic(FINE, NOW_S - 60, "total:"))

    def traffic(self, level: Level, at_s: int, name: str) -> TrafficRow:
        """Return the row of all that was called in the hour of a moment."""
        dimension, _, member = name.partition(":")
        ago = NOW_S // HOUR_S - at_s // HOUR_S
        calls, failures = map(
            sum,
            zip(
                *(
                    sums
                    for (target, hours_ago), sums in self.served.items()
                    if hours_ago == ago and member in ("", target)
                ),
                strict=True,
            ),
        )
        return TrafficRow(
            **META,
            entity=row_name(dimension, level, slot_of(dimension, member), at_s),
            partition=ago,
            offset=1,
            members=[member],
            member=[0],
            bucket=[at_s % level.block_s // level.bucket_s],
            calls=[calls],
            failures=[failures],
            successes=[calls - failures],
            latency_us=[(calls - failures) * 200_000],
            cost_nano_usd=[10**7 * calls],
            input_tokens=[0],
            output_tokens=[0],
        )

    def told_of(self, target: str, calls: int, failures: int, seconds: int, start_s: int) -> None:
        self.log.tell(
            PerformanceRow(
                **META,
                entity=f"{seconds}:{start_s}:{target}",
                partition=0,
                offset=1,
                target=target,
                seconds=seconds,
                start_s=start_s,
                calls=calls,
                failures=failures,
                answer={},
                busy_us=calls * 200_000,
                completed=calls - failures,
                input_tokens=0,
                output_tokens=0,
                priced=calls - failures,
                cost_nano_usd=10**9,
            )
        )

    def acted(self, state: str, **fields: Any) -> OptimizerActed:
        event = OptimizerActed(
            **META,
            action_id="error_rate:a/m#1",
            rule="error_rate",
            target="a/m",
            reason="30 of 100 calls failed, more than 20%",
            metric="error_rate",
            state=state,
            expires_at_us=NOW + 1,
            factor=0.5,
            number=1,
            share_before=0.4,
            **fields,
        )
        self.log.tell(event)
        return event

    def health(self) -> Any:
        return self.client.get("/api/ai/health").json()

    def act(self, action: str, status: int | None = None, **params: Any) -> Any:
        answer = self.client.post("/api/ai/health", json={"action": action, "params": params})
        assert status is None or answer.status_code == status, answer.text
        return answer.json()
