"""RT-09..14: rules on hand-made traffic; bounds, cool-down, expiry, reversal. Time is simulated."""

from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from bench.rules_world import STEP_S, Loop, priced
from schemas.errors import ConfigurationError
from schemas.events.changes import ProviderChanged, RouteChanged, RouteTarget, TargetChanged
from schemas.events.feedback import FeedbackRecorded
from schemas.events.llm import Attempt, ResponseCompleted
from schemas.events.optimizer import (
    OptimizationRequested,
    OptimizerActed,
    OptimizerRan,
    OptimizerRuleChanged,
)
from schemas.optimizer import LIVE, RULES, OptimizerRules

START_S = 1_789_999_200
META: dict[str, Any] = {"event_id": "e", "occurred_at_us": 0, "actor": "test"}
RULES_SOON = replace(RULES, baseline_calls_min=100, baseline_hours_min=12)


class Way(NamedTuple):
    """How a target does: the share of calls that fail, answers in ms."""

    failing: float = 0.0
    ms: float = 400.0
    output_tokens: int = 100
    liked: float = 0.8


GOOD = Way()
BAD = Way(failing=0.3)


class Place:
    """Two targets in one route, and a clock."""

    def __init__(self, limits: tuple[str, int, int] = ("concurrency", 0, 0)) -> None:
        self.loop = Loop(RULES_SOON, ["a/m", "b/m"])
        self.at_s = START_S
        self._failing: dict[str, float] = {}
        self._said = {"a/m": 0, "b/m": 0}
        kind, *most = limits
        for name, limit in zip("ab", most, strict=True):
            told = {"dialect": "openai", "base_url": "http://x", kind: limit or None}
            self.loop.tell(ProviderChanged(**META, entity_version=1, name=name, **told))
            self.loop.tell(
                TargetChanged(
                    **META,
                    entity_version=1,
                    provider=name,
                    model="m",
                    capabilities=["chat"],
                    quality=0.8,
                )
            )
        entries = [RouteTarget("a/m"), RouteTarget("b/m")]
        self.loop.tell(RouteChanged(**META, entity_version=1, name="r", targets=entries))

    def steps(
        self, count: int, a: Way = GOOD, b: Way = GOOD, calls: int = 40
    ) -> list[OptimizerActed]:
        """Let steps of 30 s pass in which calls go where the shares say."""
        found = []
        for _ in range(count):
            shares = self.loop.shares(self.at_s * 1_000_000)
            for target, way, share in zip(("a/m", "b/m"), (a, b), shares, strict=True):
                due = int(calls * share)
                self._failing[target] = self._failing.get(target, 0.0) + due * way.failing
                failed = int(self._failing[target])
                self._failing[target] -= failed
                for number in range(due):
                    self.loop.take(self._call(target, way, number, due, bad=number < failed))
                for number in range(due // 4):  # every fourth call is judged
                    self._said[target] += 1
                    liked = self._said[target] * 7 % 10 < round(10 * way.liked)
                    self.loop.take(self._opinion(target, number, liked=liked))
            self.at_s += STEP_S
            found += self.loop.look(self.at_s * 1_000_000)
        return found

    def _call(self, target: str, way: Way, number: int, of: int, *, bad: bool) -> ResponseCompleted:
        took_us = int(way.ms * 1000 * (0.9 + 0.2 * number / of))
        attempt = Attempt(
            target, "failed" if bad else "success", "server" if bad else None, None, took_us, None
        )
        return ResponseCompleted(
            event_id="e",
            occurred_at_us=(self.at_s + number % STEP_S) * 1_000_000,
            request_id="r",
            key_id="k",
            route="r",
            target=target,
            outcome="success",
            status=200,
            attempts=[attempt],
            usage_basis="reported",
            input_tokens=100,
            output_tokens=way.output_tokens,
            stream=False,
            latency_us=took_us,
            cost_nano_usd=(100 + way.output_tokens) * (1000 if target == "a/m" else 500),
        )

    def _opinion(self, target: str, number: int, *, liked: bool) -> FeedbackRecorded:
        return FeedbackRecorded(
            event_id="e",
            occurred_at_us=(self.at_s + number % STEP_S) * 1_000_000,
            feedback_id="f",
            key_id="k",
            user_id="u",
            feedback_type="thumbs_up" if liked else "thumbs_down",
            satisfaction_score=1.0 if liked else -0.5,
            has_correction=False,
            model_id=target,
            data_key_id="d",
            nonce=b"",
            ciphertext=b"",
        )

    @property
    def factor(self) -> float:
        act = self.loop.ledger.acted.get("a/m")
        return act.factor if act is not None and act.state in LIVE else 1.0


@pytest.mark.req("RT-11", "RT-09", "RT-14")
def test_errors_shift_calls_away_by_halves_and_come_back_in_steps() -> None:
    place = Place()
    assert place.steps(10) == []
    bad = place.steps(60, a=BAD, calls=100)
    assert (bad[0].rule, bad[0].target, bad[0].state) == ("error_rate", "a/m", "active")
    assert [act.factor for act in bad][:5] == [0.5, 0.25, 0.125, 0.0625, 0.05]
    assert "calls failed, more than" in bad[0].reason
    assert bad[0].expires_at_us == bad[0].occurred_at_us + 1_800_000_000
    assert {act.verdict for act in bad[1:]} == {"helped"}
    before, after = bad[-1].before, bad[-1].after
    assert before is not None
    assert after is not None
    assert after < before / 2
    back = place.steps(120, calls=100)
    assert [act.factor for act in back] == [0.25, 0.5, 1.0]
    assert [act.state for act in back][-2:] == ["restoring", "restored"]
    every = [*bad, *back]
    gaps = [b.occurred_at_us - a.occurred_at_us for a, b in pairwise(every)]
    assert min(gaps) >= RULES.cooldown_s * 1e6
    assert len({act.event_id for act in every}) == len(every)


@pytest.mark.req("RT-11")
def test_a_few_errors_shift_once_and_drain_nothing() -> None:
    acts = Place().steps(60, a=Way(failing=0.12))
    assert {act.factor for act in acts} == {0.5}
    assert "more than 5%" in acts[0].reason


@pytest.mark.req("RT-11", "RT-09")
def test_errors_everywhere_and_few_calls_are_no_reason() -> None:
    assert Place().steps(20, a=BAD, b=BAD) == []
    assert Place().steps(20, a=BAD, calls=3) == []


@pytest.mark.req("RT-09")
def test_a_target_that_its_route_leaves_already_is_left_alone() -> None:
    place = Place()
    place.steps(10)
    ahead = place.loop.shares
    place.loop.shares = lambda _: np.array([0.1, 0.9])  # type: ignore[method-assign]
    assert place.steps(3, a=Way(failing=0.9), calls=100) == []
    place.loop.shares = ahead  # type: ignore[method-assign]
    assert place.steps(2, a=Way(failing=0.9), calls=100)[0].rule == "error_rate"


@pytest.mark.req("RT-10")
def test_slow_answers_lower_a_target_against_its_own_day_or_the_limit() -> None:
    place = Place()
    place.steps(300)
    act = place.steps(10, a=Way(ms=800.0))[0]
    assert (act.rule, act.metric) == ("high_latency", "latency_p95_ms")
    assert act.evidence["line"] == pytest.approx(1.5 * 435_000, rel=0.05)
    slow = Place().steps(5, a=Way(ms=6000.0))[0]
    assert "above 5000 ms" in slow.reason


@pytest.mark.req("RT-14")
def test_a_target_that_is_worse_than_in_seven_days_is_probed_with_5_percent() -> None:
    place = Place()
    place.steps(15 * 120)
    assert place.steps(20, a=Way(ms=440.0), calls=100) == []  # worse, but by less than 15%
    acts = place.steps(60, a=Way(ms=520.0), calls=100)
    assert acts[0].rule == "degradation"
    assert acts[-1].factor == RULES.probe_share
    assert [act.factor for act in place.steps(120, calls=100)] == [0.25, 0.5, 1.0]


@pytest.mark.req("RT-14")
def test_15_percent_fewer_successes_than_in_seven_days_are_a_reason_and_10_are_none() -> None:
    place = Place()
    sooner = {"rule": "error_rate", "mode": "off"}  # it would act first
    place.loop.tell(OptimizerRuleChanged(**META, entity_version=1, **sooner))
    place.steps(300)
    assert place.steps(20, a=Way(failing=0.10), calls=100) == []
    acts = place.steps(20, a=Way(failing=0.25), calls=100)
    assert (acts[0].rule, acts[0].metric, acts[0].target) == ("degradation", "success_rate", "a/m")


@pytest.mark.req("RT-14", "RT-09")
def test_a_target_that_people_like_less_than_in_seven_days_is_probed_too() -> None:
    place = Place()
    assert place.steps(300, calls=160) == []
    acts = place.steps(70, a=Way(liked=0.4), calls=160)
    assert (acts[0].rule, acts[0].metric, acts[0].target) == ("degradation", "liked_share", "a/m")
    assert acts[0].reason.endswith("pieces of feedback are good, in seven days 80%")
    assert [act.factor for act in acts[:3]] == [0.5, 0.25, 0.125]
    assert {act.verdict for act in acts[1:3]} == {"helped"}
    back = place.steps(120, calls=160)
    assert [act.factor for act in back][-2:] == [0.5, 1.0]
    assert back[-1].state in {"restored", "expired"}


@pytest.mark.req("RT-14")
def test_a_few_bad_opinions_and_bad_opinions_of_everybody_are_no_reason() -> None:
    place = Place()
    place.steps(300, calls=160)
    assert place.steps(3, a=Way(liked=0.4), calls=24) == []
    assert place.steps(20, a=Way(liked=0.4), b=Way(liked=0.4), calls=160) == []


@pytest.mark.req("RT-14", "OPS-01")
def test_who_drifts_is_told_also_where_nobody_else_does_better() -> None:
    place = Place()
    place.steps(300)
    assert place.steps(12, a=BAD, b=BAD) == []
    place.loop.ledger.apply(OptimizationRequested(event_id="e", occurred_at_us=0, actor="me"))
    (ran,) = place.loop.ledger.due(place.at_s * 1_000_000)
    assert isinstance(ran, OptimizerRan)
    assert set(ran.drifting) == {"a/m", "b/m"}
    assert ran.drifting["a/m"] == "70.0% of calls succeed, in seven days 100.0%"


@pytest.mark.req("RT-12")
def test_a_cheaper_target_as_good_is_preferred_until_it_is_no_longer_cheaper() -> None:
    place = Place()
    place.loop.tell(priced("a/m", 1_000_000_000, 1_000_000_000, 0))
    place.loop.tell(priced("b/m", 500_000_000, 500_000_000, 0))
    acts = place.steps(420)
    assert (acts[0].rule, acts[0].target, acts[0].alternative) == ("cost", "a/m", "b/m")
    assert "50% less" in acts[0].reason
    assert acts[-1].verdict == "helped"
    place.loop.tell(priced("b/m", 990_000_000, 990_000_000, place.at_s * 1_000_000))
    assert place.steps(60)[-1].state == "restored"


@pytest.mark.req("RT-12")
@pytest.mark.parametrize(
    ("its_own", "alternative", "price", "preferred"),
    [
        ({"quality": 0.8}, {"quality": 0.77}, 500_000_000, True),
        ({"quality": 0.8}, {"quality": 0.75}, 500_000_000, False),
        ({"quality": 0.8}, {}, 500_000_000, False),
        ({"quality": 0.8}, {"quality": 0.8}, 850_000_000, False),
        ({"quality": 0.8}, {"quality": 0.8, "task_quality": {"code": 0.7}}, 500_000_000, True),
        (
            {"quality": 0.8, "task_quality": {"code": 0.9}},
            {"quality": 0.8, "task_quality": {"code": 0.7}},
            500_000_000,
            False,
        ),
        (
            {"quality": 0.8, "capabilities": ["chat", "tools"]},
            {"quality": 0.8, "capabilities": ["chat"]},
            500_000_000,
            False,
        ),
    ],
)
def test_who_is_cheaper_is_preferred_only_when_nearly_as_good_at_everything(
    its_own: dict[str, Any], alternative: dict[str, Any], price: int, *, preferred: bool
) -> None:
    place = Place()
    for provider, fields in (("a", its_own), ("b", alternative)):
        fields = {"capabilities": ["chat"], **fields}
        place.loop.tell(
            TargetChanged(**META, entity_version=2, provider=provider, model="m", **fields)
        )
    place.loop.tell(priced("a/m", 1_000_000_000, 1_000_000_000, 0))
    place.loop.tell(priced("b/m", price, price, 0))
    assert bool(place.steps(245, calls=12)) == preferred


@pytest.mark.req("RT-12", "RT-09")
def test_a_cheaper_target_that_talks_more_is_given_up() -> None:
    place = Place()
    place.loop.tell(priced("a/m", 1_000_000_000, 1_000_000_000, 0))
    place.loop.tell(priced("b/m", 500_000_000, 500_000_000, 0))
    while not place.steps(1):
        pass
    acts = place.steps(20, b=Way(output_tokens=800))
    assert acts[0].state == "reverted"
    assert "got worse" in acts[0].reason


@pytest.mark.req("RT-13")
@pytest.mark.parametrize(
    "limits",
    [
        ("concurrency", 1, 10),  # 70 calls of 0.4 s in 30 s
        ("requests_per_minute", 150, 1_500),
        ("tokens_per_minute", 30_000, 300_000),
    ],
)
def test_the_idle_provider_takes_calls_of_the_full_one(limits: tuple[str, int, int]) -> None:
    place = Place(limits)
    acts = place.steps(20, calls=140)
    assert (acts[0].rule, acts[0].alternative) == ("load", "b/m")
    assert acts[0].reason.startswith("a is 93% full, b 9%")
    assert acts[0].before == pytest.approx(0.93, abs=0.02)
    back = place.steps(60)
    assert (back[-1].state, back[-1].verdict) == ("restored", "helped")


@pytest.mark.req("RT-09")
def test_a_change_that_makes_it_worse_is_undone_and_not_tried_again_at_once() -> None:
    place = Place()
    place.steps(300)
    place.steps(4, a=Way(ms=800.0))
    assert place.factor == 0.5
    acts = place.steps(6, a=Way(ms=800.0), b=Way(ms=3000.0))
    assert (acts[0].state, acts[0].verdict, acts[0].factor) == ("reverted", "worse", 1.0)
    assert acts[0].before is not None
    assert acts[0].after is not None
    assert acts[0].after > acts[0].before
    again = [act for act in place.steps(62, a=Way(ms=800.0)) if act.target == "a/m"]
    assert again[0].state == "active"
    assert again[0].occurred_at_us - acts[0].occurred_at_us >= RULES.expiry_s * 1e6


@pytest.mark.req("RT-09")
def test_a_change_without_effect_ends_when_its_time_is_over() -> None:
    place = Place()
    assert place.steps(4, a=BAD)[0].state == "active"
    acts = place.steps(70, a=BAD, b=BAD)
    assert acts[-1].state == "reverted"
    assert "did not help" in acts[-1].reason or "got worse" in acts[-1].reason
    assert place.factor == 1.0


@pytest.mark.req("RT-09", "ANA-14")
def test_a_rule_is_turned_off_or_proposes_and_can_be_asked_at_once() -> None:
    place = Place()

    def mode(version: int, word: str) -> None:
        changed = OptimizerRuleChanged(**META, entity_version=version, rule="error_rate", mode=word)
        place.loop.tell(changed)

    place.steps(4, a=BAD)
    mode(1, "off")
    (off,) = place.steps(1, a=BAD)
    assert (off.state, off.reason) == ("reverted", "its rule was turned off")
    mode(2, "propose")
    (proposed,) = place.steps(62, a=BAD)
    assert proposed.state == "proposed"
    assert place.factor == 1.0
    ledger, at_us = place.loop.ledger, place.at_s * 1_000_000
    assert list(ledger.due(at_us + 1)) == []
    ledger.apply(OptimizationRequested(event_id="e", occurred_at_us=0, actor="me"))
    (ran,) = ledger.due(at_us + 1)
    assert isinstance(ran, OptimizerRan)
    assert ran.modes["error_rate"] == "propose"


@pytest.mark.req("RT-09", "ANA-12", "ANA-14")
def test_what_a_person_applied_stays_while_it_helps_goes_no_further_and_ends_in_time() -> None:
    place = Place()
    rule = OptimizerRuleChanged(**META, entity_version=1, rule="error_rate", mode="propose")
    place.loop.tell(rule)
    place.steps(10)
    proposed = place.steps(6, a=BAD, calls=100)[0]
    at_us = place.at_s * 1_000_000
    applied = msgspec.structs.replace(
        proposed,
        state="active",
        number=proposed.number + 1,
        actor="operator",
        stepped_at_us=at_us,
        expires_at_us=at_us + 1_800_000_000,
    )
    place.loop.tell(applied)
    assert place.steps(58, a=BAD, calls=100) == []
    assert place.factor == 0.5
    acts = place.steps(60, calls=100)
    assert (acts[-1].state, acts[-1].factor) == ("expired", 1.0)
    assert acts[-1].reason.startswith("its time is over; error_rate 0.")


@pytest.mark.req("RT-09")
def test_figures_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="change_max"):
        OptimizerRules(change_max=0.9)
    with pytest.raises(ConfigurationError, match="mode"):
        OptimizerRules(mode="maybe")
