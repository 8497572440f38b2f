"""What the optimizer looks at and does: how targets perform over days, and changes of their shares."""

from __future__ import annotations

import msgspec

from schemas.event import Event, Topic
from schemas.events.changes import ROUTING, Change
from schemas.events.operations import HEARTBEATS
from schemas.events.tables import CursorRow, TableRow

OPTIMIZER = Topic("weir.optimizer.v1")
PERFORMANCE_TABLE = Topic("weir.performance.tables.v1", cleanup="compact")


class PerformanceCursor(CursorRow, frozen=True, kw_only=True):
    """The cursor of the performance fold."""

    topic = PERFORMANCE_TABLE
    type = "weir.performance.cursor"


class PerformanceRow(TableRow, frozen=True, kw_only=True):
    """Attempts on `target` whose call ended within [start_s, start_s + seconds) of event time.

    Rows are slots of a ring: a later block takes the place of one that is no longer needed.
    `calls`, `failures` as in health. `answer` is a histogram of µs until the first bytes of
    successes, `busy_us` the sum of all durations. The rest is of the `completed` calls that the
    target answered: tokens where known, and the cost of those `priced`.
    """

    topic = PERFORMANCE_TABLE
    type = "weir.performance.row"

    target: str
    seconds: int
    start_s: int
    calls: int
    failures: int
    answer: dict[str, int]
    busy_us: int
    completed: int
    input_tokens: int
    output_tokens: int
    priced: int
    cost_nano_usd: int


class OptimizerActed(Event, frozen=True, kw_only=True):
    """An automatic change of routing: what, why, and the metric that it aims at.

    Of the calls that would go to `target` it keeps `factor`; the others go to `alternative`, or to
    whom its route's strategy takes instead. `state` is proposed, active, restoring, restored, reverted or
    expired; the change is in force while active or restoring, until `expires_at_us`. `before` and
    `after` are the metric among all targets that could take the calls, before the change and since.
    `number` counts the events of a target, `step` those of an action. `verdict` says whether it
    helped: unclear, helped, worse. `share_before` and `share_after` are the target's part of its
    group's calls.
    """

    topic = OPTIMIZER
    type = "weir.optimizer.acted"
    version = 2

    action_id: str
    rule: str
    target: str
    reason: str
    metric: str
    before: float | None = None
    after: float | None = None
    state: str
    expires_at_us: int | None = None
    alternative: str | None = None
    factor: float = 1.0
    number: int = 0
    step: int = 0
    started_at_us: int = 0
    stepped_at_us: int = 0
    window_s: int = 0
    verdict: str = "unclear"
    share_before: float | None = None
    share_after: float | None = None
    evidence: dict[str, float] = msgspec.field(default_factory=dict)
    actor: str = "streams"

    @property
    def key(self) -> str:
        return self.target


class OptimizerRuleChanged(Change, frozen=True, kw_only=True):
    """A rule of the optimizer was turned on or off, or to proposals only (`mode`: on, propose, off)."""

    topic = ROUTING
    type = "weir.routing.optimizer.rule.changed"

    rule: str
    mode: str

    @property
    def key(self) -> str:
        return f"optimizer:{self.rule}"


class OptimizationRequested(Event, frozen=True, kw_only=True):
    """A person wants the optimizer to look now."""

    topic = OPTIMIZER
    type = "weir.optimizer.requested"

    actor: str

    @property
    def key(self) -> str:
        return "request"


class OptimizerRan(Event, frozen=True, kw_only=True):
    """The optimizer looked at `targets` targets; `modes` says how each rule is set.

    `drifting` are those that do worse than in seven days, whether or not others could take their
    calls: in what, and how much.
    """

    topic = HEARTBEATS
    type = "weir.optimizer.ran"
    version = 2

    targets: int
    acted: int
    modes: dict[str, str]
    drifting: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def key(self) -> str:
        return "optimizer"
