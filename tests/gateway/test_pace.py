"""Limits shared by workers: never passed in any minute, all of it usable, wherever callers are."""

import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.pace import SLOT_S, SLOTS, Caps, Pace, Window
from schemas.events.limits import PaceUsage


@pytest.mark.req("GW-10")
@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 5)), max_size=60))
def test_a_window_sums_the_last_minute_and_forgets_the_rest(steps: list[tuple[int, int]]) -> None:
    window, seen, slot = Window(), [], 100
    for ahead, amount in steps:
        slot += ahead
        window.add(slot, amount)
        seen.append((slot, amount))
        assert window.total(slot) == sum(a for s, a in seen if s > slot - SLOTS)


def most_in_a_minute(seed: int, late: int) -> tuple[int, int]:
    """Return a limit and the most that passed it in a minute, with reports so many seconds late."""
    draw = random.Random(seed)
    count, cap = draw.randint(1, 4), draw.randint(1, 60)
    names = [f"w{number}" for number in range(count)]
    workers = {name: Pace("limit|all", Caps(requests=cap)) for name in names}
    told: list[dict[str, PaceUsage]] = []
    passed: deque[int] = deque()
    most = 0
    for second in range(120):
        slot = second // SLOT_S
        told.append({name: pace.report() for name, pace in workers.items()})
        for name, pace in workers.items():
            for other in names:
                if other != name and second >= late:
                    pace.hear(other, told[second - late][other])
            pace.share_out(slot, names, name)
        for pace in workers.values():
            for _ in range(draw.choice([0, 0, 1, 3, 9])):
                pace.demand += 1
                if not pace.lacks("requests", 1):
                    pace.take(slot, 0)
                    passed.append(second)
        while passed and passed[0] <= second - 60:
            passed.popleft()
        most = max(most, len(passed))
    return cap, most


@pytest.mark.req("GW-10")
@pytest.mark.parametrize("seed", range(60))
def test_workers_that_hear_each_other_keep_the_limit(seed: int) -> None:
    cap, most = most_in_a_minute(seed, late=0)
    assert most <= cap


@pytest.mark.req("GW-10")
@pytest.mark.parametrize("seed", range(60))
def test_late_reports_cost_what_is_claimed_at_once_and_never_a_limit_each(seed: int) -> None:
    cap, most = most_in_a_minute(seed, late=1)
    assert most <= 2 * cap


@pytest.mark.req("GW-10")
def test_the_share_follows_the_callers() -> None:
    names = ["w0", "w1"]
    paces = {name: Pace("limit|all", Caps(requests=100)) for name in names}
    busy, idle = paces.values()
    for name, pace in paces.items():
        pace.share_out(0, names, name)
    assert [pace.lacks("requests", 50) for pace in paces.values()] == [False, False]
    assert busy.lacks("requests", 51)
    for _ in range(40):
        busy.demand += 1
        busy.take(0, 0)
    idle.hear("w0", busy.report())
    assert idle.share_out(0, names, "w1")  # it gives back
    busy.hear("w1", idle.report())
    busy.share_out(0, names, "w0")
    assert not busy.lacks("requests", 57)
    assert idle.lacks("requests", 4)


@pytest.mark.req("GW-10")
def test_who_comes_later_takes_nothing_that_is_claimed() -> None:
    first = Pace("limit|all", Caps(requests=10))
    first.share_out(0, ["w0"], "w0")
    later = Pace("limit|all", Caps(requests=10))
    later.hear("w0", first.report())
    later.share_out(0, ["w0", "w1"], "w1")
    assert later.lacks("requests", 1)
    first.hear("w1", later.report())
    assert first.share_out(0, ["w0", "w1"], "w0")
    later.hear("w0", first.report())
    later.share_out(0, ["w0", "w1"], "w1")
    assert not later.lacks("requests", 5)


@pytest.mark.req("GW-10")
def test_what_the_dead_held_is_free_and_what_they_used_is_not() -> None:
    dead = Pace("limit|all", Caps(requests=10))
    dead.share_out(0, ["w0"], "w0")
    for _ in range(4):
        dead.take(0, 0)
    alive = Pace("limit|all", Caps(requests=10))
    alive.hear("w0", dead.report())
    alive.forget({"w1"}, 0)
    alive.share_out(0, ["w1"], "w1")
    assert not alive.lacks("requests", 6)
    assert alive.lacks("requests", 7)


@pytest.mark.req("GW-10")
def test_when_nobody_tells_anything_each_keeps_to_its_part() -> None:
    pace = Pace("limit|all", Caps(requests=100, running=2))
    pace.share_out(0, ["w0"], "w0", alone=4)
    assert pace.lacks("requests", 26)
    assert not pace.lacks("requests", 25)
    assert not pace.lacks("running", 1)


@pytest.mark.req("GW-10", "GEN-02")
def test_a_worker_that_is_gone_is_forgotten_with_its_last_minute() -> None:
    pace = Pace("limit|all", Caps(requests=10))
    for number in range(50):
        usage = PaceUsage("limit|all", {str(100 + number): 1}, {}, 1, 2, {"requests": 3})
        pace.hear(f"gone{number}", usage)
    pace.forget({"alive"}, 149)
    assert pace.others(149)["requests"] == SLOTS
    assert len(pace._others) == SLOTS
    pace.forget({"alive"}, 149 + SLOTS)
    assert not pace._others
