"""Strategies by utility, filters, hints and canaries; time is simulated."""

import random
from collections import Counter
from typing import Any

import pytest

from gateway.ask import Ask
from gateway.health import HealthBook
from gateway.plans import hinted, strategies
from gateway.routing import Router
from gateway.state import GatewayState
from gateway.strategies.base import Weights
from gateway.utility import best, leaning, valued
from schemas.errors import ConfigurationError, InvalidRequest, UpstreamError
from schemas.events.changes import DeploymentChanged, RouteTarget
from schemas.routing import Decision, TargetHealth
from tests.gateway.test_routing import Clock, standing
from tests.gateway.worker import META, price, provider, put, route, target

CHEAP, GOOD, OWN = "a/cheap", "a/good", "own/small"
NAMES = [CHEAP, GOOD, OWN]


def state_of(**fields: Any) -> GatewayState:
    """Three targets: a cheap one, a good one, and a free one of one's own."""
    state = GatewayState()
    targets = fields.pop("targets", [RouteTarget(name) for name in NAMES])
    put(
        state,
        provider("a", "openai", "http://a/v1"),
        provider("own", "openai", "http://own/v1", secret=None),
        target("a", "cheap", quality=0.6, context_length=8_000, task_quality={"code": 0.3}),
        target("a", "good", quality=0.9, capabilities=["chat", "stream", "tools", "vision"]),
        target("own", "small", quality=0.4, capabilities=["chat", "stream"]),
        price("a", "cheap", 100_000_000, 400_000_000),
        price("a", "good", 5_000_000_000, 25_000_000_000),
        price("own", "small", 0, 0),
        route("r", *targets, **fields),
    )
    return state


def router_of(
    state: GatewayState, table: dict[str, TargetHealth] | None = None, seed: int = 1
) -> Router:
    known = table or {}
    book = HealthBook(
        lambda name: known.get(name, TargetHealth(name)), lambda: bool(known), Clock()
    )
    return Router(state, book, random.Random(seed))


def decided(state: GatewayState, ask: Ask | None = None, **table: Any) -> Decision:
    router = router_of(state, **table)
    return router.decide(router.plan("r"), ask or Ask(input_tokens=200, max_tokens=300))


def scores(decision: Decision) -> dict[str, float]:
    return {item.target: item.score for item in decision.candidates}


# --- strategies ------------------------------------------------------------------------------


@pytest.mark.req("RT-04")
@pytest.mark.parametrize(
    ("strategy", "winner"),
    [("cost_optimized", OWN), ("quality_optimized", GOOD)],
)
def test_each_strategy_has_its_winner(strategy: str, winner: str) -> None:
    decision = decided(state_of(strategy=strategy))
    assert scores(decision)[winner] > 0.9
    assert all("utility" in item.reason for item in decision.candidates)


@pytest.mark.req("RT-04")
def test_the_fastest_wins_by_its_live_percentile() -> None:
    table = {
        CHEAP: TargetHealth(CHEAP, calls=50, latency_p95_us=900_000.0),
        GOOD: TargetHealth(GOOD, calls=50, latency_p95_us=200_000.0),
        OWN: TargetHealth(OWN, calls=50, latency_p95_us=2_000_000.0),
    }
    decision = decided(state_of(strategy="latency_optimized"), table=table)
    assert scores(decision)[GOOD] > 0.9


@pytest.mark.req("RT-06")
def test_simple_calls_go_where_it_is_free_and_demanding_ones_where_it_is_good() -> None:
    state = state_of(strategy="task_type")
    simple = decided(state, Ask(task_type="general", complexity="simple", input_tokens=50))
    hard = decided(state, Ask(task_type="general", complexity="complex", input_tokens=50))
    assert scores(simple)[OWN] > 0.9
    assert scores(hard)[GOOD] > 0.9


