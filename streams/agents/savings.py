"""What was called instead of a baseline, per rule, route, target and day (COST-17).

The rows are facts: tokens and money as the ledger has them. What the baseline would have cost is a
question, not a fact: which model it is can change, and a fold may not look at prices. So the reader
prices the sums of a day, with the list of that day; one rounding a day instead of one per call.
"""

from __future__ import annotations

from collections.abc import Iterator

from schemas.events.llm import CostEntry
from schemas.events.savings import SavingsCursor, SavingsDay, SavingsRow
from schemas.pricing import newly_unpriced
from streams.agents.spend import RESERVED
from streams.fold import Fold
from streams.sums import Amounts, WindowSums
from streams.windows import Window

DAYS = Window("day", keep=92, seconds=86_400)
_CORRECTED = "corrected"
_CHAT = "chat"
SUMS = WindowSums(DAYS, SavingsDay, "days")


def split(event: CostEntry) -> Iterator[tuple[str, Amounts]]:
    """Yield a line under its rule, route and target."""
    if event.entry == RESERVED:
        return
    rule = "routing"
    if event.cache_saved_nano_usd is not None:
        rule = "cache"
    elif event.deployment_id is not None:
        rule = "tuned_model"
    cost = event.cost_nano_usd or 0
    corrects = event.entry == _CORRECTED
    # Another model for chats would have made no vector, picture or ranking: nothing is claimed of those.
    chats = event.surface == _CHAT
    counted = chats and bool(event.input_tokens or event.output_tokens)
    tokens = (
        event.input_tokens or 0,
        event.cached_input_tokens or 0,
        event.cache_write_input_tokens or 0,
        event.output_tokens or 0,
    )
    amounts = (
        int(not corrects),
        cost,
        newly_unpriced(event),
        0 if counted or corrects else cost,
        0 if counted else event.cache_saved_nano_usd or 0,
        *(tokens if chats else (0, 0, 0, 0)),
    )
    yield f"{rule}|{event.route}|{event.target or ''}", (DAYS.index(event.occurred_at_us), amounts)


SAVINGS = Fold(
    name="savings",
    event=CostEntry,
    row=SavingsRow,
    cursor=SavingsCursor,
    split=split,
    new=dict,
    apply=SUMS.apply,
    freeze=SUMS.freeze,
    thaw=SUMS.thaw,
)
