"""What a ledger of choices says: regret, calibration of propensities, estimates by them.

Knows nothing of the product: a row has the shares with which each target would have been chosen,
the choice, and the true reward of every target.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

EDGES = (0.0, 0.004, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 1.0 + 1e-9)
"""Bins of propensity."""
DRAWS = 2_000


@dataclass(frozen=True)
class Choices:
    """One run's ledger as columns; `shares` and `rewards` are choices × targets."""

    seed: int
    at_s: np.ndarray
    task: np.ndarray
    chosen: np.ndarray
    propensity: np.ndarray
    shares: np.ndarray
    rewards: np.ndarray

    @property
    def got(self) -> np.ndarray:
        """The rewards of the choices."""
        return np.asarray(self.rewards[np.arange(len(self.chosen)), self.chosen])


def write(path: Path, found: Choices) -> None:
    """Write a run as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for row in range(len(found.chosen)):
            line = {
                "at_s": round(float(found.at_s[row]), 3),
                "task": int(found.task[row]),
                "chosen": int(found.chosen[row]),
                "propensity": float(found.propensity[row]),
                "shares": found.shares[row].tolist(),
                "rewards": [round(value, 6) for value in found.rewards[row].tolist()],
            }
            file.write(json.dumps(line, separators=(",", ":")) + "\n")


def read(path: Path, seed: int) -> Choices:
    """Read a run back."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    names = ("at_s", "task", "chosen", "propensity", "shares", "rewards")
    return Choices(seed, *(np.array([row[name] for row in rows]) for name in names))


def until(found: Choices, to_s: float) -> Choices:
    """Return the choices before a time."""
    before = found.at_s < to_s
    columns = {name: value for name, value in vars(found).items() if name != "seed"}
    return Choices(found.seed, **{name: value[before] for name, value in columns.items()})


def regret_share(found: Choices) -> float:
    """Return what the choices lack against the best fixed target in hindsight, as a share of its sum."""
    best = float(found.rewards.sum(axis=0).max())
    return (best - float(found.got.sum())) / best


def gap_closed(found: Choices) -> float:
    """Return how far the choices came from choosing blindly (0) to the best target per task (1)."""
    blind = float(found.rewards.mean(axis=1).sum())
    best = sum(
        float(found.rewards[found.task == task].sum(axis=0).max()) for task in np.unique(found.task)
    )
    return (float(found.got.sum()) - blind) / (best - blind)


def calibration_z(runs: Iterable[Choices]) -> float:
    """Return by how many standard errors the worst bin of propensities is off."""
    shares, hits = [], []
    for run in runs:
        hit = np.zeros(run.shares.shape, bool)
        hit[np.arange(len(run.chosen)), run.chosen] = True
        shares.append(run.shares.ravel())
        hits.append(hit.ravel())
    share, hit = np.concatenate(shares), np.concatenate(hits)
    worst = 0.0
    for low, high in pairwise(EDGES):
        mine = (share >= low) & (share < high)
        expected = float(share[mine].sum())
        spread = float((share[mine] * (1 - share[mine])).sum())
        if spread > 1.0:
            worst = max(worst, abs(float(hit[mine].sum()) - expected) / spread**0.5)
        elif abs(float(hit[mine].sum()) - expected) > 5.0:
            worst = float("inf")
    return worst


def estimates_z(runs: Iterable[Choices]) -> float:
    """Return by how many standard errors inverse propensity estimates are off, at the worst target.

    Of every target the mean reward is estimated from the choices alone, and compared with the truth.
    Choices that no chance had a part in (a probe of a circuit) have no say.
    """
    gaps: dict[int, list[np.ndarray]] = {}
    for run in runs:
        open_ = run.propensity < 1.0
        for target in range(run.rewards.shape[1]):
            mine = open_ & (run.shares[:, target] > 0.0)
            took = run.chosen[mine] == target
            truth = run.rewards[mine, target]
            estimate = np.where(took, truth / np.where(took, run.propensity[mine], 1.0), 0.0)
            gaps.setdefault(target, []).append(estimate - truth)
    worst = 0.0
    for parts in gaps.values():
        gap = np.concatenate(parts)
        worst = max(worst, abs(float(gap.mean())) / (float(gap.std()) / len(gap) ** 0.5))
    return worst


def interval(values: Iterable[float], seed: int) -> tuple[float, float, float]:
    """Return mean and a 95% bootstrap interval of it."""
    data = np.array(list(values))
    means = resampled(data, np.mean, seed)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(data.mean()), float(low), float(high)


def resampled(data: np.ndarray, statistic: Callable[[np.ndarray], float], seed: int) -> np.ndarray:
    """Return a statistic of samples drawn with replacement along the first axis."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(data), (DRAWS, len(data)))
    return np.array([statistic(data[pick]) for pick in picks])


def share_of(found: Choices, target: int, from_s: float, to_s: float) -> float | None:
    """Return a target's share of the choices of a span, None without choices."""
    within = (found.at_s >= from_s) & (found.at_s < to_s)
    return float((found.chosen[within] == target).mean()) if within.any() else None


def reached_after_s(
    found: Choices,
    target: int,
    from_s: float,
    to_s: float,
    *,
    below: float | None,
    above: float | None,
) -> float | None:
    """Return after how many seconds the share of a minute's choices is `below` or `above`, if ever."""
    for begin_s in np.arange(from_s, to_s - 60.0, 5.0):
        share = share_of(found, target, begin_s, begin_s + 60.0)
        if share is None:
            continue
        if (below is not None and share <= below) or (above is not None and share >= above):
            return float(begin_s - from_s)
    return None
