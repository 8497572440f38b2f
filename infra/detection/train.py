"""Fits the task model: two softmax regressions over hashed features, stored as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from gateway.detection.detector import COMPLEXITIES, TASKS, Detector
from gateway.detection.features import BITS, features
from infra.detection.grammar import Prompt

EPOCHS = 4
BATCH = 512
STEP = 0.02
RUNS = 3
"""Fits whose weights are added up: each has seen the prompts in another order, with other gaps."""
DROPPED = 0.5
"""The share of a prompt's features that each look at it leaves out: a new prompt has few of them."""
DECAY = 1e-4
SMOOTHING = 0.05
"""Labels are not quite certain: without this the model is sure of what it has never seen."""

Matrix = NDArray[np.float32]


def table(prompts: Sequence[Prompt]) -> csr_matrix:
    """Return the prompts' features, one row each."""
    found = [features(prompt.text, prompt.system) for prompt in prompts]
    starts = np.cumsum([0, *(len(indexes) for indexes, _ in found)])
    columns = np.concatenate([indexes for indexes, _ in found]).astype(np.int64)
    values = np.concatenate([values for _, values in found])
    matrix = csr_matrix((values, columns, starts), shape=(len(prompts), 1 << BITS))
    matrix.sum_duplicates()
    return matrix


