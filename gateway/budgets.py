"""Hard budgets on the path of a call: what it may cost is reserved before it leaves.

A call that no budget holds for costs one look at an empty index. Else: the most that it can cost is
reserved under every budget at once, moved on at its settlement, and what was not spent is free
again. Budgets that only alert are counted and never in the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from gateway.bounds import Bound, bound
from gateway.escrow import Escrow, Lease, left, smallest_limit, terms_of
from gateway.outbox import Outbox
from gateway.state import GatewayState, Index
from schemas.clock import now_us
from schemas.errors import BudgetExceeded, InvalidRequest, Unavailable, WeirError
from schemas.events.changes import BudgetChanged
from schemas.events.escrow import TOTAL
from schemas.events.llm import Candidate, CostEntry
from schemas.identity import uuid7
from schemas.money import to_usd
from schemas.routing import Decision, Target

if TYPE_CHECKING:
    from gateway.call import Call

WAIT_S = 2.0
"""How long a call may wait for money that is on its way."""
GLOBAL = "global"
SOFT = "alert_only"
REROUTE = "reroute"
RETRY_S = 1.0
"""Money that calls under way hold may be free again after this."""


@dataclass
class Hold:
    """What a call has reserved: `amount` nano-USD under each of `leases`; `soft` are only counted."""

    amount: int
    leases: list[Lease]
    soft: list[Lease] = field(default_factory=list)
    target_id: str = ""
    max_tokens: int | None = None

    @property
    def names(self) -> list[str]:
        """The leases, as events list them."""
        return [lease.name for lease in (*self.leases, *self.soft)]


Owners = tuple[str, str | None]


class Budgets:
    """The budgets of this worker; belongs to the event loop's thread."""

    def __init__(self, state: GatewayState, outbox: Outbox) -> None:
        self._state = state
        self._outbox = outbox
        self._escrow = Escrow(outbox, state.escrow)
        self._index = Index(self._build, state.budgets)

    @property
    def any(self) -> bool:
        """Whether there is any budget at all."""
        return bool(self._index())

    async def admit(self, call: Call) -> None:
        """Reserve for the call's first target, or for another one where the budget says so.

        Raises BudgetExceeded, InvalidRequest for what cannot be bounded or priced, Unavailable
        when nobody answers for the budget.
        """
        chosen = call.decision.chosen
        budgets = self._applying(call, chosen)
        if not budgets:
            return
        try:
            call.hold = await self._reserve(call, chosen, budgets, WAIT_S)
        except BudgetExceeded as error:
            hard = [b for b, _ in budgets if b.on_exceeded != SOFT]
            if any(budget.on_exceeded != REROUTE for budget in hard):
                raise
            await self._reroute(call, error)

    async def _reroute(self, call: Call, error: BudgetExceeded) -> None:
        """Move the call to a target of its route that still fits: one that costs nothing, or one
        that the spent budget does not hold for.
        """
        for target in call.decision.order:
            if target is call.decision.chosen:
                continue
            try:
                call.hold = await self._reserve(call, target, self._applying(call, target), 0.0)
            except WeirError:
                continue
            call.decision = rerouted(call.decision, target, error.message)
            call.target = target
            return
        raise error

    def cover(self, call: Call, target: Target) -> bool:
        """Reserve what a further target may cost beyond what is held; False when that fails."""
        hold = call.hold
        if hold is None or target.id == hold.target_id:
            return True
        budgets = self._applying(call, target)
        try:
            wanted = self._bound(call, target, budgets)
        except InvalidRequest:
            return False
        leases, soft = self._leases(budgets)
        extra = {
            lease: wanted.amount_nano_usd - (hold.amount if lease in hold.leases else 0)
            for lease in leases
        }
        if any(amount > max(0, lease.available) for lease, amount in extra.items() if amount > 0):
            return False
        grown = wanted.amount_nano_usd > hold.amount or set(leases) - set(hold.leases)
        for lease in hold.leases:
            if lease not in leases:
                self._escrow.release(lease, hold.amount, 0)
        for lease, amount in extra.items():
            self._escrow.hold(lease, amount)
        call.hold = Hold(wanted.amount_nano_usd, leases, soft, target.id, wanted.max_tokens)
        if grown:
            self._record(call, call.hold)
        return True

    def settle(self, hold: Hold, cost: CostEntry) -> list[msgspec.Struct]:
        """End a reservation; return the events that must be recorded with the settlement.

        What a call cost that nobody could tell counts as all that it had reserved.
        """
        unknown = cost.cost_nano_usd is None
        spent = hold.amount if unknown else cost.cost_nano_usd or 0
        events: list[msgspec.Struct] = []
        for lease in hold.leases:
            self._escrow.release(lease, hold.amount, spent)
            if spent:
                events.append(self._escrow.moved(lease, "spent", spent, cost.request_id))
        for lease in hold.soft:
            known = 0 if unknown else spent
            self._escrow.release(lease, 0, known)
            if known:
                events.append(self._escrow.moved(lease, "spent", known, cost.request_id))
        return events

    def release(self, hold: Hold) -> None:
        """Give a reservation up whose call was not admitted."""
        for lease in hold.leases:
            self._escrow.release(lease, hold.amount, 0)

    # --- reserving ---------------------------------------------------------------------------

    async def _reserve(
        self, call: Call, target: Target, budgets: list[tuple[BudgetChanged, str]], wait_s: float
    ) -> Hold:
        wanted = self._bound(call, target, budgets)
        leases, soft = self._leases(budgets)
        amount = wanted.amount_nano_usd
        hard = {lease.budget_id: budget for (budget, _), lease in zip(
            [b for b in budgets if b[0].on_exceeded != SOFT], leases, strict=True
        )}
        loop = asyncio.get_running_loop()
        until_s = loop.time() + wait_s
        while short := [lease for lease in leases if lease.available < amount] if amount else []:
            lease = short[0]
            budget = hard[lease.budget_id]
            self._check_left(budget, lease, amount)
            left_s = until_s - loop.time()
            if left_s <= 0:
                answered = self._escrow.answered(lease)
                self._escrow.withdraw(lease)
                raise _held(budget, lease) if answered else _unanswered(budget)
            await self._escrow.more(lease, amount, left_s)
        for lease in leases:
            self._escrow.hold(lease, amount)
        return Hold(amount, leases, soft, target.id, wanted.max_tokens)

    def _bound(
        self, call: Call, target: Target, budgets: list[tuple[BudgetChanged, str]]
    ) -> Bound:
        if all(budget.on_exceeded == SOFT for budget, _ in budgets):
            return Bound(0, None)
        return bound(call.admitted, target, call.price_of(self._state, target))

    def _leases(self, budgets: list[tuple[BudgetChanged, str]]) -> tuple[list[Lease], list[Lease]]:
        hard, soft = [], []
        for budget, budget_id in budgets:
            lease = self._escrow.lease(budget, budget_id)
            (soft if budget.on_exceeded == SOFT else hard).append(lease)
        return hard, soft

    def _check_left(self, budget: BudgetChanged, lease: Lease, amount: int) -> None:
        """Refuse at once what no waiting can help: the budget is spent."""
        rest, window = left(self._escrow.row(lease.budget_id), terms_of(budget), lease.day)
        if rest < amount:
            raise BudgetExceeded(
                f"the budget '{budget.name or budget.budget_id}' has {to_usd(max(0, rest))} USD "
                f"left for {_window(window)}, this call may cost {to_usd(amount)} USD",
                action=_reset(window),
            )

    def _record(self, call: Call, hold: Hold) -> None:
        """Record that more is held than the admission said: what an abandoned call is charged."""
        entry = CostEntry(
            event_id=uuid7(),
            occurred_at_us=now_us(),
            **call.common(),
            entry="admitted",
            cost_nano_usd=hold.amount,
            basis="estimated",
            budgets=hold.names,
        )
        self._outbox.append(entry, settles=True, correlation_id=entry.request_id)

    # --- which budgets -----------------------------------------------------------------------

    def _applying(self, call: Call, target: Target) -> list[tuple[BudgetChanged, str]]:
        index = self._index()
        key = call.admitted.key
        owners: Iterable[Owners] = (
            (GLOBAL, None),
            ("provider", target.provider),
            ("key", key.key_id),
            ("user", call.admitted.user_id),
            ("team", key.team),
            ("project", key.project),
            ("organization", key.organization),
            ("cost_center", key.cost_center),
        )
        found = []
        for scope, owner in owners:
            if owner is None and scope != GLOBAL:
                continue
            for budget in index.get((scope, owner), ()):
                found.append((budget, budget.budget_id))
            if scope != GLOBAL:
                for budget in index.get((scope, None), ()):
                    found.append((budget, f"{budget.budget_id}/{owner}"))
        return found

    def _build(self) -> dict[Owners, list[BudgetChanged]]:
        found: dict[Owners, list[BudgetChanged]] = {}
        for budget in self._state.budgets.entries.values():
            if budget.enabled and smallest_limit(terms_of(budget)) is not None:
                found.setdefault((budget.scope, budget.scope_id), []).append(budget)
        return found


