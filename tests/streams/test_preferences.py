"""RT-15: a tuned model's measured gain becomes a preference once its canary passed, and can be undone."""

from typing import Any

import pytest

from bench.rules_world import Loop
from gateway.ask import Ask
from gateway.health import HealthBook
from gateway.routing import Router
from gateway.state import GatewayState
from schemas.codec import encode
from schemas.event import Event
from schemas.events.changes import (
    DeploymentChanged,
    ModelVersionChanged,
    ProviderChanged,
    RouteChanged,
    RouteTarget,
    TargetChanged,
)
from schemas.events.feedback import FeedbackRecorded
from schemas.events.optimizer import OptimizerRuleChanged
from schemas.events.preferences import PreferenceChanged
from schemas.log import Record
from schemas.optimizer import RULES, TUNED_MODEL
from schemas.routing import TargetHealth

NOW_S = 1_790_000_000
META: dict[str, Any] = {"event_id": "e", "occurred_at_us": NOW_S * 1_000_000, "actor": "test"}
TUNED, BASELINE = "local/tuned-1", "a/m"
CODE, ANALYTICAL = Ask(task_type="code"), Ask(task_type="analytical")


class Place:
    """The optimizer's ledger and a gateway's state, both told of the same events."""

    def __init__(self) -> None:
        self.loop = Loop(RULES, [])
        self.state = GatewayState()
        self.at_s = NOW_S
        for name in ("a", "local"):
            self.tell(
                ProviderChanged(
                    **META, entity_version=1, name=name, dialect="openai", base_url="http://x"
                )
            )
        good = {"capabilities": ["chat"], "quality": 0.6, "task_quality": {"code": 0.5}}
        self.tell(TargetChanged(**META, entity_version=1, provider="a", model="m", **good))
        self.tell(
            RouteChanged(
                **META,
                entity_version=1,
                name="r",
                strategy="quality_optimized",
                targets=[RouteTarget(BASELINE), RouteTarget(TUNED)],
            )
        )
        self.tell(
            ModelVersionChanged(
                **META,
                entity_version=1,
                model_version_id="tuned-1",
                name="tuned",
                status="deployed",
                base_model="tiny",
                metadata={"gate_metric": "chrf"},
                metrics={
                    "baseline_chrf": 0.4,
                    "tuned_chrf": 0.55,
                    "gain_code": 0.3,
                    "gain_lower_code": 0.1,
                    "gain_analytical": 0.2,
                    "gain_lower_analytical": -0.05,
                },
            )
        )

    def tell(self, event: Event) -> None:
        self.loop.tell(event)
        value = encode(event)
        record = Record(event.topic.name, 0, 0, 0, event.key.encode(), value, ())
        for view in self.state.views:
            if view.topic is event.topic:
                view.apply(record)

    def deployed(self, version: int, state: str, percentage: int = 0) -> None:
        self.tell(
            DeploymentChanged(
                **META,
                entity_version=version,
                deployment_id="d1",
                model_version_id="tuned-1",
                model="tuned-1",
                provider="local",
                state=state,
                percentage=percentage,
                baseline_deployment_id=BASELINE,
            )
        )

    def mode(self, version: int, word: str) -> None:
        self.tell(OptimizerRuleChanged(**META, entity_version=version, rule=TUNED_MODEL, mode=word))

    def look(self) -> list[PreferenceChanged]:
        """Let half an hour pass; what was decided is read back by both."""
        self.at_s += 1_800
        self.loop.look(self.at_s * 1_000_000 - 60_000_000)
        made = self.loop.ledger.due(self.at_s * 1_000_000)
        found = [event for event in made if isinstance(event, PreferenceChanged)]
        for event in found:
            self.tell(event)
        return found

    def judged(self, target: str, liked: int, disliked: int) -> None:
        for number in range(liked + disliked):
            self.loop.take(
                FeedbackRecorded(
                    event_id="e",
                    occurred_at_us=self.at_s * 1_000_000,
                    feedback_id="f",
                    key_id="k",
                    user_id="u",
                    feedback_type="thumbs_up" if number < liked else "thumbs_down",
                    satisfaction_score=1.0 if number < liked else -1.0,
                    has_correction=False,
                    model_id=target,
                    data_key_id="d",
                    nonce=b"",
                    ciphertext=b"",
                )
            )

    def chosen(self, ask: Ask) -> dict[str, float]:
        """The shares of a call's candidates, as a gateway decides."""
        book = HealthBook(TargetHealth, lambda: False)
        router = Router(self.state, book)
        decision = router.decide(router.plan("r"), ask)
        return {one.target: one.score for one in decision.candidates}


@pytest.mark.req("RT-15")
def test_a_gain_becomes_a_preference_only_after_the_canary_passed() -> None:
    place = Place()
    place.deployed(1, "promoted")  # served by its name, never tried on others' traffic
    assert place.look() == []
    place.deployed(2, "observing", 20)
    assert place.look() == []
    assert TUNED not in place.chosen(CODE) or place.chosen(CODE)[TUNED] < 0.9
    place.deployed(3, "promoted")
    (made,) = place.look()
    assert (made.target, made.baseline, made.state) == (TUNED, BASELINE, "active")
    assert made.gains == {"code": 0.3}, "what chance explains is no gain"
    assert (made.metric, made.before, made.after) == ("chrf", 0.4, 0.55)
    assert made.reason == "its canary beside a/m has passed; measured gain: code +0.30"
    target = place.state.targets[TUNED]
    assert (target.quality, target.task_quality) == (0.6, {"code": 0.8})
    assert place.chosen(CODE)[TUNED] > 0.9
    assert place.chosen(ANALYTICAL)[TUNED] == pytest.approx(0.5, abs=0.05)
    assert place.look() == []


@pytest.mark.req("RT-15")
@pytest.mark.parametrize("state", ["rolled_back", "aborted"])
def test_a_canary_that_did_not_pass_changes_nothing(state: str) -> None:
    place = Place()
    place.deployed(1, "observing", 20)
    place.deployed(2, state)
    assert place.look() == []


@pytest.mark.req("RT-15")
def test_a_preference_ends_with_its_deployment_and_when_it_is_turned_off() -> None:
    place = Place()
    place.deployed(1, "analyzing", 20)
    place.deployed(2, "promoted")
    place.look()
    place.mode(1, "off")
    (off,) = place.look()
    assert (off.state, off.reason, off.number) == ("withdrawn", "it was turned off", 2)
    assert place.state.targets[TUNED].task_quality == {}
    place.mode(2, "propose")
    (proposed,) = place.look()
    assert proposed.state == "proposed"
    assert place.state.targets[TUNED].task_quality == {}
    place.mode(3, "on")
    (again,) = place.look()
    assert (again.state, again.number) == ("active", 4)
    place.deployed(3, "rolled_back")
    (gone,) = place.look()
    assert (gone.state, gone.reason) == ("withdrawn", "d1 is rolled_back")
    assert place.look() == []


@pytest.mark.req("RT-15", "RT-09")
def test_a_tuned_model_that_people_like_less_is_preferred_no_more() -> None:
    place = Place()
    place.deployed(1, "observing", 20)
    place.deployed(2, "promoted")
    place.look()
    place.judged(TUNED, liked=60, disliked=40)
    place.judged(BASELINE, liked=90, disliked=10)
    (gone,) = place.look()
    assert (gone.state, gone.metric, gone.before, gone.after) == (
        "withdrawn",
        "liked_share",
        0.9,
        0.6,
    )
    assert gone.reason == "people like 60% of its answers, 90% of a/m's"
    assert place.look() == [], "the same version is not tried again"
