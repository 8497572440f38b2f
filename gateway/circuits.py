"""The circuits of targets as this worker sees them: its own outcomes first, everybody's beside.

Its own failures open a circuit here at once, whatever the log says; what the others met comes as
`CircuitChanged` events within a second or two, and counts while the stream processor is alive.
The worse of the two states holds. A half open circuit is probed by real requests, one at a time.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from schemas.circuits import (
    BUCKET_S,
    BUCKETS_KEPT,
    CLOSED,
    HALF_OPEN,
    NEW,
    OPEN,
    OUTCOMES_KEPT,
    RULES,
    Circuit,
    CircuitRules,
    Evidence,
    circuit_of,
    judged,
)
from schemas.clock import now_us
from schemas.events.circuits import CircuitBucket, CircuitChanged, CircuitOutcome

TARGETS_MAX = 10_000
"""Clients may name models that nobody listed: the longest known are forgotten."""
PROBES_AT_ONCE = 1
_WORSE: Final = {CLOSED: 0, HALF_OPEN: 1, OPEN: 2}
_NO_EVIDENCE: Final = Evidence()
_log = logging.getLogger(__name__)


class Trial:
    """An attempt that is under way, and the state of the target's circuit when it began."""

    def __init__(self, target: str, started_us: int, state: str) -> None:
        self.target = target
        self.started_us = started_us
        self.state = state


class Own:
    """A target's recent past in this worker."""

    __slots__ = ("buckets", "circuit", "last_failure_at_us", "outcomes", "probes")

    def __init__(self) -> None:
        self.circuit = NEW
        self.outcomes: deque[CircuitOutcome] = deque(maxlen=OUTCOMES_KEPT)
        self.buckets: deque[list[int]] = deque(maxlen=BUCKETS_KEPT)
        self.last_failure_at_us: int | None = None
        self.probes = 0

    def note(self, outcome: CircuitOutcome) -> None:
        """Add an outcome; they come in the order of their ends."""
        self.outcomes.append(outcome)
        start_s = outcome.ended_us // 1_000_000 // BUCKET_S * BUCKET_S
        if not self.buckets or self.buckets[-1][0] != start_s:
            self.buckets.append([start_s, 0, 0])
        self.buckets[-1][1] += 1
        if not outcome.good:
            self.buckets[-1][2] += 1
            self.last_failure_at_us = outcome.ended_us

    def evidence(self) -> Evidence:
        """Return it as the rules want it."""
        buckets = [CircuitBucket(*bucket) for bucket in self.buckets]
        return Evidence(self.outcomes, buckets, self.last_failure_at_us)


class Circuits:
    """Says of each target whether it is worth a call; belongs to the event loop's thread."""

    def __init__(
        self,
        shared: Callable[[str], CircuitChanged | None],
        streams_alive: Callable[[], bool],
        rules: CircuitRules = RULES,
        clock_us: Callable[[], int] = now_us,
    ) -> None:
        self._shared = shared
        self._streams_alive = streams_alive
        self._rules = rules
        self._clock_us = clock_us
        self._own: dict[str, Own] = {}

    def of(self, target: str) -> Circuit:
        """Return the circuit of a target as it is now."""
        change, own = self._shared(target), self._own.get(target)
        if change is None:
            return NEW if own is None else self._mine(target, own)
        now_us = self._clock_us()
        shared = judged(circuit_of(change), _NO_EVIDENCE, self._rules, now_us)
        if own is None:
            return shared if self._streams_alive() else NEW
        opened_us = own.circuit.opened_at_us
        if shared.state == CLOSED and opened_us is not None and shared.since_us > opened_us:
            own.circuit = shared  # others have seen it recover, or a person has reset it
            self._judge(target, own)
        mine = self._mine(target, own)
        if _WORSE[shared.state] > _WORSE[mine.state] and self._streams_alive():
            return shared
        return mine

    def remark(self, target: str) -> str:
        """Return what a decision's reason adds about a circuit that is not closed."""
        circuit = self.of(target)
        if circuit.state == CLOSED:
            return ""
        return f", its circuit is {circuit.state.replace('_', ' ')}: {circuit.reason}"

    def may_probe(self, target: str) -> bool:
        """Whether a half open target has room for one more probe of this worker."""
        own = self._own.get(target)
        return own is None or own.probes < PROBES_AT_ONCE

    def begin(self, target: str) -> Trial:
        """Note that an attempt begins; `end` must follow."""
        own = self._own.get(target)
        if own is None:
            if len(self._own) >= TARGETS_MAX:
                del self._own[next(iter(self._own))]
            own = self._own[target] = Own()
        trial = Trial(target, self._clock_us(), self.of(target).state)
        if trial.state != CLOSED:
            own.probes += 1
        return trial

    def end(self, trial: Trial, good: bool | None) -> None:
        """Note how an attempt ended; None says nothing about its target."""
        own = self._own.get(trial.target)
        if own is None:
            return
        if trial.state != CLOSED:
            own.probes = max(0, own.probes - 1)
        if good is None:
            return
        own.note(CircuitOutcome(self._clock_us(), trial.started_us, good))
        if not good or own.circuit.state != CLOSED:
            self._judge(trial.target, own)

    def _mine(self, target: str, own: Own) -> Circuit:
        """Return this worker's own. A closed one is judged at each failure: no time opens it."""
        return own.circuit if own.circuit.state == CLOSED else self._judge(target, own)

    def _judge(self, target: str, own: Own) -> Circuit:
        before = own.circuit
        if before.state == CLOSED and own.last_failure_at_us is None:
            return before
        own.circuit = judged(before, own.evidence(), self._rules, self._clock_us())
        if own.circuit.state != before.state:
            state, reason = own.circuit.state, own.circuit.reason
            _log.warning("%s: its circuit is %s here: %s", target, state, reason)
        return own.circuit