@pytest.mark.req("RT-06", "RT-04")
@pytest.mark.parametrize(("complexity", "wanted"), [("simple", "b"), ("complex", "a")])
def test_where_no_quality_is_known_the_price_hints(complexity: str, wanted: str) -> None:
    given = [
        standing("a", 1.0, cost_nano_usd=5_000_000),
        standing("b", 1.0, cost_nano_usd=20_000),
        standing("c", 1.0, cost_nano_usd=400_000),
    ]
    weights = strategies()["task_type"].weights
    assert weights is not None
    shares = best(valued(given, leaning(weights, complexity)))
    assert given[shares.index(max(shares))].target == wanted
    assert max(shares) > 0.5


@pytest.mark.req("RT-04")
def test_quality_is_that_of_the_task() -> None:
    state = state_of(strategy="quality_optimized", targets=[RouteTarget(CHEAP), RouteTarget(OWN)])
    assert scores(decided(state, Ask(task_type="general")))[CHEAP] > 0.9
    assert scores(decided(state, Ask(task_type="code")))[OWN] > 0.9


@pytest.mark.req("RT-04")
def test_utility_has_four_parts_and_the_rules_priority() -> None:
    weights = Weights(quality=1, success=1, latency=1, cost=1)
    given = [
        standing("a", 1.0, quality=0.8, p95_us=100.0, cost_nano_usd=10),
        standing("b", 0.5, quality=0.4, p95_us=100.0, cost_nano_usd=30, priority=-1),
    ]
    first, second = valued(given, weights)
    assert first.utility == pytest.approx((0.8 + 1.0 + 0.5 + 0.5) / 4)
    assert second.utility == pytest.approx((0.4 + 0.5 + 0.5 + 0.25) / 4 / 2)


@pytest.mark.req("RT-04")
def test_load_goes_to_who_has_least_in_flight() -> None:
    router = router_of(state_of(strategy="load_balanced"))
    for _ in range(9):
        router._book.begun(CHEAP)
    decision = router.decide(router.plan("r"), Ask())
    assert scores(decision)[CHEAP] < 0.02
    assert scores(decision)[GOOD] == pytest.approx(scores(decision)[OWN])


def test_a_failing_favourite_loses_its_calls_and_everybody_stays_explored() -> None:
    router = router_of(state_of(strategy="cost_optimized"))
    for _ in range(12):
        router._book.failed(OWN, UpstreamError("500"))
    found = scores(router.decide(router.plan("r"), Ask(input_tokens=100)))
    assert found[OWN] < 0.03
    assert found[CHEAP] > 0.9
    assert all(share > 0 for share in found.values())


@pytest.mark.req("RT-01")
@pytest.mark.parametrize("strategy", ["balanced", "task_type", "cost_optimized", "load_balanced"])
def test_propensity_is_the_share_of_the_draws(strategy: str) -> None:
    router = router_of(state_of(strategy=strategy))
    plan, ask = router.plan("r"), Ask(input_tokens=300, max_tokens=200)
    draws = [router.decide(plan, ask) for _ in range(6000)]
    counts = Counter(decision.chosen.id for decision in draws)
    propensity = {decision.chosen.id: decision.propensity for decision in draws}
    assert sum(item.score for item in draws[0].candidates) == pytest.approx(1, abs=1e-4)
    for name, count in counts.items():
        assert count / 6000 == pytest.approx(propensity[name], abs=0.02)


# --- filters and hints -----------------------------------------------------------------------


@pytest.mark.req("RT-01")
@pytest.mark.parametrize(
    ("fields", "ask", "out", "why"),
    [
        ({"quality_floor": 0.5}, Ask(), OWN, "below the quality floor of 0.5"),
        ({"max_cost_nano_usd": 500_000}, Ask(input_tokens=500, max_tokens=500), GOOD, "above"),
        ({}, Ask(needs=frozenset({"vision"})), CHEAP, "it takes no vision"),
        ({}, Ask(input_tokens=9_000), CHEAP, "its context is too short"),
    ],
)
def test_who_cannot_take_a_call_is_left_out_with_the_reason(
    fields: dict[str, Any], ask: Ask, out: str, why: str
) -> None:
    decision = decided(state_of(**fields), ask)
    left = next(item for item in decision.candidates if item.target == out)
    assert not left.eligible
    assert why in left.reason
    assert left.score == 0
    assert decision.chosen.id != out


