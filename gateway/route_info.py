"""What a caller may know of how his call was routed (RT-03)."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec

from gateway.ask import Ask
from schemas.events.llm import Attempt
from schemas.money import to_usd
from schemas.routing import Decision, Target


class TriedTarget(msgspec.Struct, frozen=True):
    """One attempt; `outcome` is success, failed or cancelled."""

    provider: str
    outcome: str
    latency_ms: float


class RouteInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Where a call goes and why.

    `provider` and `model` are those of the latest attempt, at first the chosen ones; `detected`
    says that the task was found out (with `confidence`) and not said by the caller.
    """

    provider: str
    model: str
    task_type: str | None
    detected: bool
    confidence: float | None
    complexity: str | None
    strategy: str
    reason: str
    attempts: list[TriedTarget]
    fallback_used: bool
    estimated_cost_usd: str | None
    decision_ms: float


def route_info(
    decision: Decision,
    ask: Ask,
    *,
    target: Target,
    attempts: Sequence[Attempt] = (),
    cost_nano_usd: int | None,
    decision_us: int,
) -> RouteInfo:
    """Return what is known of a call at this moment; `cost_nano_usd` is the estimate."""
    return RouteInfo(
        provider=target.provider,
        model=target.model,
        task_type=ask.task_type,
        detected=ask.detected,
        confidence=ask.confidence,
        complexity=ask.complexity,
        strategy=decision.strategy,
        reason=decision.reason,
        attempts=[
            TriedTarget(
                attempt.target.partition("/")[0], attempt.outcome, attempt.latency_us / 1000
            )
            for attempt in attempts
        ],
        fallback_used=target.id != decision.chosen.id,
        estimated_cost_usd=None if cost_nano_usd is None else to_usd(cost_nano_usd),
        decision_ms=decision_us / 1000,
    )


def as_header(info: RouteInfo) -> bytes:
    """Return the header's value: JSON on one line, in ASCII."""
    return json.dumps(msgspec.to_builtins(info), separators=(",", ":")).encode("ascii")
