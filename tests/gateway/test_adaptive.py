"""BEY-15: beliefs become probabilities, learn from the tables' rows, forget, and explore what is new."""

import math
import random
from collections.abc import Sequence

import msgspec
import pytest

from gateway.ask import Ask
from gateway.circuits import Circuits
from gateway.detection.detector import TASKS
from gateway.health import HealthBook
from gateway.learning import (
    FAILING_HALF_LIFE_S,
    HALF_LIFE_S,
    REFRESHED_US,
    SLOW_HALF_LIFE_S,
    Block,
    Lessons,
    Past,
    discounted,
    since_change,
    together,
)
from gateway.routing import Router
from gateway.state import GatewayState
from gateway.strategies.adaptive import ADAPTIVE, best_of
from gateway.utility import EXPLORED
from schemas.circuits import OPEN
from schemas.codec import encode
from schemas.errors import UpstreamError, UpstreamRateLimited
from schemas.event import Event
from schemas.events.changes import RouteTarget
from schemas.events.circuits import CircuitChanged
from schemas.events.rewards import LikingBlock, LikingRow, RewardBlock, RewardRow
from schemas.log import Record
from schemas.rewards import (
    BLOCK_SECONDS,
    LIKING_SECONDS,
    LOG_UNITS,
    TASK_TYPES,
    entity_of,
    usual_us,
)
from schemas.routing import Decision, TargetHealth
from tests.gateway.test_routing import Clock, standing
from tests.gateway.worker import price, provider, put, route, target

NOW_S = 1_800_000_000
"""A block's beginning, by the clock of what is tested."""
A, B, C = "a/one", "a/two", "a/three"


def block(calls: int, good: int, latency_us: float = 400_000.0, age_s: float = 30.0) -> RewardBlock:
    log = LOG_UNITS * math.log(latency_us / usual_us(100))
    start_s = int(NOW_S - age_s) // BLOCK_SECONDS * BLOCK_SECONDS
    squares = good * (log**2 + (LOG_UNITS * 0.4) ** 2)
    return RewardBlock(start_s, calls, good, round(good * log), round(squares), 0, 0)


def blocks(*items: RewardBlock) -> list[Block]:
    return together([row(A, *items)], NOW_S)


def row(
    name: str, *blocks: RewardBlock, task: str | None = "code", partition: int = 0
) -> RewardRow:
    return RewardRow(
        event_id="e",
        occurred_at_us=0,
        entity=entity_of(task, name),
        partition=partition,
        offset=7,
        blocks=list(blocks),
    )


def follow(state: GatewayState, *events: Event) -> None:
    """Let the state read events of live tables, which `put` takes for changes."""
    for event in events:
        for view in state.views:
            if view.event_type is type(event):
                record = Record(view.topic.name, 0, 0, 0, event.key.encode(), encode(event), ())
                view.apply(record)


def state_of(*rows: Event, **fields: object) -> GatewayState:
    state = GatewayState()
    targets = [RouteTarget(name) for name in (A, B, C)]
    put(
        state,
        provider("a", "openai", "http://a/v1"),
        *(target("a", name, quality=0.8) for name in ("one", "two", "three")),
        *(price("a", name, 500_000_000, 1_500_000_000) for name in ("one", "two", "three")),
        route("r", *targets, strategy="adaptive", **fields),  # type: ignore[arg-type]
    )
    follow(state, *rows)
    return state


def lessons_of(state: GatewayState, after_s: int = 0) -> Lessons:
    """What is learned so many seconds after NOW_S, however long the run of the tests takes."""
    return Lessons(state.rewards, state.liking, lambda: (NOW_S + after_s) * 1_000_000)


def router_of(state: GatewayState, circuits: Circuits | None = None) -> Router:
    book = HealthBook(TargetHealth, lambda: False, Clock())
    return Router(state, book, random.Random(1), circuits, lessons_of(state))


def decided(router: Router, task: str = "code") -> Decision:
    return router.decide(router.plan("r"), Ask(task_type=task, input_tokens=200, max_tokens=300))


def shares(decision: Decision) -> dict[str, float]:
    return {item.target: item.score for item in decision.candidates if item.eligible}


@pytest.mark.req("BEY-15")
@pytest.mark.parametrize(
    ("means", "deviations", "off_by"),
    [
        ([0.7, 0.7, 0.7], [0.1, 0.1, 0.1], 0.01),
        ([0.7, 0.65, 0.5], [0.02, 0.05, 0.2], 0.01),
        ([0.9, 0.1], [0.01, 0.01], 0.01),
        ([0.7, 0.69], [0.001, 0.3], 0.01),
        ([0.7, 0.69, 0.68, 0.5, 0.71, 0.7, 0.6], [0.03, 0.02, 0.05, 0.1, 0.01, 0.02, 0.06], 0.01),
        ([0.5, 0.5, 0.49, 0.2], [0.001, 0.2, 0.05, 0.3], 0.02),
    ],
)
def test_the_propensity_is_the_probability_of_the_greatest_draw(
    means: Sequence[float], deviations: Sequence[float], off_by: float
) -> None:
    rng, draws = random.Random(5), 40_000
    wins = [0] * len(means)
    for _ in range(draws):
        drawn = [rng.gauss(m, d) for m, d in zip(means, deviations, strict=True)]
        wins[drawn.index(max(drawn))] += 1
    found = best_of(means, deviations)
    assert sum(found) == pytest.approx(1.0)
    assert found == pytest.approx([count / draws for count in wins], abs=off_by)


