"""Limits shared by workers: never passed in any minute, all of it usable, wherever callers are."""

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.pace import SLOT_S, SLOTS, Caps, Pace, Window


@pytest.mark.req("GW-10")
@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 5)), max_size=60))
def test_a_window_sums_the_last_minute_and_forgets_the_rest(steps: list[tuple[int, int]]) -> None:
    window, seen, slot = Window(), [], 100
    for ahead, amount in steps:
        slot += ahead
        window.add(slot, amount)
        seen.append((slot, amount))
        assert window.total(slot) == sum(a for s, a in seen if s > slot - SLOTS)


@pytest.mark.req("GW-10")
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_workers_that_hear_each_other_every_second_keep_the_limit(data: st.DataObject) -> None:
    """Without any delay of the reports the limit holds exactly; each second of delay may cost what
    was let through in it.
    """
    count = data.draw(st.integers(1, 4))
    cap = data.draw(st.integers(1, 60))
    names = [f"w{number}" for number in range(count)]
    workers = {name: Pace("limit|all", Caps(requests=cap)) for name in names}
    passed: deque[tuple[int, int]] = deque()
    for second in range(150):
        slot = second // SLOT_S
        for name, pace in workers.items():
            for other, told in workers.items():
                if other != name:
                    pace.hear(other, told.report())
        for name, pace in workers.items():
            pace.share_out(slot, names, name)
        for pace in workers.values():
            for _ in range(data.draw(st.integers(0, 6))):
                pace.demand += 1
                if not pace.lacks("requests", slot, 1):
                    pace.requests.add(slot, 1)
                    passed.append((second, 1))
        while passed and passed[0][0] <= second - 60:
            passed.popleft()
        assert sum(amount for _, amount in passed) <= cap


@pytest.mark.req("GW-10")
def test_the_share_follows_the_callers() -> None:
    names = ["w0", "w1"]
    first, second = (Pace("limit|all", Caps(requests=100)) for _ in names)
    first.share_out(0, names, "w0")
    second.share_out(0, names, "w1")
    assert [pace.lacks("requests", 0, 50) for pace in (first, second)] == [False, False]
    assert first.lacks("requests", 0, 51)
    for _ in range(40):
        first.demand += 1
        first.requests.add(0, 1)
    second.hear("w0", first.report())
    first.share_out(0, names, "w0")
    second.share_out(0, names, "w1")
    assert not first.lacks("requests", 0, 58)
    assert second.lacks("requests", 0, 3)


@pytest.mark.req("GW-10")
def test_when_nobody_tells_anything_each_keeps_to_its_part() -> None:
    pace = Pace("limit|all", Caps(requests=100, running=2))
    pace.share_out(0, ["w0"], "w0", alone=4)
    assert pace.lacks("requests", 0, 26)
    assert not pace.lacks("requests", 0, 25)
    assert not pace.lacks("running", 0, 1)
