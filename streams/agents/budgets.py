"""Escrow of budgets: who may spend how much, decided by the order of the events alone.

The row is the grant. An ask is answered when it is folded, or when money comes back: first come,
first served, among those whose need fits. Nobody gets more than half of an even share of what is
free unless he needs it, so that the last of a budget is not spread over idle workers. Money that
a node holds comes back by that node's own events or by `closed`, never by time.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.event import Event
from schemas.events.escrow import (
    PPM,
    TOTAL,
    BudgetTerms,
    EscrowCursor,
    EscrowDay,
    EscrowMoved,
    EscrowNode,
    EscrowRow,
)
from schemas.events.operations import AlertChanged
from schemas.money import NANO_USD, to_usd
from streams.fold import NOTHING, Fold

DAYS = 3
"""Days kept apart; older ones are in sums by month, once nobody holds anything of them."""
DAYS_MAX = 31
"""So many are kept for the sake of nodes that never gave back what they hold."""
MONTHS_MAX = 13
PAST_MAX = 70
"""Days before them of which it is known what each spent: ten weeks, as of all traffic."""
OPEN_DAYS = 2
"""Days on which nodes may still ask; on older ones a node that holds nothing is forgotten."""
WAIT_S = 0.02
"""A caller may be waiting for the grant."""


@dataclass(slots=True)
class Node:
    """A node's counts on one day."""

    granted: int = 0
    returned: int = 0
    spent: int = 0
    needed: int = 0
    wanted: int = 0
    number: int = 0
    turn: int = 0

    @property
    def committed(self) -> int:
        """What the budget must count as gone: all that it holds, and more if it spent more."""
        return max(self.granted - self.returned, self.spent)


@dataclass(slots=True)
class Day:
    """A day: its nodes, and what those spent that are not listed any more."""

    settled: int = 0
    nodes: dict[str, Node] = field(default_factory=dict)

    @property
    def committed(self) -> int:
        """Spent, or in the hands of nodes."""
        return self.settled + sum(node.committed for node in self.nodes.values())

    @property
    def spent(self) -> int:
        """Spent for good."""
        return self.settled + sum(node.spent for node in self.nodes.values())

    def forget(self, name: str) -> None:
        """Keep of a node what it spent."""
        self.settled += self.nodes.pop(name).spent


@dataclass(slots=True)
class State:
    """A budget."""

    terms: BudgetTerms | None = None
    days: dict[str, Day] = field(default_factory=dict)
    months: dict[str, int] = field(default_factory=dict)
    before: int = 0
    alerts: set[str] = field(default_factory=set)
    turn: int = 0
    past: dict[str, int] = field(default_factory=dict)

    @property
    def all_limits(self) -> tuple[int | None, ...]:
        """Per day, month and in all; nano-USD."""
        it = self.terms
        if it is None:
            return ()
        return it.daily_limit_nano_usd, it.monthly_limit_nano_usd, it.total_limit_nano_usd

    def free(self, name: str) -> int | None:
        """Return what may be granted on a day, None when nothing limits it."""
        rooms = [
            limit - earlier - sum(day.committed for day in days)
            for window, limit, earlier, days in self._windows(name)
        ]
        return min(rooms, default=None)

    def limits(self, name: str) -> list[tuple[str, int, int]]:
        """Return (window, limit, spent) for each window that a day belongs to and that is limited."""
        return [
            (window, limit, earlier + sum(day.spent for day in days))
            for window, limit, earlier, days in self._windows(name)
        ]

    def keep(self, name: str, spent: int) -> None:
        """Add to the day's sum and to that of its month; the oldest months are one sum."""
        if spent:
            self.past[name] = self.past.get(name, 0) + spent
            while len(self.past) > PAST_MAX:
                del self.past[min(self.past)]
        month = name[:7]
        self.months[month] = self.months.get(month, 0) + spent
        while len(self.months) > MONTHS_MAX:
            self.before += self.months.pop(min(self.months))

    def _windows(self, name: str) -> Iterator[tuple[str, int, int, list[Day]]]:
        terms = self.terms
        if terms is None:
            return
        month = name[:7]
        for window, limit, earlier in (
            (name, terms.daily_limit_nano_usd, 0),
            (month, terms.monthly_limit_nano_usd, self.months.get(month, 0)),
            (TOTAL, terms.total_limit_nano_usd, self.before + sum(self.months.values())),
        ):
            if limit is not None:
                prefix = "" if window == TOTAL else window
                days = [day for name, day in self.days.items() if name.startswith(prefix)]
                yield window, limit, earlier, days


def split(event: EscrowMoved) -> Iterator[tuple[str, EscrowMoved]]:
    """Yield the move under its budget."""
    yield event.budget_id, event


def apply(state: State, move: EscrowMoved) -> Sequence[Event]:
    """Make one move, answer who waits, and tell of limits that were crossed."""
    limits = state.all_limits
    if move.kind == "closed":
        for day in state.days.values():
            if move.node in day.nodes:
                day.forget(move.node)
    elif move.kind == "refused":
        _take_terms(state, move.terms)
    elif not _move(state, move):
        return NOTHING
    for name in sorted(state.days):
        _serve(state, name)
    return _alerts(state, move, state.alerts if state.all_limits == limits else ())


def _move(state: State, move: EscrowMoved) -> bool:
    day = _day(state, move.day)
    if day is None:
        # Nobody held anything of it: only a budget that is merely counted is spent so late.
        if move.kind == "spent":
            state.keep(move.day, move.amount_nano_usd)
        return move.kind == "spent"
    node = day.nodes.get(move.node)
    if node is None:
        node = day.nodes[move.node] = Node()
    match move.kind:
        case "spent":
            node.spent += move.amount_nano_usd
        case "returned":
            node.returned += move.amount_nano_usd
        case "asked":
            _take_terms(state, move.terms)
            state.turn += 1
            node.needed, node.wanted = move.needed_nano_usd, move.wanted_nano_usd
            node.number, node.turn = move.number, state.turn
        case _:
            raise ValueError(f"an escrow knows no move {move.kind!r}")
    return True


