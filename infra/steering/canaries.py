"""`GET /routing/canaries`: how each canary fares beside its baseline, however often one looks (BEY-15).

Who gets a canary is drawn, so the two are compared over the same time: failures, answers slower than the
baseline's p95, and what people said of them. The p-values are always valid: they may be looked at
after every call without finding a difference that is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from infra.admin_desk import Limit, Offset
from infra.steering.board import moment
from schemas.clock import now_us
from schemas.events.changes import DeploymentChanged
from schemas.events.rewards import LikingRow
from schemas.log import TableView
from schemas.rewards import entity_of
from schemas.statistics import differs_always
from streams.agents.performance import RECENT_S, RECENT_SLOTS
from streams.optimizer.scene import CANARY_STATES, Memory, Sums, milliseconds

PATHS = ("/routing/canaries", "/api/v1/routing/canaries")
ALPHA = 0.05
_LIKED = 1000
_SHORT_US = RECENT_S * (RECENT_SLOTS - 4) * 1_000_000
"""So long the steps of 30 s reach back; a longer time is told by hours."""


class Variant(BaseModel):
    """One side, since the canary's share was set."""

    target: str
    calls: int
    failures: int
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    feedback: int = Field(description="pieces of feedback, in blocks of six hours")
    liked: float | None = Field(description="their mean satisfaction, 0 to 1")


class Comparison(BaseModel):
    """One metric of both."""

    metric: str = Field(description="failures, slow or disliked: shares of calls or feedback")
    canary: float
    baseline: float
    p_value: float = Field(description="always valid")
    verdict: str = Field(description="better, worse or undecided")


class CanaryState(BaseModel):
    """A canary that runs."""

    deployment_id: str
    model_version_id: str
    state: str
    percentage: int
    since: datetime
    canary: Variant
    baseline: Variant
    comparisons: list[Comparison]


class CanaryPage(BaseModel):
    """Canaries by deployment."""

    items: list[CanaryState]
    total: int
    limit: int
    offset: int


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
        self._liking = TableView(LikingRow)

    @property
    def views(self) -> list[TableView[Any]]:
        """The views that are its own."""
        return [self._liking]

    def states(self) -> list[CanaryState]:
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

    def _state(self, event: DeploymentChanged, base: str) -> CanaryState:
        own, since_us = f"{event.provider}/{event.model}", event.occurred_at_us
        mine, theirs = self._sums(own, since_us), self._sums(base, since_us)
        my_liking, their_liking = self._liked(own, since_us), self._liked(base, since_us)
        line_us = theirs.latency_us(0.95) or 0.0
        comparisons = [
            _compared("failures", (mine.failures, mine.calls), (theirs.failures, theirs.calls)),
            _compared(
                "slow",
                (mine.slower(line_us), mine.successes),
                (theirs.slower(line_us), theirs.successes),
            ),
            _compared("disliked", _disliked(my_liking), _disliked(their_liking)),
        ]
        return CanaryState(
            deployment_id=event.deployment_id,
            model_version_id=event.model_version_id,
            state=event.state,
            percentage=event.percentage,
            since=moment(since_us),
            canary=_variant(own, mine, my_liking),
            baseline=_variant(base, theirs, their_liking),
            comparisons=comparisons,
        )

    def _sums(self, target: str, since_us: int) -> Sums:
        now = self._clock_us()
        if now - since_us <= _SHORT_US:
            return self._memory.recent(target, since_us, now + RECENT_S * 1_000_000)
        return self._memory.hours(target, now, (now - since_us) // 1_000_000)

    def _liked(self, target: str, since_us: int) -> tuple[int, int]:
        """Return (pieces of feedback, satisfaction in thousandths) since a moment."""
        entity, since_s = entity_of(None, target), since_us // 1_000_000
        blocks = [
            block
            for row in self._liking.entries.values()
            if row.entity == entity
            for block in row.blocks
            if block.start_s >= since_s
        ]
        return sum(block.count for block in blocks), sum(block.liked for block in blocks)


def _disliked(liking: tuple[int, int]) -> tuple[int, int]:
    count, liked = liking
    return count - round(liked / _LIKED), count


def _variant(target: str, sums: Sums, liking: tuple[int, int]) -> Variant:
    count, liked = liking
    p50, p95 = sums.latency_us(0.5), sums.latency_us(0.95)
    return Variant(
        target=target,
        calls=sums.calls,
        failures=sums.failures,
        latency_p50_ms=None if p50 is None else milliseconds(p50),
        latency_p95_ms=None if p95 is None else milliseconds(p95),
        feedback=count,
        liked=round(liked / _LIKED / count, 4) if count else None,
    )


def _compared(metric: str, mine: tuple[int, int], theirs: tuple[int, int]) -> Comparison:
    """Compare shares of which less is better."""
    here, there = (hits / trials if trials else 0.0 for hits, trials in (mine, theirs))
    p_value = differs_always(mine, theirs)
    verdict = "undecided"
    if p_value < ALPHA:
        verdict = "worse" if here > there else "better"
    return Comparison(
        metric=metric,
        canary=round(here, 5),
        baseline=round(there, 5),
        p_value=p_value,
        verdict=verdict,
    )


def canaries_router(board: CanaryBoard) -> APIRouter:
    """The route."""
    router = APIRouter(tags=["routing"])

    async def canaries(limit: Limit = 100, offset: Offset = 0) -> CanaryPage:
        every = board.states()
        items = every[offset : offset + limit]
        return CanaryPage(items=items, total=len(every), limit=limit, offset=offset)

    for path in PATHS:
        router.get(path, summary="Canaries beside their baselines")(canaries)
    return router
