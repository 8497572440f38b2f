"""`GET /routing/circuits` (RT-07, RT-16): the circuit of every target, as the log has it now."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from schemas.circuits import CLOSED, NEW, CircuitRules, Evidence, circuit_of, judged, merged
from schemas.clock import now_us
from schemas.encoder import LONG_MAX
from schemas.events.circuits import CircuitChanged, CircuitRow
from schemas.table_view import TableView

PATHS = ("/routing/circuits", "/api/v1/routing/circuits")


class CircuitBreakerState(BaseModel):
    """One circuit; counts are those of the rules' window, 30 s unless set otherwise."""

    provider: str = Field(description="the provider's name", examples=["openai"])
    model: str = Field(description="the model's name at it", examples=["gpt-4o-mini"])
    state: str = Field(description="closed, open or half_open", examples=["open"])
    failure_count: int = Field(description="calls of the window that failed", examples=[5])
    success_count: int = Field(description="calls of the window that went well", examples=[0])
    last_failure_at: datetime | None = Field(description="when a call failed last (UTC)")
    opened_at: datetime | None = Field(description="when it opened (UTC), null while closed")
    next_probe_at: datetime | None = Field(description="from when on calls probe it (UTC)")
    openings: int = Field(description="openings in a row, each twice as long", examples=[1])
    reason: str = Field(description="why it is so", examples=["5 failures in a row"])


class CircuitPage(BaseModel):
    """Circuits by provider and model, those that are not closed first."""

    circuits: list[CircuitBreakerState]
    total: int
    limit: int
    offset: int


class CircuitBoard:
    """What the log says of circuits; `views` are to be followed."""

    def __init__(self, rules: CircuitRules, clock_us: Callable[[], int] = now_us) -> None:
        self._rules = rules
        self._clock_us = clock_us
        self._rows = TableView(CircuitRow)
        self._changes = TableView(CircuitChanged)

    @property
    def views(self) -> list[TableView[Any]]:
        """The views that this board is made of."""
        return [self._rows, self._changes]

    def change(self, target: str) -> CircuitChanged | None:
        """Return what was last decided of a target's circuit."""
        return self._changes.get(target)

    def states(self) -> list[CircuitBreakerState]:
        """Return every circuit of a target that was ever called."""
        rows: dict[str, list[CircuitRow]] = {target: [] for target in self._changes.entries}
        for row in self._rows.entries.values():
            rows.setdefault(row.entity, []).append(row)
        states = [self._state(target, merged(found)) for target, found in rows.items()]
        return sorted(states, key=lambda one: (one.state == CLOSED, one.provider, one.model))

    def _state(self, target: str, seen: Evidence) -> CircuitBreakerState:
        change, at_us = self._changes.get(target), self._clock_us()
        # Only time passes here: to open and close is for the streams to decide.
        circuit = judged(circuit_of(change) if change else NEW, Evidence(), self._rules, at_us)
        calls, failures = seen.window(at_us - int(self._rules.window_s * 1_000_000))
        provider, _, model = target.partition("/")
        return CircuitBreakerState(
            provider=provider,
            model=model,
            state=circuit.state,
            failure_count=failures,
            success_count=calls - failures,
            last_failure_at=_moment(seen.last_failure_at_us),
            opened_at=_moment(circuit.opened_at_us),
            next_probe_at=_moment(circuit.next_probe_at_us),
            openings=circuit.openings,
            reason=circuit.reason if change else "it never opened",
        )


def circuits_router(board: CircuitBoard) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["routing"])

    async def circuits(
        limit: Annotated[int, Query(ge=1, le=1000, description="at most so many")] = 100,
        offset: Annotated[int, Query(ge=0, le=LONG_MAX, description="after so many")] = 0,
    ) -> CircuitPage:
        found = board.states()
        page = found[offset : offset + limit]
        return CircuitPage(circuits=page, total=len(found), limit=limit, offset=offset)

    for path in PATHS:
        router.get(path, summary="Circuits of all targets")(circuits)
    return router


def _moment(time_us: int | None) -> datetime | None:
    return None if time_us is None else datetime.fromtimestamp(time_us / 1e6, UTC)
