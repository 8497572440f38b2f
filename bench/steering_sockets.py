"""Every provider fails in turn, over real sockets: a gateway, the sandbox that plays a world, a load.

Three callers ask at the same time: `steered` is the adaptive route, `spread` the default strategy over
the same targets, and the third names one of three twins of the targets himself, as static routing
does. Twins behave alike but have no say in what the gateway learns.
"""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import numpy as np

from bench.checks import ADMITTED
from bench.claim import Arguments
from bench.gather import Background, settle
from bench.load import Row
from bench.rawlog import read_log, unique
from bench.simulator.driver import Driver
from bench.simulator.world import World
from bench.stack import SANDBOX_KEY_VARIABLE, Stack, base_port
from bench.steering_world import LATENCY, troubled, world_of
from bench.workload import Shape, Share

MODEL = "gpt-4.1-nano"
TWINS = {"a": "x", "b": "y", "c": "z"}
SCALE = 0.4
"""Providers answer in two fifths of the time, so that a few minutes hold enough calls."""
RATE_PER_S = 45
FAILING_S = 15.0
CALM_S, SLOW_CALM_S = 36.0, 18.0
"""After an outage the circuit's half minute passes first, after mere slowness nothing does."""
HINDSIGHT_S, HINDSIGHT_CALLS = 10.0, 8
WINDOW_S = 2.0
SPREAD, STEERED = "spread", "steered"
SHAPE = Shape(
    (
        Share("openai", SPREAD, 3.0),
        Share("openai", STEERED, 3.0),
        *(Share("openai", f"{twin}/{MODEL}") for twin in TWINS.values()),
    ),
    tools=0.0,
    feedback=0.0,
    words_median=20,
    words_max=100,
    answer_tokens=(24,),
)


def fail_in_turn(arguments: Arguments) -> dict[str, Any]:
    """Let every provider go away, then answer five times as slowly; return what callers saw of it."""
    world = _world(arguments.seed)
    lanes = {
        process.target: [(name, MODEL), (TWINS[name], MODEL)]
        for process, name in zip(world.targets, TWINS, strict=True)
    }
    out = arguments.out / "sockets"
    with Stack(out, seed=arguments.seed, config=_config(), keep=arguments.keep) as stack:
        with (
            Driver(stack.sandbox, world, lanes, scale=SCALE),
            Background(stack, arguments.seed, RATE_PER_S, SHAPE) as load,
        ):
            begun_us = time.time_ns() / 1e3
            time.sleep(world.incidents[-1].end_s + SLOW_CALM_S)
        figures = settle(stack, load.rows, _unspoilt(arguments, out))
    return {
        "lost": figures["lost"],
        "doubled": figures["doubled"],
        "drift_nano_usd": figures["drift_nano_usd"],
        **_latencies(load.rows),
        **_incidents(load.rows, _choices(out), world, begun_us, out),
    }


def _world(seed: int) -> World:
    """Return the seed's world, in which every target goes away first, then is slow, one by one."""
    world = world_of(seed, RATE_PER_S)
    away = troubled(world, from_s=0.0, lasting_s=FAILING_S, calm_s=CALM_S, kinds=(0,)).incidents
    again_s = away[-1].end_s + CALM_S - SLOW_CALM_S
    slow = troubled(world, from_s=again_s, lasting_s=FAILING_S, calm_s=SLOW_CALM_S, kinds=(1,))
    return msgspec.structs.replace(world, incidents=(*away, *slow.incidents))


def _unspoilt(arguments: Arguments, out: Any) -> Arguments:
    """Return the arguments with another folder for ledgers; nothing is spoilt here."""
    return Arguments(arguments.seed, arguments.size, out, sabotage=False, keep=arguments.keep)


def _config() -> str:
    url = f"http://127.0.0.1:{base_port() + 6}"
    others = "".join(
        f'[providers.{name}]\nbase_url = "{url}/{name}/v1"\nkey_env = "{SANDBOX_KEY_VARIABLE}"\n'
        f'price_provider = "openai"\nmodels = ["{MODEL}"]\n\n'
        for name in ("c", *TWINS.values())
    )
    targets = ", ".join(f'{{ target = "{name}/{MODEL}" }}' for name in TWINS)
    options = ", ".join(f'{name} = "{value}"' for name, value in LATENCY.items())
    return (
        f"{others}[routes.{SPREAD}]\ntargets = [{targets}]\n\n"
        f'[routes.{STEERED}]\nstrategy = "adaptive"\ntargets = [{targets}]\n'
        f"options = {{ {options} }}\n"
    )