@pytest.mark.req("RT-02")
@pytest.mark.parametrize("bound", [{"quality_floor": 0.1}, {"max_cost_nano_usd": 10**12}])
def test_what_is_not_known_of_a_target_keeps_no_bound(bound: dict[str, Any]) -> None:
    state = state_of(targets=[RouteTarget(GOOD), RouteTarget("a/new")], **bound)
    put(state, target("a", "new"))
    known = {item.target: item.eligible for item in decided(state).candidates}
    assert known == {GOOD: True, "a/new": False}


@pytest.mark.req("RT-02")
def test_who_is_slower_than_the_bound_is_left_out_and_who_was_never_called_is_not() -> None:
    table = {
        CHEAP: TargetHealth(CHEAP, calls=50, latency_p95_us=900_000.0),
        GOOD: TargetHealth(GOOD, calls=50, latency_p95_us=500_000.0),
    }
    decision = decided(state_of(max_latency_ms=500), table=table)
    assert {it.target for it in decision.candidates if it.eligible} == {GOOD, OWN}


def test_a_bound_that_nobody_keeps_is_waived_and_said_so() -> None:
    decision = decided(state_of(quality_floor=0.99))
    assert all(item.eligible for item in decision.candidates)
    assert "all the same: below the quality floor" in decision.reason


@pytest.mark.req("RT-02")
def test_rules_are_for_their_tasks_complexities_and_tags() -> None:
    state = state_of(
        targets=[
            RouteTarget(CHEAP, complexities=["simple"]),
            RouteTarget(GOOD, task_types=["code"]),
            RouteTarget(OWN, tags={"team": "lab"}),
        ]
    )
    coded = decided(state, Ask(task_type="code", complexity="complex"))
    assert coded.chosen.id == GOOD
    simple = decided(state, Ask(task_type="creative", complexity="simple"))
    assert simple.chosen.id == CHEAP
    lab = decided(state, Ask(task_type="creative", complexity="complex", tags={"team": "lab"}))
    assert lab.chosen.id == OWN


@pytest.mark.req("RT-02")
def test_a_rule_for_tags_takes_calls_with_all_of_them_alone() -> None:
    tags = {"team": "lab", "stage": "test"}
    state = state_of(targets=[RouteTarget(GOOD, tags=tags), RouteTarget(OWN)])
    for given in ({}, {"team": "lab"}, {"team": "lab", "stage": "live"}):
        decision = decided(state, Ask(tags=given))
        assert decision.chosen.id == OWN
        assert [it.target for it in decision.candidates if it.eligible] == [OWN]
    both = decided(state, Ask(tags={**tags, "more": "x"}))
    assert {it.target for it in both.candidates if it.eligible} == {GOOD, OWN}


def test_hints_choose_the_strategy_where_the_route_takes_them() -> None:
    router = router_of(state_of())
    plan = router.plan("r")
    assert hinted(plan, None, None) is None
    assert hinted(plan, None, "quality") == "quality_optimized"
    ask = Ask(input_tokens=100, strategy=hinted(plan, "cost_optimized", None))
    assert router.decide(plan, ask).strategy == "cost_optimized"
    with pytest.raises(InvalidRequest, match="none of"):
        hinted(plan, "cheapest", None)
    closed = router_of(state_of(options={"hints": "off"})).plan("r")
    with pytest.raises(InvalidRequest, match="takes no hints"):
        hinted(closed, None, "cost")