@pytest.mark.req("BEY-15")
def test_choices_come_as_often_as_their_propensity_says() -> None:
    state = state_of(row(A, block(20, 20)), row(B, block(20, 18)), row(C, block(20, 20, 600_000.0)))
    router = router_of(state)
    decisions = [decided(router) for _ in range(4_000)]
    for name, share in shares(decisions[0]).items():
        chosen = sum(decision.chosen.id == name for decision in decisions)
        assert chosen / len(decisions) == pytest.approx(share, abs=0.03)
    assert {round(d.propensity, 6) for d in decisions} <= {
        round(share, 6) for share in shares(decisions[0]).values()
    }


@pytest.mark.req("BEY-15", "RT-04")
def test_without_any_record_all_share_alike_and_each_task_learns_for_itself() -> None:
    assert list(shares(decided(router_of(state_of()))).values()) == pytest.approx(
        [1 / 3] * 3, abs=1e-5
    )
    state = state_of(
        row(A, block(200, 200, 200_000.0)),
        row(B, block(200, 200, 900_000.0)),
        row(C, block(200, 200, 900_000.0)),
        row(A, block(200, 200, 900_000.0), task="creative"),
        row(B, block(200, 200, 200_000.0), task="creative"),
        row(C, block(200, 200, 900_000.0), task="creative"),
    )
    assert shares(decided(router_of(state)))[A] > 0.95
    assert shares(decided(router_of(state), "creative"))[B] > 0.95


def test_a_task_never_seen_begins_with_what_is_known_of_all_tasks() -> None:
    rows = [
        row(name, block(300, 300, latency_us), task=None)
        for name, latency_us in ((A, 200_000.0), (B, 2_000_000.0), (C, 2_000_000.0))
    ]
    assert shares(decided(router_of(state_of(*rows)), "summarization"))[A] > 0.7


@pytest.mark.req("BEY-15")
def test_a_new_target_is_tried_but_not_trusted() -> None:
    state = state_of(row(A, block(500, 498)), row(B, block(500, 350)))
    found = shares(decided(router_of(state)))
    assert 0.1 < found[C] < 0.7
    assert found[B] < 0.02
    state = state_of(
        row(A, block(500, 498)), row(B, block(500, 350)), row(C, block(40, 40, 1_500_000.0))
    )
    assert shares(decided(router_of(state)))[C] < 0.1


def test_rows_of_all_partitions_count_and_old_ones_fade() -> None:
    state = state_of(*(row(A, block(10, 10), partition=number) for number in range(4)))
    past = lessons_of(state).arm("code", A).past
    assert past.calls == pytest.approx(40, rel=0.1)
    fresh = discounted(blocks(block(10, 10, age_s=0)), NOW_S)
    old = discounted(blocks(block(10, 10, age_s=600)), NOW_S)
    assert old.calls / fresh.calls == pytest.approx(0.5, rel=0.05)
    assert lessons_of(state, 3_600).arm("code", A).past == Past()


@pytest.mark.req("BEY-15")
def test_what_was_before_a_change_is_forgotten_and_noise_is_no_change() -> None:
    calm = [block(20, 20, age_s=30 * age) for age in range(1, 10)]
    assert since_change(blocks(*calm)) == (blocks(*calm), HALF_LIFE_S)
    rng = random.Random(3)
    noisy = [
        block(20, 20 - (rng.random() < 0.2), 4e5 * rng.uniform(0.9, 1.1), 30.0 * age)
        for age in range(1, 30)
    ]
    assert since_change(blocks(*noisy)) == (blocks(*noisy), HALF_LIFE_S)
    for new, fading_s in (
        (block(20, 20, 2_000_000.0, age_s=0), SLOW_HALF_LIFE_S),
        (block(20, 6, age_s=0), FAILING_HALF_LIFE_S),
    ):
        (left,), half_life_s = since_change(blocks(new, *calm))
        assert left.start_s == new.start_s
        assert half_life_s == fading_s
    trouble = block(20, 6, 2_000_000.0, age_s=0)
    back, half_life_s = since_change(blocks(block(20, 20, age_s=-30), trouble, *calm))
    assert all(item.good == item.calls for item in back)
    assert half_life_s == HALF_LIFE_S


@pytest.mark.req("BEY-15")
@pytest.mark.parametrize(("good", "changed"), [(5, False), (4, False), (3, False), (2, True)])
def test_a_rare_failure_is_no_change_and_most_calls_failing_is_one(
    good: int, changed: bool
) -> None:
    calm = [block(20, 20, age_s=30 * age) for age in range(1, 11)]
    left, half_life_s = since_change(blocks(block(5, good, age_s=0), *calm))
    assert (len(left) == 1) == changed
    assert half_life_s == (FAILING_HALF_LIFE_S if changed else HALF_LIFE_S)


