"""Claim: a canary's statistics are those of the calls that were drawn, exactly, and find the worse one.

A canary takes a quarter of a baseline's users on a real stack; one of the two, drawn from the seed, fails
some of its calls and is slow. What `/routing/canaries` tells is held against a recount of the log that
knows no fold: calls, failures, latency, cost, feedback. Calls of the canary by its own name, which no
draw gave it, run beside them and must count for nothing; with `--sabotage` the recount counts them.
In the end the canary is promoted: what its version gained becomes a preference, until it is rolled back.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Iterable
from statistics import fmean
from typing import Any

from bench.claim import Arguments, Limit, Verdict, main
from bench.gather import Background
from bench.rawlog import Raw, dump, read_log, read_topics, unique
from bench.stack import TENANTS, Json, Stack, fetch
from bench.steering import MODEL, QUICK
from bench.workload import Shape, Share
from infra.kafka import KafkaLog
from schemas.clock import now_us
from schemas.connection import Connection
from schemas.events.changes import DeploymentChanged, ModelVersionChanged
from schemas.identity import uuid7

RESPONSES, FEEDBACK = "weir.llm.responses.v1", "weir.llm.feedback.v1"
ANSWERED = "weir.llm.response.completed"
BASELINE, CANARY = (f"{tenant}/{MODEL}" for tenant in TENANTS)
PERCENTAGE, TRIAL = 25, "claim#25"
CONFIG = f'[optimizer]\ninterval_s = 5\n[routes.main]\ntargets = [{{ target = "{BASELINE}" }}]\n'
SHAPE = Shape(
    (Share("openai", "main", 4.0), Share("anthropic", "main", 4.0), Share("openai", CANARY)),
    tools=0.0,
    feedback=0.5,
    words_median=20,
    words_max=100,
    answer_tokens=(16,),
)
WORSE: dict[str, Json] = {"first_token_ms": 40, "faults": [{"kind": "server_error", "rate": 0.2}]}
RATE_PER_S = 20.0
SETTLED_S = 60.0
GAIN = 0.25
OWN_FAULTS = frozenset({"request", "context", "filter"})


def deploy(stack: Stack, version: int, state: str, percentage: int = 0) -> None:
    """Take the canary to a state, its model version beside it."""
    provider, _, model = CANARY.partition("/")
    head: dict[str, Any] = {
        "occurred_at_us": now_us(),
        "entity_version": version,
        "actor": "bench",
        "model_version_id": "v1",
    }
    deployment = DeploymentChanged(
        **head,
        event_id=uuid7(),
        deployment_id="claim",
        model=model,
        provider=provider,
        state=state,
        percentage=percentage,
        baseline_deployment_id=BASELINE,
    )
    tuned = ModelVersionChanged(
        **head,
        event_id=uuid7(),
        name=model,
        status="deployed",
        base_model="base",
        metrics={"gain_code": GAIN, "gain_lower_code": GAIN / 2},
    )

    async def append() -> None:
        async with KafkaLog(Connection(stack.bootstrap), "/bench") as log:
            await log.publish(tuned)
            await log.publish(deployment)

    asyncio.run(append())


def preferences_of(stack: Stack) -> int:
    """Return for how many targets there is a preference."""
    return len(fetch(f"{stack.url}/routing/optimizer", key=stack.key)["preferences"])


def preference(stack: Stack, state: str) -> dict[str, Any]:
    """Wait until what the canary is preferred for is in a state; {} when it takes too long."""
    begun = time.monotonic()
    while time.monotonic() - begun < SETTLED_S:
        found = fetch(f"{stack.url}/routing/optimizer", key=stack.key)["preferences"]
        mine = [one for one in found if one["target"] == CANARY and one["state"] == state]
        if mine:
            return dict(mine[0])
        time.sleep(1.0)
    return {}


def recount(records: Iterable[Raw], *, by_name: bool) -> dict[str, dict[str, Any]]:
    """Return what each side came to, from the log alone; `by_name` takes calls by name for drawn ones."""
    firsts: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {"canary": [], "baseline": []}
    said: dict[str, list[float]] = {CANARY: [], BASELINE: []}
    for record in unique(records):
        body = record.body
        if body is None:
            continue
        if record.topic == FEEDBACK and body["model_id"] in said:
            said[body["model_id"]].append((body["satisfaction_score"] + 1) / 2)
        if record.type != ANSWERED or not body["attempts"]:
            continue
        side = body["trials"].get(TRIAL)
        if by_name and body["attempts"][0]["target"] == CANARY:
            side = "canary"
        first = body["attempts"][0]
        if side and first["outcome"] != "cancelled" and first["error_class"] not in OWN_FAULTS:
            firsts[side].append((body, first))
    return {
        side: _side(firsts[side], said[target])
        for side, target in (("canary", CANARY), ("baseline", BASELINE))
    }


def _side(calls: list[tuple[dict[str, Any], dict[str, Any]]], said: list[float]) -> dict[str, Any]:
    good = [(body, first) for body, first in calls if first["outcome"] == "success"]
    times = [first["first_token_us"] or first["latency_us"] for _, first in good]
    costs = [body["cost_nano_usd"] for body, _ in good if body["cost_nano_usd"] is not None]
    return {
        "calls": len(calls),
        "failures": len(calls) - len(good),
        "latency_ms": math.exp(fmean(map(math.log, times))) / 1000 if times else 0.0,
        "cost_usd": sum(costs) // len(costs) / 1e9 if costs else None,
        "feedback": len(said),
        "liked": fmean(said) if said else None,
    }


def shown(stack: Stack) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return the same of what the product tells, and its verdicts by metric."""
    items = fetch(f"{stack.url}/routing/canaries", key=stack.key)["items"]
    (state,) = items or [None]
    if state is None:
        return {}, {}
    by_metric = {one["metric"]: one for one in state["comparisons"]}
    sides = {
        side: {
            "calls": state[side]["calls"],
            "failures": state[side]["failures"],
            "latency_ms": by_metric["latency_ms"][side],
            "cost_usd": float(state[side]["cost_per_call_usd"] or 0.0),
            "feedback": state[side]["feedback"],
            "liked": state[side]["liked"],
        }
        for side in ("canary", "baseline")
    }
    return sides, {name: one["verdict"] for name, one in by_metric.items()}


