"""What control runs and serves of this package."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import APIRouter

from infra.administration import Administration
from infra.alerting.component import Alerting
from infra.budgets_api import BudgetBoard
from infra.circuits_api import CircuitBoard
from infra.savings_api import SavingsBoard
from infra.steering.acts import SteeringActs
from infra.steering.api import steering_router
from infra.steering.board import Sources, SteeringBoard
from infra.steering.canaries import CanaryBoard, canaries_router
from schemas.events.changes import ProviderChanged
from schemas.events.operations import Heartbeat
from schemas.events.optimizer import OptimizerRuleChanged
from schemas.log import Log
from schemas.table_view import TableView
from trainer.api import TrainingDesk


class Steering:
    """The state of the whole; what others follow already it only looks at."""

    def __init__(
        self,
        log: Log,
        administration: Administration,
        alerting: Alerting,
        training: object,
        boards: tuple[CircuitBoard, BudgetBoard, SavingsBoard],
        heartbeats: TableView[Heartbeat],
        monitoring: Callable[[], dict[str, Any]],
    ) -> None:
        self._log = log
        assert isinstance(training, TrainingDesk)
        circuits, budgets, savings = boards
        sources = Sources(
            circuits,
            budgets,
            savings,
            alerting.book,
            heartbeats,
            administration.commands.view_of(ProviderChanged),
            administration.commands.view_of(OptimizerRuleChanged),
            training.journal,
            training.versions,
        )
        self._board = SteeringBoard(sources)
        self._canaries = CanaryBoard(training.deployments, self._board.memory)
        acts = SteeringActs(log, administration.desk, self._board, circuits, alerting.acts)
        self.routers: Sequence[APIRouter] = [
            steering_router(self._board, self._canaries, acts, monitoring),
            canaries_router(self._canaries),
        ]

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the log until `stop`."""
        await self._log.follow([*self._board.views, *self._canaries.views], stop)

    def ready(self) -> str | None:
        """It tells what it knows: no reason not to serve."""
        return None

    def status(self) -> dict[str, Any]:
        """Whether the optimizer looks, and how many changes are in force."""
        return {"optimizer_runs": self._board.runs, "changes_in_force": len(self._board.live())}