def rerouted(decision: Decision, target: Target, why: str) -> Decision:
    """Return the decision for the only target that a spent budget leaves."""
    order = [target, *(other for other in decision.order if other.id != target.id)]
    candidates = [
        Candidate(c.target, 1.0, True, "within budget")
        if c.target == target.id
        else Candidate(c.target, 0.0, False, f"over budget: {c.reason}")
        for c in decision.candidates
    ]
    return msgspec.structs.replace(
        decision, chosen=target, order=order, candidates=candidates, propensity=1.0, reason=why
    )


def _held(budget: BudgetChanged, lease: Lease) -> BudgetExceeded:
    return BudgetExceeded(
        f"what is left of the budget '{budget.name or budget.budget_id}' is reserved by calls "
        "under way",
        action="Try again when they have ended.",
        retry_after_seconds=RETRY_S,
    )


def _unanswered(budget: BudgetChanged) -> Unavailable:
    return Unavailable(
        f"nobody answers for the budget '{budget.name or budget.budget_id}': Kafka or the streams "
        "part is away, and what this worker held of it is used up",
        action="Try again; nothing is spent that was not granted.",
        retry_after_seconds=2.0,
    )


def _window(window: str) -> str:
    return "all time" if window == TOTAL else window


def _reset(window: str) -> str:
    if window == TOTAL:
        return "Have an administrator raise the budget."
    first = datetime.strptime(window[:7], "%Y-%m").replace(tzinfo=UTC)
    if len(window) > 7:
        begins = datetime.strptime(window, "%Y-%m-%d").replace(tzinfo=UTC) + timedelta(days=1)
    else:
        begins = (first + timedelta(days=32)).replace(day=1)
    return f"Wait until {begins:%Y-%m-%dT%H:%M:%SZ}, or have an administrator raise the budget."
