"""A world as events: what a gateway that routes by `policy` would have written to the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid5

import numpy as np

from bench.simulator.traffic import Calls, Outcomes, calls, outcomes, tasks
from bench.simulator.world import World
from schemas.events.llm import Attempt, CostEntry, ResponseCompleted

Policy = Callable[[Calls, Outcomes], np.ndarray]
"""From calls to the index of the target that serves each; the outcomes are for oracles."""

_IDS = UUID("5f0c1f3e-6d0a-4c53-9a0b-4a4f6b9d1c11")


def as_wanted(made: Calls, _: Outcomes) -> np.ndarray:
    """Static routing: every call goes where it was always sent."""
    return made.wanted


def events(
    world: World,
    *,
    from_s: float,
    to_s: float,
    policy: Policy = as_wanted,
    route: str = "simulated",
) -> Iterator[ResponseCompleted | CostEntry]:
    """Yield each call's response and, where it cost something, its settled cost, by start of call.

    Events carry the time at which the call ended, so these are a little out of order, as in life.
    """
    names = tasks(world)
    for made in calls(world, from_s, to_s):
        found = outcomes(world, made)
        chosen = policy(made, found)
        for row in range(len(made)):
            yield from _call(world, made, found, row, int(chosen[row]), route, names)


def _call(
    world: World,
    made: Calls,
    found: Outcomes,
    row: int,
    chosen: int,
    route: str,
    names: list[str],
) -> Iterator[ResponseCompleted | CostEntry]:
    process, user = world.targets[chosen], world.users[made.user[row]]
    good = bool(found.good[row, chosen])
    latency_us = int(found.latency_us[row, chosen])
    ended_us = int((world.start_s + float(made.at_s[row])) * 1e6) + latency_us
    request_id = str(uuid5(_IDS, f"{world.seed}-{made.number[row]}"))
    provider, _, model = process.target.partition("/")
    first_us = int(found.first_token_us[row, chosen]) if good else None
    cost = int(found.cost_nano_usd[row, chosen])
    input_tokens, output_tokens = int(made.input_tokens[row]), int(made.output_tokens[row])
    about: dict[str, Any] = {
        "occurred_at_us": ended_us,
        "request_id": request_id,
        "key_id": f"key-{user.team}",
        "team": user.team,
        "user_id": user.name,
        "route": route,
        "task_type": names[made.task[row]],
        "target": process.target,
        "provider": provider,
        "model": model,
    }
    yield ResponseCompleted(
        event_id=f"{request_id}-response",
        **about,
        outcome="success" if good else "failed",
        status=200 if good else 503,
        attempts=[
            Attempt(
                process.target,
                "success" if good else "failed",
                None if good else "server",
                200 if good else 503,
                latency_us,
                first_us,
            )
        ],
        input_tokens=input_tokens if good else None,
        output_tokens=output_tokens if good else None,
        usage_basis="reported" if good else "none",
        finish_reason="stop" if good else None,
        stream=False,
        latency_us=latency_us,
        first_token_us=first_us,
        cost_nano_usd=cost if good else None,
    )
    if good:
        yield CostEntry(
            event_id=f"{request_id}-cost",
            **about,
            entry="settled",
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            input_price=process.input_price,
            output_price=process.output_price,
            cost_nano_usd=cost,
            basis="reported",
        )
