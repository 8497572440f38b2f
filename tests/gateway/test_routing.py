"""Names become targets, health becomes shares; time is simulated."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from gateway.ask import Ask
from gateway.health import HealthBook
from gateway.routing import Router
from gateway.state import GatewayState
from gateway.strategies.balanced import BALANCED
from gateway.strategies.base import Standing, Strategy, probabilities
from gateway.strategies.failover import FAILOVER
from gateway.strategies.weighted import WEIGHTED
from schemas.errors import (
    ConfigurationError,
    ModelNotFound,
    NoTargetAvailable,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
)
from schemas.events.changes import RouteTarget
from schemas.routing import TargetHealth
from tests.gateway.worker import price, provider, put, route, target

STRATEGIES = [BALANCED, WEIGHTED, FAILOVER]


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def standing(name: str, success: float, **fields: Any) -> Standing:
    fields = {"weight": 1, "priority": 0, "answer_us": 1000.0, "cooling": False, **fields}
    return Standing(target=name, success=success, **fields)


def state_of(*targets: str) -> GatewayState:
    state = GatewayState()
    put(
        state,
        provider("a", "openai", "http://a/v1"),
        provider("b", "openai", "http://b/v1"),
        provider("off", "openai", "http://off/v1", enabled=False),
        *(target(*name.split("/", 1)) for name in targets),
    )
    return state


def book(clock: Callable[[], float], table: dict[str, TargetHealth] | None = None) -> HealthBook:
    known = {} if table is None else table
    return HealthBook(
        lambda name: known.get(name, TargetHealth(name)), lambda: table is not None, clock
    )


def shares(strategy: Strategy, *standings: Standing) -> list[float]:
    return probabilities(standings, strategy.share(standings))


# --- names -----------------------------------------------------------------------------------


@pytest.mark.req("GW-14")
def test_names_are_routes_targets_auto_or_models() -> None:
    state = state_of("a/one", "b/one", "b/two", "off/three")
    put(
        state,
        route("support", RouteTarget("a/one"), RouteTarget("b/unlisted/with/slash")),
        route("dead", RouteTarget("off/three")),
    )
    router = Router(state, book(Clock()))

    def ids(name: str) -> list[str]:
        return [member.target.id for member in router.plan(name).members]

    assert ids("support") == ["a/one", "b/unlisted/with/slash"]
    assert ids("a/one") == ["a/one"]
    assert ids("a/never-listed") == ["a/never-listed"]
    assert ids("one") == ["a/one", "b/one"]
    assert ids("auto") == ["a/one", "b/one", "b/two"]
    for unknown in ("nobody", "off/three", "nowhere/x"):
        with pytest.raises(ModelNotFound):
            router.plan(unknown)
    with pytest.raises(NoTargetAvailable):
        router.plan("dead")
    put(state, route("odd", RouteTarget("a/one"), strategy="astrology"))
    with pytest.raises(ConfigurationError, match="astrology"):
        router.plan("odd")


@pytest.mark.req("RT-04")
def test_a_provider_may_go_between_plan_and_decision() -> None:
    state = state_of("a/one", "b/one")
    put(state, route("both", RouteTarget("a/one"), RouteTarget("b/one")))
    router = Router(state, book(Clock()))
    plan = router.plan("both")
    put(state, provider("a", "openai", "http://x", enabled=False))
    assert {it.target for it in router.decide(plan).candidates} == {"a/one", "b/one"}


@pytest.mark.req("BEY-01")
def test_a_bare_name_that_nobody_lists_finds_its_vendor() -> None:
    state = GatewayState()
    put(
        state,
        provider("anthropic", "anthropic", "http://x"),
        provider("groq", "openai", "http://x"),
        price("anthropic", "claude-sonnet-4-5", 1, 1),
    )
    router = Router(state, book(Clock()))

    def found(name: str, dialect: str) -> str:
        plan = router.plan(name, None, dialect)
        assert plan is router.plan(name, None, dialect), "it is kept"
        assert plan.name == plan.members[0].target.id, "as if the caller had named it in full"
        return plan.name

    assert found("claude-sonnet-4-5-20250929", "openai") == "anthropic/claude-sonnet-4-5-20250929"
    assert found("claude-of-tomorrow", "anthropic") == "anthropic/claude-of-tomorrow"
    assert found("only-one-speaks", "openai_responses") == "groq/only-one-speaks"
    put(state, provider("together", "openai", "http://x"))
    for name, dialect in (("x", "openai"), ("nobody/x", "anthropic"), ("x", "weir"), ("x", "")):
        with pytest.raises(ModelNotFound):
            Router(state, book(Clock())).plan(name, None, dialect)
    put(state, provider("openai", "openai", "http://x"))
    router = Router(state, book(Clock()))
    assert found("gpt-of-tomorrow", "openai_responses") == "openai/gpt-of-tomorrow"


def test_a_changed_route_is_in_force_at_once() -> None:
    state, clock = state_of("a/one", "b/one"), Clock()
    put(state, route("r", RouteTarget("a/one")))
    router = Router(state, book(clock))
    assert router.plan("r").members[0].target.id == "a/one"
    put(state, route("r", RouteTarget("b/one")))
    clock.now_s += 0.011
    assert router.plan("r").members[0].target.id == "b/one"


@pytest.mark.req("RT-01")
def test_the_decision_tells_every_candidate_and_its_true_propensity() -> None:
    state = state_of("a/one", "b/one")
    put(state, route("r", RouteTarget("a/one", weight=3), RouteTarget("b/one", weight=1)))
    router = Router(state, book(Clock()), random.Random(7))
    plan = router.plan("r")
    decisions = [router.decide(plan) for _ in range(4000)]
    first = [decision.chosen.id for decision in decisions]
    share = first.count("a/one") / len(first)
    assert share == pytest.approx(0.75, abs=0.03)
    for decision in decisions[:50]:
        by_name = {candidate.target: candidate.score for candidate in decision.candidates}
        assert sum(by_name.values()) == pytest.approx(1, abs=1e-5)
        assert decision.propensity == pytest.approx(by_name[decision.chosen.id], abs=1e-5)
        assert {item.id for item in decision.order} == {"a/one", "b/one"}
        assert decision.order[0] is decision.chosen


def test_tools_go_where_tools_are_taken() -> None:
    state = state_of("a/one")
    put(state, target("b", "one", capabilities=["chat"]))
    router = Router(state, book(Clock()))
    decision = router.decide(router.plan("one"), Ask(needs=frozenset({"tools"})))
    assert decision.chosen.id == "a/one"
    refused = [candidate for candidate in decision.candidates if not candidate.eligible]
    assert [candidate.target for candidate in refused] == ["b/one"]


# --- strategies ------------------------------------------------------------------------------


@pytest.mark.req("RT-04")
@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda item: item.name)
def test_there_is_always_a_first_choice(strategy: Strategy) -> None:
    for success in (0.0, 0.5, 1.0):
        for cooling in (False, True):
            given = [standing(name, success, cooling=cooling) for name in "abc"]
            assert sum(shares(strategy, *given)) == pytest.approx(1)


@pytest.mark.parametrize("strategy", [BALANCED, WEIGHTED], ids=lambda item: item.name)
def test_half_failing_keeps_a_trickle_only(strategy: Strategy) -> None:
    assert shares(strategy, standing("a", 1.0), standing("b", 0.5))[1] <= 0.03
    several = shares(strategy, standing("a", 1.0), *(standing(n, 0.2) for n in "bcd"))
    assert sum(several[1:]) <= 0.0301
    assert all(share > 0 for share in several)


def test_balanced_prefers_the_faster() -> None:
    fast, slow = shares(
        BALANCED, standing("a", 1.0, answer_us=100.0), standing("b", 1.0, answer_us=300.0)
    )
    assert fast == pytest.approx(0.75)
    assert slow == pytest.approx(0.25)


def test_failover_leaves_a_target_for_trouble_only() -> None:
    assert shares(FAILOVER, standing("a", 1.0, priority=2), standing("b", 1.0)) == [1.0, 0.0]
    assert shares(FAILOVER, standing("a", 0.95), standing("b", 1.0)) == [1.0, 0.0]
    first, second = shares(FAILOVER, standing("a", 0.4), standing("b", 1.0))
    assert first <= 0.03 < 0.97 <= second


def test_lower_priority_serves_when_the_higher_is_down() -> None:
    given = [standing("a", 0.3, priority=1), standing("b", 0.3, priority=1), standing("c", 1.0)]
    assert shares(BALANCED, *given)[2] > 0.95
    given[1] = standing("b", 1.0, priority=1)
    assert shares(BALANCED, *given)[2] == 0.0


# --- health ----------------------------------------------------------------------------------


def test_caller_errors_say_nothing_about_the_target() -> None:
    health = book(Clock())
    for _ in range(20):
        health.failed("a/one", UpstreamRejected("bad"))
    assert health.standing("a/one", 1, 0).success == 1.0


def test_retry_after_cools_down_but_never_the_only_target() -> None:
    clock = Clock()
    health = book(clock)
    health.failed("a/one", UpstreamRateLimited("slow down", retry_after_seconds=20))
    given = [health.standing("a/one", 1, 0), health.standing("b/one", 1, 0)]
    assert shares(BALANCED, *given) == [0.0, 1.0]
    assert shares(BALANCED, given[0]) == [1.0]
    clock.now_s += 21
    assert not health.standing("a/one", 1, 0).cooling


def test_the_table_warns_a_worker_without_experience() -> None:
    table = {"b/one": TargetHealth("b/one", calls=100, failures=80)}
    health = book(Clock(), table)
    given = [health.standing("a/one", 1, 0), health.standing("b/one", 1, 0)]
    assert shares(BALANCED, *given)[1] <= 0.03


@pytest.mark.req("BEY-09")
@pytest.mark.parametrize("streams_alive", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_a_failing_target_loses_its_traffic_and_gets_it_back(
    seed: int, streams_alive: bool
) -> None:
    """50 requests/s over two workers; the victim fails half its calls for 40 s."""
    clock, rng = Clock(), random.Random(seed)
    table: dict[str, TargetHealth] = {}
    state = state_of("a/one", "b/one")
    books = [book(clock, table if streams_alive else None) for _ in range(2)]
    routers = [Router(state, item, rng) for item in books]
    plan = routers[0].plan("one")
    log: list[tuple[float, str, bool]] = []
    for step in range(50 * 130):
        at_s = step / 50
        clock.now_s = 1000 + at_s
        if streams_alive and step % 50 == 0:
            for name in ("a/one", "b/one"):
                recent = [ok for when, who, ok in log[-3000:] if who == name and when > at_s - 60]
                table[name] = TargetHealth(name, len(recent), recent.count(False))
        worker = rng.randrange(2)
        chosen = routers[worker].decide(plan).chosen.id
        failed = chosen == "b/one" and 20 <= at_s < 60 and rng.random() < 0.5
        failed = failed or rng.random() < 0.002
        if failed:
            books[worker].failed(chosen, UpstreamError("500"))
        else:
            books[worker].succeeded(chosen, int(rng.uniform(20_000, 30_000)))
        log.append((at_s, chosen, not failed))

    def share(start_s: float, end_s: float) -> float:
        chosen = [who for when, who, _ in log if start_s <= when < end_s]
        return chosen.count("b/one") / len(chosen)

    assert share(10, 20) > 0.35
    assert share(30, 60) < 0.05
    assert share(110, 130) > 0.4


def test_callers_own_words_for_tasks_share_what_is_computed_once() -> None:
    state = state_of("a/one", "b/one")
    legal = RouteTarget("b/one", task_types=["legal"])
    put(state, route("r", RouteTarget("a/one", task_types=["code"]), legal))
    router = Router(state, book(Clock()))
    plan = router.plan("r")
    assert router.decide(plan, Ask(task_type="legal")).chosen.id == "b/one"
    for number in range(50):
        router.decide(plan, Ask(task_type=f"word-{number}"))
    assert len(router._odds) == 2
