"""From a plan and what is known of a call to a decision: which target first, with what probability."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from gateway.ask import Ask
from gateway.canary import side
from gateway.circuits import Circuits
from gateway.dialects.neutral import Usage
from gateway.filters import bound, check_surface, narrow
from gateway.health import HealthBook
from gateway.learning import Arm, Lessons, believed, liked
from gateway.plans import AUTO, DEFAULTS, Member, Plan, hinted, resolve, strategies, unlisted
from gateway.shifts import Find, shifted
from gateway.state import GatewayState
from gateway.strategies.base import Standing, Strategy, Weights
from gateway.utility import leaning, valued
from schemas.access import Allowed, Grant
from schemas.circuits import CLOSED, HALF_OPEN, OPEN
from schemas.clock import now_us
from schemas.errors import ModelNotFound
from schemas.events.canaries import BASELINE, CANARY
from schemas.events.changes import PriceChanged
from schemas.events.llm import Candidate
from schemas.money import to_usd
from schemas.pricing import cost_of
from schemas.routing import Decision, Target

REUSE_S = 0.01
"""Shares are computed at most this often: it saves half of routing's time under load, and no
failure is ignored for longer than a call takes."""
PLANS_MAX = 10_000
"""Unlisted models pass through, so their names must not fill the memory."""
COST_STEPS = 4
"""Calls whose size is alike, within a fourth of an octave, share one computation of costs."""
ANSWER_TOKENS = 500
"""The length expected of an answer where neither the caller nor experience says anything."""
ANY_CALL = Ask()
Key = tuple[object, ...]
UNLISTED = "unlisted"
"""Stands for callers' own words for tasks that no entry of the plan names: they may be endless."""
PROBE = "its circuit is half open: this call probes it"


@dataclass(frozen=True, slots=True)
class Odds:
    """A plan's shares for calls of one kind, for the next few milliseconds."""

    until_s: float
    strategy: str
    targets: list[Target]
    shares: list[float]
    ranking: list[int]
    candidates: list[Candidate]
    note: str
    probes: list[Target]
    last_resort: list[Target]