def differing(told: dict[str, dict[str, Any]], counted: dict[str, dict[str, Any]]) -> list[str]:
    """Return the figures in which the two differ: by anything, or means by a thousandth."""
    found = []
    for side, figures in counted.items():
        for name, value in figures.items():
            other = told.get(side, {}).get(name)
            loose = name in {"latency_ms", "liked"}
            near = math.isclose(other or 0.0, value or 0.0, rel_tol=2e-3 if loose else 1e-9)
            if not near:
                found.append(f"{side} {name}: {other}, recounted {value}")
    return found


def measure(arguments: Arguments) -> Verdict:
    """Send `--size` requests, then compare until the table has them all."""
    worse = random.Random(arguments.seed).choice(TENANTS)
    with Stack(arguments.out, seed=arguments.seed, config=CONFIG, keep=arguments.keep) as stack:
        for name in TENANTS:
            stack.sandbox.behave(name, MODEL, **(QUICK | (WORSE if name == worse else {})))
        deploy(stack, 1, "observing", PERCENTAGE)
        time.sleep(3.0)
        with Background(stack, arguments.seed, RATE_PER_S, SHAPE, feedback=True) as load:
            while len(load.rows) < arguments.size:
                time.sleep(0.5)
        begun = time.monotonic()
        while True:
            records = read_topics(stack.bootstrap, (RESPONSES, FEEDBACK))
            counted = recount(records, by_name=arguments.sabotage)
            told, verdicts = shown(stack)
            wrong = differing(told, counted)
            if not wrong or time.monotonic() - begun > SETTLED_S:
                break
            time.sleep(1.0)
        early = preferences_of(stack)
        deploy(stack, 2, "promoted")
        preferred = preference(stack, "active")
        deploy(stack, 3, "rolled_back")
        withdrawn = preference(stack, "withdrawn")
        dump(records, arguments.out / "log.jsonl")
    named = sum(
        bool(
            it.body
            and it.type == ANSWERED
            and it.body["target"] == CANARY
            and not it.body["trials"]
        )
        for it in read_log(arguments.out / "log.jsonl")
    )
    expected = "worse" if f"{worse}/{MODEL}" == CANARY else "better"
    return Verdict(
        {
            "worse": worse,
            **{
                f"{side}_{name}": figures[name]
                for side, figures in counted.items()
                for name in figures
            },
            "by_name": named,
            "verdicts": verdicts,
            "wrong_verdicts": sum(
                verdicts.get(name) != expected for name in ("failures", "latency_ms")
            ),
            "differing": wrong,
            "figures_wrong": len(wrong),
            "preferred_too_early": early,
            "preferred": [preferred.get("gains"), preferred.get("reason")],
            "withdrawn": withdrawn.get("reason"),
            "preferences_missing": (preferred.get("gains") != {"code": GAIN}) + (not withdrawn),
        },
        [
            Limit("figures_wrong", 0),
            Limit("wrong_verdicts", 0),
            Limit("preferred_too_early", 0),
            Limit("preferences_missing", 0),
            Limit("canary_calls", 100, "min"),
            Limit("by_name", 20, "min"),
        ],
    )


if __name__ == "__main__":
    main("canaries", 1_500, measure)
