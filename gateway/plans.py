"""From the name that a client asks for to a plan: all that does not change between its calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import msgspec

from gateway.access import left_of
from gateway.canary import Split, splits
from gateway.state import GatewayState
from gateway.strategies.base import Strategy, Weights
from gateway.upstream import Limits
from schemas.access import Grant
from schemas.clock import now_us
from schemas.discovery import discover
from schemas.errors import ConfigurationError, InvalidRequest, ModelNotFound, NoTargetAvailable
from schemas.events.changes import ProviderChanged, RouteChanged, RouteTarget
from schemas.rewards import TASK_TYPES
from schemas.routing import LOCAL, Decision, Target

AUTO = "auto"
AUTO_STRATEGY = "task_type"
DEFAULTS = RouteChanged(
    event_id="", occurred_at_us=0, entity_version=0, actor="gateway", name="", targets=[]
)
"""A named target that belongs to no route is called with a route's defaults."""
AUTO_ROUTE = msgspec.structs.replace(DEFAULTS, strategy=AUTO_STRATEGY, detect_tasks=True)
"""What `auto` is unless a route of that name says otherwise."""
HINTS = {"cost": "cost_optimized", "latency": "latency_optimized", "quality": "quality_optimized"}
"""What a caller may prefer, and the strategy that does it."""


@dataclass(frozen=True, slots=True)
class Member:
    """A target of a plan; it takes only calls of these task types, complexities and tags."""

    target: Target
    weight: int = 1
    priority: int = 0
    task_types: frozenset[str] = frozenset()
    complexities: frozenset[str] = frozenset()
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything about a name that does not change from request to request.

    `splits` are the canaries of its targets, by target; `last_resort` are models of one's own,
    tried when all members failed. `tasks` are the words for tasks that
    mean anything here. `detects`: task and complexity are found out where the caller
    does not say. `abilities` are the capabilities that some members list and others do not,
    `contexts` their limits on the input (tokens, ascending).
    """

    route: RouteChanged
    name: str
    members: list[Member]
    strategy: Strategy
    weights: Weights | None
    limits: Limits
    splits: Mapping[str, list[Split]]
    last_resort: list[Target]
    tasks: frozenset[str]
    detects: bool
    hints: bool
    by_tags: tuple[str, ...]
    abilities: frozenset[str]
    contexts: list[int]
    decisions: list[Decision] = field(default_factory=list)
    """The one decision that a settled plan comes to, once it was made."""

    @property
    def settled(self) -> bool:
        """Whether there is nothing to decide."""
        return len(self.members) == 1 and not self.splits


@cache
def strategies() -> dict[str, Strategy]:
    """Return the strategies by name."""
    return {item.name: item for item in discover("gateway.strategies", Strategy)}


def hinted(plan: Plan, name: str | None, prefer: str | None) -> str | None:
    """Return the strategy that a caller asks for, if any. Raises InvalidRequest."""
    if name is None and prefer is None:
        return None
    if not plan.hints:
        raise InvalidRequest(
            f"the route '{plan.name}' takes no hints about its strategy",
            action="Leave out x-weir-strategy and x-weir-prefer, or ask for another route.",
        )
    if name is not None:
        if name not in strategies():
            known = ", ".join(sorted(strategies()))
            raise InvalidRequest(f"x-weir-strategy: '{name}' is none of {known}")
        return name
    assert prefer is not None
    if prefer not in HINTS:
        raise InvalidRequest(f"x-weir-prefer: '{prefer}' is none of {', '.join(HINTS)}")
    return HINTS[prefer]


def resolve(state: GatewayState, model: str, grant: Grant | None = None) -> Plan:
    """Return the plan for a model name, of the targets that the key may use.

    Raises ModelNotFound, NoTargetAvailable, ConfigurationError for a route that is set up wrong,
    PermissionDenied.
    """
    route = state.routes.get(model)
    if route is not None:
        members = [member for entry in route.targets if (member := _member(state, entry))]
        left_of(grant, model, members, by_target=False)
        return _build(state, route, route.name, members)
    if model == AUTO:
        members = [Member(target) for target in _callable(state)]
        return _build(state, AUTO_ROUTE, AUTO, left_of(grant, AUTO, members, by_target=True))
    provider, slash, name = model.partition("/")
    if slash and provider in state.providers:
        target = state.targets.get(model) or Target(provider=provider, model=name)
        members = left_of(grant, model, [Member(target)], by_target=False)
        return _build(state, DEFAULTS, model, members)
    same = [Member(target) for target in _callable(state) if target.model == model]
    if same:
        return _build(state, DEFAULTS, model, left_of(grant, model, same, by_target=True))
    raise ModelNotFound(
        f"the model '{model}' does not exist or is not known to this gateway; "
        "GET /v1/models lists what is"
    )


def unlisted(state: GatewayState, model: str, dialect: str) -> str | None:
    """Return where a bare name goes that nobody lists, as ``provider/model``, None for nowhere.

    That is the vendor whose prices know it, the one that the client's own dialect is named after before
    others; else that one, which has models that no list knows yet.
    """
    vendor = dialect.partition("_")[0]
    rows = [row for row in state.providers.values() if row.name != LOCAL]
    rows.sort(key=lambda row: (row.name != vendor, row.name != row.dialect, row.name))
    at_us = now_us()
    for row in rows:
        if state.price(row.name, model, at_us) is not None:
            return f"{row.name}/{model}"
    speaking = [row.name for row in rows if row.dialect == vendor]
    if "/" in model or not speaking or (vendor not in speaking and len(speaking) > 1):
        return None
    return f"{speaking[0]}/{model}"


def _callable(state: GatewayState) -> list[Target]:
    """Every target that can be called, but canaries: these have a share of their baseline's calls."""
    canaries = {split.target.id for found in splits(state).values() for split in found}
    return [
        target
        for target in state.targets.values()
        if target.provider in state.providers and target.id not in canaries
    ]