class Router:
    """Resolves names to plans (kept until the state changes) and plans to decisions."""

    def __init__(
        self,
        state: GatewayState,
        book: HealthBook,
        rng: random.Random | None = None,
        circuits: Circuits | None = None,
        lessons: Lessons | None = None,
    ) -> None:
        self._state = state
        self._book = book
        self._circuits = circuits or Circuits(state.circuit, lambda: state.streams_alive)
        self._lessons = lessons or Lessons(state.rewards, state.liking)
        self._random = (rng or random.Random()).random
        self._plans: dict[tuple[str, tuple[Allowed, ...]], Plan] = {}
        self._seen: tuple[object, object, object] = (None, None, None)
        self._checked_s = 0.0
        self._odds: dict[Key, Odds] = {}

    def plan(self, model: str, grant: Grant | None = None, dialect: str = "") -> Plan:
        """Return the plan for a model name as a key may use it; `dialect` is the client's, by which a
        name that nobody lists finds its vendor.

        Raises ModelNotFound, NoTargetAvailable, ConfigurationError, PermissionDenied.
        """
        now_s = self._book.clock()
        if now_s > self._checked_s + REUSE_S:
            self._checked_s = now_s
            self._forget_outdated()
        narrowed = grant.narrowed if grant else ()
        name = (model, narrowed)
        plan = self._plans.get(name) or self._plans.get((f"{dialect}:{model}", narrowed))
        if plan is None:
            try:
                plan = resolve(self._state, model, grant)
            except ModelNotFound:
                known = unlisted(self._state, model, dialect)
                if known is None:
                    raise
                plan, name = resolve(self._state, known, grant), (f"{dialect}:{model}", narrowed)
            if len(self._plans) >= PLANS_MAX:
                self._plans.clear()
                self._odds.clear()
            self._plans[name] = plan
        return plan

    def decide(self, plan: Plan, ask: Ask = ANY_CALL) -> Decision:
        """Choose the first target and the order of failover. There is always a choice.

        Raises InvalidRequest when no target takes this kind of call.
        """
        if plan.settled:
            check_surface(plan, ask)
            only = plan.members[0].target
            return _settled(plan, self._circuits.remark(only.id))
        odds = self._current(plan, ask)
        for probe in odds.probes:
            if self._circuits.may_probe(probe.id):
                return _probing(odds, probe)
        first = self._draw(odds.shares)
        chosen, propensity = odds.targets[first], odds.shares[first]
        reason = odds.candidates[first].reason + odds.note
        order = [chosen, *(odds.targets[index] for index in odds.ranking if index != first)]
        trials: dict[str, str] = {}
        if chosen.id in plan.splits:
            chosen, part, trials = self._split(plan, chosen, ask)
            propensity *= part
            if chosen is not order[0]:
                reason = f"a canary with {part:.0%} of the traffic of {order[0].id}"
                order.insert(0, chosen)
        return Decision(
            chosen,
            order,
            odds.candidates,
            propensity,
            odds.strategy,
            reason,
            odds.last_resort,
            trials,
        )

    def cost(self, target: Target, ask: Ask) -> int | None:
        """Return what a call is expected to cost at a target, in nano-USD; None when unpriced."""
        produced = self._book.standing(target.id, 1, 0).output_tokens
        usage = Usage(ask.input_tokens, None, _answer(ask, produced, None))
        return cost_of(self._price(target), usage)

    # --- shares ------------------------------------------------------------------------------

    def _current(self, plan: Plan, ask: Ask) -> Odds:
        if ask.task_type is not None and ask.task_type not in plan.tasks:
            ask = msgspec.structs.replace(ask, task_type=UNLISTED)
        key = _kind(plan, ask)
        odds = self._odds.get(key)
        if odds is None or self._book.clock() > odds.until_s:
            if len(self._odds) >= PLANS_MAX:
                self._odds.clear()
            odds = self._odds[key] = self._weigh(plan, ask)
        return odds

    def _weigh(self, plan: Plan, ask: Ask) -> Odds:
        strategy, weights = _rule(plan, ask)
        narrowed = narrow(plan, ask)
        standings = self._standings(plan, narrowed.left, ask, weights)
        arms = self._arms(standings, ask) if strategy.learns else None
        if arms is not None:
            standings = [
                msgspec.structs.replace(item, quality=liked(item, arm))
                for item, arm in zip(standings, arms, strict=True)
            ]
        left, slow, waived = bound(plan, standings)
        probes, spared = list[Target](), list[Target]()
        if plan.route.options.get("circuits", "on") != "off":
            left, probes, spared = by_circuit(left, narrowed.left, self._circuits)
        members = [narrowed.left[index] for index in left]
        chosen = [standings[index] for index in left]
        if weights is not None:
            leant = leaning(weights, ask.complexity)
            chosen = (
                valued(chosen, leant)
                if arms is None
                else believed(chosen, [arms[index] for index in left], leant)
            )
        shares, remarks = shifted(chosen, strategy, self._shift_of(plan))
        candidates = [
            Candidate(
                item.target,
                round(share, 6),
                True,
                _reason(item, weights)
                + self._circuits.remark(item.target)
                + remarks.get(item.target, ""),
            )
            for item, share in zip(chosen, shares, strict=True)
        ]
        candidates += self._canaries(plan, candidates)
        out = [*narrowed.out, *((narrowed.left[index], why) for index, why in slow.items())]
        candidates += [Candidate(member.target.id, 0.0, False, why) for member, why in out]
        candidates += [
            Candidate(target.id, 0.0, False, "left out" + self._circuits.remark(target.id))
            for target in spared
        ]
        waived = [*narrowed.waived, *waived]
        return Odds(
            self._book.clock() + REUSE_S,
            strategy.name,
            [member.target for member in members],
            shares,
            sorted(range(len(members)), key=lambda index: (-shares[index], -chosen[index].utility)),
            candidates,
            f" (all the same: {'; '.join(waived)})" if waived else "",
            probes,
            [*plan.last_resort, *spared],
        )

    def _standings(
        self, plan: Plan, members: list[Member], ask: Ask, weights: Weights | None
    ) -> list[Standing]:
        """Return how the members fare, with what this plan looks at beside their health."""
        standings = [self._book.standing(m.target.id, m.weight, m.priority) for m in members]
        priced = plan.route.max_cost_nano_usd is not None or (weights and weights.cost > 0)
        known = [item.output_tokens for item in standings if item.output_tokens is not None]
        usual = sum(known) / len(known) if known else None
        return [
            msgspec.structs.replace(
                item,
                load=item.load / self._room(member.target.provider),
                quality=member.target.task_quality.get(ask.task_type or "", member.target.quality),
                cost_nano_usd=cost_of(
                    self._price(member.target),
                    Usage(ask.input_tokens, None, _answer(ask, item.output_tokens, usual)),
                )
                if priced
                else None,
                named=ask.task_type in member.task_types,
            )
            for member, item in zip(members, standings, strict=True)
        ]

    def _room(self, provider: str) -> int:
        """How many calls a provider takes at once, 1 where nobody says; it may be gone since the plan."""
        row = self._state.providers.get(provider)
        return (row.concurrency if row is not None else None) or 1

    def _arms(self, standings: list[Standing], ask: Ask) -> list[Arm]:
        """Return what the tables say of each at the call's task."""
        found = []
        for item in standings:
            circuit = self._circuits.of(item.target)
            closed_us = circuit.since_us if circuit.state == CLOSED else 0
            found.append(self._lessons.arm(ask.task_type, item.target, closed_us))
        return found

    def _shift_of(self, plan: Plan) -> Find:
        """Who keeps only a part of its calls; a route with ``optimizer = "off"`` heeds nobody's."""
        if plan.route.options.get("optimizer", "on") == "off":
            return lambda _: None
        return self._state.shift

    def _price(self, target: Target) -> PriceChanged | None:
        return self._state.price(target.provider, target.model, now_us())

    def _draw(self, shares: list[float]) -> int:
        point = self._random()
        for index, share in enumerate(shares):
            point -= share
            if point < 0:
                return index
        return max(range(len(shares)), key=shares.__getitem__)  # rounding left a rest

    # --- canaries ----------------------------------------------------------------------------

    def _split(
        self, plan: Plan, baseline: Target, ask: Ask
    ) -> tuple[Target, float, dict[str, str]]:
        """Return who serves a baseline's call, for which part of its traffic, and in which trials.

        A caller who names neither user nor session is drawn anew for each call: with one key for
        everything it would be all or nothing.
        """
        found = [item for item in plan.splits[baseline.id] if not self._rests(item.target)]
        who = ask.sticky if ask.sticky is not None else str(self._random())
        split = side(found, baseline, who)
        if split is not None:
            return split.target, split.share, {split.trial: CANARY}
        rest = 1.0 - sum(item.share for item in found)
        return baseline, rest, {item.trial: BASELINE for item in found}

    def _canaries(self, plan: Plan, candidates: list[Candidate]) -> list[Candidate]:
        """Give canaries their part of their baselines' scores, which shrink by it."""
        added = []
        for index, candidate in enumerate(candidates):
            found = [
                item
                for item in plan.splits.get(candidate.target, ())
                if not self._rests(item.target)
            ]
            added += [
                Candidate(
                    item.target.id,
                    round(candidate.score * item.share, 6),
                    True,
                    f"a canary with {item.share:.0%} of the traffic of {candidate.target}",
                )
                for item in found
            ]
            part = 1.0 - sum(item.share for item in found)
            candidates[index] = msgspec.structs.replace(
                candidate, score=round(candidate.score * part, 6)
            )
        return added

    def _rests(self, target: Target) -> bool:
        """Whether a canary had better not be called now: its baseline is there."""
        circuit = self._circuits.of(target.id)
        return circuit.state == OPEN or self._book.standing(target.id, 1, 0).cooling

    # --- plans -------------------------------------------------------------------------------

    def _forget_outdated(self) -> None:
        """The state builds new indexes when something changed: the same objects, the same plans."""
        state = self._state
        seen = (state.routes, state.targets, state.providers)
        if any(new is not old for new, old in zip(seen, self._seen, strict=True)):
            self._plans.clear()
            self._odds.clear()
            self._seen = seen


