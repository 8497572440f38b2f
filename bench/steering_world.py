"""The worlds of the steering claim: three targets, each with every trouble once, and static routing."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from bench.simulator import Calls, Incident, Outcomes, World, drawn_world
from bench.simulator.traffic import conditions
from bench.simulator.world import Kind

TARGETS = 3
FAILING = 0.1
"""Who knows that more than this share of a target's calls fails asks another first."""
LATENCY = {"quality": "0", "success": "0.5", "latency": "1", "cost": "0"}
"""The adaptive strategy's weights: the targets are one model at three providers."""
TROUBLES: tuple[tuple[Kind, float], ...] = (
    ("outage", 1.0),
    ("slow", 5.0),
    ("errors", 0.5),
    ("flapping", 1.0),
)


def troubled(
    world: World, *, from_s: float, lasting_s: float, calm_s: float, kinds: Sequence[int]
) -> World:
    """Return the world with one trouble after the other: of each kind, every target in turn."""
    incidents, at_s = [], from_s + calm_s
    for which in kinds:
        kind, size = TROUBLES[which]
        for process in world.targets:
            incidents.append(
                Incident(kind, "target", process.target, at_s, at_s + lasting_s, size, 20.0)
            )
            at_s += lasting_s + calm_s
    return msgspec.structs.replace(world, incidents=tuple(incidents))


def world_of(seed: int, rate_per_s: float) -> World:
    """Return three providers of the same model: as good, as dear, not as fast; speeds drift."""
    world = drawn_world(seed, targets=TARGETS, rate_per_s=rate_per_s)
    targets = tuple(
        msgspec.structs.replace(
            process,
            target=f"{'abc'[index]}/model",
            quality=0.8,
            task_quality={},
            input_price=500_000_000,
            output_price=1_500_000_000,
            drift=0.25,
            drift_memory_s=1_800.0,
        )
        for index, process in enumerate(world.targets)
    )
    return msgspec.structs.replace(world, targets=targets)


def static(made: Calls, result: Outcomes, attempts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return latency (µs) and whether it was answered, of routing by fixed weights.

    Each call goes to the target drawn for it; where that fails the others are tried in a fixed
    order, as routers without live health do.
    """
    targets = result.good.shape[1]
    return _tried(result, (made.wanted[:, None] + np.arange(targets)) % targets, attempts)


def foreseeing(world: World, made: Calls, result: Outcomes, attempts: int) -> np.ndarray:
    """Return the latency (µs) of who knows how each target fares at each moment, but no call's luck.

    Nobody could do better: what is left to gain is up to the world.
    """
    expected_us = np.empty(result.latency_us.shape)
    for index, process in enumerate(world.targets):
        factor, failing = conditions(world, index, made.at_s)
        usual_us = process.median_us + process.per_token_us * made.output_tokens
        expected_us[:, index] = np.where(failing > FAILING, np.inf, factor * usual_us)
    return _tried(result, expected_us.argsort(axis=1), attempts)[0]


def _tried(result: Outcomes, order: np.ndarray, attempts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return latency (µs) and whether it was answered, where targets are tried in each call's order."""
    rows = np.arange(len(order))
    latency, answered = np.zeros(len(order)), np.zeros(len(order), bool)
    for at in order.T[:attempts]:
        latency += np.where(answered, 0.0, result.latency_us[rows, at])
        answered |= result.good[rows, at]
    return latency, answered
