"""When a circuit opens, half opens and closes (RT-07): pure functions of outcomes and a time.

Streams decide with them on everybody's outcomes, a gateway worker on its own. A circuit says
whether a target is worth a call; it never forbids the only one that there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile
from typing import Final

import msgspec

from schemas.errors import ConfigurationError
from schemas.events.circuits import CircuitBucket, CircuitChanged, CircuitOutcome, CircuitRow
from schemas.events.llm import Attempt

CLOSED: Final = "closed"
OPEN: Final = "open"
HALF_OPEN: Final = "half_open"
OUTCOMES_KEPT = 16
BUCKET_S: Final = 5
BUCKETS_KEPT = 8
COUNTED = frozenset(
    {"timeout", "server", "network", "protocol", "authentication", "permission", "model"}
)
"""Error classes that speak against a target. Not those of a caller's own errors, nor of a limit or
a quota (429): a target that says so is in order.
"""

_SECOND_US = 1_000_000


@dataclass(frozen=True)
class CircuitRules:
    """Figures of RT-07; times in seconds.

    Open after `failures` in a row, or when of at least `calls_min` calls within
    `window_s` a share of `error_share` failed. Open for `open_s`, twice as
    long each further time, at most `open_s_max`. `probes` good calls close it.
    """

    failures: int = 5
    error_share: float = 0.5
    calls_min: int = 10
    window_s: float = 30.0
    open_s: float = 30.0
    open_s_max: float = 300.0
    probes: int = 3

    def __post_init__(self) -> None:
        kept_s = BUCKET_S * (BUCKETS_KEPT - 1)
        bounds = {
            "failures": (1, OUTCOMES_KEPT),
            "error_share": (0.01, 1.0),
            "calls_min": (1, 1_000_000),
            "window_s": (BUCKET_S, kept_s),
            "open_s": (0.1, 86_400.0),
            "open_s_max": (self.open_s, 86_400.0),
            "probes": (1, OUTCOMES_KEPT),
        }
        for name, (least, most) in bounds.items():
            if not least <= getattr(self, name) <= most:
                raise ConfigurationError(
                    f"the circuits' {name} is {getattr(self, name)}, not within {least} to {most}",
                    action=f"Correct {name} in [circuits] of weir.toml.",
                )

    def open_us(self, openings: int) -> int:
        """How long the n-th opening in a row lasts, in µs."""
        doubled = self.open_s * 2.0 ** min(openings - 1, 32)
        return int(min(doubled, self.open_s_max) * _SECOND_US)


RULES = CircuitRules()


class Evidence(msgspec.Struct, frozen=True):
    """What is known of a target's calls; `outcomes` are the latest, oldest first."""

    outcomes: Sequence[CircuitOutcome] = ()
    buckets: Sequence[CircuitBucket] = ()
    last_failure_at_us: int | None = None

    def window(self, since_us: int) -> tuple[int, int]:
        """Return (calls, failures) of the buckets that begin at or after a moment."""
        held = [bucket for bucket in self.buckets if bucket.start_s * _SECOND_US >= since_us]
        return sum(bucket.calls for bucket in held), sum(bucket.failures for bucket in held)


class Circuit(msgspec.Struct, frozen=True):
    """A circuit's state. It counts outcomes that are younger than `since_us`."""

    state: str = CLOSED
    since_us: int = 0
    openings: int = 0
    opened_at_us: int | None = None
    next_probe_at_us: int | None = None
    reason: str = "no calls yet"


NEW = Circuit()


def verdict(attempt: Attempt) -> bool | None:
    """Whether an attempt speaks for its target, against it (False), or says nothing (None)."""
    if attempt.outcome == "success":
        return True
    return False if attempt.error_class in COUNTED else None


def merged(rows: Iterable[CircuitRow]) -> Evidence:
    """Return what the partials of one target say together."""
    held = list(rows)
    failures = [row.last_failure_at_us for row in held if row.last_failure_at_us is not None]
    return Evidence(
        sorted(chain.from_iterable(row.outcomes for row in held))[-OUTCOMES_KEPT:],
        [bucket for row in held for bucket in row.buckets],
        max(failures, default=None),
    )


def circuit_of(event: CircuitChanged) -> Circuit:
    """Return the circuit that an event tells of."""
    return Circuit(
        event.state,
        event.since_us,
        event.openings,
        event.opened_at_us,
        event.next_probe_at_us,
        event.reason,
    )


def judged(circuit: Circuit, seen: Evidence, rules: CircuitRules, now_us: int) -> Circuit:
    """Return the circuit as it is now: the same object when it stays as it was."""
    if circuit.state == CLOSED:
        return _closed(circuit, seen, rules, now_us)
    if circuit.state == OPEN:
        circuit = _open(circuit, now_us)
    return _probed(circuit, seen, rules)


def _closed(circuit: Circuit, seen: Evidence, rules: CircuitRules, now_us: int) -> Circuit:
    recent = [outcome for outcome in seen.outcomes if outcome.started_us >= circuit.since_us]
    if not recent or recent[-1].good:
        return circuit
    straight = sum(1 for _ in takewhile(lambda outcome: not outcome.good, reversed(recent)))
    # As of the failure that decides: whoever looks later comes to the same times.
    at_us = recent[-1].ended_us
    if straight >= rules.failures:
        return _opened(circuit, rules, at_us, f"{straight} failures in a row")
    window_us = int(rules.window_s * _SECOND_US)
    calls, failures = seen.window(max(circuit.since_us, now_us - window_us))
    if calls >= rules.calls_min and failures >= rules.error_share * calls:
        what = f"{failures} of {calls} calls failed within {rules.window_s:g} s"
        return _opened(circuit, rules, at_us, what)
    return circuit


def _opened(circuit: Circuit, rules: CircuitRules, at_us: int, reason: str) -> Circuit:
    openings = circuit.openings + 1
    return Circuit(OPEN, at_us, openings, at_us, at_us + rules.open_us(openings), reason)


def _open(circuit: Circuit, now_us: int) -> Circuit:
    probe_at_us = circuit.next_probe_at_us
    if probe_at_us is None or now_us < probe_at_us:
        return circuit
    return msgspec.structs.replace(
        circuit, state=HALF_OPEN, since_us=probe_at_us, reason="its time is over: calls probe it"
    )


def _probed(circuit: Circuit, seen: Evidence, rules: CircuitRules) -> Circuit:
    """Judge the calls that began since: while it is open only those that had no other target."""
    trials = [outcome for outcome in seen.outcomes if outcome.started_us >= circuit.since_us]
    bad = next((outcome for outcome in trials if not outcome.good), None)
    if circuit.state == HALF_OPEN and bad is not None:
        return _opened(circuit, rules, bad.ended_us, "a probe failed")
    good = sum(1 for _ in takewhile(lambda outcome: outcome.good, reversed(trials)))
    if good < rules.probes:
        return circuit
    return Circuit(CLOSED, trials[-1].ended_us, reason=f"{good} good calls in a row")
