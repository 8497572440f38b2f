"""One limit for one caller, as one of several workers keeps it.

A minute is thirteen slots of five seconds, the running one included: in no sixty seconds does more
pass than the limit. Each worker knows its own usage exactly, that of the others as they told it, and
holds a *spare*: what it may let through before it hears more. Nobody takes into his spare what is used,
or in the spare of another; who has more than his share by demand gives back and says so. Two that claim
the same at the same moment, before they hear of each other, can pass the limit by that much.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from schemas.events.limits import PaceUsage

SLOT_S = 5
SLOTS = 13
KINDS = ("requests", "tokens", "running")


class Window:
    """Counts of the last minute."""

    __slots__ = ("_slots", "_total", "_upto")

    def __init__(self) -> None:
        self._slots: dict[int, int] = {}
        self._total = 0
        self._upto = 0

    def add(self, slot: int, amount: int) -> None:
        """Count in a slot; one that has left the window is not counted any more."""
        self.total(max(slot, self._upto))
        if slot > self._upto - SLOTS:
            self._slots[slot] = self._slots.get(slot, 0) + amount
            self._total += amount

    def total(self, slot: int) -> int:
        """Return the sum of the window that ends with a slot."""
        if slot > self._upto:
            self._upto = slot
            for old in [number for number in self._slots if number <= slot - SLOTS]:
                self._total -= self._slots.pop(old)
        return self._total

    def first(self) -> int | None:
        """Return the oldest slot that holds anything."""
        return min((slot for slot, count in self._slots.items() if count), default=None)

    def dump(self) -> dict[str, int]:
        """Return the slots as reports carry them."""
        return {str(slot): count for slot, count in self._slots.items()}


@dataclass(frozen=True, slots=True)
class Caps:
    """The limit's three figures, None where there is none."""

    requests: int | None = None
    tokens: int | None = None
    running: int | None = None


