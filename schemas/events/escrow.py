"""Hard budgets as escrow: what gateway workers ask for, spend and give back, and what each holds.

A worker spends under a hard budget only what the fold of these events granted to it. A *node* is
a worker's outbox, so its events are counted exactly once; a *day* is a UTC day (``2026-11-20``),
to which a call belongs that was admitted on it, whenever it ends.
"""

from __future__ import annotations

import msgspec

from schemas.event import Event, Topic
from schemas.events.tables import CursorRow, TableRow

ESCROW = Topic("weir.budgets.escrow.v1")
ESCROW_TABLE = Topic("weir.budgets.tables.v1", cleanup="compact")

TOTAL = "total"
"""The window of a limit that never begins anew."""
PPM = 1_000_000
"""Parts per million: thresholds are integers where rows must be exact."""


class BudgetTerms(msgspec.Struct, frozen=True):
    """A budget as its node knows it; the highest `version` wins, the time of its change in Unix µs.

    Limits in nano-USD.
    """

    version: int
    daily_limit_nano_usd: int | None
    monthly_limit_nano_usd: int | None
    total_limit_nano_usd: int | None
    warning_ppm: int


class EscrowMoved(Event, frozen=True, kw_only=True):
    """One move of a budget's money, of the kinds that follow.

    - asked: the node wants `wanted_nano_usd` more, and waits for at least `needed_nano_usd`. It
      replaces what the node asked before; `number` counts the asks of a node. Carries the terms.
    - spent: the call `request_id` cost `amount_nano_usd`; recorded together with its settlement.
    - returned: the node gives back what it has not reserved.
    - refused: a call that may cost `needed_nano_usd` was refused, since so much is not left. Carries
      the terms.
    - closed: the node is dead, its outbox has nothing more; holds for every day of the budget.
    """

    topic = ESCROW
    type = "weir.budgets.escrow.moved"

    budget_id: str
    kind: str
    node: str
    day: str
    amount_nano_usd: int = 0
    wanted_nano_usd: int = 0
    needed_nano_usd: int = 0
    number: int = 0
    request_id: str | None = None
    terms: BudgetTerms | None = None

    @property
    def key(self) -> str:
        return self.budget_id


class EscrowNode(msgspec.Struct, frozen=True):
    """A node's share of one day, in nano-USD, counted since the node began.

    What it may still spend is granted less returned less spent. `needed` above 0 waits for money
    that others hold; `number` is the last ask that was answered, `turn` orders who waits.
    """

    node: str
    granted: int
    returned: int
    spent: int
    needed: int
    wanted: int
    number: int
    turn: int


class EscrowDay(msgspec.Struct, frozen=True):
    """One UTC day of a budget, in nano-USD.

    `spent` is everything spent, `settled` the part of it by nodes that are not listed any more.
    `free` is what could be granted now, below 0 after a limit was lowered; null without limits,
    and on days that no node has to do with any more.
    """

    day: str
    spent: int
    settled: int
    free: int | None
    nodes: list[EscrowNode]


class EscrowRow(TableRow, frozen=True, kw_only=True):
    """What became of the budget `entity`. `days` are the last ones, oldest first.

    What was spent on the days before them is in `months` ({month: nano-USD}), and before those in
    `before_nano_usd`. `alerts` are those open, ``window|level``. `turn` counts asks. `past` ({day:
    nano-USD}) repeats from `months` what forecasts need, day by day.
    """

    topic = ESCROW_TABLE
    type = "weir.budgets.escrow.row"
    version = 2

    terms: BudgetTerms | None
    days: list[EscrowDay]
    months: dict[str, int]
    before_nano_usd: int
    alerts: list[str]
    turn: int
    past: dict[str, int] = msgspec.field(default_factory=dict)


class EscrowCursor(CursorRow, frozen=True, kw_only=True):
    """The cursor of the escrow fold."""

    topic = ESCROW_TABLE
    type = "weir.budgets.cursor"


def lease_id(budget_id: str, day: str) -> str:
    """Return the name under which a call lists a budget that holds its reservation."""
    return f"{budget_id}@{day}"


def lease_of(name: str) -> tuple[str, str]:
    """Return budget and day of a lease's name."""
    budget_id, _, day = name.rpartition("@")
    return budget_id, day


def spent_in(row: EscrowRow, window: str) -> int:
    """Return what was spent in a window: a day, a month (``2026-11``) or ``total``; nano-USD."""
    if window == TOTAL:
        earlier = row.before_nano_usd + sum(row.months.values())
        return earlier + sum(day.spent for day in row.days)
    days = sum(day.spent for day in row.days if day.day.startswith(window))
    return days + row.months.get(window, 0)
