"""A worker's share of hard budgets: it spends what was granted to it, and nothing else.

The fold of `weir.budgets.escrow.v1` grants; its published row is the grant. A lease is a budget on
one UTC day, as this node (its outbox) sees it: granted, less what it returned, spent and holds for
calls under way. Money goes back when others wait for it, when it lies idle, and when its day is
over; what a dead worker held is freed by whoever adopts its outbox (`adoption`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import quote

import msgspec

from gateway.outbox import LEASES_FILE, Outbox
from schemas.clock import now_us
from schemas.errors import OutboxFull
from schemas.events.changes import BudgetChanged
from schemas.events.escrow import (
    PPM,
    TOTAL,
    BudgetTerms,
    EscrowMoved,
    EscrowRow,
    lease_id,
    spent_in,
)
from schemas.identity import uuid7
from schemas.partition import partition_of
from schemas.table_view import TableView

TEND_S = 1.0
IDLE_S = 10.0
AHEAD = 2
"""How many times what calls under way hold a node likes to have at hand."""
SHARE_MAX = 32
"""A node asks ahead for at most this part of a limit: more would lie with it when it dies."""
ASK_AHEAD_S = 0.25
_DAY_US = 86_400_000_000
ANSWER_S = 1.0
"""An ask without an answer is repeated after this: the fold may have known nothing of us."""
TELL_S = 30.0
"""What is told without a call is repeated so seldom: without a broker it would fill the outbox."""


class Lease:
    """A budget on a day, in nano-USD."""

    __slots__ = (
        "answered",
        "asked_s",
        "budget_id",
        "day",
        "granted",
        "needs",
        "number",
        "refused_s",
        "reserved",
        "returned",
        "spent",
        "used_s",
        "waiting",
    )

    def __init__(self, budget_id: str, day: str) -> None:
        self.budget_id = budget_id
        self.day = day
        self.granted = self.returned = self.spent = self.reserved = 0
        self.number = self.answered = 0
        self.needs: list[int] = []
        self.waiting: list[asyncio.Future[None]] = []
        self.asked_s = self.used_s = 0.0
        self.refused_s = -TELL_S

    @property
    def available(self) -> int:
        """What can be reserved now."""
        return self.granted - self.returned - self.spent - self.reserved

    @property
    def name(self) -> str:
        """How a call lists it."""
        return lease_id(self.budget_id, self.day)

    def wake(self) -> None:
        """Let those who wait look again, first come first served."""
        waiting, self.waiting = self.waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


class Escrow:
    """The leases of this node; belongs to the event loop's thread."""

    def __init__(self, outbox: Outbox, rows: TableView[EscrowRow]) -> None:
        self._outbox = outbox
        self._rows = rows
        self._leases: dict[tuple[str, str], Lease] = {}
        self._terms: dict[str, BudgetTerms] = {}
        self._listed: set[str] = set()
        self._loop = asyncio.get_running_loop()
        self._tending: asyncio.TimerHandle | None = None
        self._alerted: dict[str, str] = {}
        """Budgets of which alerts stand, by the keys of their rows."""
        self._told: dict[str, tuple[object, float]] = {}
        """What the fold was told of them without a call, and when."""
        rows.listen(self._heard)

    def lease(self, budget: BudgetChanged, budget_id: str) -> Lease:
        """Return today's lease of a budget, and tell the fold when its terms are new to us."""
        found, known = self._leases.get((budget_id, today())), self._terms.get(budget_id)
        if found is not None and known is not None and known.version == budget.occurred_at_us:
            return found
        return self._lease(budget_id, terms_of(budget))

    def alerted(self) -> list[str]:
        """Return the budgets of which an alert stands."""
        return list(self._alerted.values())

    def tell(self, budget_id: str, terms: BudgetTerms) -> None:
        """Tell the fold of newer terms, or that the window of an alert is over: it ends the alert."""
        row = self.row(budget_id)
        if row is None or row.terms is None:
            return
        windows = {name.rpartition("|")[0] for name in row.alerts} - {TOTAL}
        newer = terms.version > row.terms.version and limits_of(terms) != limits_of(row.terms)
        if not newer and all(today().startswith(window) for window in windows):
            return
        now_s, news = self._loop.time(), (today(), limits_of(terms))
        told, told_s = self._told.get(budget_id, (None, 0.0))
        if news != told or now_s - told_s > TELL_S:
            self._told[budget_id] = news, now_s
            lease = self._lease(budget_id, terms)
            if lease.asked_s < now_s and not lease.needs:
                self._ask(lease, 0, 0)

    def _lease(self, budget_id: str, terms: BudgetTerms) -> Lease:
        day = today()
        found = self._leases.get((budget_id, day))
        if found is None:
            found = self._leases[budget_id, day] = Lease(budget_id, day)
            if self._tending is None:
                self._tending = self._loop.call_later(TEND_S, self._tend)
        if self._terms.get(budget_id) != terms:
            self._terms[budget_id] = terms
            # A limit may have been lowered: nothing of the old one is spent on.
            self._give_back(found)
            self._ask(found, 0, 0)
        return found

    def row(self, budget_id: str) -> EscrowRow | None:
        """Return what the fold last said of a budget."""
        # A budget has one partition, so exactly one row.
        return self._rows.get(_row_key(budget_id))

    def hold(self, lease: Lease, amount: int) -> None:
        """Reserve what is available, and ask ahead when little is left."""
        lease.reserved += amount
        now_s = lease.used_s = self._loop.time()
        comfort = self._comfort(lease, amount)
        if lease.available * 2 < comfort and now_s - lease.asked_s > ASK_AHEAD_S:
            self._ask(lease, 0, comfort)

    def release(self, lease: Lease, amount: int, spent: int) -> None:
        """End a reservation of which `spent` is gone."""
        lease.reserved -= amount
        lease.spent += spent
        lease.used_s = self._loop.time()
        if lease.waiting:
            lease.wake()
        elif lease.available > 0 and self._others_wait(lease):
            self._give_back(lease)

    async def more(self, lease: Lease, amount: int, wait_s: float) -> None:
        """Ask for `amount` and wait until the lease changed, at most `wait_s`."""
        future: asyncio.Future[None] = self._loop.create_future()
        lease.needs.append(amount)
        lease.waiting.append(future)
        try:
            self._demand(lease)
            await asyncio.wait_for(future, min(wait_s, ANSWER_S))
        except TimeoutError:
            pass
        finally:
            lease.needs.remove(amount)
            if future in lease.waiting:
                lease.waiting.remove(future)

    def withdraw(self, lease: Lease) -> None:
        """Wait no longer, unless another call of this node does: nobody keeps money for us."""
        if not lease.needs and self._standing(lease):
            self._ask(lease, 0, 0)

    def refused(self, lease: Lease, terms: BudgetTerms, amount: int) -> None:
        """Tell the fold that a call was refused for what is left, unless its alert stands already.

        `terms` are those that the call met, with a limit; the budget may have others by now, or none.
        """
        row, now_s = self.row(lease.budget_id), self._loop.time()
        rest, window = left(row, terms, lease.day)
        known = row is not None and f"{window}|exceeded" in row.alerts
        if rest >= amount or known or now_s - lease.refused_s < TELL_S:
            return
        lease.refused_s = now_s
        move = self.moved(lease, "refused", 0, None)
        with contextlib.suppress(OutboxFull):  # the next refusal tells it
            self._outbox.append(msgspec.structs.replace(move, needed_nano_usd=amount, terms=terms))

    def answered(self, lease: Lease) -> bool:
        """Whether the fold has answered the last ask: it lives, and the log does."""
        return lease.answered >= lease.number

    def moved(self, lease: Lease, kind: str, amount: int, request_id: str | None) -> EscrowMoved:
        """Return the event of a move."""
        return EscrowMoved(
            event_id=uuid7(),
            occurred_at_us=now_us(),
            budget_id=lease.budget_id,
            kind=kind,
            node=self._outbox.id,
            day=lease.day,
            amount_nano_usd=amount,
            request_id=request_id,
        )

    # --- asking ------------------------------------------------------------------------------

    def _demand(self, lease: Lease) -> None:
        now_s = self._loop.time()
        if not self.answered(lease) and now_s - lease.asked_s < ANSWER_S:
            return
        need = min(lease.needs)
        if self._standing(lease) != need or now_s - lease.asked_s > ANSWER_S:
            self._ask(lease, need, max(sum(lease.needs), self._comfort(lease, need)))

    def _standing(self, lease: Lease) -> int:
        """What the fold knows that we wait for."""
        row = self.row(lease.budget_id)
        days = row.days if row is not None else []
        nodes = [node for day in days if day.day == lease.day for node in day.nodes]
        return next((node.needed for node in nodes if node.node == self._outbox.id), 0)

    def _comfort(self, lease: Lease, amount: int) -> int:
        limit = smallest_limit(self._terms[lease.budget_id]) or 0
        return max(amount, min((lease.reserved + amount) * AHEAD, limit // SHARE_MAX))

    def _ask(self, lease: Lease, needed: int, wanted: int) -> None:
        if lease.budget_id not in self._listed:
            self._list(lease.budget_id)
        lease.number += 1
        lease.asked_s = self._loop.time()
        ask = EscrowMoved(
            event_id=uuid7(),
            occurred_at_us=now_us(),
            budget_id=lease.budget_id,
            kind="asked",
            node=self._outbox.id,
            day=lease.day,
            wanted_nano_usd=wanted,
            needed_nano_usd=needed,
            number=lease.number,
            terms=self._terms[lease.budget_id],
        )
        try:
            self._outbox.append(ask)
        except OutboxFull:
            lease.number -= 1  # no room for new work: the caller hears it at admission
            return
        self._outbox.hurry()

    def _list(self, budget_id: str) -> None:
        """Note durably, before the first ask, that this node may hold money of a budget."""
        path = self._outbox.folder / LEASES_FILE
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            # Callers name users, and so budgets: a line of the file is one of them whatever it holds.
            os.write(descriptor, quote(budget_id).encode() + b"\n")
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        self._listed.add(budget_id)

    # --- giving back -------------------------------------------------------------------------

    def _heard(self, key: str, row: EscrowRow | None) -> None:
        """Take the grants of a new row, and give back what others wait for."""
        if row is not None and row.alerts:
            self._alerted[key] = row.entity
        elif key in self._alerted:
            self._told.pop(self._alerted.pop(key), None)
        if row is None:
            return
        for day in row.days:
            lease = self._leases.get((row.entity, day.day))
            if lease is None:
                continue
            for node in day.nodes:
                if node.node == self._outbox.id:
                    lease.granted, lease.answered = node.granted, node.number
            if lease.needs and lease.available >= min(lease.needs):
                lease.wake()
            elif lease.available > 0 and (self._others_wait(lease) or (day.free or 0) < 0):
                self._give_back(lease)
                lease.wake()
            elif lease.needs:
                lease.wake()

    def _others_wait(self, lease: Lease) -> bool:
        row = self.row(lease.budget_id)
        return row is not None and any(
            node.needed and node.node != self._outbox.id for day in row.days for node in day.nodes
        )

    def _give_back(self, lease: Lease) -> None:
        amount = lease.available
        if amount > 0:
            lease.returned += amount
            self._outbox.append(self.moved(lease, "returned", amount, None), settles=True)
            self._outbox.hurry()

    def _tend(self) -> None:
        """Give back what lies idle or is of another day, and forget leases that are through."""
        now_s, day = self._loop.time(), today()
        for key, lease in list(self._leases.items()):
            if lease.day != day or now_s - lease.used_s > IDLE_S:
                self._give_back(lease)
            if lease.day == day or lease.reserved or lease.needs or not self.answered(lease):
                continue
            if self._standing(lease):
                self._ask(lease, 0, 0)
            else:
                del self._leases[key]
                self._forget_terms(lease.budget_id)
        self._tending = None
        if self._leases:
            self._tending = self._loop.call_later(TEND_S, self._tend)

    def _forget_terms(self, budget_id: str) -> None:
        # Budgets of each user are as many as callers name: only those in use are known.
        if not any(budget_id == held for held, _ in self._leases):
            del self._terms[budget_id]


def terms_of(budget: BudgetChanged) -> BudgetTerms:
    """Return a budget's terms as the fold reads them: none while it is disabled.

    Their version is the time of the change, since those of an entity begin anew when it does.
    """
    if not budget.enabled:
        return no_terms(budget.occurred_at_us)
    return BudgetTerms(
        budget.occurred_at_us,
        budget.daily_limit_nano_usd,
        budget.monthly_limit_nano_usd,
        budget.total_limit_nano_usd,
        round(budget.warning_threshold * PPM),
    )


def no_terms(at_us: int) -> BudgetTerms:
    """Return the terms of a budget that is gone since a time, Unix µs."""
    return BudgetTerms(at_us, None, None, None, PPM)


def limits_of(terms: BudgetTerms) -> tuple[int | None, ...]:
    """Return all that terms say but since when."""
    return msgspec.structs.astuple(terms)[1:]


def smallest_limit(terms: BudgetTerms) -> int | None:
    """Return the tightest limit, None without any."""
    limits = (
        terms.daily_limit_nano_usd,
        terms.monthly_limit_nano_usd,
        terms.total_limit_nano_usd,
    )
    return min((limit for limit in limits if limit is not None), default=None)


def left(row: EscrowRow | None, terms: BudgetTerms, day: str) -> tuple[int, str]:
    """Return how much is not spent, and the window that has least of it.

    Raises ValueError for terms without a limit.
    """
    found = []
    for window, limit in (
        (day, terms.daily_limit_nano_usd),
        (day[:7], terms.monthly_limit_nano_usd),
        (TOTAL, terms.total_limit_nano_usd),
    ):
        if limit is not None:
            found.append((limit - (spent_in(row, window) if row is not None else 0), window))
    return min(found)


def today() -> str:
    """Return the UTC day."""
    return _day(now_us() // _DAY_US)


@lru_cache(maxsize=2)
def _day(number: int) -> str:
    return datetime.fromtimestamp(number * 86_400, UTC).strftime("%Y-%m-%d")


@lru_cache(maxsize=4096)
def _row_key(budget_id: str) -> str:
    return f"{budget_id}|{partition_of(budget_id.encode(), EscrowMoved.topic.partitions)}"
