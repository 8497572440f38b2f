"""The season of the week, from the hours of the traffic table."""

from __future__ import annotations

import numpy as np

from schemas.traffic import HOURS, TOTAL, TrafficTable

_HOUR_S = 3_600
_DAY_S = 86_400
_WEEK_HOURS = 168
_DAYS_MIN = 8
"""Before so many days are known, a season of the week cannot be told from anything else."""


class Season:
    """How busy each hour of the week is, relative to the mean; learnt anew each hour."""

    def __init__(self) -> None:
        self._learnt_at_h: int | None = None
        self._factors = np.ones(_WEEK_HOURS)

    def factor(self, table: TrafficTable, time_s: int) -> float:
        """Return the relative rate at a moment, 1 while too little is known."""
        hour = time_s // _HOUR_S
        if self._learnt_at_h != hour:
            self._learnt_at_h = hour
            self._learn(table, hour)
        return float(self._factors[hour % _WEEK_HOURS])

    def _learn(self, table: TrafficTable, hour: int) -> None:
        to_s = hour * _HOUR_S
        found = table.series(TOTAL, HOURS, to_s - HOURS.keep_s, to_s)
        self._factors = np.ones(_WEEK_HOURS)
        if not found or to_s - min(found) < _DAYS_MIN * _DAY_S:
            return
        first = min(found) // _HOUR_S + 1
        counts = [
            found[at * _HOUR_S].calls if at * _HOUR_S in found else 0 for at in range(first, hour)
        ]
        places = np.arange(first, hour) % _WEEK_HOURS
        values = np.array(counts, float)
        usual = np.array([_median(values[places == place]) for place in range(_WEEK_HOURS)])
        if usual.mean() > 0:
            self._factors = np.clip(usual / usual.mean(), 0.05, 20.0)


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else 0.0