def _latencies(rows: list[Row]) -> dict[str, Any]:
    """Compare the steered callers with those who chose for themselves; failed calls left out."""
    found: dict[str, list[float]] = {"steered": [], "static": []}
    answered: dict[str, list[bool]] = {"routed": [], "static": []}
    for row in rows:
        routed = row.model in (SPREAD, STEERED)
        answered["routed" if routed else "static"].append(row.complete)
        if row.complete and row.model != SPREAD:
            name = "steered" if row.model == STEERED else "static"
            found[name].append((row.ended_at_us - row.due_at_us) / 1e3)
    found["possible"] = in_hindsight(rows)
    steered, static, possible = (
        np.quantile(found[name], (0.5, 0.95)) for name in ("steered", "static", "possible")
    )
    gains = 1 - steered / static
    reached = (static - steered) / np.maximum(static - possible, 1e-9)
    return {
        "sockets_requests": len(rows),
        "sockets_answered_share": round(float(np.mean(answered["routed"])), 5),
        "sockets_static_answered_share": round(float(np.mean(answered["static"])), 5),
        "sockets_p50_gain": round(float(gains[0]), 3),
        "sockets_p95_gain": round(float(gains[1]), 3),
        "sockets_p50_possible": round(1 - float(possible[0] / static[0]), 3),
        "sockets_p50_of_possible": round(float(reached[0]), 3),
    }


def in_hindsight(rows: list[Row]) -> list[float]:
    """Return the latencies (ms) of whoever always asks the twin that turns out to be the fastest.

    Which one that is, is told by the calls of each ten seconds themselves, so it is a little better
    than anybody could know. How far steering can beat static routing is up to the world: where two
    providers are nearly as fast, there is little to gain in the median.
    """
    kept: list[float] = []
    spans: dict[int, dict[str, list[float]]] = {}
    for row in rows:
        if row.complete and row.model not in (SPREAD, STEERED):
            span = spans.setdefault(int(row.due_at_us / (HINDSIGHT_S * 1e6)), {})
            span.setdefault(row.model, []).append((row.ended_at_us - row.due_at_us) / 1e3)
    for span in spans.values():
        enough = [times for times in span.values() if len(times) >= HINDSIGHT_CALLS]
        kept += min(enough, key=lambda times: float(np.median(times)), default=[])
    return kept


def _choices(out: Any) -> list[tuple[float, str]]:
    """Return (time in µs, first target) of the calls on `spread`, by the log."""
    found = [
        (record.body["occurred_at_us"], record.body["target"])
        for record in unique(read_log(out / "log.jsonl"))
        if record.type == ADMITTED
        and record.body is not None
        and record.body["model_requested"] == SPREAD
    ]
    return sorted(found)


def _incidents(
    rows: list[Row], choices: list[tuple[float, str]], world: World, begun_us: float, out: Any
) -> dict[str, Any]:
    """Return how soon each incident's target was left and had its traffic back, and whom it hurt.

    Hurt is who waited for more than one attempt, or was not answered. By windows of two seconds:
    left is a twentieth of the choices or, where it is only slow, half of the share of before; back
    is half of the share of before.
    """
    told = []
    for incident in world.incidents:
        victim = f"{incident.name.partition('/')[0]}/{MODEL}"
        onset_us, end_us = (begun_us + at_s * 1e6 for at_s in (incident.start_s, incident.end_s))
        calm_us = (CALM_S if incident.kind == "outage" else SLOW_CALM_S) * 1e6
        before = _share(choices, victim, onset_us - 20e6, onset_us) or 0.0
        enough = 0.05 if incident.kind == "outage" else before / 2
        during = [
            row
            for row in rows
            if row.model in (SPREAD, STEERED) and onset_us <= row.due_at_us < end_us
        ]
        hurt = [
            row for row in during if not row.complete or row.headers.get("x-weir-attempts") != "1"
        ]
        told.append(
            {
                "kind": incident.kind,
                "target": victim,
                "share_before": round(before, 3),
                "left_after_s": _when(choices, victim, onset_us, end_us, most=enough),
                "back_after_s": _when(choices, victim, end_us, end_us + calm_us, least=before / 2),
                "requests": len(during),
                "hurt": len(hurt),
            }
        )
    (out / "incidents.json").write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    outages = [item for item in told if item["kind"] == "outage"]
    return {
        "incidents": told,
        "left_after_s_max": _largest([item["left_after_s"] for item in outages]),
        "back_after_s_max": _largest([item["back_after_s"] for item in outages]),
        "hurt_per_outage_max": max(item["hurt"] for item in outages),
    }


def _largest(values: list[Any]) -> float | None:
    return None if None in values else max(values)


def _share(
    choices: list[tuple[float, str]], victim: str, from_us: float, to_us: float
) -> float | None:
    found = [target for at_us, target in choices if from_us <= at_us < to_us]
    return found.count(victim) / len(found) if found else None


def _when(
    choices: list[tuple[float, str]],
    victim: str,
    from_us: float,
    to_us: float,
    *,
    most: float = 2.0,
    least: float = -1.0,
) -> float | None:
    """Return the seconds until a window has at most or at least this share, None if there is none."""
    for step in range(int((to_us - from_us) / 1e6 * 2)):
        begin_us = from_us + step * 0.5e6
        share = _share(choices, victim, begin_us, begin_us + WINDOW_S * 1e6)
        if share is not None and least <= share <= most:
            return step * 0.5
    return None
