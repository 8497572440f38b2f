"""Hard budgets on the path of a call: what it may cost is reserved before it leaves.

A call that no budget holds for costs one look at an empty index. Else: the most that it can cost is
reserved under every budget at once, moved on at its settlement, and what was not spent is free
again. Budgets that only alert are counted and never in the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from gateway.admission import Admitted
from gateway.bounds import Bound, bound
from gateway.escrow import Escrow, Lease, left, no_terms, smallest_limit, terms_of
from gateway.ledger import total
from gateway.outbox import RESERVED, Outbox
from gateway.state import GatewayState, Index
from gateway.upstream import Failed
from schemas.clock import now_us
from schemas.errors import BudgetExceeded, InvalidRequest, Unavailable, UpstreamQuota, WeirError
from schemas.events.changes import BudgetChanged
from schemas.events.escrow import TOTAL, EscrowMoved
from schemas.events.llm import Candidate, CostEntry
from schemas.identity import uuid7
from schemas.money import to_usd
from schemas.routing import Decision, Target

if TYPE_CHECKING:
    from gateway.call import Call

WAIT_S = 2.0
"""How long a call may wait for money that is on its way."""
START_S = 12.0
"""Within this time of a worker's start the fold that grants may be starting too: it is waited for."""
GLOBAL = "global"
PROVIDER = "provider"
SOFT = "alert_only"
REROUTE = "reroute"
LOOK_S = 1.0
"""An alert is over so soon after its budget was changed, or its window ended."""
RETRY_S = 1.0
"""Money that calls under way hold may be free again after this."""


@dataclass
class Hold:
    """What a call has reserved for a target: `amount` nano-USD under each of `leases`.

    `soft` are only counted. `output_max` bounds the tokens that it produces; `max_tokens` is what
    the provider must be told so, None where the caller said it himself. `ended` says that its money
    is free again: a settlement that could not be recorded is made a second time. `narrow` are those
    of budgets that hold for the target's provider alone; `paid` is what was charged for attempts
    that were given up there.
    """

    target: Target
    amount: int
    leases: dict[Lease, BudgetChanged]
    soft: list[Lease]
    output_max: int | None
    max_tokens: int | None
    narrow: frozenset[Lease] = frozenset()
    paid: dict[Lease, int] = field(default_factory=dict)
    ended: bool = False

    @property
    def names(self) -> list[str]:
        """The leases, as events list them."""
        return [lease.name for lease in (*self.leases, *self.soft)]


Owners = tuple[str, str | None]
Want = tuple[BudgetChanged, Lease, int]