class Pace:
    """A limit's usage by one caller."""

    def __init__(self, name: str, caps: Caps) -> None:
        self.name = name
        self.caps = caps
        self.requests = Window()
        self.tokens = Window()
        self.running = 0
        self.demand = 0
        self.changed = True
        self.used_s = 0.0
        self._others: dict[str, PaceUsage] = {}
        self._spare = dict.fromkeys(KINDS, 0)
        self._told_demand = 0

    def used(self, slot: int) -> dict[str, int]:
        """Return this worker's own usage."""
        return {
            "requests": self.requests.total(slot),
            "tokens": self.tokens.total(slot),
            "running": self.running,
        }

    def take(self, slot: int, tokens: int) -> None:
        """Let a call through."""
        counted = self.counted(tokens)
        self.requests.add(slot, 1)
        self.tokens.add(slot, counted)
        self.running += 1
        for kind, amount in (("requests", 1), ("tokens", counted), ("running", 1)):
            self._spare[kind] = max(0, self._spare[kind] - amount)
        self.changed = True

    def counted(self, tokens: int) -> int:
        """Return what tokens count: a call beyond the whole limit needs all of it."""
        return tokens if self.caps.tokens is None else min(tokens, self.caps.tokens)

    def hear(self, node: str, usage: PaceUsage) -> None:
        """Take another worker's report."""
        self._others[node] = usage

    def forget(self, nodes: set[str], slot: int) -> None:
        """Drop what workers that are gone held; what they let through stays counted for its minute."""
        oldest = slot - SLOTS
        for node in self._others.keys() - nodes:
            told = self._others[node]
            if not (_recent(told.requests, oldest) or _recent(told.tokens, oldest)):
                del self._others[node]
            elif told.running or told.demand or any(told.spare.values()):
                self._others[node] = msgspec.structs.replace(told, running=0, demand=0, spare={})

    def others(self, slot: int) -> dict[str, int]:
        """Return what the other workers last told."""
        oldest = slot - SLOTS
        sums = dict.fromkeys(KINDS, 0)
        for usage in self._others.values():
            sums["requests"] += _recent(usage.requests, oldest)
            sums["tokens"] += _recent(usage.tokens, oldest)
            sums["running"] += usage.running
        return sums

    def share_out(self, slot: int, workers: list[str], me: str, alone: int = 1) -> bool:
        """Claim this worker's share of what is free, or give back what is beyond it.

        `workers` are those alive. When nobody tells anything, `alone` is how many there were: each
        then keeps to its part of the whole limit. Return whether something was given back.
        """
        used, others = self.used(slot), self.others(slot)
        weights = dict.fromkeys(workers, 1)
        weights[me] = 1 + self._told_demand
        for name, usage in self._others.items():
            if name in weights:
                weights[name] = 1 + usage.demand
        released = False
        for kind in KINDS:
            cap = getattr(self.caps, kind)
            if cap is None:
                continue
            if alone > 1:
                self._spare[kind] = max(0, max(1, cap // alone) - used[kind])
                continue
            free = max(0, cap - used[kind] - others[kind])
            share, spare = _share(free, weights, me, self.name), self._spare[kind]
            if spare > share:
                self._spare[kind], released = share, True
            else:
                unclaimed = free - spare - self._held(kind, cap, workers, me)
                self._spare[kind] += max(0, min(share - spare, unclaimed))
        return released

    def _held(self, kind: str, cap: int, workers: list[str], me: str) -> int:
        """Return what the others may still let through; who told nothing yet has an even part."""
        unheard = [name for name in workers if name != me and name not in self._others]
        told = sum(usage.spare.get(kind, 0) for usage in self._others.values())
        return told + sum(
            _share(int(cap), dict.fromkeys(workers, 1), name, self.name) for name in unheard
        )

    def lacks(self, kind: str, amount: int) -> bool:
        """Whether this worker has no room for so much more."""
        return getattr(self.caps, kind) is not None and amount > self._spare[kind]

    def left(self, kind: str, slot: int) -> int | None:
        """Return how much of the whole limit is free, None when there is no such limit."""
        cap = getattr(self.caps, kind)
        if cap is None:
            return None
        return max(0, int(cap) - self.used(slot)[kind] - self.others(slot)[kind])

    def reset_s(self, kind: str, now_s: float) -> float:
        """Return when something of a window is free again."""
        if kind == "running":
            return 1.0
        window = self.requests if kind == "requests" else self.tokens
        reports = [getattr(usage, kind) for usage in self._others.values()]
        starts = [int(slot) for told in reports for slot, count in told.items() if count]
        now = int(now_s) // SLOT_S
        starts = [slot for slot in starts if slot > now - SLOTS]
        first = window.first()
        oldest = min([*starts, first if first is not None else now])
        return max(1.0, (oldest + SLOTS) * SLOT_S - now_s)

    def report(self) -> PaceUsage:
        """Return what the others must know, and count demand anew."""
        self._told_demand, self.demand = (self._told_demand + 1) // 2 + self.demand, 0
        return PaceUsage(
            self.name,
            self.requests.dump(),
            self.tokens.dump(),
            self.running,
            self._told_demand,
            {kind: spare for kind, spare in self._spare.items() if spare},
        )


def _recent(slots: Mapping[str, int], oldest: int) -> int:
    return sum(count for slot, count in slots.items() if int(slot) > oldest)


def _share(free: int, weights: Mapping[str, int], me: str, name: str) -> int:
    """Return this worker's part: by demand, and the rest one each in an order all agree on."""
    total = sum(weights.values())
    rest = free - sum(free * weight // total for weight in weights.values())
    ranked = sorted(weights, key=lambda worker: (-weights[worker], hash_of(worker + name)))
    return free * weights[me] // total + (ranked.index(me) < rest)


def hash_of(text: str) -> int:
    """Return a number that every process computes alike."""
    value = 0xCBF29CE484222325  # FNV-1a, 64 bits
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


class Pass:
    """What a call took of its limits, to be given back or put right when it ends."""

    __slots__ = ("paces", "slot", "tokens", "tokens_used")

    def __init__(self, paces: list[Pace], slot: int, tokens: int) -> None:
        self.paces = paces
        self.slot = slot
        self.tokens = tokens
        self.tokens_used: int | None = None
