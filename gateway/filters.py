"""Which members of a plan can take a call. Each filter leaves out only while others remain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from gateway.ask import Ask
from gateway.plans import Member, Plan
from gateway.strategies.base import Standing
from schemas.errors import InvalidRequest

SURFACES = frozenset(
    {
        "chat",
        "completions",
        "embeddings",
        "images",
        "speech",
        "transcription",
        "moderation",
        "rerank",
    }
)
"""Capabilities that are kinds of calls: a target that lists some takes no others."""


@dataclass(frozen=True, slots=True)
class Narrowed:
    """Who remains, who is left out and why, and which filters nobody would have passed."""

    left: list[Member]
    out: list[tuple[Member, str]]
    waived: list[str]


def narrow(plan: Plan, ask: Ask) -> Narrowed:
    """Apply the filters that need no live figures.

    Raises InvalidRequest when no member takes this kind of call at all: waiting does not help.
    """
    left, out, waived = plan.members, [], []
    check_surface(plan, ask)
    for why, holds in _static(plan, ask):
        kept = [member for member in left if holds(member)]
        if not kept:
            waived.append(why)
        elif len(kept) < len(left):
            out += [(member, why) for member in left if member not in kept]
            left = kept
    return Narrowed(left, out, waived)


def check_surface(plan: Plan, ask: Ask) -> None:
    """Raise InvalidRequest when no member takes this kind of call at all."""
    if not any(_serves(member, ask.surface) for member in plan.members):
        raise InvalidRequest(
            f"no target of '{plan.name}' takes {ask.surface} calls",
            action=f"Name a model for {ask.surface}: GET /api/v1/models lists what each can do.",
        )


def _static(plan: Plan, ask: Ask) -> Iterator[tuple[str, Callable[[Member], bool]]]:
    yield f"it takes no {ask.surface} calls", lambda member: _serves(member, ask.surface)
    for need in sorted(ask.needs & plan.abilities):
        yield f"it takes no {need}", partial(_lists, need)
    if plan.contexts and ask.input_tokens + (ask.max_tokens or 0) > plan.contexts[0]:
        wanted = ask.input_tokens + (ask.max_tokens or 0)
        yield (
            f"its context is too short for about {wanted} tokens",
            lambda member: (member.target.context_length or wanted) >= wanted,
        )
    if any(member.task_types for member in plan.members):
        yield (
            f"its rule is not for the task {ask.task_type or 'general'}",
            lambda member: _takes(member.task_types, ask.task_type or "general"),
        )
    if any(member.complexities for member in plan.members):
        yield (
            f"its rule is not for {ask.complexity or 'standard'} calls",
            lambda member: _takes(member.complexities, ask.complexity or "standard"),
        )
    if plan.by_tags:
        yield (
            "its rule is for other tags",
            lambda member: all(ask.tags.get(tag) == value for tag, value in member.tags.items()),
        )


def bound(plan: Plan, standings: Sequence[Standing]) -> tuple[list[int], dict[int, str], list[str]]:
    """Apply the route's bounds on quality, cost and latency to live figures.

    Returns the indexes that remain, why the others do not, and the bounds that nobody keeps.
    What is not known does not keep a bound.
    """
    left = list(range(len(standings)))
    out: dict[int, str] = {}
    waived: list[str] = []
    for why, holds in _bounds(plan):
        kept = [index for index in left if holds(standings[index])]
        if not kept:
            waived.append(why)
            continue
        out |= dict.fromkeys(set(left) - set(kept), why)
        left = kept
    return left, out, waived


def _bounds(plan: Plan) -> Iterator[tuple[str, Callable[[Standing], bool]]]:
    route = plan.route
    floor, dear, slow = route.quality_floor, route.max_cost_nano_usd, route.max_latency_ms
    if floor is not None:
        yield (
            f"below the quality floor of {floor:g}",
            lambda item: item.quality is not None and item.quality >= floor,
        )
    if dear is not None:
        yield (
            f"above the cost of ${dear / 1e9:g} a call",
            lambda item: item.cost_nano_usd is not None and item.cost_nano_usd <= dear,
        )
    if slow is not None:
        # A target without a measurement is given the chance to make one.
        yield (
            f"slower than {slow} ms (p95)",
            lambda item: item.p95_us is None or item.p95_us <= slow * 1000,
        )


def _serves(member: Member, surface: str) -> bool:
    capabilities = member.target.capabilities
    return surface in capabilities or capabilities.isdisjoint(SURFACES)


def _lists(need: str, member: Member) -> bool:
    return not member.target.capabilities or need in member.target.capabilities


def _takes(kinds: frozenset[str], kind: str) -> bool:
    return not kinds or kind in kinds
