"""Routing looked at without a call: `POST /routing/preview`, `GET /routing/status` (RT-16)."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from gateway.admission import admit
from gateway.client import Client
from gateway.dialects.neutral import Chat, ClientDialect, Fields, Opening
from gateway.dialects.openai_chat import OPENAI
from gateway.generate import GENERATE, GenerateDialect
from gateway.plans import AUTO, AUTO_STRATEGY, HINTS, strategies
from gateway.proxy import Proxy
from gateway.route_info import RouteInfo, route_info
from gateway.settings import GatewaySettings
from gateway.state import GatewayState
from schemas.errors import InvalidRequest
from schemas.events.llm import Candidate
from schemas.identity import uuid7
from schemas.routing import Target

PREVIEW_PATHS = frozenset({"/routing/preview", "/api/v1/routing/preview"})
STATUS_PATHS = frozenset({"/routing/status", "/api/v1/routing/status"})
PAGE_MAX = 1_000
OWN_MEMBERS = frozenset({"prompt", "model_id", "modelId"})
"""What only a body of POST /generate has; any other is read as a chat completion."""


class Either(GenerateDialect):
    """Reads a body of POST /generate or of a chat completion, whichever it is."""

    def open(self, fields: Fields) -> Opening:
        return _dialect(fields).open(fields)

    def read_request(self, fields: Fields) -> Chat:
        chat: Chat = _dialect(fields).read_request(fields)
        return chat


def _dialect(fields: Fields) -> ClientDialect:
    return OPENAI if OWN_MEMBERS.isdisjoint(fields) else GENERATE


EITHER = Either()


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """A whole decision. A candidate's `score` is the probability that a call begins there."""

    model: str
    route: str
    strategy: str
    target: str
    propensity: float
    reason: str
    candidates: list[Candidate]
    failover: list[str]
    last_resort: list[str]
    input_tokens_estimate: int
    needs: list[str]
    route_info: RouteInfo


async def preview(
    client: Client, proxy: Proxy, state: GatewayState, settings: GatewaySettings
) -> bytes:
    """Decide as for a real call, and call nobody. Raises what a real call would be refused with."""
    admitted = await admit(client, EITHER, {}, state, uuid7(), settings)
    began_ns = time.perf_counter_ns()
    front = _dialect(admitted.fields)
    plan = proxy.router.plan(admitted.opening.model, admitted.grant, front.name)
    ask = await proxy.asker.ask(client, admitted, plan)
    decision = proxy.router.decide(plan, ask)
    info = route_info(
        decision,
        ask,
        target=decision.chosen,
        cost_nano_usd=proxy.router.cost(decision.chosen, ask),
        decision_us=(time.perf_counter_ns() - began_ns) // 1000,
    )
    return msgspec.json.encode(
        Preview(
            model=admitted.opening.model,
            route=plan.name,
            strategy=decision.strategy,
            target=decision.chosen.id,
            propensity=decision.propensity,
            reason=decision.reason,
            candidates=decision.candidates,
            failover=[target.id for target in decision.order[1:]],
            last_resort=[target.id for target in decision.last_resort],
            input_tokens_estimate=ask.input_tokens,
            needs=sorted(ask.needs),
            route_info=info,
        )
    )


def status(client: Client, proxy: Proxy, state: GatewayState, worker: str) -> bytes:
    """Return routing as this worker sees it: strategies, routes, and how each target fares.

    Raises InvalidRequest for bounds that are no numbers.
    """
    limit, offset = _page(client)
    found = [_target(proxy, state, target) for target in state.targets.values()]
    routes: list[dict[str, Any]] = [{"name": AUTO, "strategy": AUTO_STRATEGY, "targets": None}]
    if AUTO in state.routes:
        routes = []
    routes += [
        {
            "name": route.name,
            "strategy": route.strategy,
            "targets": [entry.target for entry in route.targets],
        }
        for route in state.routes.values()
    ]
    return msgspec.json.encode(
        {
            "worker": worker,
            "streams_alive": state.streams_alive,
            "strategies": sorted(strategies()),
            "hints": {"prefer": sorted(HINTS), "strategy": sorted(strategies())},
            "routes": routes,
            "targets": found[offset : offset + limit],
            "total": len(found),
            "limit": limit,
            "offset": offset,
        }
    )


def _target(proxy: Proxy, state: GatewayState, target: Target) -> dict[str, Any]:
    standing = proxy.book.standing(target.id, 1, 0)
    circuit = proxy.circuits.of(target.id)
    return {
        "target": target.id,
        "available": target.provider in state.providers,
        "success": round(standing.success, 4),
        "answer_ms": None if standing.answer_us is None else standing.answer_us / 1000,
        "p95_ms": None if standing.p95_us is None else standing.p95_us / 1000,
        "in_flight": int(standing.load),
        "cooling": standing.cooling,
        "circuit": circuit.state,
        "quality": target.quality,
        "task_quality": target.task_quality,
        "deployment_id": target.deployment_id,
    }


def _page(client: Client) -> tuple[int, int]:
    query = dict(parse_qsl(client.query.decode("latin-1")))
    try:
        limit, offset = int(query.get("limit", "100")), int(query.get("offset", "0"))
    except ValueError as error:
        raise InvalidRequest("limit and offset must be numbers") from error
    if not 1 <= limit <= PAGE_MAX or offset < 0:
        raise InvalidRequest(f"limit must lie within 1 and {PAGE_MAX}, offset must not be below 0")
    return limit, offset