def test_a_route_sets_weights_and_wrong_ones_are_refused() -> None:
    options = {"quality": "0", "success": "0", "latency": "0", "cost": "1"}
    assert scores(decided(state_of(strategy="task_type", options=options)))[OWN] > 0.9
    with pytest.raises(ConfigurationError, match="no number"):
        decided(state_of(strategy="task_type", options={"cost": "much"}))


# --- canaries --------------------------------------------------------------------------------


def canary(percentage: int, **fields: Any) -> DeploymentChanged:
    fields = {"state": "observing", "baseline_deployment_id": GOOD, **fields}
    return DeploymentChanged(
        **META,
        deployment_id="d-new",
        model_version_id="v2",
        model="tuned",
        provider="own",
        percentage=percentage,
        **fields,
    )


@pytest.mark.req("CANARY-03")
@pytest.mark.parametrize("percentage", [1, 10, 50])
def test_a_canary_takes_its_percentage_of_users_and_they_stay(percentage: int) -> None:
    state = state_of(targets=[RouteTarget(GOOD)])
    put(state, canary(percentage))
    router = router_of(state)
    plan = router.plan("r")
    users = [f"user-{number}" for number in range(10_000)]
    found = {user: router.decide(plan, Ask(sticky=user)) for user in users}
    with_it = [user for user in users if found[user].chosen.id == "own/tuned"]
    assert len(with_it) / 10_000 == pytest.approx(percentage / 100, abs=0.01)
    again = [user for user in users if router.decide(plan, Ask(sticky=user)).chosen.id != GOOD]
    assert again == with_it
    decision = found[with_it[0]]
    assert decision.propensity == pytest.approx(percentage / 100)
    assert decision.order[1].id == GOOD
    trial = f"d-new#{percentage}"
    assert {tuple(found[user].trials.items()) for user in with_it} == {((trial, "canary"),)}
    others = {tuple(found[user].trials.items()) for user in set(users) - set(with_it)}
    assert others == {((trial, "baseline"),)}
    assert f"a canary with {percentage}%" in decision.reason
    put(state, canary(percentage + 20))
    router._checked_s = -1.0
    more = router_of(state)
    wider = more.plan("r")
    assert all(more.decide(wider, Ask(sticky=user)).chosen.id == "own/tuned" for user in with_it)


@pytest.mark.parametrize(
    "fields", [{"state": "promoted"}, {"state": "rolled_back"}, {"baseline_deployment_id": None}]
)
def test_only_a_running_canary_splits(fields: dict[str, Any]) -> None:
    state = state_of(targets=[RouteTarget(GOOD)])
    put(state, canary(50, **fields))
    router = router_of(state)
    plan = router.plan("r")
    chosen = {router.decide(plan, Ask(sticky=str(user))).chosen.id for user in range(100)}
    assert chosen == {GOOD}


def test_who_has_no_name_is_drawn_anew_and_auto_leaves_canaries_to_their_share() -> None:
    state = state_of(targets=[RouteTarget(GOOD)])
    put(state, canary(30))
    router = router_of(state)
    plan = router.plan("r")
    draws = Counter(router.decide(plan, Ask()).chosen.id for _ in range(4000))
    assert draws["own/tuned"] / 4000 == pytest.approx(0.3, abs=0.03)
    assert "own/tuned" not in {member.target.id for member in router.plan("auto").members}


def test_a_canary_that_fails_leaves_its_users_to_the_baseline() -> None:
    state = state_of(targets=[RouteTarget(GOOD)])
    put(state, canary(50))
    router = router_of(state)
    plan = router.plan("r")
    for _ in range(6):
        router._circuits.end(router._circuits.begin("own/tuned"), good=False)
    decisions = [router.decide(plan, Ask(sticky=str(user))) for user in range(50)]
    assert {decision.chosen.id for decision in decisions} == {GOOD}
    assert {decision.propensity for decision in decisions} == {1.0}
    assert [decision.trials for decision in decisions] == [{}] * 50  # nobody was drawn