def _settled(plan: Plan, remark: str) -> Decision:
    """Return the decision of a plan that leaves none, with what is to be said of the circuit."""
    if not remark and plan.decisions:
        return plan.decisions[0]
    only, reason = plan.members[0].target, "the only target" + remark
    candidate, name = Candidate(only.id, 1.0, True, reason), plan.strategy.name
    decision = Decision(only, [only], [candidate], 1.0, name, reason, plan.last_resort)
    if not remark:
        plan.decisions.append(decision)
    return decision


def _probing(odds: Odds, probe: Target) -> Decision:
    """Return the decision for a half open target: sure, so that its propensity is 1."""
    others = [
        msgspec.structs.replace(candidate, score=0.0)
        for candidate in odds.candidates
        if candidate.target != probe.id
    ]
    return Decision(
        probe,
        [probe, *(odds.targets[index] for index in odds.ranking)],
        [Candidate(probe.id, 1.0, True, PROBE), *others],
        1.0,
        odds.strategy,
        PROBE,
        [target for target in odds.last_resort if target is not probe],
    )


def by_circuit(
    left: Sequence[int], members: Sequence[Member], circuits: Circuits
) -> tuple[list[int], list[Target], list[Target]]:
    """Return who of `left` may be chosen, who is due for a probe, and who is left out.

    There is always somebody to choose: where no circuit is closed the half open ones serve, and
    where all are open, all do. The last target is never taken away.
    """
    states = {index: circuits.of(members[index].target.id).state for index in left}
    best = next(state for state in (CLOSED, HALF_OPEN, OPEN) if state in states.values())
    fit = [index for index in left if states[index] == best]
    others = {index: members[index].target for index in left if states[index] != best}
    probes = [target for index, target in others.items() if states[index] == HALF_OPEN]
    return fit, probes, list(others.values())


