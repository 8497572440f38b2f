"""The hours of the days to come: each day's prediction, spread as the hours of such days were.

How wrong the spreading was on days that had not been seen gives its part of the bands; that of the day is the
other, and the two are independent.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streams.forecasts.candidates import Array
from streams.forecasts.models import WEEK, conformal

HOURS = 24
DAYS_AHEAD = 7
DAYS_KNOWN = 28
"""Days that are looked back on."""
_OTHER_DAYS = 0.15
"""What another weekday tells of a day, relative to the same."""
_DAYS_MIN = 3


def hours_ahead(
    history: Array, predicted: Array, widths: Mapping[float, Array]
) -> tuple[Array, Mapping[float, Array]]:
    """Return what is predicted of each hour of a week, and half the width of its bands.

    `history` has a row of 24 for each day up to yesterday, `predicted` and `widths` are of the days from today on.
    """
    ahead = min(DAYS_AHEAD, len(predicted))
    days = predicted[:ahead, None]
    shares = np.array([_shares(history, len(history) + day) for day in range(ahead)])
    wrong = _wrong(history)
    bands = {}
    for level, width in widths.items():
        spread = np.array([conformal(_near(wrong, hour), level) for hour in range(HOURS)])
        bands[level] = np.hypot(shares * width[:ahead, None], spread[None, :] * days).ravel()
    return (shares * days).ravel(), bands


def _shares(history: Array, day: int) -> Array:
    """Return each hour's part of a day, by those before it, its own weekday's above all."""
    first = max(0, min(day, len(history)) - DAYS_KNOWN)
    known = history[first : min(day, len(history))]
    is_same = (np.arange(first, first + len(known)) - day) % WEEK == 0
    weights = np.where(is_same, 1.0, _OTHER_DAYS)[:, None]
    sums = (known * weights).sum(axis=0)
    return np.asarray(sums / sums.sum()) if sums.sum() > 0 else np.full(HOURS, 1 / HOURS)


def _wrong(history: Array) -> Array:
    """Return how far each hour was from its predicted part, relative to its day, by day and hour."""
    found = [
        np.abs(history[day] / history[day].sum() - _shares(history[:day], day))
        for day in range(max(_DAYS_MIN, len(history) - DAYS_KNOWN), len(history))
        if history[day].sum() > 0
    ]
    return np.array(found) if found else np.full((1, HOURS), 1 / HOURS)


def _near(wrong: Array, hour: int) -> Array:
    return np.asarray(wrong[:, np.arange(hour - 1, hour + 2) % HOURS].ravel())
