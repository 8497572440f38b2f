"""RT-09: a change of the optimizer means the same in every strategy, and never more than it says."""

import random
from collections.abc import Callable

import pytest

from gateway.ask import Ask
from gateway.health import HealthBook
from gateway.routing import Router
from gateway.shifts import shifted
from gateway.state import GatewayState
from gateway.strategies.base import Standing, Strategy, probabilities
from gateway.strategies.failover import FAILOVER
from gateway.strategies.weighted import WEIGHTED
from schemas.clock import now_us
from schemas.codec import encode
from schemas.events.changes import RouteTarget
from schemas.events.optimizer import OptimizerActed
from schemas.log import Record
from schemas.routing import TargetHealth
from tests.gateway.test_routing import Clock, standing
from tests.gateway.worker import provider, put, route, target


def act(target: str, factor: float = 0.5, **fields: object) -> OptimizerActed:
    given = {
        "event_id": "e",
        "occurred_at_us": 0,
        "action_id": "x",
        "rule": "error_rate",
        "target": target,
        "reason": "9 of 20 calls failed",
        "metric": "error_rate",
        "state": "active",
        "factor": factor,
        "expires_at_us": now_us() + 60_000_000,
    }
    return OptimizerActed(**(given | fields))  # type: ignore[arg-type]


def finder(*acts: OptimizerActed) -> Callable[[str], OptimizerActed | None]:
    return {one.target: one for one in acts}.get


ALL = [standing("a", 1.0), standing("b", 1.0), standing("c", 1.0, priority=-1)]


@pytest.mark.req("RT-09")
@pytest.mark.parametrize("strategy", [WEIGHTED, FAILOVER], ids=lambda item: item.name)
def test_calls_go_where_the_strategy_would_send_them_without_the_target(
    strategy: Strategy,
) -> None:
    plain = probabilities(ALL, strategy.share(ALL))
    without = probabilities(ALL[1:], strategy.share(ALL[1:]))
    shares, remarks = shifted(ALL, strategy, finder(act("a", 0.25)))
    assert sum(shares) == pytest.approx(1.0)
    assert shares[0] == pytest.approx(plain[0] * 0.25)
    given = plain[0] * 0.75
    assert shares[1:] == pytest.approx(
        [share + given * part for share, part in zip(plain[1:], without, strict=True)]
    )
    assert "keeps 25% of its calls" in remarks["a"]


@pytest.mark.req("RT-12")
def test_an_alternative_takes_the_calls_where_it_is_a_candidate() -> None:
    shares, remarks = shifted(ALL, WEIGHTED, finder(act("a", alternative="c")))
    assert shares == pytest.approx([0.25, 0.5, 0.25])
    assert "takes calls of a" in remarks["c"]
    untouched, none = shifted(ALL, WEIGHTED, finder(act("a", alternative="elsewhere")))
    assert untouched == pytest.approx([0.5, 0.5, 0.0])
    assert none == {}


@pytest.mark.req("BEY-09")
def test_nothing_is_shifted_when_nobody_is_left() -> None:
    two: list[Standing] = ALL[:2]
    shares, _ = shifted(two, WEIGHTED, finder(act("a"), act("b")))
    assert shares == pytest.approx([0.5, 0.5])


def routed(*acts: OptimizerActed, **fields: object) -> dict[str, tuple[float, str]]:
    state = GatewayState()
    targets = [RouteTarget("a/m"), RouteTarget("b/m")]
    put(
        state,
        provider("a", "openai", "http://a/v1"),
        provider("b", "openai", "http://b/v1"),
        target("a", "m"),
        target("b", "m"),
        route("r", *targets, strategy="weighted", **fields),
    )
    view = next(it for it in state.views if it.event_type is OptimizerActed)
    for offset, one in enumerate(acts):
        view.apply(Record("t", 0, offset, 0, one.key.encode(), encode(one), ()))
    router = Router(state, HealthBook(TargetHealth, lambda: False, Clock()), random.Random(1))
    decision = router.decide(router.plan("r"), Ask())
    return {item.target: (item.score, item.reason) for item in decision.candidates}


@pytest.mark.req("RT-09", "RT-16")
def test_a_decision_says_whose_calls_were_shifted_and_why() -> None:
    found = routed(act("a/m"))
    assert (found["a/m"][0], found["b/m"][0]) == (0.25, 0.75)
    assert "error_rate: 9 of 20 calls failed" in found["a/m"][1]


@pytest.mark.req("RT-09")
@pytest.mark.parametrize(
    ("last", "options"),
    [
        (act("a/m", state="reverted"), {}),
        (act("a/m", state="proposed"), {}),
        (act("a/m", expires_at_us=now_us() - 1), {}),
        (act("a/m"), {"optimizer": "off"}),
    ],
    ids=["reverted", "proposed", "expired", "route heeds none"],
)
def test_a_change_that_is_not_in_force_changes_nothing(
    last: OptimizerActed, options: dict[str, str]
) -> None:
    found = routed(act("a/m"), last, options=options)
    assert (found["a/m"][0], found["b/m"][0]) == (0.5, 0.5)
