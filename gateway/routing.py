"""From the name that a client asks for to a decision: which target first, with what probability."""

from __future__ import annotations

import random

import msgspec

from gateway.health import HealthBook, Standing
from gateway.state import GatewayState
from gateway.strategies.base import Strategy, probabilities
from gateway.upstream import Limits
from schemas.discovery import discover
from schemas.errors import ConfigurationError, ModelNotFound, NoTargetAvailable
from schemas.events.changes import RouteChanged, RouteTarget
from schemas.events.llm import Candidate
from schemas.routing import Decision, Target

AUTO = "auto"
DEFAULTS = RouteChanged(
    event_id="", occurred_at_us=0, entity_version=0, actor="gateway", name="", targets=[]
)
"""A named target that belongs to no route is called with a route's defaults."""
REUSE_S = 0.01
"""Shares are computed at most this often: it saves half of routing's time under load, and no
failure is ignored for longer than a call takes."""
PLANS_MAX = 10_000
"""Unlisted models pass through, so their names must not fill the memory."""


class Member(msgspec.Struct, frozen=True):
    """A target of a plan."""

    target: Target
    weight: int
    priority: int


class Plan(msgspec.Struct, frozen=True):
    """Everything about a name that does not change from request to request."""

    route: RouteChanged
    name: str
    members: list[Member]
    strategy: Strategy
    limits: Limits


class Odds(msgspec.Struct, frozen=True):
    """A plan's shares for the next few milliseconds."""

    until_s: float
    targets: list[Target]
    shares: list[float]
    ranking: list[int]
    candidates: list[Candidate]