def _kind(plan: Plan, ask: Ask) -> Key:
    """Which calls of a plan share their odds."""
    needed = ask.input_tokens + (ask.max_tokens or 0)
    fits = sum(needed > limit for limit in plan.contexts)
    size = 0
    if plan.weights is not None or ask.strategy or plan.route.max_cost_nano_usd is not None:
        answer = ask.max_tokens or 0
        size = int(COST_STEPS * math.log2(ask.input_tokens + 1)) * 1000
        size += int(COST_STEPS * math.log2(answer + 1))
    tags = tuple(ask.tags.get(tag) for tag in plan.by_tags)
    kind = (ask.surface, ask.needs, ask.task_type, ask.complexity, ask.strategy)
    return id(plan), fits, size, tags, kind


def _rule(plan: Plan, ask: Ask) -> tuple[Strategy, Weights | None]:
    """Return the strategy that decides and its weights: the caller's, where he gave a hint."""
    if ask.strategy is None or ask.strategy == plan.strategy.name:
        return plan.strategy, plan.weights
    strategy = strategies()[ask.strategy]
    return strategy, strategy.weights


def _answer(ask: Ask, produced: float | None, usual: float | None) -> int:
    """Return how many tokens to expect of an answer: the target's own mean, else the others'."""
    mean = produced if produced is not None else usual
    if mean is None:
        return ask.max_tokens if ask.max_tokens is not None else ANSWER_TOKENS
    expected = math.ceil(mean)
    return expected if ask.max_tokens is None else min(expected, ask.max_tokens)


def _reason(standing: Standing, weights: Weights | None) -> str:
    if standing.cooling:
        return "cooling down as the provider asked"
    speed = f", {standing.answer_us / 1000:.0f} ms" if standing.answer_us else ""
    text = f"success {standing.success:.2f}{speed}"
    if weights is None:
        return text
    if standing.quality is not None:
        text += f", quality {standing.quality:.2f}"
    if standing.cost_nano_usd is not None:
        text += f", ${to_usd(standing.cost_nano_usd)}"
    if standing.doubt:
        belief = f"reward {standing.utility:.3f} ± {standing.doubt:.3f}"
        return f"{belief} after {standing.seen:.0f} calls: {text}"
    return f"utility {standing.utility:.3f}: {text}"


__all__ = [
    "AUTO",
    "DEFAULTS",
    "Ask",
    "Plan",
    "Router",
    "hinted",
]
