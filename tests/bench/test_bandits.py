"""The recount of choices sees regret, honest and dishonest propensities, and change; steering helps."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from bench import bandits
from bench.bandits import Choices
from bench.simulator.driver import Driver
from bench.simulator.gateway import Gateway
from bench.simulator.world import Incident
from bench.steering_seeds import gains_of, swapped
from bench.steering_world import LATENCY, foreseeing, static, troubled, world_of


def drawn(seed: int, count: int = 20_000) -> Choices:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet([1.0, 1.0, 1.0], count)
    chosen = (rng.random(count)[:, None] > shares.cumsum(axis=1)).sum(axis=1)
    rewards = rng.random((count, 3)) * np.array([1.0, 0.8, 0.6])
    return Choices(
        seed,
        at_s=np.arange(count, dtype=float),
        task=rng.integers(0, 2, count),
        chosen=chosen,
        propensity=shares[np.arange(count), chosen],
        shares=shares,
        rewards=rewards,
    )


def test_true_propensities_pass_and_wrong_ones_do_not(tmp_path: Path) -> None:
    found = drawn(1)
    assert bandits.calibration_z([found]) < 4
    assert bandits.estimates_z([found]) < 4
    wrong = Choices(**(vars(found) | {"shares": np.roll(found.shares, 1, axis=1)}))
    assert bandits.calibration_z([wrong]) > 4
    half = Choices(**(vars(found) | {"propensity": found.propensity * 0.9}))
    assert bandits.estimates_z([half]) > 4
    bandits.write(tmp_path / "run.jsonl", found)
    again = bandits.read(tmp_path / "run.jsonl", 1)
    assert np.array_equal(again.chosen, found.chosen)
    assert np.array_equal(again.shares, found.shares)


def test_regret_is_nothing_for_the_best_and_the_whole_gap_is_closed_by_it() -> None:
    found = drawn(2)
    best = Choices(**(vars(found) | {"chosen": np.zeros(len(found.chosen), int)}))
    assert bandits.regret_share(best) == pytest.approx(0.0)
    assert bandits.gap_closed(best) == pytest.approx(1.0, abs=0.01)
    assert bandits.regret_share(found) == pytest.approx(0.2, abs=0.03)
    assert bandits.gap_closed(found) == pytest.approx(0.0, abs=0.05)


@pytest.mark.req("PERF-08", "BEY-15")
def test_steering_beats_static_routes_while_every_provider_is_in_trouble() -> None:
    world = troubled(
        world_of(1_000, 1.5), from_s=36_000, lasting_s=60.0, calm_s=240.0, kinds=(0, 1)
    )
    steered, fixed, possible, answered = [], [], [], []
    for made, result, served in Gateway(world, "adaptive", options=LATENCY).run(36_000, 38_100):
        steered += [call.latency_us for call in served]
        answered += [call.served is not None for call in served]
        fixed += static(made, result, 3)[0].tolist()
        possible += foreseeing(world, made, result, 3).tolist()
    gains, offered = (
        1 - np.quantile(column, (0.5, 0.95)) / np.quantile(fixed, (0.5, 0.95))
        for column in (steered, possible)
    )
    assert gains.min() > 0.15
    assert (gains < offered).all()
    assert np.mean(answered) >= 0.999


def test_the_sandbox_is_told_what_the_world_says() -> None:
    told: list[tuple[str, str, dict[str, object]]] = []

    class Sandbox:
        def behave(self, base: str, model: str, **behaviour: object) -> None:
            told.append((base, model, behaviour))

    world = world_of(3, 1.0)
    name = world.targets[0].target
    trouble = (
        Incident("outage", "target", name, 10.0, 20.0),
        Incident("slow", "target", name, 30.0, 40.0, 5.0),
    )
    world = msgspec.structs.replace(world, incidents=trouble)
    lanes = {process.target: [(process.target, "m")] for process in world.targets}
    driver = Driver(Sandbox(), world, lanes, scale=0.5)  # type: ignore[arg-type]
    calm, down, slow = (driver.behaviour(0, at_s) for at_s in (5.0, 15.0, 35.0))
    assert down["faults"][0]["rate"] == 1.0
    assert calm["faults"][0]["rate"] < 0.01
    assert slow["first_token_ms"] == pytest.approx(5 * calm["first_token_ms"], rel=0.05)
    with driver:
        pass
    assert {base for base, _, _ in told} == set(lanes)


def test_steered_calls_taken_for_static_ones_show_no_gain() -> None:
    run = [
        {"steered_us": at, "static_us": 1.3 * at, "possible_us": at / 1.3, "steered_answered": True}
        for at in range(99)
    ]
    assert gains_of([run], 1)["p50_gain_possible"] == pytest.approx(0.408, abs=0.001)
    assert gains_of([run], 1)["p50_gain_lower"] == pytest.approx(0.231, abs=0.001)
    assert gains_of([swapped(run)], 1)["p50_gain_lower"] < 0
