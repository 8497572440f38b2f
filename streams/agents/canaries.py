"""How each canary fares beside its baseline (EVT-04): an experiment, since chance draws who gets it.

Calls say themselves which trials they were drawn into; what was called by name, or as a failover,
takes part in none. A trial is a canary at one share, so a growing share begins another. Each week of
a side is a row of its own, and gone after a quarter of a year: nobody says when a trial is over.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from schemas.event import Event
from schemas.events.canaries import CanaryCursor, CanaryRow
from schemas.events.llm import Attempt, ResponseCompleted
from schemas.histogram import bucket_of
from schemas.rewards import LOG_UNITS
from streams.attempts import answered_us, tells_of_target
from streams.fold import NOTHING, Fold
from streams.windows import Window

WINDOW = Window("canaries", keep=13, seconds=7 * 86_400)


class Contribution(NamedTuple):
    """The first attempt of a call that was drawn for a side; its cost where that is known."""

    trial: str
    side: str
    at_us: int
    attempt: Attempt
    cost_nano_usd: int | None


@dataclass(slots=True)
class Sums:
    """The changeable form of a row; nothing was counted while `first_us` is 0."""

    trial: str = ""
    side: str = ""
    first_us: int = 0
    last_us: int = 0
    calls: int = 0
    failures: int = 0
    latency: dict[str, int] = field(default_factory=dict)
    log_latency: int = 0
    log_latency_squared: int = 0
    priced: int = 0
    cost_nano_usd: int = 0
    log_cost: int = 0
    log_cost_squared: int = 0


def split(event: ResponseCompleted) -> Iterator[tuple[str, Contribution]]:
    """Yield the first attempt under every trial of the call, if it says something of its target."""
    if not event.trials or not event.attempts:
        return
    attempt = event.attempts[0]
    if not tells_of_target(attempt):
        return
    cost = event.cost_nano_usd if len(event.attempts) == 1 else None
    for trial, side in sorted(event.trials.items()):
        given = Contribution(trial, side, event.occurred_at_us, attempt, cost)
        yield WINDOW.block(f"{trial}|{side}", event.occurred_at_us), given


def apply(state: Sums, given: Contribution) -> Sequence[Event]:
    """Count one call."""
    state.trial, state.side = given.trial, given.side
    state.first_us = min(state.first_us or given.at_us, given.at_us)
    state.last_us = max(state.last_us, given.at_us)
    state.calls += 1
    attempt = given.attempt
    if attempt.outcome != "success":
        state.failures += 1
        return NOTHING
    first_us = answered_us(attempt)
    name, log_latency = str(bucket_of(first_us)), _log(first_us)
    state.latency[name] = state.latency.get(name, 0) + 1
    state.log_latency += log_latency
    state.log_latency_squared += log_latency**2
    if given.cost_nano_usd is not None:
        log_cost = _log(given.cost_nano_usd + 1)
        state.priced += 1
        state.cost_nano_usd += given.cost_nano_usd
        state.log_cost += log_cost
        state.log_cost_squared += log_cost**2
    return NOTHING


def _log(value: int) -> int:
    return round(LOG_UNITS * math.log(max(1, value)))


def expires(entity: str) -> int | None:
    """Return when a week's row is swept, Unix µs; None for rows from before each week had its own."""
    start_s = entity.rpartition("@")[2]
    return WINDOW.expires(entity) if start_s.isdecimal() else None


def freeze(state: Sums) -> dict[str, Any]:
    """Return the sums, the histogram in order."""
    fields = {name: getattr(state, name) for name in Sums.__slots__}
    return fields | {"latency": dict(sorted(state.latency.items()))}


def thaw(row: CanaryRow) -> Sums:
    """Return the sums that `freeze` gave."""
    fields = {name: getattr(row, name) for name in Sums.__slots__}
    return Sums(**(fields | {"latency": dict(row.latency)}))


CANARIES = Fold(
    name="canaries",
    event=ResponseCompleted,
    row=CanaryRow,
    cursor=CanaryCursor,
    split=split,
    new=Sums,
    apply=apply,
    freeze=freeze,
    thaw=thaw,
    expires=expires,
    wait_s=1.0,
)
