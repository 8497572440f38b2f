"""The course of one target's change: steps, renewal, return, reversal. Pure (RT-09, RT-14).

A change begins with half of the target's calls and, where the rule lets it, goes on by halves while the
reason lasts and the change helps. When the reason has gone the calls come back by way of 25, 50
and 100%. When the metric that it aims at worsens, or has not improved by the end, it is undone and not
tried again for a while.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from schemas.events.optimizer import OptimizerActed
from schemas.optimizer import (
    ACTIVE,
    EXPIRED,
    LIVE,
    OFF,
    ON,
    PROPOSED,
    RESTORED,
    RESTORING,
    REVERTED,
)
from streams.agents.performance import RECENT_S
from streams.decider import decision_id
from streams.optimizer.rule import HELPED, UNCLEAR, WORSE, Finding, Rule, group, judged, onset_us
from streams.optimizer.scene import Scene, shares

RETURN = (0.25, 0.5, 1.0)
"""The ways back (RT-14)."""
LEFT = 0.5
"""A target whose share of the last 30 s is below this part of its share before is left already."""
_SECOND_US = 1_000_000


def next_act(
    scene: Scene,
    target: str,
    last: OptimizerActed | None,
    rules: Mapping[str, Rule],
    modes: Mapping[str, str],
) -> OptimizerActed | None:
    """Return what is to be done about a target now, None to leave it as it is."""
    if last is not None and last.state in LIVE:
        return _go_on(scene, last, rules.get(last.rule), modes.get(last.rule, OFF))
    if last is not None and scene.at_us < _rests_until_us(scene, last):
        return None
    if scene.now(target).calls < scene.rules.calls_min or _is_left(scene, target):
        return None
    for name, rule in rules.items():
        if modes.get(name, OFF) != OFF and (finding := rule.find(scene, target, 0)) is not None:
            return _begin(scene, target, last, rule, finding, modes[name])
    return None


def _is_left(scene: Scene, target: str) -> bool:
    """Whether strategies and circuits shift calls away already: they bring them back sooner, too."""
    members = group(scene, target, None)
    last_us = scene.until_us - RECENT_S * 1_000_000
    lately, all_lately = scene.sums([target], last_us).calls, scene.sums(members, last_us).calls
    calls, everything = scene.now(target).calls, scene.sums(members, scene.window_us()).calls
    return lately * everything < LEFT * calls * all_lately


def _rests_until_us(scene: Scene, last: OptimizerActed) -> int:
    """Until when nothing is begun: the cool-down, or longer after what did not help."""
    rests = last.state in {REVERTED, PROPOSED} and last.actor == "streams"
    wait_s = scene.rules.expiry_s if rests else scene.rules.cooldown_s
    return last.stepped_at_us + int(wait_s * _SECOND_US)


def _begin(
    scene: Scene,
    target: str,
    last: OptimizerActed | None,
    rule: Rule,
    finding: Finding,
    mode: str,
) -> OptimizerActed:
    members = group(scene, target, finding.alternative)
    since_us = onset_us(rule, finding, scene, target)
    before, others = (
        rule.read(finding.metric, finding.line, scene.sums(names, since_us))
        for names in (members, members[1:])
    )
    factor = 1.0 - scene.rules.change_max
    share = dict(shares(scene, members))[target]
    number = last.number + 1 if last is not None else 1
    return OptimizerActed(
        event_id=decision_id("optimizer", f"{target}#{number}"),
        occurred_at_us=scene.at_us,
        action_id=f"{rule.name}:{target}#{number}",
        rule=rule.name,
        target=target,
        reason=finding.reason,
        metric=finding.metric,
        before=before.value if finding.before is None else finding.before,
        state=ACTIVE if mode == ON else PROPOSED,
        expires_at_us=scene.at_us + int(scene.rules.expiry_s * _SECOND_US),
        alternative=finding.alternative,
        factor=factor,
        number=number,
        step=1,
        started_at_us=scene.at_us,
        stepped_at_us=scene.at_us,
        window_s=finding.window_s or int(scene.rules.window_s),
        share_before=round(share, 4),
        share_after=round(share * factor, 4),
        evidence={
            **finding.evidence,
            "line": finding.line,
            "floor": finding.floor,
            "hits": before.hits,
            "trials": before.trials,
            "others_hits": others.hits,
            "others_trials": others.trials,
        },
    )


def _go_on(
    scene: Scene, last: OptimizerActed, rule: Rule | None, mode: str
) -> OptimizerActed | None:
    if rule is None or mode == OFF:
        return _change(scene, last, REVERTED, 1.0, "its rule was turned off")
    acts = mode == ON  # what only proposes goes on with what somebody has applied, to its end
    expired = last.expires_at_us is not None and scene.at_us >= last.expires_at_us
    if last.state == RESTORING:
        return _restore_on(scene, last, rule, acts=acts, expired=expired)
    verdict, after = judged(rule, scene, last)
    seen = msgspec.structs.replace(last, verdict=verdict, after=after)
    if verdict == WORSE:
        return _change(scene, seen, REVERTED, 1.0, f"{last.metric} got worse: {_told(seen)}")
    if scene.at_us < last.stepped_at_us + int(scene.rules.cooldown_s * _SECOND_US):
        return None
    if rule.cleared(scene, last):
        return _restore(scene, seen, f"its reason has gone; {_told(seen)}")
    finding = rule.find(scene, last.target, last.stepped_at_us) if acts else None
    if finding is not None and verdict == HELPED:
        floor = max(finding.floor, scene.rules.probe_share)
        deeper = max(floor, last.factor * (1.0 - scene.rules.change_max))
        if deeper < last.factor:
            return _change(
                scene, seen, ACTIVE, deeper, f"it helped: {_told(seen)}; {finding.reason}"
            )
    if not expired:
        return None
    if verdict == UNCLEAR and last.verdict != HELPED:
        return _change(scene, seen, REVERTED, 1.0, f"it did not help: {_told(seen)}")
    if finding is None:
        # It may not go on by itself, or too little was heard of it to tell: with more calls it can show.
        return _restore(scene, seen, f"its time is over; {_told(seen)}", ended=EXPIRED)
    return _change(scene, seen, ACTIVE, last.factor, f"renewed: {finding.reason}")


def _restore_on(
    scene: Scene, last: OptimizerActed, rule: Rule, *, acts: bool, expired: bool
) -> OptimizerActed | None:
    """The way back: on if all is well, back down if the reason returns."""
    if scene.at_us < last.stepped_at_us + int(scene.rules.cooldown_s * _SECOND_US):
        return None
    finding = rule.find(scene, last.target, last.stepped_at_us) if acts else None
    if finding is not None:
        down = max(finding.floor, last.factor * (1.0 - scene.rules.change_max))
        return _change(scene, last, ACTIVE, min(down, last.factor), f"again: {finding.reason}")
    if rule.cleared(scene, last) or expired:
        return _restore(scene, last, "all is well")
    return None


def _restore(
    scene: Scene, last: OptimizerActed, reason: str, ended: str = RESTORED
) -> OptimizerActed:
    factor = next(share for share in RETURN if share > last.factor)
    return _change(scene, last, RESTORING if factor < 1.0 else ended, factor, reason)


def _change(
    scene: Scene, last: OptimizerActed, state: str, factor: float, reason: str
) -> OptimizerActed:
    number = last.number + 1
    share = last.share_before
    return msgspec.structs.replace(
        last,
        event_id=decision_id("optimizer", f"{last.target}#{number}"),
        occurred_at_us=scene.at_us,
        state=state,
        factor=factor,
        reason=reason,
        number=number,
        step=last.step + 1,
        stepped_at_us=scene.at_us,
        expires_at_us=scene.at_us + int(scene.rules.expiry_s * _SECOND_US)
        if state in LIVE
        else None,
        share_after=None if share is None else round(share * factor, 4),
        actor="streams",
    )


def _told(seen: OptimizerActed) -> str:
    if seen.before is None or seen.after is None:
        return f"{seen.metric} is not known yet"
    return f"{seen.metric} {seen.before:g} before, {seen.after:g} since"
