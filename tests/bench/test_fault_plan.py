"""The plan of faults: seeded, complete, and never both gateway workers at once."""

import pytest

from bench.fault_plan import AWAY_SHARE, SPACING, plan

WORKERS = ["gateway-0", "gateway-1"]
OTHERS = ["streams", "control", "trainer", "broker", "supervisor"]


@pytest.mark.parametrize("seed", range(50))
def test_every_part_dies_once_and_the_broker_is_away(seed: int) -> None:
    faults = plan(seed, 60.0, WORKERS, OTHERS)
    assert sorted(f.part for f in faults if f.kind != "away") == sorted(WORKERS + OTHERS)
    away = next(f for f in faults if f.kind == "away")
    assert away.lasts_s == 60.0 * AWAY_SHARE
    assert all(f.at_s > 0 and f.at_s + f.lasts_s < 60.0 for f in faults)
    first, second = sorted(f.at_s for f in faults if f.part in WORKERS)
    assert second - first >= 60.0 * SPACING - 1e-9
    broker = next(f.at_s for f in faults if f.part == "broker" and f.kind == "kill")
    assert not away.at_s <= broker <= away.at_s + away.lasts_s


def test_the_seed_decides() -> None:
    assert plan(1, 60.0, WORKERS, OTHERS) == plan(1, 60.0, WORKERS, OTHERS)
    assert plan(1, 60.0, WORKERS, OTHERS) != plan(2, 60.0, WORKERS, OTHERS)
