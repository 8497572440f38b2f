"""The models that a forecast is chosen from, each a function of history and horizon.

Seasonal naive and the mean of the last seasons know no trend. Exponential smoothing (Holt and Winters), Theta
(Assimakopoulos and Nikolopoulos, International Journal of Forecasting 16, 2000: half of the trend goes on) and
autoregressions with and without a deterministic season are statsmodels'. What is never zero is modelled as
logarithms, since seasons, growth and noise of traffic are factors. Days far from their neighbours, seen by
weekday, are pulled in before a model is fitted.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

Array = np.ndarray
Model = Callable[[Array, int], Array]
"""From history and horizon to predictions."""

_SEASONS_OF_MEAN = 4
GROWTH_MAX = 3.0
"""No model may go on to more than so many times what was ever there."""
_OUTLYING = 4.0
"""In standard deviations, as the median absolute deviation estimates them."""


def candidates(period: int) -> dict[str, Model]:
    """Return the models for a season of so many steps; 1 is none."""

    def fitted(model: Callable[[Array, int, int], Array]) -> Model:
        return lambda values, horizon: _fitted(model, values, horizon, period)

    return {
        "seasonal_naive": lambda values, horizon: seasonal_naive(values, horizon, period),
        "seasonal_mean": lambda values, horizon: seasonal_mean(
            cleaned(values, period), horizon, period
        ),
        "exponential_smoothing": fitted(_smoothed),
        "theta": fitted(_theta),
        "trend_autoregression": fitted(_trending),
        "autoregression": fitted(_autoregressive),
    }


def seasonal_naive(values: Array, horizon: int, period: int) -> Array:
    """Return the last season, again and again."""
    season = values[-period:]
    return np.asarray(season[np.arange(horizon) % len(season)])


def seasonal_mean(values: Array, horizon: int, period: int) -> Array:
    """Return the mean of the last few seasons, step by step."""
    length = len(values) // period * period
    seasons = values[-length:].reshape(-1, period)[-_SEASONS_OF_MEAN:]
    mean = seasons.mean(axis=0)
    return np.asarray(mean[np.arange(horizon) % period])


def cleaned(values: Array, period: int) -> Array:
    """Return the values with those pulled in that are far from what is around them at their place in the season."""
    reach = max(period, 3)
    around = np.lib.stride_tricks.sliding_window_view(
        np.pad(values, reach, mode="reflect"), 2 * reach + 1
    )
    level = np.median(around, axis=1)
    rest = values - level
    place = np.arange(len(values)) % period
    season = np.array([np.median(rest[place == at]) for at in range(period)])[place]
    rest -= season
    limit = _OUTLYING * 1.4826 * float(np.median(np.abs(rest)))
    return np.asarray(level + season + np.clip(rest, -limit, limit)) if limit > 0 else values


def _fitted(
    model: Callable[[Array, int, int], Array], values: Array, horizon: int, period: int
) -> Array:
    """Return what a model makes of cleaned logarithms, or of values where some are zero.

    Where it cannot be fitted, to a constant for example, seasonal naive stands for it.
    """
    is_positive = bool((values > 0).all())
    scale = max(float(np.abs(values).mean()), 1e-9)
    told = cleaned(np.log(values) if is_positive else values / scale, period)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a series that does not converge loses its back-test
        try:
            found = np.asarray(model(told, horizon, period), float)
        except (ValueError, np.linalg.LinAlgError):
            return seasonal_naive(values, horizon, period)
    most = GROWTH_MAX * float(values.max())
    if is_positive:
        return np.asarray(np.exp(np.minimum(found, np.log(most))))
    return np.minimum(found * scale, most)


def _smoothed(values: Array, horizon: int, period: int) -> Array:
    from statsmodels.tsa.holtwinters import ExponentialSmoothing  # type: ignore[import-untyped]

    is_long = len(values) >= max(10, 2 * period)
    model = ExponentialSmoothing(
        values,
        seasonal="add" if period > 1 else None,
        seasonal_periods=period if period > 1 else None,
        initialization_method="heuristic" if is_long else "estimated",
    )
    return np.asarray(model.fit(minimize_kwargs={"options": {"maxiter": 60}}).forecast(horizon))


def _theta(values: Array, horizon: int, period: int) -> Array:
    from statsmodels.tsa.forecasting.theta import ThetaModel  # type: ignore[import-untyped]

    model = ThetaModel(
        values,
        period=max(period, 2),
        deseasonalize=period > 1,
        use_test=False,
        method="additive",
    )
    return np.asarray(model.fit(disp=False).forecast(horizon))


def _trending(values: Array, horizon: int, period: int) -> Array:
    """Regress on the trend, the place in the season and the step before."""
    return _regressed(values, horizon, period, 1, "ct")


def _autoregressive(values: Array, horizon: int, period: int) -> Array:
    """Regress on the steps of the last season and one more: a season whose length wanders."""
    return _regressed(values, horizon, 1, min(max(period, 2) + 1, len(values) // 6), "c")


def _regressed(values: Array, horizon: int, period: int, lags: int, trend: str) -> Array:
    from statsmodels.tsa.ar_model import AutoReg  # type: ignore[import-untyped]

    is_seasonal = period > 1
    model = AutoReg(
        values, lags=lags, trend=trend, seasonal=is_seasonal, period=period if is_seasonal else None
    )
    return np.asarray(model.fit().predict(len(values), len(values) + horizon - 1))
