"""`GET /routing/canaries`: how each canary fares beside its baseline, however often one looks (BEY-15).

Who gets a canary is drawn, so the two are compared by the calls that were drawn for them: failures,
latency, cost, and what people said of them meanwhile. The p-values are always valid: they may be
looked at after every call without finding a difference that is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter

from infra.admin_desk import Limit, Offset
from infra.steering import forms
from infra.steering.board import moment
from schemas.canaries import Side, compared, side_of
from schemas.clock import now_us
from schemas.events.canaries import BASELINE, CANARY, CanaryRow, trial_of
from schemas.events.changes import DeploymentChanged
from schemas.histogram import quantile
from schemas.money import to_usd
from schemas.statistics import Moments
from schemas.table_view import TableView
from streams.agents.performance import RECENT_S, RECENT_SLOTS
from streams.optimizer.scene import CANARY_STATES, Memory, milliseconds

PATHS = ("/routing/canaries", "/api/v1/routing/canaries")
_SHORT_US = RECENT_S * (RECENT_SLOTS - 4) * 1_000_000
"""So long the steps of 30 s reach back; a longer time is told by hours."""


class CanaryBoard:
    """Compares canaries with their baselines from live tables; `views` are to be followed."""

    def __init__(
        self,
        deployments: TableView[DeploymentChanged],
        memory: Memory,
        clock_us: Callable[[], int] = now_us,
    ) -> None:
        self._deployments = deployments
        self._memory = memory
        self._clock_us = clock_us
        self._rows = TableView(CanaryRow)

    @property
    def views(self) -> list[TableView[Any]]:
        """The views that are its own."""
        return [self._rows]

    def states(self) -> list[forms.CanaryState]:
        """Return every canary that has a share and a baseline."""
        running = [
            event
            for event in self._deployments.entries.values()
            if event.state in CANARY_STATES and event.percentage > 0
        ]
        running.sort(key=lambda event: event.deployment_id)
        return [self._state(it, base) for it in running if (base := self._baseline(it))]

    def _baseline(self, event: DeploymentChanged) -> str | None:
        named = event.baseline_deployment_id
        deployed = self._deployments.get(named) if named is not None else None
        return named if deployed is None else f"{deployed.provider}/{deployed.model}"

    def _state(self, event: DeploymentChanged, base: str) -> forms.CanaryState:
        own, trial = (
            f"{event.provider}/{event.model}",
            trial_of(event.deployment_id, event.percentage),
        )
        mine, theirs = self._side(trial, CANARY), self._side(trial, BASELINE)
        known = [side.first_us for side in (mine, theirs) if side.first_us is not None]
        since_us = min(known, default=event.occurred_at_us)
        liking = self._liking(own, since_us), self._liking(base, since_us)
        return forms.CanaryState(
            deployment_id=event.deployment_id,
            model_version_id=event.model_version_id,
            state=event.state,
            percentage=event.percentage,
            since=moment(since_us),
            canary=_variant(own, mine, liking[0]),
            baseline=_variant(base, theirs, liking[1]),
            comparisons=[
                forms.Comparison(
                    metric=one.metric,
                    canary=float(f"{one.canary:.5g}"),
                    baseline=float(f"{one.baseline:.5g}"),
                    p_value=one.p_value,
                    verdict=one.verdict,
                )
                for one in compared(mine, theirs, liking)
            ],
        )

    def _side(self, trial: str, side: str) -> Side:
        rows = self._rows.entries.values()
        return side_of(row for row in rows if row.trial == trial and row.side == side)

    def _liking(self, target: str, since_us: int) -> Moments:
        """Return the satisfaction (0–1) with a target since a moment."""
        memory, at_us, step_us = self._memory, self._clock_us(), RECENT_S * 1_000_000
        if at_us - since_us <= _SHORT_US:
            sums = memory.recent(target, since_us - step_us, at_us + step_us)
        else:
            sums = memory.hours(target, at_us, (at_us - since_us) // 1_000_000)
        return Moments.of_integers(
            sums.opinions, sums.satisfaction, sums.satisfaction_squared, 1000
        )


def _variant(target: str, side: Side, liking: Moments) -> forms.Variant:
    p50, p95 = quantile(side.latency, 0.5), quantile(side.latency, 0.95)
    priced = side.log_cost.count
    return forms.Variant(
        target=target,
        calls=side.calls,
        failures=side.failures,
        latency_p50_ms=None if p50 is None else milliseconds(p50),
        latency_p95_ms=None if p95 is None else milliseconds(p95),
        cost_per_call_usd=to_usd(side.cost_nano_usd // priced) if priced else None,
        feedback=liking.count,
        liked=round(liking.mean, 4) if liking.count else None,
    )


def canaries_router(board: CanaryBoard) -> APIRouter:
    """The route."""
    router = APIRouter(tags=["routing"])

    async def canaries(limit: Limit = 100, offset: Offset = 0) -> forms.CanaryPage:
        every = board.states()
        items = every[offset : offset + limit]
        return forms.CanaryPage(items=items, total=len(every), limit=limit, offset=offset)

    for path in PATHS:
        router.get(path, summary="Canaries beside their baselines")(canaries)
    return router
