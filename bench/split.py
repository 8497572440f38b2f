"""Claim: a canary takes its percentage of users, who stay with it, and propensities are the shares.

Routing alone, without calls: `--size` users decide at several percentages and under every strategy.
`--sabotage` counts a user of the baseline in a hundred for the canary.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from typing import Any

from bench.claim import Arguments, Limit, Verdict, main
from gateway.ask import Ask
from gateway.health import HealthBook
from gateway.plans import strategies
from gateway.routing import Router
from gateway.state import GatewayState
from schemas.events.changes import (
    Change,
    DeploymentChanged,
    PriceChanged,
    ProviderChanged,
    RouteChanged,
    RouteTarget,
    TargetChanged,
)
from schemas.routing import TargetHealth

PERCENTAGES = (1, 10, 25, 50)
BASELINE, CANARY = "a/good", "own/tuned"
NAMES = (BASELINE, "a/cheap", "own/small")
META: dict[str, Any] = {
    "event_id": "bench",
    "occurred_at_us": 1,
    "entity_version": 1,
    "actor": "bench",
}


def measure(arguments: Arguments) -> Verdict:
    """Split users at every percentage, and draw under every strategy."""
    rng = random.Random(arguments.seed)
    users = [f"{rng.getrandbits(64):x}" for _ in range(arguments.size)]
    errors, moved, ledger = [], 0, []
    before: set[str] = set()
    for percentage in PERCENTAGES:
        router = _router(percentage, "failover", rng)
        plan = router.plan("r")
        first = {user: router.decide(plan, Ask(sticky=user)) for user in users}
        with_it = {user for user in users if first[user].chosen.id == CANARY}
        again = {u for u in users if router.decide(plan, Ask(sticky=u)).chosen.id == CANARY}
        moved += len(with_it ^ again) + len(before - with_it)
        before = with_it
        count = len(with_it)
        if arguments.sabotage:
            count += (len(users) - count) // 100 + len(users) // 100
        error = abs(100 * count / len(users) - percentage)
        errors.append(error)
        propensities = {decision.propensity for decision in first.values()}
        ledger.append(
            {"percentage": percentage, "users": count, "propensities": sorted(propensities)}
        )
    drift = max(_drift(name, arguments.size, rng, ledger) for name in sorted(strategies()))
    # The largest standard deviation of a share: with fewer users than 10,000 chance alone errs by more.
    deviation = math.sqrt(0.25 / arguments.size)
    (arguments.out / "shares.json").write_text(json.dumps(ledger, indent=1) + "\n", "utf-8")
    return Verdict(
        figures={
            "users": len(users),
            "split_error_points": round(max(errors), 3),
            "users_who_moved": moved,
            "strategies": len(strategies()),
            "propensity_error": round(drift, 4),
        },
        limits=[
            Limit("users", arguments.size, "equal"),
            Limit("split_error_points", round(max(1.0, 200 * deviation), 2)),
            Limit("users_who_moved", 0),
            Limit("propensity_error", round(max(0.02, 4 * deviation), 3)),
        ],
    )


def _drift(strategy: str, draws: int, rng: random.Random, ledger: list[dict[str, Any]]) -> float:
    """Return the largest gap between a target's share of the draws and its recorded score."""
    router = _router(20, strategy, rng)
    plan = router.plan("r")
    ask = Ask(input_tokens=200, max_tokens=300, task_type="code", complexity="standard")
    decisions = [router.decide(plan, ask) for _ in range(draws)]
    counts = Counter(decision.chosen.id for decision in decisions)
    scores = {item.target: item.score for item in decisions[0].candidates}
    ledger.append({"strategy": strategy, "draws": dict(counts), "scores": scores})
    told = max(abs(d.propensity - scores[d.chosen.id]) for d in decisions)
    return max(told, *(abs(counts[name] / draws - score) for name, score in scores.items()))


def _router(percentage: int, strategy: str, rng: random.Random) -> Router:
    state = GatewayState()
    views = {view.event_type: view for view in state.durable_views}
    for event in _events(percentage, strategy):
        views[type(event)].entries[event.key] = event
        views[type(event)].generation += 1
    clock = iter(range(10**9)).__next__
    book = HealthBook(TargetHealth, lambda: False, lambda: clock() / 1e4)
    return Router(state, book, rng)


def _events(percentage: int, strategy: str) -> list[Change]:
    events: list[Change] = [
        ProviderChanged(**META, name=name, dialect="openai", base_url=f"http://{name}/v1")
        for name in ("a", "own")
    ]
    for number, name in enumerate(NAMES):
        provider, _, model = name.partition("/")
        rate = (5_000_000_000, 100_000_000, 0)[number]
        events += [
            TargetChanged(
                **META,
                provider=provider,
                model=model,
                capabilities=["chat", "stream"],
                quality=(0.9, 0.85, 0.8)[number],
            ),
            PriceChanged(
                **META,
                provider=provider,
                model=model,
                valid_from_us=0,
                input_price=rate,
                output_price=4 * rate,
                price_version="bench",
                source="bench",
            ),
        ]
    targets = [RouteTarget(name) for name in NAMES]
    events.append(RouteChanged(**META, name="r", targets=targets, strategy=strategy))
    events.append(
        DeploymentChanged(
            **META,
            deployment_id="canary",
            model_version_id="v2",
            model="tuned",
            provider="own",
            state="observing",
            percentage=percentage,
            baseline_deployment_id=BASELINE,
        )
    )
    return events


if __name__ == "__main__":
    main("split", 10_000, measure)
