"""Canary statistics: only drawn calls count, and looking often finds no difference that is not there."""

import math
import random
from statistics import fmean, pvariance

import msgspec
import numpy as np
import pytest

from schemas.canaries import compared, side_of
from schemas.events.canaries import BASELINE, CANARY, CanaryRow, trial_of
from schemas.events.llm import Attempt, ResponseCompleted
from schemas.statistics import MEANS_MIN, Moments, means_differ_always
from streams.agents.canaries import CANARIES, expires
from tests.streams.harness import folded, records

TRIALS = (trial_of("d1", 10), trial_of("d2", 25))


def call(rng: random.Random, number: int) -> ResponseCompleted:
    """A call of anybody: drawn for a canary, for the baseline of both trials, or for none."""
    trials: dict[str, str] = {}
    match rng.randrange(4):
        case 0:
            trials = {rng.choice(TRIALS): CANARY}
        case 1 | 2:
            trials = dict.fromkeys(TRIALS, BASELINE)
    outcomes = rng.choice([["success"], ["success"], ["failed", "success"], ["cancelled"], []])
    error = rng.choice(["server", "request"])
    attempts = [
        Attempt(
            "a/m" if index == 0 else "b/m",
            outcome,
            error if outcome == "failed" else None,
            None,
            rng.randrange(100_000, 900_000),
            rng.choice([None, 50_000 + rng.randrange(50_000)]),
        )
        for index, outcome in enumerate(outcomes)
    ]
    return ResponseCompleted(
        event_id="e",
        occurred_at_us=1_790_000_000_000_000 + number * 1_000_000,
        request_id=str(number),
        key_id="k",
        route="r",
        outcome="success",
        status=200,
        attempts=attempts,
        usage_basis="reported",
        stream=False,
        latency_us=1,
        cost_nano_usd=rng.choice([None, 0, rng.randrange(1, 10**8)]),
        trials=trials,
    )


def rows(events: list[ResponseCompleted], partitions: int = 3) -> list[CanaryRow]:
    """The table's rows after the events, each in some partition."""
    states: dict[tuple[str, int], object] = {}
    for number, event in enumerate(events):
        for name, given in CANARIES.split(event):
            state = states.setdefault((name, number % partitions), CANARIES.new())
            CANARIES.apply(state, given)
    meta = {"event_id": "row", "occurred_at_us": 0, "offset": 0}
    return [
        CanaryRow(**meta, entity=name, partition=partition, **CANARIES.freeze(state))
        for (name, partition), state in states.items()
    ]


@pytest.mark.req("EVT-04", "BEY-15")
@pytest.mark.parametrize("seed", range(5))
def test_sides_are_what_a_recount_of_the_drawn_calls_gives(seed: int) -> None:
    rng = random.Random(seed)
    events = [call(rng, number) for number in range(3_000)]
    table = rows(events)
    for trial in TRIALS:
        for name in (CANARY, BASELINE):
            side = side_of(row for row in table if (row.trial, row.side) == (trial, name))
            mine = [e for e in events if e.trials.get(trial) == name and e.attempts]
            firsts = [(e, e.attempts[0]) for e in mine if e.attempts[0].outcome != "cancelled"]
            firsts = [(e, a) for e, a in firsts if a.error_class != "request"]
            good = [(e, a) for e, a in firsts if a.outcome == "success"]
            logs = [math.log(a.first_token_us or a.latency_us) for _, a in good]
            costs = [e.cost_nano_usd for e, a in good if e.cost_nano_usd is not None]
            assert (side.calls, side.failures) == (len(firsts), len(firsts) - len(good))
            assert sum(side.latency.values()) == side.log_latency.count == len(good)
            assert side.log_latency.mean == pytest.approx(fmean(logs), abs=1e-3)
            spread = pvariance(logs) * len(logs) / (len(logs) - 1)
            assert side.log_latency.variance == pytest.approx(spread, rel=1e-2)
            assert (side.log_cost.count, side.cost_nano_usd) == (len(costs), sum(costs))
            mean = fmean(math.log1p(cost) for cost in costs)
            assert side.log_cost.mean == pytest.approx(mean, abs=1e-3)
            assert side.first_us == min(e.occurred_at_us for e, _ in firsts)


@pytest.mark.req("BEY-15")
def test_a_mean_that_is_the_same_is_seldom_found_to_differ_however_often_one_looks() -> None:
    rng = np.random.default_rng(7)
    found = {0.0: 0, 0.3: 0}
    for gap in found:
        for _ in range(100):
            sides = [rng.normal(mean, 0.5, 1_500) for mean in (0.0, gap)]
            sums = [(np.cumsum(side), np.cumsum(side**2)) for side in sides]
            found[gap] += any(
                means_differ_always(
                    *(Moments(n, float(one[n - 1]), float(two[n - 1])) for one, two in sums)
                )
                < 0.05
                for n in range(MEANS_MIN, 1_501, 5)
            )
    assert found[0.0] <= 10  # at most 5 are expected
    assert found[0.3] == 100


@pytest.mark.req("BEY-15")
def test_few_values_and_no_values_decide_nothing() -> None:
    empty = side_of([])
    assert {one.verdict for one in compared(empty, empty, (Moments(), Moments()))} == {"undecided"}
    few = Moments(MEANS_MIN - 1, 1.0, 1.0)
    assert means_differ_always(few, Moments(1_000, 900.0, 900.0)) == 1.0
    assert means_differ_always(Moments(50, 0.0, 0.0), Moments(50, 50.0, 50.0)) < 1e-6


@pytest.mark.req("EVT-04")
def test_a_trial_leaves_no_row_once_a_quarter_of_a_year_has_passed() -> None:
    week_s = 7 * 86_400
    event = call(random.Random(1), 0)
    old, other = trial_of("old", 10), trial_of("new", 10)
    events = [
        msgspec.structs.replace(
            event,
            occurred_at_us=event.occurred_at_us + week * week_s * 1_000_000,
            attempts=[Attempt("a/m", "success", None, None, 1_000, None)],
            trials={trial: CANARY},
        )
        for week, trial in ((0, old), (1, old), (12, other), (13, other), (14, other))
    ]

    def kept(upto: int) -> list[tuple[str, int]]:
        table = folded(CANARIES, [records(CANARIES, events[:upto])])
        found = [row for row in table.rows.values() if isinstance(row, CanaryRow)]
        return sorted((row.trial, row.calls) for row in found)

    assert kept(3) == [(other, 1), (old, 1), (old, 1)]
    assert kept(4) == [(other, 1), (other, 1), (old, 1)]
    assert kept(5) == [(other, 1), (other, 1), (other, 1)]
    assert expires(f"{old}|{CANARY}") is None  # as rows were named before
