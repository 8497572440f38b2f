"""The fold of hard budgets beside a worker, as streams run it by way of Kafka."""

import json
import time
from collections.abc import Callable
from typing import Any

from schemas.codec import encode
from schemas.event import Event
from schemas.events.changes import BudgetChanged
from schemas.events.escrow import EscrowMoved, EscrowRow, spent_in
from schemas.log import Record
from schemas.partition import partition_of
from streams.agents.budgets import BUDGETS
from streams.partition import PartitionFold
from tests.gateway.recorded import follow
from tests.gateway.worker import META, Worker

USD = 1_000_000_000
MODEL = "openai/gpt-4o-mini"


class Keeper:
    """Folds the worker's moves at once and shows it the rows, as streams do by way of Kafka."""

    def __init__(self, worker: Worker) -> None:
        self.away = False
        self.moves: list[EscrowMoved] = []
        self._view = worker.state.escrow
        self._loop = worker.loop
        self._parts: dict[int, PartitionFold] = {}
        self._offset = 0
        follow(worker.app.proxy.budgets._outbox, self._hear)

    def _hear(self, events: list[Event]) -> None:
        moves = [event for event in events if isinstance(event, EscrowMoved)]
        self.moves += moves
        if moves and not self.away:
            self._loop.call_soon(self._fold, moves)

    def _fold(self, moves: list[EscrowMoved]) -> None:
        for move in moves:
            number = partition_of(move.key.encode(), 4)
            part = self._parts.setdefault(number, PartitionFold(BUDGETS, number, {}))
            offset = part.next_offset
            step = part.take(
                [
                    Record(
                        EscrowMoved.topic.name,
                        number,
                        offset,
                        0,
                        move.key.encode(),
                        encode(move),
                        (),
                    )
                ]
            )
            part.published(step)
            for row in step.rows:
                self._view.apply(
                    Record(EscrowMoved.topic.name, number, offset, 0, row.key, row.value, ())
                )

    def spends(self, nano_usd: int, budget_id: str = "b") -> bool:
        """Whether this much is soon counted as spent: folding runs behind the answer."""
        for _ in range(100):
            if self._view.entries and spent_in(self.row(budget_id), "total") == nano_usd:
                return True
            time.sleep(0.02)
        return False

    def waits(self, holds: Callable[[], bool]) -> bool:
        """Whether something soon holds of the rows."""
        until = time.monotonic() + 10.0
        while not holds() and time.monotonic() < until:
            time.sleep(0.05)
        return holds()

    def row(self, budget_id: str = "b") -> EscrowRow:
        (found,) = [row for row in self._view.entries.values() if row.entity == budget_id]
        return found


def budget(limit_usd: float, budget_id: str = "b", **fields: Any) -> BudgetChanged:
    fields = {**META, "scope": "global", "on_exceeded": "block", **fields}
    return BudgetChanged(budget_id=budget_id, daily_limit_nano_usd=round(limit_usd * USD), **fields)


def ask(worker: Worker, model: str = MODEL, **fields: Any) -> tuple[int, dict[str, str], Any]:
    body = {"model": model, "messages": [{"role": "user", "content": "say a word"}], **fields}
    status, headers, answer = worker.request("POST", "/v1/chat/completions", body)
    return status, headers, json.loads(answer)
