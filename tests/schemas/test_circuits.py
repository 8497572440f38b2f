"""RT-07 as pure functions of outcomes and a time; an independent model checks every step."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.circuits import (
    CLOSED,
    HALF_OPEN,
    NEW,
    OPEN,
    OUTCOMES_KEPT,
    RULES,
    Circuit,
    CircuitRules,
    Evidence,
    judged,
    merged,
    verdict,
)
from schemas.errors import ConfigurationError
from schemas.events.circuits import CircuitBucket, CircuitOutcome, CircuitRow
from schemas.events.llm import Attempt

S = 1_000_000
T0 = 1_790_000_000 * S


def outcomes(pattern: str, start_s: float = 0.0, every_s: float = 0.1) -> list[CircuitOutcome]:
    """`+` for good, `-` for bad, one every so often; each takes 10 ms."""
    ends = [T0 + int((start_s + number * every_s) * S) for number in range(len(pattern))]
    return [
        CircuitOutcome(end, end - 10_000, mark == "+")
        for end, mark in zip(ends, pattern, strict=True)
    ]


def seen(found: Sequence[CircuitOutcome]) -> Evidence:
    """Evidence as one partition keeps it."""
    buckets: dict[int, list[int]] = {}
    for outcome in found:
        bucket = buckets.setdefault(outcome.ended_us // S // 5 * 5, [0, 0])
        bucket[0] += 1
        bucket[1] += not outcome.good
    return Evidence(
        sorted(found)[-OUTCOMES_KEPT:],
        [CircuitBucket(start, *counts) for start, counts in sorted(buckets.items())],
        max((one.ended_us for one in found if not one.good), default=None),
    )


def at(seconds: float) -> int:
    return T0 + int(seconds * S)


def after(circuit: Circuit, pattern: str, start_s: float, every_s: float = 0.1) -> Circuit:
    found = outcomes(pattern, start_s, every_s)
    return judged(circuit, seen(found), RULES, found[-1].ended_us)


@pytest.mark.req("RT-07")
@pytest.mark.parametrize(
    ("pattern", "state"),
    [
        ("----", CLOSED),
        ("-----", OPEN),
        ("+++++-----", OPEN),
        ("--+----", CLOSED),  # 6 of 7: not straight, and fewer than ten
        ("+-+-+-+-+-", OPEN),  # 5 of 10
        ("++++++---+-", CLOSED),  # 4 of 11
        ("-+-+-+-+-", CLOSED),  # 5 of 9
        ("++++++++++++++++++++", CLOSED),
    ],
)
def test_what_opens_a_circuit(pattern: str, state: str) -> None:
    assert after(NEW, pattern, 0).state == state


@pytest.mark.req("RT-07")
def test_failures_of_long_ago_do_not_count_as_a_share() -> None:
    found = outcomes("+-" * 4, 0) + outcomes("+-", 60)
    assert judged(NEW, seen(found), RULES, at(61)).state == CLOSED


@pytest.mark.req("RT-07")
def test_open_for_thirty_seconds_doubling_to_three_hundred() -> None:
    circuit, now_s, waits = NEW, 0.0, []
    for _ in range(6):
        circuit = after(circuit, "-----", now_s)
        assert circuit.state == OPEN
        assert circuit.opened_at_us is not None
        assert circuit.next_probe_at_us is not None
        waits.append((circuit.next_probe_at_us - circuit.opened_at_us) / S)
        before = judged(circuit, Evidence(), RULES, circuit.next_probe_at_us - 1)
        assert before is circuit
        circuit = judged(circuit, Evidence(), RULES, circuit.next_probe_at_us)
        assert circuit.state == HALF_OPEN
        now_s = (circuit.since_us - T0) / S + 0.02
    assert waits == [30, 60, 120, 240, 300, 300]


@pytest.mark.req("RT-07")
def test_three_good_probes_close_it_and_one_bad_one_reopens_it() -> None:
    opened = after(NEW, "-----", 0)
    half = judged(opened, Evidence(), RULES, at(31))
    assert after(half, "++", 31).state == HALF_OPEN
    closed = after(half, "+++", 31)
    assert (closed.state, closed.openings) == (CLOSED, 0)
    again = after(half, "++-", 31)
    assert (again.state, again.openings) == (OPEN, 2)


@pytest.mark.req("RT-07")
def test_a_call_that_began_before_the_probes_is_none() -> None:
    opened = after(NEW, "-----", 0)
    half = judged(opened, Evidence(), RULES, at(31))
    late = [CircuitOutcome(at(32), at(1), good=False)]
    assert judged(half, seen(late), RULES, at(32)) is half
    good = outcomes("+++", 32.1)
    closed = judged(half, seen(late + good), RULES, at(33))
    assert closed.state == CLOSED
    assert judged(closed, seen(late + good), RULES, at(33)) is closed


@pytest.mark.req("RT-07", "BEY-09")
def test_an_open_circuit_that_had_to_serve_and_served_well_closes() -> None:
    opened = after(NEW, "-----", 0)
    assert after(opened, "+-+-", 2).state == OPEN
    assert after(opened, "-+++", 2).state == CLOSED


@pytest.mark.req("RT-07")
@pytest.mark.parametrize(
    ("outcome", "error_class", "expected"),
    [
        ("success", None, True),
        ("failed", "timeout", False),
        ("failed", "server", False),
        ("failed", "network", False),
        ("failed", "protocol", False),
        ("failed", "request", None),
        ("failed", "context", None),
        ("failed", "filter", None),
        ("failed", "rate_limit", None),
        ("cancelled", None, None),
    ],
)
def test_whose_error_it_is(outcome: str, error_class: str | None, expected: bool | None) -> None:
    assert verdict(Attempt("a/b", outcome, error_class, None, 1, None)) is expected


@pytest.mark.req("RT-07")
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 10**8), st.booleans()), max_size=80))
def test_partials_of_partitions_are_as_good_as_one(found: list[tuple[int, int, bool]]) -> None:
    parts: dict[int, list[CircuitOutcome]] = {}
    for partition, ended, good in found:
        parts.setdefault(partition, []).append(CircuitOutcome(T0 + ended, T0 + ended, good))
    rows = []
    for partition, part in parts.items():
        evidence = seen(part)
        rows.append(
            CircuitRow(
                event_id="e",
                occurred_at_us=0,
                entity="t",
                partition=partition,
                offset=0,
                outcomes=list(evidence.outcomes),
                buckets=list(evidence.buckets),
                last_failure_at_us=evidence.last_failure_at_us,
            )
        )
    together, whole = merged(rows), seen([one for part in parts.values() for one in part])
    assert list(together.outcomes) == list(whole.outcomes)
    assert together.last_failure_at_us == whole.last_failure_at_us
    assert together.window(0) == whole.window(0)


@pytest.mark.req("RT-07")
@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_a_plain_model_agrees_at_every_step(marks: list[bool]) -> None:
    """One call a second: the state machine once more, in the plainest words."""
    circuit, history = NEW, []
    state, since, openings, probe_at = "closed", -1.0, 0, 0.0
    for second, good in enumerate(marks):
        history.append(CircuitOutcome(at(second), at(second), good))
        circuit = judged(circuit, seen(history), RULES, at(second))
        own = [(when, mark) for when, mark in enumerate(marks[: second + 1]) if when >= since]
        if state == "open" and second >= probe_at:
            state, since = "half_open", probe_at
            own = [(when, mark) for when, mark in own if when >= since]
        if state == "closed" and not good:
            first = max(since, second - 30)
            begin = -(-first // 5) * 5  # whole buckets of five seconds (T0 is a multiple of five)
            window = [mark for when, mark in own if when >= begin]
            straight = len(own) >= 5 and not any(mark for _, mark in own[-5:])
            if straight or (len(window) >= 10 and window.count(False) * 2 >= len(window)):
                state, since, openings = "open", second, openings + 1
                probe_at = second + min(300, 30 * 2 ** (openings - 1))
        elif state in {"open", "half_open"}:
            bad = [when for when, mark in own if not mark]
            if state == "half_open" and bad:
                state, since, openings = "open", bad[0], openings + 1
                probe_at = bad[0] + min(300, 30 * 2 ** (openings - 1))
            elif len(own) >= 3 and all(mark for _, mark in own[-3:]):
                state, since, openings = "closed", second, 0
        assert circuit.state == state, (second, circuit)


@pytest.mark.parametrize(
    "words", [{"failures": 17}, {"open_s_max": 1}, {"window_s": 60}, {"error_share": 0}]
)
def test_rules_that_cannot_be_kept_are_refused(words: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(words))):
        CircuitRules(**words)
