"""One admitted call on its way: what was decided, tried, said and spent; and its events."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import msgspec

from gateway.admission import BYTES_PER_TOKEN, Admitted
from gateway.ask import Ask
from gateway.budgets import Hold
from gateway.cache import Kept
from gateway.client import JSON, Client, Headers
from gateway.dialects.neutral import Answer, Receipt, Text, Thinking, ToolCall, Usage
from gateway.guardrails.guard import Guard
from gateway.ledger import cost_entry, total, wasted_entry
from gateway.outbound import Turn
from gateway.route_info import RouteInfo, as_header, route_info
from gateway.routing import Plan
from gateway.runs import Ticket
from gateway.state import GatewayState
from gateway.upstream import Failed
from schemas.circuits import CLOSED
from schemas.clock import now_us
from schemas.errors import UpstreamError, WeirError
from schemas.events.changes import PriceChanged
from schemas.events.llm import Attempt, CostEntry, RequestAdmitted, ResponseCompleted
from schemas.identity import uuid7
from schemas.money import to_usd
from schemas.pricing import ESTIMATED_SURFACES, cost_of
from schemas.routing import LOCAL, Decision, Target

TOKENS_MAX: Final = 1 << 40
NAMES_MAX = 32
_NOTHING: Final = Usage()
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Call:
    """Mutable; belongs to the task that serves it."""

    def __init__(
        self,
        admitted: Admitted,
        client: Client,
        plan: Plan,
        decision: Decision,
        ask: Ask,
        started_s: float,
        longest_s: float = math.inf,
    ) -> None:
        self.admitted = admitted
        self.streams = admitted.opening.stream
        self.client = client
        self.plan = plan
        self.decision = decision
        self.ask = ask
        timeout_s = admitted.opening.timeout_s or plan.limits.total_s
        self.deadline_s = started_s + min(plan.limits.total_s, timeout_s, longest_s)
        self.attempts: list[Attempt] = []
        self.tries = 0
        self.answer: Answer | None = None
        self.vendor_headers: Headers = []
        self.dropped: list[str] = []
        self.answer_type = JSON
        self.record: bytes | None = None
        self.target = decision.chosen
        self.circuit = CLOSED
        self.wasted: list[tuple[Target, Usage]] = []
        self.wasted_costs: list[CostEntry] = []
        self.settled = False
        self.decision_us = 0
        self.estimate: Callable[[Target, Ask], int | None] = _unknown
        self.hold: Hold | None = None
        self.turn: Turn | None = None
        self.content_sent = False
        self.first_token_us: int | None = None
        self.response: ResponseCompleted | None = None
        self.guard: Guard | None = None
        self.ticket: Ticket | None = None
        self.cache_key: bytes | None = None
        self.hit: Kept | None = None
        self.refused: Failed | None = None
        self._prices: dict[str, PriceChanged | None] = {}

    @property
    def elapsed_us(self) -> int:
        """Microseconds since the request came in."""
        return (time.perf_counter_ns() - self.admitted.started_ns) // 1000

    # --- events ------------------------------------------------------------------------------
    # Every event repeats who asked for what of which target. The two that each call has spell it
    # out: by way of `common` they take 1.7 times as long to make.

    def admission(self, worker: str, outbox_id: str, state: GatewayState) -> RequestAdmitted:
        """Return the event that begins the call."""
        admitted, decision, target = self.admitted, self.decision, self.target
        key = admitted.key
        self.decision_us = self.elapsed_us
        max_tokens = admitted.opening.max_tokens
        if max_tokens is None:
            max_tokens = target.max_output_tokens
        price, hold = self._price(state), self.hold
        return RequestAdmitted(
            event_id=uuid7(),
            occurred_at_us=admitted.received_us,
            request_id=admitted.request_id,
            key_id=key.key_id,
            organization=admitted.grant.organization,
            team=key.team,
            project=key.project,
            user_id=admitted.user_id,
            cost_center=key.cost_center,
            route=self.plan.name,
            task_type=self.ask.task_type,
            target=target.id,
            provider=target.provider,
            model=target.model,
            deployment_id=target.deployment_id,
            surface=admitted.front.surface,
            session_id=admitted.session_id,
            tags=admitted.tags,
            dialect=admitted.front.name,
            endpoint=admitted.endpoint,
            model_requested=admitted.opening.model,
            strategy=decision.strategy,
            stream=admitted.opening.stream,
            propensity=decision.propensity,
            candidates=decision.candidates,
            input_tokens_estimate=admitted.input_tokens_estimate,
            max_output_tokens=max_tokens,
            reserved_nano_usd=self._bound(price, max_tokens) if hold is None else hold.amount,
            budgets=[] if hold is None else hold.names,
            durability=self.plan.route.durability,
            worker=worker,
            outbox_id=outbox_id,
            decision_us=self.decision_us,
            reason=decision.reason,
            task_confidence=self.ask.confidence,
            complexity=self.ask.complexity,
            traceparent=admitted.traceparent,
        )

    def completion(
        self,
        state: GatewayState,
        *,
        outcome: str,
        status: int | None,
        answer: Answer | None,
        error: WeirError | None = None,
    ) -> tuple[ResponseCompleted, CostEntry]:
        """Return the events that end the call."""
        admitted, key, target = self.admitted, self.admitted.key, self.target
        usage, basis = self._usage(answer, outcome)
        response = ResponseCompleted(
            event_id=uuid7(),
            occurred_at_us=now_us(),
            request_id=admitted.request_id,
            key_id=key.key_id,
            organization=admitted.grant.organization,
            team=key.team,
            project=key.project,
            user_id=admitted.user_id,
            cost_center=key.cost_center,
            route=self.plan.name,
            task_type=self.ask.task_type,
            target=target.id,
            provider=target.provider,
            model=target.model,
            deployment_id=target.deployment_id,
            surface=admitted.front.surface,
            outcome=outcome,
            status=status,
            error_code=error.code if error else None,
            attempts=self.attempts,
            input_tokens=usage.input_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            output_tokens=usage.output_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            cache_write_input_tokens=usage.cache_write_input_tokens,
            units=self._units(answer, outcome),
            usage_basis=basis,
            finish_reason=answer.finish if answer else None,
            stream=admitted.opening.stream,
            latency_us=self.elapsed_us,
            first_token_us=self.first_token_us,
            cache=None if self.hit is None else "hit",
            guardrails=self.guard.acted if self.guard is not None else {},
            trials=self.decision.trials,
        )
        received_us = admitted.received_us
        cost = cost_entry(response, self._price(state), received_us)
        if self.hold is not None:
            cost = msgspec.structs.replace(cost, budgets=self.hold.names)
        if self.hit is not None:
            cost = msgspec.structs.replace(cost, cache_saved_nano_usd=self.hit.cost_nano_usd)
        self.wasted_costs = [
            msgspec.structs.replace(
                wasted_entry(response, one, used, self.price_of(state, one), received_us),
                budgets=cost.budgets,
            )
            for one, used in self.wasted
        ]
        lines = [cost, *self.wasted_costs]
        # Nobody has seen this event yet: to complete it here costs less than to copy it.
        msgspec.structs.force_setattr(response, "cost_nano_usd", total(lines))
        self.response = response
        passed = self.client.passed
        if passed is not None and usage.input_tokens is not None:
            passed.tokens_used = usage.input_tokens + (usage.output_tokens or 0)
        return response, cost

    def note_attempt(
        self, started_ns: int, outcome: str, error: UpstreamError | None, status: int | None
    ) -> None:
        """Note how an attempt at the target ended; `started_ns` is of `time.perf_counter_ns`."""
        latency_us = (time.perf_counter_ns() - started_ns) // 1000
        error_class = error.error_class if error else None
        self.attempts.append(
            Attempt(self.target.id, outcome, error_class, status, latency_us, self.first_token_us)
        )

    def waste(self) -> None:
        """Remember what an attempt produced before another begins: it was not shown to anybody,
        but its provider wants to be paid.
        """
        if self.answer is not None and self.answer.parts:
            usage, basis = self._usage(self.answer, "failed")
            if basis != "none":
                self.wasted.append((self.target, usage))
        self.answer = None

    def wasted_nano_usd(self, state: GatewayState, provider: str | None = None) -> int:
        """Return what such attempts cost so far, at one provider or at all; what cannot be priced
        counts nothing.
        """
        priced = [
            cost_of(self.price_of(state, one), usage, {})
            for one, usage in self.wasted
            if provider in {None, one.provider}
        ]
        return sum(cost for cost in priced if cost is not None)

    def _price(self, state: GatewayState) -> PriceChanged | None:
        return self.price_of(state, self.target)

    def price_of(self, state: GatewayState, target: Target) -> PriceChanged | None:
        """Return a target's price when the request came in."""
        name = target.id
        if name not in self._prices:
            at_us = self.admitted.received_us
            self._prices[name] = state.price(target.provider, target.model, at_us)
        return self._prices[name]

    def common(self) -> dict[str, Any]:
        """Return what every event of this call repeats."""
        key, target = self.admitted.key, self.target
        return {
            "request_id": self.admitted.request_id,
            "key_id": key.key_id,
            "organization": self.admitted.grant.organization,
            "team": key.team,
            "project": key.project,
            "user_id": self.admitted.user_id,
            "cost_center": key.cost_center,
            "route": self.plan.name,
            "task_type": self.ask.task_type,
            "target": target.id,
            "provider": target.provider,
            "model": target.model,
            "deployment_id": target.deployment_id,
            "surface": self.admitted.front.surface,
        }

    def _bound(self, price: PriceChanged | None, max_tokens: int | None) -> int | None:
        """What the call costs at most, None where nothing bounds or prices it."""
        admitted, usage = self.admitted, _NOTHING
        if admitted.front.surface in ESTIMATED_SURFACES:
            # Every token is at least one byte: the body's size bounds the input from above.
            usage = Usage(len(admitted.body), None, max_tokens)
        return cost_of(price, usage, admitted.opening.units)

    def _units(self, answer: Answer | None, outcome: str) -> dict[str, int]:
        """What is billed beside tokens: as the provider says, under the request's fuller name."""
        asked = self.admitted.opening.units
        said = answer.units if answer else {}
        if not asked and not said:
            return {}
        fuller = {name.partition("/")[0]: name for name in asked}
        units = {fuller.get(name, name): count for name, count in said.items()}
        return {**asked, **units} if outcome == "success" else units

    def _usage(self, answer: Answer | None, outcome: str) -> tuple[Usage, str]:
        """Return tokens and where they come from; what is not known is estimated and says so."""
        if self.hit is not None:
            return _NOTHING, "none"  # nobody was called, so nothing was used
        usage = plausible((answer.usage if answer else None) or _NOTHING)
        # What the provider has counted may be refused: by a guardrail at its end, or as untellable.
        ended = self.guard is not None and answer is not None and answer.finish is not None
        refused = ended or (answer is not None and answer.untold is not None)
        complete = outcome == "success" or refused
        if complete and usage.input_tokens is not None and usage.output_tokens is not None:
            return usage, "reported"
        if self.admitted.front.surface not in ESTIMATED_SURFACES:
            known = complete and (self.admitted.opening.units or (answer and answer.units))
            return usage, "counted" if known else "none"
        if answer is None or not (answer.parts or complete):
            return _NOTHING, "none"
        produced = max(usage.output_tokens or 0, estimate_tokens(answer))
        if self.hold is not None and self.hold.output_max is not None:
            produced = min(produced, self.hold.output_max)  # the provider was told to stop there
        return (
            Usage(
                usage.input_tokens or self.admitted.input_tokens_estimate,
                usage.cached_input_tokens,
                produced,
                usage.reasoning_tokens,
                usage.cache_write_input_tokens,
            ),
            "estimated",
        )

    # --- what the client is told -----------------------------------------------------------------

    def headers(self) -> Headers:
        """Return the response headers that tell what is known by now."""
        request_id = self.admitted.request_id.encode()
        headers = [
            (b"x-weir-request-id", request_id),
            (b"x-request-id", request_id),
            (b"request-id", request_id),
            (b"x-weir-model", _header_value(self.target.id)),
            (b"x-weir-route", _header_value(self.plan.name)),
            (b"x-weir-attempts", b"%d" % self.tries),
            *self.vendor_headers,
            *self.client.limit_headers,
        ]
        if self.circuit != CLOSED:
            headers.append((b"x-weir-circuit", self.circuit.encode()))
        if self.hit is not None:
            headers.append((b"x-weir-cache", b"hit"))
        if self.guard is not None and self.guard.acted:
            headers.append((b"x-weir-guardrails", _names(list(self.guard.acted))))
        if self.explains:
            headers.append((b"x-weir-route-info", as_header(self.info())))
        if self.dropped:
            headers.append((b"x-weir-dropped-params", _names(self.dropped)))
        if self.response is not None and self.response.cost_nano_usd is not None:
            headers.append((b"x-weir-cost-usd", to_usd(self.response.cost_nano_usd).encode()))
        return headers

    @property
    def explains(self) -> bool:
        """Whether the caller wants to know how his call was routed."""
        return self.client.header(b"x-weir-explain") == "1"

    def info(self) -> RouteInfo:
        """Return how the call was routed, as far as it has come."""
        return route_info(
            self.decision,
            self.ask,
            target=self.target,
            attempts=self.attempts,
            cost_nano_usd=self.estimate(self.decision.chosen, self.ask),
            decision_us=self.decision_us,
        )

    def receipt(self) -> Receipt:
        """Return what the settled call came to."""
        response = self.response
        assert response is not None, "a receipt is written after the settlement"
        cost = response.cost_nano_usd
        return Receipt(
            request_id=self.admitted.request_id,
            route=self.plan.name,
            target=self.target.id,
            provider=self.target.provider,
            model=self.target.model,
            model_type=_model_type(self.target),
            deployment_id=self.target.deployment_id,
            attempts=self.tries,
            latency_ms=response.latency_us / 1000,
            cost_usd=None if cost is None else to_usd(cost),
            cache_hit=self.hit is not None,
            asked=self.explains,
            route_info=self.info,
            usage=Usage(
                response.input_tokens,
                response.cached_input_tokens,
                response.output_tokens,
                response.reasoning_tokens,
                response.cache_write_input_tokens,
            ),
        )


