"""Forecasts of a series of days, chosen by rolling back-test against seasonal naive.

Each model is held against days that it has not seen, from several origins. Of the best alone, and the means
of the best two, three and four, the one that was least wrong there is taken: means of models that err
differently are hard to beat (Bates and Granger, Operational Research Quarterly 20, 1969; Makridakis et al.,
International Journal of Forecasting 36, 2020). What it was wrong by gives the bands (split conformal
prediction: Vovk et al., "Algorithmic Learning in a Random World", 2005), so that they cover as often as they
say whatever the errors look like.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from streams.forecasts.candidates import Array, Model, candidates

WEEK = 7
DAYS_MIN = 5
FOLDS = 8
COMBINED_MAX = 4
GAIN_MIN = 0.98
"""What is not better than seasonal naive by this factor is not chosen: ties go to the simple one."""


@dataclass(frozen=True)
class Forecast:
    """Predictions, half widths by confidence (arrays as long), and how the model did before.

    `error` and `naive_error` are mean absolute errors relative to the mean of the history; `coverage`
    is None where there were too few origins.
    """

    model: str
    predicted: Array
    widths: Mapping[float, Array]
    folds: int
    error: float
    naive_error: float
    coverage: float | None


def forecast(
    history: Sequence[float], horizon: int, levels: Sequence[float], period: int = WEEK
) -> Forecast:
    """Return the forecast of the steps after `history`; nothing is below zero.

    Raises ValueError for a history shorter than `DAYS_MIN`.
    """
    values = np.asarray(history, float)
    if len(values) < DAYS_MIN:
        raise ValueError(f"{len(values)} days are too few to forecast from: {DAYS_MIN} are needed")
    if len(values) < 2 * period + 4:
        period = 1
    models = candidates(period)
    scale = max(float(np.abs(values).mean()), 1e-9)
    residuals = {name: backtest(values, model, horizon, period) for name, model in models.items()}
    chosen = _chosen(residuals)
    found = _mean(residuals, chosen)
    predicted = np.mean([_run(models[name], values, horizon) for name in chosen], axis=0)
    return Forecast(
        model="+".join(chosen),
        predicted=predicted,
        widths={level: widths(found, horizon, level) for level in levels},
        folds=len(found),
        error=_mean_error(found) / scale,
        naive_error=_mean_error(residuals["seasonal_naive"]) / scale,
        coverage=_held_out_coverage(found),
    )


def _chosen(residuals: Mapping[str, Sequence[Array]]) -> list[str]:
    """Return the models whose mean was least wrong: the best few, or seasonal naive."""
    ranked = sorted(residuals, key=lambda name: _mean_error(residuals[name]))
    teams = [ranked[:count] for count in range(1, COMBINED_MAX + 1)]
    best = min(teams, key=lambda team: _mean_error(_mean(residuals, team)))
    naive = _mean_error(residuals["seasonal_naive"])
    return best if _mean_error(_mean(residuals, best)) <= GAIN_MIN * naive else ["seasonal_naive"]


def _mean(residuals: Mapping[str, Sequence[Array]], team: Sequence[str]) -> list[Array]:
    """Return what the mean of models was wrong by, which is the mean of what they were wrong by."""
    return [
        np.mean(parts, axis=0) for parts in zip(*(residuals[name] for name in team), strict=True)
    ]


def _run(model: Model, values: Array, horizon: int) -> Array:
    found = model(values, horizon)
    return np.maximum(np.where(np.isfinite(found), found, values[-1]), 0.0)


def backtest(values: Array, model: Model, horizon: int, period: int) -> list[Array]:
    """Return what the model was wrong by from several origins: actual minus predicted, by horizon.

    The first origin leaves two seasons and two steps, and a third of the series, before it.
    """
    first = max(2 * period + 2, len(values) // 3)
    origins = sorted({int(at) for at in np.linspace(first, len(values) - 1, FOLDS)})
    found = []
    for origin in origins:
        ahead = values[origin : origin + horizon]
        found.append(ahead - _run(model, values[:origin], len(ahead)))
    return found


def _mean_error(residuals: Sequence[Array]) -> float:
    return float(np.abs(np.concatenate(list(residuals))).mean())


def widths(residuals: Sequence[Array], horizon: int, level: float) -> Array:
    """Return half the width of the band at each step ahead.

    The quantile of the absolute errors of the steps around it, with the correction for how few there
    are; never narrower further ahead. Where fewer errors are known than the quantile needs, the
    largest is stretched as a normal's would be.
    """
    found = np.empty(horizon)
    for ahead in range(horizon):
        found[ahead] = conformal(_near(residuals, ahead), level)
    return np.maximum.accumulate(found)


def _near(residuals: Sequence[Array], ahead: int) -> Array:
    reach = max(2, ahead // 3)
    parts = [np.abs(one[max(0, ahead - reach) : ahead + reach + 1]) for one in residuals]
    near = np.concatenate(parts)
    if len(near) >= _NEAR_MIN:
        return near
    return np.sort(np.abs(np.concatenate(list(residuals))))[-max(len(near), _NEAR_MIN) :]


_NEAR_MIN = 20


def conformal(errors: Array, level: float) -> float:
    """Return the quantile of absolute errors that covers the next one as often as `level` says."""
    count = len(errors)
    rank = math.ceil((count + 1) * level)
    ordered = np.sort(errors)
    if rank <= count:
        return float(ordered[rank - 1])
    return float(ordered[-1]) * _normal(level) / _normal(count / (count + 1))


def _normal(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


def _held_out_coverage(residuals: Sequence[Array]) -> float | None:
    """Return how often the 95% band of the other origins covers an origin's days."""
    if len(residuals) < 4:
        return None
    inside: list[Array] = []
    for place, one in enumerate(residuals):
        others = [other for at, other in enumerate(residuals) if at != place]
        band = widths(others, len(one), 0.95)
        inside.append(np.abs(one) <= band)
    return float(np.concatenate(inside).mean())
