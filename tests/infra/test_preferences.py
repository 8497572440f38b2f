"""What tuned models are preferred for, as it is told, and turned off."""

import pytest

from schemas.events.optimizer import OptimizerRan, OptimizerRuleChanged
from schemas.events.preferences import PreferenceChanged
from tests.infra.steered import META, Place


@pytest.mark.req("RT-15", "ANA-15", "ANA-14")
def test_a_preference_is_told_with_its_reason_and_can_be_turned_off() -> None:
    place = Place()
    change = PreferenceChanged(
        **META,
        target="local/tuned-1",
        baseline="a/m",
        deployment_id="d1",
        model_version_id="tuned-1",
        state="active",
        reason="its canary beside a/m has passed; measured gain: code +0.30",
        metric="chrf",
        before=0.4,
        after=0.55,
        gains={"code": 0.3},
        number=1,
    )
    place.log.tell(change)
    place.log.tell(OptimizerRan(**META, targets=1, acted=1, modes={"tuned_model": "on"}))
    page = place.client.get("/routing/optimizer").json()
    (told,) = page["preferences"]
    assert (told["target"], told["gains"], told["state"]) == (
        change.target,
        {"code": 0.3},
        "active",
    )
    assert told["reason"] == change.reason
    assert page["rules"] == [{"rule": "tuned_model", "mode": "on", "targets": ["local/tuned-1"]}]
    assert place.health()["fine_tuning"]["preferences"] == [told]
    place.act("disable_rule", rule="tuned_model")
    turned_off = place.log.events[-1]
    assert isinstance(turned_off, OptimizerRuleChanged)
    assert (turned_off.rule, turned_off.mode) == ("tuned_model", "off")