def _member(state: GatewayState, entry: RouteTarget) -> Member | None:
    provider, _, name = entry.target.partition("/")
    if provider not in state.providers:
        return None
    return Member(
        state.targets.get(entry.target) or Target(provider=provider, model=name),
        entry.weight,
        entry.priority,
        frozenset(entry.task_types),
        frozenset(entry.complexities),
        entry.tags,
    )


def _build(state: GatewayState, route: RouteChanged, name: str, members: list[Member]) -> Plan:
    if not members:
        raise NoTargetAvailable(
            f"the route '{name}' has no target whose provider is enabled",
            action="Set a provider's key (see `weir doctor`) or enable a target.",
            retry_after_seconds=30.0,
        )
    strategy = strategies().get(route.strategy)
    if strategy is None:
        raise ConfigurationError(
            f"the route '{name}' names an unknown strategy: '{route.strategy}'",
            action=f"Choose one of {', '.join(sorted(strategies()))}.",
        )
    listed = [member.target.capabilities for member in members if member.target.capabilities]
    used = {member.target.id for member in members}
    choice = len(members) > 1
    by_entry = any(member.task_types or member.complexities for member in members)
    limits = Limits(
        connect_s=route.connect_timeout_ms / 1000,
        first_token_s=route.first_token_timeout_ms / 1000,
        stall_s=route.stall_timeout_ms / 1000,
        total_s=route.total_timeout_ms / 1000,
    )
    return Plan(
        route=route,
        name=name,
        members=members,
        strategy=strategy,
        weights=_weights(route, strategy),
        limits=limits,
        splits={target: found for target, found in splits(state).items() if target in used},
        last_resort=_last_resort(state, route, used),
        tasks=TASK_TYPES.union(*(m.task_types.union(m.target.task_quality) for m in members)),
        detects=route.detect_tasks or (choice and (strategy.by_task or by_entry)),
        hints=route.options.get("hints", "on") != "off",
        by_tags=tuple(sorted({tag for member in members for tag in member.tags})),
        abilities=frozenset().union(*listed) if choice else frozenset(),
        contexts=sorted({m.target.context_length for m in members if m.target.context_length}),
    )


def _weights(route: RouteChanged, strategy: Strategy) -> Weights | None:
    """A strategy's weights, each of which a route may set anew. Raises ConfigurationError."""
    weights = strategy.weights
    if weights is None:
        return None
    given = {
        name: text for name, text in route.options.items() if name in Weights.__struct_fields__
    }
    try:
        weights = msgspec.structs.replace(weights, **{k: float(v) for k, v in given.items()})
    except ValueError as error:
        raise ConfigurationError(
            f"the route '{route.name}' has a weight that is no number: {error}",
            action="Give quality, success, latency and cost as numbers in the route's options.",
        ) from error
    values = msgspec.structs.astuple(weights)
    if min(values) < 0 or sum(values) <= 0:
        raise ConfigurationError(
            f"the route '{route.name}' has weights below zero, or none above",
            action="Give quality, success, latency and cost as numbers of at least 0.",
        )
    return weights


def is_own(provider: ProviderChanged) -> bool:
    """Whether a provider runs on machines of one's own: it needs no key."""
    return provider.secret is None and not provider.secrets and "auth" not in provider.options


def _last_resort(state: GatewayState, route: RouteChanged, used: set[str]) -> list[Target]:
    """A model of one's own for when all members failed (RT-08); never for a target by its name."""
    if route is DEFAULTS or route.options.get("local_fallback", "on") == "off":
        return []
    floor = route.quality_floor or 0.0
    own = [
        target
        for target in _callable(state)
        if target.id not in used
        and is_own(state.providers[target.provider])
        and (not target.capabilities or "chat" in target.capabilities)
        and (floor == 0.0 or (target.quality or 0.0) >= floor)
    ]
    return sorted(own, key=lambda target: -(target.quality or 0.0))[:1]