def _unknown(target: Target, ask: Ask) -> int | None:
    del target, ask
    return None


def plausible(usage: Usage) -> Usage:
    """Return usage without counts that cannot be true: a provider's slip is no negative cost."""
    counts: tuple[int | None, ...] = (
        usage.input_tokens,
        usage.cached_input_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
        usage.cache_write_input_tokens,
    )
    for count in counts:
        if count is not None and not 0 <= count <= TOKENS_MAX:
            return Usage(*(c if c is not None and 0 <= c <= TOKENS_MAX else None for c in counts))
    return usage


def estimate_tokens(answer: Answer) -> int:
    """Return about how many tokens an answer has."""
    size = 0
    for part in answer.parts:
        match part:
            case Text() | Thinking():
                size += len(part.text.encode("utf-8", "replace"))
            case ToolCall():
                size += len(part.name) + len(part.arguments)
    return -(-size // BYTES_PER_TOKEN)


def _model_type(target: Target) -> str:
    if target.deployment_id is not None:
        return "fine_tuned"
    return "local" if target.provider == LOCAL else "commercial"


def _names(names: list[str]) -> bytes:
    """Parameters' names as a header: callers write them, so only what can be one is repeated."""
    plain = [name for name in names if _NAME.fullmatch(name)]
    return ",".join(plain[:NAMES_MAX]).encode() or b"(unprintable)"


@lru_cache(maxsize=4_096)
def _header_value(text: str) -> bytes:
    return text.encode("ascii", "backslashreplace").replace(b"\r", b"").replace(b"\n", b"")