def fit(
    rows: csr_matrix,
    labels: NDArray[np.int64],
    kinds: int,
    seed: int,
) -> Matrix:
    """Return the weights (features × kinds) of a softmax regression, by Adam over small batches.

    Adam: https://arxiv.org/abs/1412.6980. The step shrinks to nothing along half a cosine.
    """
    rng = np.random.default_rng(seed)
    count, width = rows.shape
    wanted = np.full((count, kinds), SMOOTHING / kinds, np.float32)
    wanted[np.arange(count), labels] += 1 - SMOOTHING
    weights = np.zeros((width, kinds), np.float32)
    slope_mean, slope_square = np.zeros_like(weights), np.zeros_like(weights)
    steps = EPOCHS * -(-count // BATCH)
    done = 0
    for _ in range(EPOCHS):
        order = rng.permutation(count)
        for start in range(0, count, BATCH):
            chosen = order[start : start + BATCH]
            batch = rows[chosen]
            kept = rng.random(len(batch.data)) >= DROPPED
            batch.data = batch.data * kept / (1 - DROPPED)
            scores = batch @ weights
            scores -= scores.max(axis=1, keepdims=True)
            logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
            slope = batch.T @ ((np.exp(logs) - wanted[chosen]) / len(chosen))
            done += 1
            slope_mean += 0.1 * (slope - slope_mean)
            slope_square += 0.001 * (slope * slope - slope_square)
            step = STEP * 0.5 * (1 + np.cos(np.pi * done / steps))
            step *= (1 - 0.999**done) ** 0.5 / (1 - 0.9**done)
            weights -= step * (slope_mean / (np.sqrt(slope_square) + 1e-7) + DECAY * weights)
    return weights


def model(prompts: Sequence[Prompt], seed: int) -> Detector:
    """Return a detector that learned from the prompts."""
    rows = table(prompts)
    tasks = np.array([TASKS.index(prompt.task) for prompt in prompts])
    places = [number for number, prompt in enumerate(prompts) if prompt.complexity]
    grades = np.array([COMPLEXITIES.index(prompts[number].complexity) for number in places])
    even = _evened(grades)
    both = np.concatenate(
        [
            sum(fit(rows, tasks, len(TASKS), seed + run) for run in range(RUNS)) / RUNS,
            fit(rows[np.array(places)[even]], grades[even], len(COMPLEXITIES), seed),
        ],
        axis=1,
    )
    # One byte a weight: a column's largest is 127. The clipped tail is a thousandth of them.
    scales = np.maximum(np.quantile(np.abs(both), 0.9995, axis=0), 1e-6).astype(np.float32) / 127
    weights = np.clip(np.rint(both / scales), -127, 127).astype(np.int8)
    return Detector(weights, scales, np.zeros(len(scales), np.float32))


def _evened(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the labels' places, those of a rare label as often as those of a frequent one."""
    counts = np.bincount(labels)
    times = counts.max() // np.maximum(counts, 1)
    return np.repeat(np.arange(len(labels)), times[labels])


def calibrated(detector: Detector, prompts: Sequence[Prompt]) -> float:
    """Return the factor on the scores under which these prompts' labels are likeliest.

    The model has not learned from them. Temperature scaling: https://arxiv.org/abs/1706.04599.
    """
    scores, labels = _judged(detector, prompts)

    def loss(factor: float) -> float:
        shares = _sure(scores * factor)
        return float(-np.log(shares[np.arange(len(labels)), labels] + 1e-12).mean())

    factors: list[float] = np.arange(0.3, 5.01, 0.05).tolist()
    return min(factors, key=loss)


def calibration_error(detector: Detector, prompts: Sequence[Prompt], bins: int = 10) -> float:
    """Return how far confidence and accuracy are apart, 0 to 1, weighted over bins of confidence.

    The expected calibration error of https://arxiv.org/abs/1706.04599.
    """
    scores, labels = _judged(detector, prompts)
    shares = _sure(scores)
    confidence, right = shares.max(1), shares.argmax(1) == labels
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(places, confidence - right, bins)
    return float(np.abs(gaps).sum() / len(labels))


def _judged(detector: Detector, prompts: Sequence[Prompt]) -> tuple[Matrix, NDArray[np.int64]]:
    """Return the prompts' scores of the tasks and their labels."""
    scores = np.stack([detector.scores(p.text, p.system)[: len(TASKS)] for p in prompts])
    return scores, np.array([TASKS.index(prompt.task) for prompt in prompts])


def _sure(scores: Matrix) -> Matrix:
    """Return each row's shares, which add up to one."""
    powers: Matrix = np.exp(scores - scores.max(1, keepdims=True))
    powers /= powers.sum(1, keepdims=True)
    return powers


def sharpened(detector: Detector, factor: float) -> Detector:
    """Return a detector whose scores of tasks are `factor` times as far apart."""
    scales = detector.scales.copy()
    scales[: len(TASKS)] *= factor
    shifts = detector.shifts.copy()
    shifts[: len(TASKS)] *= factor
    return Detector(detector.weights, scales, shifts)


def graded(detector: Detector, prompts: Sequence[Prompt]) -> Detector:
    """Return a detector that grades these prompts best by shifts of simple and complex.

    Most prompts are standard; without the shifts the few complex ones would hardly be found. The
    mean of the grades' F1 counts, so that each grade matters alike.
    """
    kinds = len(COMPLEXITIES)
    scores = np.stack([detector.scores(p.text, p.system)[len(TASKS) :] for p in prompts])
    labels = np.array([COMPLEXITIES.index(prompt.complexity) for prompt in prompts])

    def worth(shift: Matrix) -> float:
        found = (scores + shift).argmax(1)
        right = np.bincount(labels[found == labels], minlength=kinds)
        named = np.bincount(found, minlength=kinds) + np.bincount(labels, minlength=kinds)
        return float((2 * right / np.maximum(named, 1)).mean())

    steps = np.arange(-1.0, 4.01, 0.1)
    choices = [np.array([low, 0, high], np.float32) for low in steps for high in steps]
    shifts = detector.shifts.copy()
    shifts[len(TASKS) :] += max(choices, key=worth)
    return Detector(detector.weights, detector.scales, shifts)


def store(detector: Detector, path: Path) -> int:
    """Write the model's file; its size in bytes."""
    np.savez_compressed(
        path, weights=detector.weights, scales=detector.scales, shifts=detector.shifts
    )
    return path.stat().st_size