def _take_terms(state: State, terms: BudgetTerms | None) -> None:
    if terms is not None and (state.terms is None or terms.version > state.terms.version):
        state.terms = terms


def _day(state: State, name: str) -> Day | None:
    found = state.days.get(name)
    if found is not None:
        return found
    if len(state.days) >= DAYS and name < min(state.days):
        return None
    found = state.days[name] = Day()
    for old in sorted(state.days)[:-OPEN_DAYS]:
        day = state.days[old]
        for node in [n for n, held in day.nodes.items() if held.committed == held.spent]:
            day.forget(node)
    for old in sorted(state.days)[:-DAYS]:
        if not state.days[old].nodes or len(state.days) > DAYS_MAX:
            state.keep(old, state.days.pop(old).committed)
    return found


def _serve(state: State, name: str) -> None:
    """Grant what can be granted; without limits everything that is wanted."""
    nodes = state.days[name].nodes
    asking = sorted((n for n in nodes.values() if n.wanted or n.needed), key=lambda n: n.turn)
    for node in asking:
        free = state.free(name)
        if free is None:
            granted = node.wanted
        elif free < max(node.needed, 1):
            if not node.needed:
                node.wanted = 0  # it only asked ahead
            continue
        else:
            granted = min(max(node.wanted, node.needed), max(node.needed, free // 2 // len(nodes)))
        node.granted += granted
        node.needed = node.wanted = 0


# --- alerts ------------------------------------------------------------------------------------


def _alerts(state: State, move: EscrowMoved, standing: Container[str]) -> list[Event]:
    """Open an alert once per crossing of a window that still runs; resolve it with the window.

    A limit is exceeded, too, once a call was refused for its sake, however little is spent: that
    stands (`standing`) until the window is over or the limits are others, and not until a call fits.
    """
    if state.terms is None:
        return []
    found = {}
    newest = max(*state.days, move.day) if state.days else move.day
    refused = move.needed_nano_usd if move.kind == "refused" and move.day == newest else 0
    for window, limit, spent in state.limits(newest):
        name = f"{window}|exceeded"
        if spent >= limit or refused > limit - spent or name in standing:
            found[name] = (spent, limit)
        if spent * PPM >= limit * state.terms.warning_ppm:
            found[f"{window}|warning"] = (spent, limit)
    opened = [
        _alert(move, name, "open", *found[name]) for name in sorted(found.keys() - state.alerts)
    ]
    resolved = [
        _alert(move, name, "resolved", None, None) for name in sorted(state.alerts - found.keys())
    ]
    state.alerts = set(found)
    return [*opened, *resolved]


def _alert(
    move: EscrowMoved, name: str, status: str, spent: int | None, limit: int | None
) -> AlertChanged:
    window, _, level = name.rpartition("|")
    message = f"budget {move.budget_id}: {window} is below its limit again or over"
    if spent is not None and limit is not None:
        message = f"budget {move.budget_id}: {to_usd(spent)} of {to_usd(limit)} USD spent, {window}"
        if move.kind == "refused":
            message += f"; a call that may cost {to_usd(move.needed_nano_usd)} USD was refused"
    return AlertChanged(
        event_id="",
        occurred_at_us=move.occurred_at_us,
        alert_id=f"budget:{move.budget_id}:{name}",
        alert_type=f"budget_{level}",
        severity="critical" if level == "exceeded" else "warning",
        scope=f"budget:{move.budget_id}",
        status=status,
        message=message,
        value=None if spent is None else spent / NANO_USD,
        threshold=None if limit is None else limit / NANO_USD,
    )


# --- rows --------------------------------------------------------------------------------------


def freeze(state: State) -> dict[str, Any]:
    """Return the days, oldest first, and their nodes by name."""
    return {
        "terms": state.terms,
        "days": [
            EscrowDay(
                name,
                day.spent,
                day.settled,
                state.free(name) if day.nodes else None,
                [
                    EscrowNode(
                        node,
                        held.granted,
                        held.returned,
                        held.spent,
                        held.needed,
                        held.wanted,
                        held.number,
                        held.turn,
                    )
                    for node, held in sorted(day.nodes.items())
                ],
            )
            for name, day in sorted(state.days.items())
        ],
        "months": dict(sorted(state.months.items())),
        "before_nano_usd": state.before,
        "alerts": sorted(state.alerts),
        "turn": state.turn,
        "past": dict(sorted(state.past.items())),
    }


def thaw(row: EscrowRow) -> State:
    """Return the state that `freeze` gave."""
    days = {
        day.day: Day(
            day.settled,
            {
                node.node: Node(
                    node.granted,
                    node.returned,
                    node.spent,
                    node.needed,
                    node.wanted,
                    node.number,
                    node.turn,
                )
                for node in day.nodes
            },
        )
        for day in row.days
    }
    return State(
        row.terms,
        days,
        dict(row.months),
        row.before_nano_usd,
        set(row.alerts),
        row.turn,
        dict(row.past),
    )


BUDGETS = Fold(
    name="budgets",
    event=EscrowMoved,
    row=EscrowRow,
    cursor=EscrowCursor,
    split=split,
    new=State,
    apply=apply,
    freeze=freeze,
    thaw=thaw,
    ordered=True,
    wait_s=WAIT_S,
)