class Budgets:
    """The budgets of this worker; belongs to the event loop's thread."""

    def __init__(self, state: GatewayState, outbox: Outbox) -> None:
        self._state = state
        self._outbox = outbox
        self._escrow = Escrow(outbox, state.escrow)
        self._index = Index(self._build, state.budgets)
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self._loop.call_later(LOOK_S, self._look)

    @property
    def _patience_s(self) -> float:
        return max(WAIT_S, START_S - (self._loop.time() - self._began_s))

    @property
    def any(self) -> bool:
        """Whether there is any budget at all."""
        return bool(self._index())

    async def admit(self, call: Call) -> None:
        """Reserve for the call's first target, or for another one where the budget says so.

        Raises BudgetExceeded, InvalidRequest for what cannot be bounded or priced, Unavailable
        when nobody answers for the budget.
        """
        hold = self._hold(call, call.decision.chosen)
        if hold is None:
            return
        try:
            await self._take_or_reroute(call, hold)
        except BudgetExceeded:
            for budget, lease, amount in _all_of(hold):
                self._escrow.refused(lease, terms_of(budget), amount)
            raise

    async def _take_or_reroute(self, call: Call, hold: Hold) -> None:
        try:
            await self._take(_all_of(hold), self._patience_s)
            call.hold = hold
        except BudgetExceeded as error:
            if any(budget.on_exceeded != REROUTE for budget in hold.leases.values()):
                raise
            await self._reroute(call, error)

    def refuse_unbounded(self, admitted: Admitted, provider: str, why: str) -> None:
        """Refuse a call that nobody can price beforehand. Raises InvalidRequest under a budget."""
        for budget, _ in self._applying(admitted, provider):
            if budget.on_exceeded != SOFT:
                raise InvalidRequest(
                    f"the budget '{budget.name or budget.budget_id}' is hard, and the price of a call "
                    f"that is passed through is not known beforehand: {why}",
                    action="Use a key that no hard budget holds for, or have the budget only alert.",
                )

    async def _reroute(self, call: Call, error: BudgetExceeded) -> None:
        """Move the call to a target of its route that still fits: one that costs nothing, or one
        that the spent budget does not hold for.
        """
        for target in call.decision.order:
            if target is call.decision.chosen:
                continue
            try:
                hold = self._hold(call, target)
                if hold is not None:
                    await self._take(_all_of(hold), 0.0)
            except WeirError:
                continue
            call.hold, call.target = hold, target
            call.decision = rerouted(call.decision, target, error.message)
            return
        raise error

    async def cover(self, call: Call, target: Target) -> None:
        """Reserve what a further target may cost beyond what is held. Raises Failed."""
        held = call.hold
        if held is not None and held.target.id == target.id and not call.wasted:
            return
        have = {} if held is None else dict.fromkeys(held.leases, held.amount)
        try:
            hold = self._hold(call, target)
            need = {} if hold is None else dict.fromkeys(hold.leases, hold.amount)
            extra = {lease: max(0, amount - have.get(lease, 0)) for lease, amount in need.items()}
            if hold is not None:
                wants = [(hold.leases[lease], lease, amount) for lease, amount in extra.items()]
                await self._take(wants, self._patience_s)
        except (BudgetExceeded, InvalidRequest, Unavailable) as error:
            raise Failed(UpstreamQuota(error.message), told=error) from error
        call.hold, call.target = hold, target
        if held is not None:
            call.hold = hold = self._moved_on(
                call, held, hold or Hold(target, 0, {}, [], None, None)
            )
        if hold is not None and (any(extra.values()) or have.keys() != need.keys()):
            self._record(call, hold)

    def _moved_on(self, call: Call, held: Hold, hold: Hold) -> Hold:
        """Free what a further target does not need, and return its hold.

        A budget of the former target's provider alone is charged at once with what the attempts
        there wasted: the settlement will concern it no more.
        """
        hold.paid = held.paid
        for lease in held.leases:
            if lease in hold.leases:
                self._escrow.release(lease, max(0, held.amount - hold.amount), 0)
        for lease in (*held.leases, *held.soft):
            if lease in hold.leases or lease in hold.soft:
                continue
            wasted = call.wasted_nano_usd(self._state, held.target.provider)
            wasted -= hold.paid.get(lease, 0)
            self._escrow.release(lease, held.amount if lease in held.leases else 0, wasted)
            if wasted:
                hold.paid[lease] = hold.paid.get(lease, 0) + wasted
                move = self._escrow.moved(lease, "spent", wasted, call.admitted.request_id)
                self._outbox.append(move, settles=True)
        return hold

    def settle(
        self, hold: Hold, cost: CostEntry, wasted: Sequence[CostEntry] = ()
    ) -> list[EscrowMoved]:
        """End a reservation; return the events that must be recorded with the settlement.

        What a call cost that nobody could tell counts as all that it had reserved.
        """
        lines = [cost, *wasted]
        here = [line for line in lines if line.provider == hold.target.provider]
        amounts = []
        for lease in (*hold.leases, *hold.soft):
            known = total(here if lease in hold.narrow else lines)
            reserved = hold.amount if lease in hold.leases else 0
            gone = reserved if known is None else known - hold.paid.get(lease, 0)
            amounts.append((lease, reserved, gone))
        events = []
        for lease, reserved, gone in amounts:
            if not hold.ended:
                self._escrow.release(lease, reserved, gone)
            if gone:
                events.append(self._escrow.moved(lease, "spent", gone, cost.request_id))
        hold.ended = True
        return events

    def release(self, call: Call) -> None:
        """Give up what a call had reserved that was not admitted after all."""
        if call.hold is not None:
            for lease in call.hold.leases:
                self._escrow.release(lease, call.hold.amount, 0)

    # --- reserving ---------------------------------------------------------------------------

    def _hold(self, call: Call, target: Target) -> Hold | None:
        """Return what must be reserved for a target, None for nothing. Raises InvalidRequest."""
        budgets = self._applying(call.admitted, target.provider)
        if not budgets:
            return None
        hard: dict[Lease, BudgetChanged] = {}
        soft: list[Lease] = []
        narrow: set[Lease] = set()
        for budget, budget_id in budgets:
            lease = self._escrow.lease(budget, budget_id)
            if budget.scope == PROVIDER:
                narrow.add(lease)
            if budget.on_exceeded == SOFT:
                soft.append(lease)
            else:
                hard[lease] = budget
        price = call.price_of(self._state, target)
        most = bound(call.admitted, target, price) if hard else Bound(0)
        amount = most.amount_nano_usd
        if hard and call.wasted:
            amount += call.wasted_nano_usd(self._state)
        return Hold(target, amount, hard, soft, most.output_max, most.max_tokens, frozenset(narrow))

    async def _take(self, wants: list[Want], wait_s: float) -> None:
        """Reserve all of it or nothing, waiting for money that is on its way."""
        until_s = self._loop.time() + wait_s
        while short := [want for want in wants if 0 < want[2] > want[1].available]:
            budget, lease, amount = short[0]
            self._check_left(budget, lease, amount)
            left_s = until_s - self._loop.time()
            if left_s <= 0:
                answered = self._escrow.answered(lease)
                self._escrow.withdraw(lease)
                raise _held(budget) if answered else _unanswered(budget)
            try:
                await self._escrow.more(lease, amount, left_s)
            except asyncio.CancelledError:
                self._escrow.withdraw(lease)
                raise
        for _, lease, amount in wants:
            if amount:
                self._escrow.hold(lease, amount)

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
            entry=RESERVED,
            cost_nano_usd=hold.amount,
            basis="estimated",
            budgets=hold.names,
        )
        self._outbox.append(entry, settles=True, correlation_id=entry.request_id)

    # --- which budgets -----------------------------------------------------------------------

    def _look(self) -> None:
        """Tell the fold what is new of budgets that it has alerts of: no call may come that does."""
        views = self._state.budgets
        for budget_id in self._escrow.alerted():
            # Of a budget for each owner the fold knows each of them: ID/OWNER.
            budget = views.get(budget_id) or views.get(budget_id.partition("/")[0])
            if budget is not None:
                self._escrow.tell(budget_id, terms_of(budget))
            elif views.caught_up.is_set():
                self._escrow.tell(budget_id, no_terms(now_us()))
        self._loop.call_later(LOOK_S, self._look)

    def _applying(self, admitted: Admitted, provider: str) -> list[tuple[BudgetChanged, str]]:
        index, key = self._index(), admitted.key
        owners: Iterable[Owners] = (
            (GLOBAL, None),
            (PROVIDER, provider),
            ("key", key.key_id),
            ("user", admitted.user_id),
            ("team", key.team),
            ("project", key.project),
            ("organization", admitted.grant.organization or key.organization),
            ("cost_center", key.cost_center),
        )
        found: list[tuple[BudgetChanged, str]] = []
        for scope, owner in owners:
            if scope == GLOBAL:
                found += [(budget, budget.budget_id) for budget in index.get((scope, None), ())]
            elif owner is not None:
                found += [(budget, budget.budget_id) for budget in index.get((scope, owner), ())]
                # Without a scope id it holds for each of them by itself.
                each = index.get((scope, None), ())
                found += [(budget, f"{budget.budget_id}/{owner}") for budget in each]
        return found

    def _build(self) -> dict[Owners, list[BudgetChanged]]:
        found: dict[Owners, list[BudgetChanged]] = {}
        for budget in self._state.budgets.entries.values():
            if smallest_limit(terms_of(budget)) is not None:
                found.setdefault((budget.scope, budget.scope_id), []).append(budget)
        return found


def _all_of(hold: Hold) -> list[Want]:
    return [(budget, lease, hold.amount) for lease, budget in hold.leases.items()]


def rerouted(decision: Decision, target: Target, why: str) -> Decision:
    """Return the decision for the only target that a spent budget leaves."""
    order = [target, *(other for other in decision.order if other.id != target.id)]
    candidates = [
        Candidate(c.target, 1.0, True, "within budget")
        if c.target == target.id
        else Candidate(c.target, 0.0, False, f"over budget: {c.reason}")
        for c in decision.candidates
    ]
    return replace(
        decision, chosen=target, order=order, candidates=candidates, propensity=1.0, reason=why
    )


def _held(budget: BudgetChanged) -> BudgetExceeded:
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