@pytest.mark.req("BEY-15")
def test_a_target_that_became_slow_is_tried_again_before_long() -> None:
    def share_after(age_s: float) -> float:
        calm = [block(60, 60, 300_000.0, age_s + 30 * at) for at in range(1, 8)]
        slow = block(30, 30, 1_500_000.0, age_s)
        others = [
            row(name, *(block(60, 60, 400_000.0, 30.0 * at) for at in range(1, 8)))
            for name in (B, C)
        ]
        return shares(decided(router_of(state_of(row(A, slow, *calm), *others))))[A]

    assert share_after(0) < 0.01
    assert share_after(120) > 0.05


@pytest.mark.req("BEY-15")
def test_a_target_whose_circuit_is_open_is_left_out_and_comes_back_with_its_good_name() -> None:
    trouble = [block(12, 0, age_s=60)]
    good_times = [block(100, 100, 300_000.0, age_s=30 * age) for age in range(4, 10)]
    state = state_of(
        row(A, *trouble, *good_times),
        row(B, *(block(50, 50, 900_000.0, age_s=30 * age) for age in range(1, 10))),
        row(C, *(block(50, 50, 900_000.0, age_s=30 * age) for age in range(1, 10))),
    )
    router = router_of(state)
    circuits = router._circuits
    for _ in range(5):
        circuits.end(circuits.begin(A), False)
    assert circuits.of(A).state == OPEN
    found = decided(router)
    assert A not in shares(found)
    assert any(item.target == A and "open" in item.reason for item in found.candidates)

    closed = CircuitChanged(
        event_id="e",
        occurred_at_us=NOW_S * 1_000_000,
        target=A,
        provider="a",
        model="one",
        state="closed",
        number=3,
        since_us=NOW_S * 1_000_000,
        openings=0,
        reason="3 good calls in a row",
        failure_count=0,
        success_count=3,
        last_failure_at_us=None,
        opened_at_us=None,
        next_probe_at_us=None,
    )
    recovered = Circuits(lambda name: closed if name == A else None, lambda: True)
    assert shares(decided(router_of(state, recovered)))[A] > 0.8


@pytest.mark.req("BEY-15", "RT-04")
def test_the_quality_floor_heeds_what_people_say() -> None:
    def liking(name: str, count: int, liked: int) -> LikingRow:
        start_s = NOW_S // LIKING_SECONDS * LIKING_SECONDS
        return LikingRow(
            event_id="e",
            occurred_at_us=0,
            entity=entity_of("code", name),
            partition=0,
            offset=1,
            blocks=[LikingBlock(start_s, count, liked * count)],
        )

    state = state_of(liking(A, 60, 300), liking(B, 60, 900), quality_floor=0.7)
    found = decided(router_of(state))
    assert shares(found).keys() == {B, C}
    assert any("quality floor" in item.reason for item in found.candidates if item.target == A)
    state = state_of(liking(A, 400, 300), liking(B, 400, 950), liking(C, 400, 300))
    assert shares(decided(router_of(state)))[B] > 0.8


def test_what_this_worker_sees_now_counts_beyond_the_belief() -> None:
    rows = [row(name, block(200, 200)) for name in (A, B, C)]
    router = router_of(state_of(*rows))
    for _ in range(4):
        router._book.failed(A, UpstreamError("broken"))
    router._book.failed(B, UpstreamRateLimited("wait", retry_after_seconds=30.0))
    found = shares(decided(router))
    assert found[C] > 0.9
    assert found[B] == 0.0
    assert 0 < found[A] < 0.05


def test_the_explored_part_is_the_least_propensity_of_who_can_be_called() -> None:
    found = ADAPTIVE.share(
        [standing("x", 1.0, utility=0.9, doubt=0.001), standing("y", 1.0, utility=0.1, doubt=0.001)]
    )
    assert found == pytest.approx([1 - EXPLORED / 2, EXPLORED / 2])


def test_the_reason_tells_the_belief() -> None:
    decision = decided(router_of(state_of(row(A, block(50, 50)))))
    reasons = {item.target: item.reason for item in decision.candidates}
    assert "reward 0." in reasons[A]
    assert "±" in reasons[A]
    assert "after 0 calls" in reasons[B]


def test_the_learned_tasks_are_those_that_are_detected() -> None:
    assert set(TASKS) == TASK_TYPES


def test_rows_are_read_now_and_then_and_a_clock_set_back_does_not_freeze_beliefs() -> None:
    state = state_of(row(A, block(10, 10)))
    clock = [NOW_S * 1_000_000]
    lessons = Lessons(state.rewards, state.liking, lambda: clock[0])
    first = lessons.arm("code", A)
    follow(state, msgspec.structs.replace(row(A, block(30, 30)), offset=8))
    assert lessons.arm("code", A) is first
    clock[0] += REFRESHED_US
    assert lessons.arm("code", A).past.calls > 2 * first.past.calls
    clock[0] -= 3_600_000_000
    assert lessons.arm("code", A) is not first
