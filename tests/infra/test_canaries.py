"""Canaries beside their baselines, as `/routing/canaries` and `/api/ai/health` tell them."""

import math

import msgspec
import pytest

from infra.steering.board import moment
from schemas.events.canaries import BASELINE, CANARY, CanaryRow
from schemas.events.changes import DeploymentChanged
from schemas.events.opinions import OpinionRow
from schemas.histogram import bucket_of
from tests.infra.steered import HOUR_S, META, NOW, NOW_S, Place


def trial(place: Place, side: str, calls: int, failures: int, partition: int = 0) -> None:
    """A side's calls: those that succeed take 400 ms, the canary's 500, and cost 0.001 or 0.002 USD."""
    good = calls - failures
    first_us, cost = (500_000, 2 * 10**6) if side == CANARY else (400_000, 10**6)
    log_us, log_cost = round(1000 * math.log(first_us)), round(1000 * math.log(cost + 1))
    place.log.tell(
        CanaryRow(
            **META,
            entity=f"d1#20|{side}",
            partition=partition,
            offset=1,
            trial="d1#20",
            side=side,
            first_us=NOW - HOUR_S * 1_000_000,
            last_us=NOW,
            calls=calls,
            failures=failures,
            latency={str(bucket_of(first_us)): good},
            log_latency=good * log_us,
            log_latency_squared=good * (log_us**2 + 100_000),
            priced=good,
            cost_nano_usd=good * cost,
            log_cost=good * log_cost,
            log_cost_squared=good * (log_cost**2 + 250_000),
        )
    )


def opinions(place: Place, target: str, good: int, bad: int) -> None:
    place.log.tell(
        OpinionRow(
            **META,
            entity=f"3600:0:{target}",
            partition=0,
            offset=1,
            target=target,
            seconds=HOUR_S,
            start_s=NOW_S // HOUR_S * HOUR_S,
            opinions=good + bad,
            disliked=bad,
            satisfaction=1000 * good,
            satisfaction_squared=1_000_000 * good,
        )
    )


@pytest.mark.req("BEY-15", "FT-12", "ANA-13", "EVT-04")
def test_a_canary_stands_beside_its_baseline() -> None:
    place = Place()
    canary = DeploymentChanged(
        event_id="e",
        occurred_at_us=NOW - 3 * HOUR_S * 1_000_000,
        entity_version=1,
        actor="x",
        deployment_id="d1",
        model_version_id="v1",
        model="tuned",
        provider="local",
        state="observing",
        percentage=20,
        baseline_deployment_id="a/m",
    )
    place.deployments.entries["d1"] = canary
    (state,) = place.canaries.states()
    assert {one.verdict for one in state.comparisons} == {"undecided"}
    for partition in (0, 1):
        trial(place, CANARY, 100, 30, partition)
        trial(place, BASELINE, 400, 4, partition)
    opinions(place, "local/tuned", 30, 30)
    opinions(place, "a/m", 100, 10)
    (shown,) = place.health()["canaries"]
    (state,) = place.canaries.states()
    assert shown == state.model_dump(mode="json")
    assert (state.canary.calls, state.baseline.failures, state.percentage) == (200, 8, 20)
    assert (state.canary.cost_per_call_usd, state.canary.feedback) == ("0.002", 60)
    assert (state.baseline.latency_p50_ms, state.baseline.liked) == (
        pytest.approx(400, rel=0.01),
        pytest.approx(100 / 110, abs=1e-4),
    )
    found = {one.metric: one for one in state.comparisons}
    assert {one.verdict for one in found.values()} == {"worse"}
    assert found["latency_ms"].canary == pytest.approx(500, rel=0.001)
    assert found["cost_usd"].baseline == pytest.approx(0.001, rel=0.001)
    assert found["failures"].p_value < 1e-6
    place.deployments.entries["d1"] = msgspec.structs.replace(canary, percentage=30)
    (grown,) = place.canaries.states()
    assert (grown.canary.calls, grown.since) == (0, moment(canary.occurred_at_us))
    place.deployments.entries["d1"] = msgspec.structs.replace(canary, state="promoted")
    assert place.canaries.states() == []
