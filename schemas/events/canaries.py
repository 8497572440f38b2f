"""How canaries fare beside their baselines: of the calls that were drawn for the one or the other."""

from __future__ import annotations

from schemas.event import Topic
from schemas.events.tables import CursorRow, TableRow

CANARY_TABLE = Topic("weir.canaries.tables.v1", cleanup="compact")
CANARY, BASELINE = "canary", "baseline"


def trial_of(deployment_id: str, percentage: int) -> str:
    """Return the name of a trial: a canary at a share. With another share other users take part."""
    return f"{deployment_id}#{percentage}"


class CanaryCursor(CursorRow, frozen=True, kw_only=True):
    """The cursor of the canaries fold."""

    topic = CANARY_TABLE
    type = "weir.canaries.cursor"


class CanaryRow(TableRow, frozen=True, kw_only=True):
    """Calls of a week that were drawn for a `side` (canary or baseline) of a `trial`, by their first attempt.

    Whoever answers after a failure is another experiment. The calls ended within
    [first_us, last_us]. `failures` of `calls` failed, as in health; of the others `latency` is a
    histogram of µs until the first bytes, `log_latency` sums the natural logarithms in thousandths,
    `…_squared` their squares. `priced` of them have a known cost: its sum, and the logarithms of 1
    nano-USD more than it.
    """

    topic = CANARY_TABLE
    type = "weir.canaries.row"

    trial: str
    side: str
    first_us: int
    last_us: int
    calls: int
    failures: int
    latency: dict[str, int]
    log_latency: int
    log_latency_squared: int
    priced: int
    cost_nano_usd: int
    log_cost: int
    log_cost_squared: int
