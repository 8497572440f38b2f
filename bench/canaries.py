"""Claim: a canary's statistics are those of the calls that were drawn, exactly, and find the worse one.

A canary takes a quarter of a baseline's users on a real stack; one of the two, drawn from the seed, fails
some of its calls and is slow. What `/routing/canaries` tells is held against a recount of the log that
knows no fold: calls, failures, latency, cost, feedback. Calls of the canary by its own name, which no
draw gave it, run beside them and must count for nothing; with `--sabotage` the recount counts them.
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
from schemas.events.changes import DeploymentChanged
from schemas.identity import uuid7

RESPONSES, FEEDBACK = "weir.llm.responses.v1", "weir.llm.feedback.v1"
ANSWERED = "weir.llm.response.completed"
BASELINE, CANARY = (f"{tenant}/{MODEL}" for tenant in TENANTS)
PERCENTAGE, TRIAL = 25, "claim#25"
CONFIG = f'[routes.main]\ntargets = [{{ target = "{BASELINE}" }}]\n'
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
OWN_FAULTS = frozenset({"request", "context", "filter"})


def deploy(stack: Stack) -> None:
    """Give the canary its share."""
    provider, _, model = CANARY.partition("/")
    event = DeploymentChanged(
        event_id=uuid7(),
        occurred_at_us=now_us(),
        entity_version=1,
        actor="bench",
        deployment_id="claim",
        model_version_id="v1",
        model=model,
        provider=provider,
        state="observing",
        percentage=PERCENTAGE,
        baseline_deployment_id=BASELINE,
    )

    async def append() -> None:
        async with KafkaLog(Connection(stack.bootstrap), "/bench") as log:
            await log.publish(event)

    asyncio.run(append())


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
        deploy(stack)
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
        },
        [
            Limit("figures_wrong", 0),
            Limit("wrong_verdicts", 0),
            Limit("canary_calls", 100, "min"),
            Limit("by_name", 20, "min"),
        ],
    )


if __name__ == "__main__":
    main("canaries", 1_500, measure)