class Router:
    """Resolves names to plans (kept until the state changes) and plans to decisions."""

    def __init__(
        self, state: GatewayState, book: HealthBook, rng: random.Random | None = None
    ) -> None:
        self._state = state
        self._book = book
        self._random = (rng or random.Random()).random
        self._strategies = {item.name: item for item in discover("gateway.strategies", Strategy)}
        self._plans: dict[str, Plan] = {}
        self._seen: tuple[object, object, object] = (None, None, None)
        self._checked_s = 0.0
        self._odds: dict[tuple[int, bool], Odds] = {}

    def plan(self, model: str) -> Plan:
        """Return the plan for a model name. Raises ModelNotFound, NoTargetAvailable."""
        now_s = self._book.clock()
        if now_s > self._checked_s + REUSE_S:
            self._checked_s = now_s
            self._forget_outdated()
        plan = self._plans.get(model)
        if plan is None:
            plan = self._resolve(model)
            if len(self._plans) >= PLANS_MAX:
                self._plans.clear()
                self._odds.clear()
            self._plans[model] = plan
        return plan

    def decide(self, plan: Plan, *, has_tools: bool) -> Decision:
        """Choose the first target and the order of failover. There is always a choice."""
        members = plan.members
        if len(members) == 1:
            only = members[0].target
            candidate = Candidate(only.id, 1.0, True, "the only target")
            return Decision(only, [only], [candidate], 1.0, plan.strategy.name, "the only target")
        odds = self._odds.get((id(plan), has_tools))
        if odds is None or self._book.clock() > odds.until_s:
            odds = self._odds[id(plan), has_tools] = self._weigh(plan, has_tools)
        first = self._draw(odds.shares)
        targets = odds.targets
        return Decision(
            targets[first],
            [targets[first], *(targets[index] for index in odds.ranking if index != first)],
            odds.candidates,
            odds.shares[first],
            plan.strategy.name,
            odds.candidates[first].reason,
        )

    def _weigh(self, plan: Plan, has_tools: bool) -> Odds:
        able = [item for item in plan.members if not has_tools or _has_tools(item.target)]
        able = able or plan.members
        standings = [
            self._book.standing(member.target.id, member.weight, member.priority) for member in able
        ]
        shares = probabilities(standings, plan.strategy.share(standings))
        candidates = [
            Candidate(standing.target, round(share, 6), True, _reason(standing))
            for standing, share in zip(standings, shares, strict=True)
        ]
        candidates += [
            Candidate(member.target.id, 0.0, False, "it takes no tools")
            for member in plan.members
            if member not in able
        ]
        return Odds(
            self._book.clock() + REUSE_S,
            [member.target for member in able],
            shares,
            sorted(range(len(able)), key=lambda index: -shares[index]),
            candidates,
        )

    def _draw(self, shares: list[float]) -> int:
        point = self._random()
        for index, share in enumerate(shares):
            point -= share
            if point < 0:
                return index
        return max(range(len(shares)), key=shares.__getitem__)  # rounding left a rest

    # --- names -------------------------------------------------------------------------------

    def _forget_outdated(self) -> None:
        """The state builds new indexes when something changed: the same objects, the same plans."""
        state = self._state
        seen = (state.routes, state.targets, state.providers)
        if any(new is not old for new, old in zip(seen, self._seen, strict=True)):
            self._plans.clear()
            self._odds.clear()
            self._seen = seen

    def _resolve(self, model: str) -> Plan:
        route = self._state.routes.get(model)
        if route is not None:
            return self._routed(route)
        if model == AUTO:
            members = [Member(target, 1, 0) for target in self._callable()]
            return self._ad_hoc(AUTO, members)
        provider, slash, name = model.partition("/")
        if slash and provider in self._state.providers:
            target = self._state.targets.get(model) or Target(provider=provider, model=name)
            return self._ad_hoc(model, [Member(target, 1, 0)])
        same = [Member(target, 1, 0) for target in self._callable() if target.model == model]
        if same:
            return self._ad_hoc(model, same)
        raise ModelNotFound(f"the model '{model}' does not exist or is not known to this gateway")

    def _callable(self) -> list[Target]:
        providers = self._state.providers
        return [
            target
            for target in self._state.targets.values()
            if target.provider in providers
            and (not target.capabilities or "chat" in target.capabilities)
        ]

    def _routed(self, route: RouteChanged) -> Plan:
        members = [
            Member(target, entry.weight, entry.priority)
            for entry in route.targets
            if (target := self._target(entry)) is not None
        ]
        return self._build(route, route.name, members)

    def _target(self, entry: RouteTarget) -> Target | None:
        listed = self._state.targets.get(entry.target)
        provider, _, name = entry.target.partition("/")
        if provider not in self._state.providers:
            return None
        return listed or Target(provider=provider, model=name)

    def _ad_hoc(self, name: str, members: list[Member]) -> Plan:
        return self._build(DEFAULTS, name, members)

    def _build(self, route: RouteChanged, name: str, members: list[Member]) -> Plan:
        if not members:
            raise NoTargetAvailable(
                f"the route '{name}' has no target whose provider is enabled",
                action="Set a provider's key (see `weir doctor`) or enable a target.",
                retry_after_seconds=30.0,
            )
        limits = Limits(
            connect_s=route.connect_timeout_ms / 1000,
            first_token_s=route.first_token_timeout_ms / 1000,
            stall_s=route.stall_timeout_ms / 1000,
            total_s=route.total_timeout_ms / 1000,
        )
        strategy = self._strategies.get(route.strategy)
        if strategy is None:
            raise ConfigurationError(
                f"the route '{name}' names an unknown strategy: '{route.strategy}'",
                action=f"Choose one of {', '.join(sorted(self._strategies))}.",
            )
        return Plan(route, name, members, strategy, limits)


def _has_tools(target: Target) -> bool:
    return not target.capabilities or "tools" in target.capabilities


def _reason(standing: Standing) -> str:
    if standing.cooling:
        return "cooling down as the provider asked"
    speed = f", {standing.answer_us / 1000:.0f} ms" if standing.answer_us else ""
    return f"success {standing.success:.2f}{speed}"
