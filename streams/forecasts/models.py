"""Forecasts of a series of days, chosen by rolling back-test against seasonal naive.

Models: seasonal naive (the same weekday last week), the mean of the last weeks by weekday, and
exponential smoothing with a weekly season, with and without a damped trend (Holt and Winters, as
statsmodels estimates it). Each is held against days that it has not seen, from several origins; what
it was wrong by there gives the bands (split conformal prediction: Vovk et al., "Algorithmic Learning
in a Random World", 2005), so that they cover as often as they say whatever the errors look like.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

Array = np.ndarray
Model = Callable[[Array, int], Array]
"""From history and horizon to predictions."""

WEEK = 7
DAYS_MIN = 5
FOLDS = 8
GAIN_MIN = 0.98
"""A model must do better than seasonal naive by this factor to be chosen: ties go to the simple one."""
_WEEKS_OF_MEAN = 4


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
    errors = {name: _mean_error(found, scale) for name, found in residuals.items()}
    naive = errors["seasonal_naive"]
    best = min(errors, key=lambda name: errors[name])
    if errors[best] > GAIN_MIN * naive:
        best = "seasonal_naive"
    predicted = np.maximum(_run(models[best], values, horizon), 0.0)
    found = residuals[best]
    return Forecast(
        model=best,
        predicted=predicted,
        widths={level: widths(found, horizon, level) for level in levels},
        folds=len(found),
        error=errors[best],
        naive_error=naive,
        coverage=_held_out_coverage(found),
    )


def candidates(period: int) -> dict[str, Model]:
    """Return the models for a season of so many steps; 1 is none."""
    models: dict[str, Model] = {
        "seasonal_naive": lambda values, horizon: seasonal_naive(values, horizon, period),
        "seasonal_mean": lambda values, horizon: seasonal_mean(values, horizon, period),
        "exponential_smoothing": lambda values, horizon: smoothed(values, horizon, period, None),
        "exponential_smoothing_trend": lambda values, horizon: smoothed(
            values, horizon, period, "add"
        ),
    }
    return models


def seasonal_naive(values: Array, horizon: int, period: int) -> Array:
    """Return the last season, again and again."""
    season = values[-period:]
    return np.asarray(season[np.arange(horizon) % len(season)])


def seasonal_mean(values: Array, horizon: int, period: int) -> Array:
    """Return the mean of the last few seasons, step by step."""
    length = len(values) // period * period
    seasons = values[-length:].reshape(-1, period)[-_WEEKS_OF_MEAN:]
    mean = seasons.mean(axis=0)
    return np.asarray(mean[np.arange(horizon) % period])


def smoothed(values: Array, horizon: int, period: int, trend: str | None) -> Array:
    """Return what exponential smoothing makes of it; statsmodels is heavy and imported here alone."""
    from statsmodels.tsa.holtwinters import ExponentialSmoothing  # type: ignore[import-untyped]

    scale = max(float(np.abs(values).mean()), 1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a series that does not converge loses its back-test
        model = ExponentialSmoothing(
            values / scale,
            trend=trend,
            damped_trend=trend is not None,
            seasonal="add" if period > 1 else None,
            seasonal_periods=period if period > 1 else None,
            initialization_method="heuristic"
            if len(values) >= max(10, 2 * period)
            else "estimated",
        )
        return (
            np.asarray(model.fit(minimize_kwargs={"options": {"maxiter": 60}}).forecast(horizon))
            * scale
        )


def _run(model: Model, values: Array, horizon: int) -> Array:
    found = model(values, horizon)
    return np.where(np.isfinite(found), found, values[-1])


def backtest(values: Array, model: Model, horizon: int, period: int) -> list[Array]:
    """Return what the model was wrong by from several origins: actual minus predicted, by horizon.

    The first origin leaves two seasons and two steps, and a third of the series, before it.
    """
    first = max(2 * period + 2, len(values) // 3)
    origins = sorted({int(at) for at in np.linspace(first, len(values) - 1, FOLDS)})
    found = []
    for origin in origins:
        ahead = values[origin : origin + horizon]
        predicted = np.maximum(_run(model, values[:origin], len(ahead)), 0.0)
        found.append(ahead - predicted)
    return found


def _mean_error(residuals: Sequence[Array], scale: float) -> float:
    return float(np.abs(np.concatenate(list(residuals))).mean() / scale)


def widths(residuals: Sequence[Array], horizon: int, level: float) -> Array:
    """Return half the width of the band at each step ahead.

    The quantile of the absolute errors of the steps around it, with the correction for how few there
    are; never narrower further ahead. Where fewer errors are known than the quantile needs, the
    largest is stretched as a normal's would be.
    """
    found = np.empty(horizon)
    for ahead in range(horizon):
        found[ahead] = _conformal(_near(residuals, ahead), level)
    return np.maximum.accumulate(found)


def _near(residuals: Sequence[Array], ahead: int) -> Array:
    reach = max(2, ahead // 3)
    parts = [np.abs(one[max(0, ahead - reach) : ahead + reach + 1]) for one in residuals]
    near = np.concatenate(parts)
    if len(near) >= _NEAR_MIN:
        return near
    return np.sort(np.abs(np.concatenate(list(residuals))))[-max(len(near), _NEAR_MIN) :]


_NEAR_MIN = 20


def _conformal(errors: Array, level: float) -> float:
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
