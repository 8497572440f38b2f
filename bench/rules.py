"""Claim: each of the optimizer's five rules fires on its incident, not on noise, and undoes itself.

`--size` worlds, a seed each: a quiet week, then a day of incidents, one per rule, and one in which
shifting makes everything worse. Time is simulated; fold, decider and shares are the product's own. What
was done is held against the simulator's truth.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from statistics import median
from typing import Any

import msgspec
import numpy as np

from bench.claim import Arguments, Limit, Verdict, main
from bench.rules_world import Loop, Spoil, configuration, drive, priced
from bench.simulator import DAY_S, HOUR_S, WEEK_S, Incident, Outcomes, World, drawn_world
from schemas.events.optimizer import OptimizerActed
from schemas.optimizer import LIVE, RULES, OptimizerRules

RATE_PER_S = 0.7
FEEDBACK = 0.4
"""Of so many calls somebody says something: enough for a change for the worse to show in minutes."""
LASTING_S = 40 * 60.0
UNDONE_S = RULES.window_s + 3 * RULES.expiry_s
"""So long after an incident everything must be as before: the last window that is full of it, then
25, 50 and 100% of the calls, each once they tell that all is well or when its time is over."""
FAST_S = 25 * 60.0
"""In the quiet hours it takes a quarter of an hour until there is enough feedback to tell by."""
CHEAPER = 0.5
CONGESTION = 12.0


@dataclass(frozen=True)
class Expected:
    """What a rule has to do: within `start_s`–`end_s`, about `target`."""

    rule: str
    target: str
    start_s: float
    end_s: float
    harmful: bool = False


def scenario(seed: int) -> tuple[World, list[Expected]]:
    """Return a world and its truth: incidents every three hours of the eighth day, from eight on."""
    world = drawn_world(seed, targets=3, rate_per_s=RATE_PER_S)
    world = msgspec.structs.replace(world, feedback=FEEDBACK)
    rng = np.random.default_rng([seed, 21])
    # Alike in quality and price, so that nothing is a reason to prefer one until a price falls.
    alike = [
        msgspec.structs.replace(item, quality=0.8, input_price=500_000_000, output_price=2 * 10**9)
        for item in world.targets
    ]
    names = [item.target for item in alike]
    # The slowest one: where it is faster than others even when it is degraded, nothing can be gained.
    steady = max(range(3), key=lambda index: alike[index].median_us)
    start_s = WEEK_S + 8 * HOUR_S
    slot_s = 3 * HOUR_S
    found: list[Expected] = []
    incidents: list[Incident] = []

    def at(
        number: int, rule: str, kind: str | None, size: float, victim: str, **more: bool
    ) -> None:
        begin_s = start_s + number * slot_s
        found.append(Expected(rule, victim, begin_s, begin_s + LASTING_S, **more))
        if kind is not None:
            dimension = "total" if kind == "surge" else "target"
            name = "all" if kind == "surge" else victim
            incidents.append(
                Incident(kind, dimension, name, begin_s, begin_s + LASTING_S, size)  # type: ignore[arg-type]
            )

    drawn = [names[int(rng.integers(3))] for _ in range(4)]
    at(0, "error_rate", "errors", 0.25, drawn[0])
    at(1, "high_latency", "slow", 5.0, drawn[1])
    at(2, "degradation", "slow", 1.45, names[steady])
    at(3, "high_latency", "slow", 5.0, drawn[2], harmful=True)
    at(4, "load", "surge", 5.0, names[0])
    at(5, "degradation", "quality", 0.3, drawn[3])
    at(6, "cost", None, 0.0, names[1])
    alike[steady] = msgspec.structs.replace(alike[steady], drift=0.03)
    return msgspec.structs.replace(world, targets=tuple(alike), incidents=tuple(incidents)), found


def simulate(
    seed: int, rules: OptimizerRules
) -> tuple[list[Expected], list[OptimizerActed], float]:
    """Return the truth of a world, what was done in it, and its start (Unix seconds)."""
    world, expected = scenario(seed)
    names = [item.target for item in world.targets]
    loop = Loop(rules, names)
    rng = np.random.default_rng([seed, 22])
    peak = RATE_PER_S / 3 * 60
    for event in configuration(world, {"a": int(peak * 4), "c": int(peak * 40)}):
        loop.tell(event)
    harm = next(item for item in expected if item.harmful)
    cost = next(item for item in expected if item.rule == "cost")
    spoil = _congestion(loop, names, harm)
    drive(loop, world, 0.0, cost.start_s, rng, spoil)
    at_us = int((world.start_s + cost.start_s) * 1e6)
    cheap = world.targets[2]
    lower = (int(cheap.input_price * CHEAPER), int(cheap.output_price * CHEAPER))
    loop.tell(priced(names[2], *lower, at_us))
    targets = list(world.targets)
    targets[2] = msgspec.structs.replace(cheap, input_price=lower[0], output_price=lower[1])
    later = msgspec.structs.replace(world, targets=tuple(targets))
    drive(loop, later, cost.start_s, cost.end_s + UNDONE_S, rng, spoil)
    return expected, loop.acts, world.start_s


def _congestion(loop: Loop, names: list[str], harm: Expected) -> Spoil:
    """In the harmful incident the others cannot bear what is shifted to them."""

    def spoil(_: Outcomes, __: int, at_s: float) -> np.ndarray:
        factors = np.ones(len(names))
        act = loop.ledger.acted.get(harm.target)
        shifting = act is not None and act.state in LIVE and act.factor < 1
        if harm.start_s <= at_s < harm.end_s and shifting:
            factors *= CONGESTION
            factors[names.index(harm.target)] = 1.0
        return factors

    return spoil


@dataclass
class Tally:
    """What acts come to against the truth."""

    fired: dict[str, list[float]]
    missed: list[str]
    by_another: list[str]
    """What a rule saw sooner than the one that it was made for: a target has one change at a time."""
    false_alarms: list[OptimizerActed]
    undone_s: list[float]
    standing: int = 0
    harmful_reverted: int = 0
    harmful: int = 0
    bounds_broken: int = 0


def tally(
    expected: list[Expected], acts: list[OptimizerActed], origin_s: float, into: Tally
) -> None:
    """Hold what was done against what was due."""
    begun = [act for act in acts if act.step == 1]
    for item in expected:
        mine = [act for act in begun if _concerns(act, item, origin_s)]
        right = [act for act in mine if act.rule == item.rule and _same(act, item)]
        if item.harmful:
            into.harmful += 1
            ends = [act for act in acts if mine and act.action_id == mine[0].action_id]
            into.harmful_reverted += any(act.state == "reverted" for act in ends)
        elif right:
            into.fired[item.rule].append(_at_s(right[0], origin_s) - item.start_s)
        elif any(act.target == item.target for act in mine):
            into.by_another.append(f"{item.rule} {item.target}: {mine[0].rule}")
        else:
            into.missed.append(f"{item.rule} {item.target}")
    into.false_alarms += [
        act for act in begun if not any(_concerns(act, item, origin_s) for item in expected)
    ]
    for act in begun:
        item = next((it for it in expected if _concerns(act, it, origin_s)), None)
        ends = [it for it in acts if it.action_id == act.action_id and it.state not in LIVE]
        if item is None or item.rule == "cost":
            continue  # a price stays low: its change stays
        if ends:
            into.undone_s.append(max(0.0, _at_s(ends[-1], origin_s) - item.end_s))
        else:
            into.standing += 1
    into.bounds_broken += _broken(acts)


def _broken(acts: list[OptimizerActed]) -> int:
    """Count changes that took more than half, or came sooner than five minutes after the last."""
    broken, last = 0, dict[str, OptimizerActed]()
    for act in acts:
        before = last.get(act.target)
        factor = before.factor if before is not None and before.state in LIVE else 1.0
        taken = act.factor < factor * 0.5 - 1e-9
        soon = before is not None and act.occurred_at_us - before.occurred_at_us < 300_000_000
        broken += taken or (soon and act.state in LIVE)
        last[act.target] = act
    return broken


def _concerns(act: OptimizerActed, item: Expected, origin_s: float) -> bool:
    # A price stays low to the end; the last window of an incident is still full of it.
    after_s = UNDONE_S if item.rule == "cost" else RULES.window_s + 60
    within = item.start_s <= _at_s(act, origin_s) <= item.end_s + after_s
    whole = item.harmful or item.rule in {"load", "cost"}
    return within and (whole or act.target == item.target)


def _same(act: OptimizerActed, item: Expected) -> bool:
    return act.target == item.target or item.rule == "cost"


def _at_s(act: OptimizerActed, origin_s: float) -> float:
    return act.occurred_at_us / 1e6 - origin_s


def measure(arguments: Arguments) -> Verdict:
    """Simulate `--size` worlds; sabotage believes whatever looks bad for a moment."""
    rules = (
        OptimizerRules(alpha=0.05, baseline_calls_min=20, baseline_hours_min=6)
        if arguments.sabotage
        else RULES
    )
    names = ("error_rate", "high_latency", "degradation", "load", "cost")
    into = Tally({name: [] for name in names}, [], [], [], [])
    with (arguments.out / "acts.jsonl").open("w", encoding="utf-8") as file:
        for seed in range(arguments.seed, arguments.seed + arguments.size):
            expected, acts, origin_s = simulate(seed, rules)
            tally(expected, acts, origin_s, into)
            for act in acts:
                told = {"seed": seed, "at_s": _at_s(act, origin_s)} | msgspec.to_builtins(act)
                file.write(json.dumps(told) + "\n")
    weeks = arguments.size * (WEEK_S + DAY_S + 9 * HOUR_S) / WEEK_S
    times = [value for found in into.fired.values() for value in found]
    figures: dict[str, Any] = {
        "worlds": arguments.size,
        "simulated_weeks": round(weeks, 2),
        "fired": {name: len(found) for name, found in into.fired.items()},
        "rules_missed": into.missed,
        "missed": len(into.missed),
        "by_another_rule": into.by_another,
        "least_fired": min(len(found) for found in into.fired.values()) / arguments.size,
        "act_s_p50": round(median(times)) if times else None,
        "act_s_max": round(max(times)) if times else None,
        "false_alarms": len(into.false_alarms),
        "false_alarms_per_week": round(len(into.false_alarms) / weeks, 3),
        "false_alarm_rules": sorted(act.rule for act in into.false_alarms),
        "undone_s_max": round(max(into.undone_s)) if into.undone_s else None,
        "not_undone": into.standing,
        "harmful": into.harmful,
        "harmful_not_reverted": into.harmful - into.harmful_reverted,
        "bounds_broken": into.bounds_broken,
    }
    return Verdict(
        figures,
        [
            Limit("missed", 0),
            Limit("least_fired", 0.5, "min"),
            Limit("act_s_max", FAST_S),
            Limit("false_alarms_per_week", 1.0),
            Limit("undone_s_max", UNDONE_S),
            Limit("not_undone", 0),
            Limit("harmful_not_reverted", 0),
            Limit("bounds_broken", 0),
        ],
    )


if __name__ == "__main__":
    main("rules", 5, measure)
