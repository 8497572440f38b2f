"""The simulator is a function of its seed, and what it says went wrong did."""

from itertools import islice, pairwise

import msgspec
import numpy as np
import pytest

from bench.simulator import (
    DAY_S,
    HOUR_S,
    WEEK_S,
    Incident,
    World,
    calls,
    drawn_incidents,
    drawn_world,
    events,
    outcomes,
    series,
    volume,
)
from schemas.codec import decode, encode
from schemas.events.llm import ResponseCompleted


def with_incident(world: World, *incidents: Incident) -> World:
    return msgspec.structs.replace(world, incidents=incidents)


def test_the_same_seed_gives_the_same_events_and_another_seed_others() -> None:
    first, again, other = (
        list(islice(events(drawn_world(seed), from_s=0, to_s=HOUR_S), 200)) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
    assert [decode(encode(event)) for event in first[:20]] == first[:20]


def test_a_span_does_not_depend_on_what_was_made_before_it() -> None:
    world = drawn_world(3)
    whole = np.concatenate([made.at_s for made in calls(world, 0, 3 * HOUR_S)])
    part = np.concatenate([made.at_s for made in calls(world, 1.5 * HOUR_S, 2.5 * HOUR_S)])
    assert np.array_equal(whole[(whole >= 1.5 * HOUR_S) & (whole < 2.5 * HOUR_S)], part)


def test_traffic_has_days_weekends_and_growth() -> None:
    world = msgspec.structs.replace(drawn_world(4), growth_per_week=0.1)
    found = volume(world, from_s=0, to_s=4 * WEEK_S, step_s=HOUR_S).values["all"]
    weeks = found.reshape(4, 7, 24).astype(float)
    hours = weeks[:, :5].mean(axis=(0, 1))
    assert abs(float(hours.argmax()) - world.season.peak_hour) <= 2
    assert weeks[:, 5:].mean() / weeks[:, :5].mean() == pytest.approx(world.season.weekend, rel=0.1)
    assert weeks[3].sum() / weeks[0].sum() == pytest.approx(1.1**3, rel=0.05)


def test_series_count_every_call_once_in_each_dimension() -> None:
    world = drawn_world(5)
    span = {"from_s": 0.0, "to_s": HOUR_S, "step_s": 60.0}
    total = series(world, "calls", **span).values["all"]
    for dimension in ("target", "team", "user", "task_type"):
        parts = series(world, "calls", dimension, **span).values  # type: ignore[arg-type]
        assert np.array_equal(sum(parts.values()), total)
    responses = [
        e for e in events(world, from_s=0, to_s=HOUR_S) if isinstance(e, ResponseCompleted)
    ]
    assert len(responses) == total.sum()
    failures = series(world, "failures", **span).values["all"].sum()
    assert failures == sum(event.outcome == "failed" for event in responses)


def test_a_surge_of_one_user_is_his_alone() -> None:
    base = drawn_world(6)
    world = with_incident(base, Incident("surge", "user", "user-2", 600.0, 1_200.0, 10.0))
    found = series(world, "calls", "user", from_s=0, to_s=1_800, step_s=600)
    before, during, after = found.values["user-2"]
    assert during > 5 * max(before, after)
    others = sum(values for name, values in found.values.items() if name != "user-2")
    assert others[1] == pytest.approx(others[0], rel=0.2)
    assert found.truth == world.incidents


def test_incidents_of_targets_do_what_they_say() -> None:
    base = drawn_world(7, rate_per_s=5.0)
    one, two, three = (process.target for process in base.targets)
    world = with_incident(
        base,
        Incident("outage", "target", one, 600.0, 1_200.0),
        Incident("flapping", "target", two, 600.0, 1_200.0, period_s=60.0),
        Incident("slow", "target", three, 600.0, 1_200.0, 5.0),
    )
    (made,) = calls(world, 0, 1_800)
    calm, result = outcomes(base, made), outcomes(world, made)
    during = (made.at_s >= 600) & (made.at_s < 1_200)
    assert not result.good[during, 0].any()
    assert result.good[during, 1].mean() == pytest.approx(0.5, abs=0.05)
    assert np.median(result.first_token_us[during, 2] / calm.first_token_us[during, 2]) == (
        pytest.approx(5.0)
    )
    assert np.array_equal(result.good[~during], calm.good[~during])


def test_drawn_incidents_are_apart_and_an_unknown_name_is_refused() -> None:
    world = drawn_world(8)
    found = drawn_incidents(
        world, ("errors", "surge", "price"), from_s=DAY_S, to_s=2 * DAY_S, count=9
    )
    assert all(one.end_s < two.start_s for one, two in pairwise(found))
    with pytest.raises(ValueError, match="no user nobody"):
        with_incident(world, Incident("surge", "user", "nobody", 0.0, 1.0, 2.0))
