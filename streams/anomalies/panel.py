"""Scores of many series at once: how far is what just happened from what was to be expected.

Every series keeps the last hour in buckets of ten seconds. What is expected of it is its mean over
the buckets that were not strange themselves, times the season of the week. The distance is the signed
root of the Poisson deviance (McCullagh and Nelder, "Generalized Linear Models", 1989, 2.4.2), which
behaves like a normal score for busy series and keeps near the exact tail for quiet ones; sums such as
cost are first counted in calls of mean size; latencies, and prices (cost by tokens), are compared as
logarithms of means. Each is divided by the spread of the series' own scores, 1.4826 times the median absolute deviation, and never
by less than chance alone explains. Windows of 10, 30 and 60 seconds are looked at, and a cumulative
sum (Page, Biometrika 41, 1954) of the minutes finds what is small and stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from schemas.traffic import TOTAL, Sums

METRICS = ("calls", "cost_nano_usd", "tokens", "failure_rate", "latency_us", "price")
CALLS, COST, TOKENS, FAILURES, LATENCY, PRICE = range(len(METRICS))

WINDOWS = (1, 3, 6)
"""In buckets: 10, 30 and 60 seconds."""

HISTORY = 360
"""Buckets that are kept: an hour."""

POINTS_MIN = 30
"""Buckets of history, and calls in it, before anything is judged."""

SERIES_MAX = 2_000
MINUTE = 6

Array = np.ndarray

_MAD = 1.4826
_EXPECTED_MIN = 0.3
_FAILING_MIN = 0.005
_SIZES_SPREAD, _SIZES_TAIL, _FEW_CALLS = 1.3, 0.4, 10.0
"""A sum of log-normal sizes varies more than their number, and of few it has a heavier tail."""
_LATENCY_CV, _PRICE_CV = 0.7, 0.4
_STRANGE = 4.0
"""A bucket further away than this is not taken for normal later."""
_SLACK = 1.0
"""What the cumulative sum forgives each minute, in scores."""


@dataclass(frozen=True)
class Scores:
    """How one bucket and the windows that end with it look; arrays by window, metric, series.

    `expected` and `actual` are in the metric's own unit, of failures a number, of latency a sum, of
    price what the tokens would have cost, and did;
    `score` is positive above what is expected. `sums` are the cumulative ones, up and down.
    """

    score: Array
    expected: Array
    actual: Array
    calls: Array
    """By window and series."""
    sums: Array
    """By direction (up, down), metric, series."""
    warm: Array
    """Which series have enough history, by series."""
    doubt: Array
    """By how much more a series must score because its history is short, a factor by series."""


class Panel:
    """An hour of all series, a bucket at a time."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.index: dict[str, int] = {}
        self.last: int | None = None
        """Number of the last bucket, Unix seconds / 10."""
        self.pushed = 0
        self._first = np.zeros(0, np.int64)
        self._columns = np.zeros((6, 0, HISTORY))
        self._masked = np.zeros((len(METRICS), 0, HISTORY), bool)
        self._residual = np.full((len(WINDOWS), len(METRICS), 0, HISTORY), np.nan, np.float32)
        self._season = np.ones(HISTORY)
        self._cusum = np.zeros((2, len(METRICS), 0))
        self._level = np.zeros((len(METRICS), 0))
        self._unit = np.ones((len(METRICS), 0))
        self._spread = np.ones((len(WINDOWS), len(METRICS), 0))
        self._stale = True
        self._settled = False
        """Whether the last hour had enough calls, since when they came steadily."""

    # --- taking in -------------------------------------------------------------------------------

    def push(self, number: int, found: Mapping[str, Sums], season: float = 1.0) -> None:
        """Take in the bucket after the last one; series that are not in it did nothing.

        `season` is the relative rate of this hour of the week. Raises ValueError for another bucket.
        """
        if self.last is not None and number != self.last + 1:
            raise ValueError(f"bucket {number} does not follow {self.last}")
        if number % HISTORY == 0:
            self._forget()
        new = [name for name in found if name not in self.index]
        self._grow(new[: SERIES_MAX - len(self.names)], number)
        at = number % HISTORY
        self._columns[:, :, at] = 0.0
        self._masked[:, :, at] = False
        self._residual[:, :, :, at] = np.nan
        self._season[at] = season
        for name, sums in found.items():
            row = self.index.get(name)
            if row is not None:
                self._columns[:, row, at] = (
                    sums.calls,
                    sums.failures,
                    sums.successes,
                    sums.latency_us,
                    sums.cost_nano_usd,
                    sums.tokens,
                )
        self.last = number
        self.pushed += 1
        if number % MINUTE == 0 or self._stale:
            self._learn()

    def mask(self, metric: int, rows: Array, numbers: Sequence[int]) -> None:
        """Leave buckets of some series (a boolean array) out of what is normal, and of their sums."""
        self._cusum[:, metric, rows] = 0.0
        for number in numbers:
            if self.last is not None and self.last - HISTORY < number <= self.last:
                self._masked[metric, rows, number % HISTORY] = True

    def adopt(self, metric: int, rows: Array, since: int) -> None:
        """Take what some series did since a bucket for their new normal, and nothing before it."""
        assert self.last is not None
        old = [n % HISTORY for n in range(max(0, self.last - HISTORY + 1), since)]
        new = [n % HISTORY for n in range(max(since, self.last - HISTORY + 1), self.last + 1)]
        mine = np.flatnonzero(rows)
        self._masked[metric, mine[:, None], old] = True
        self._masked[metric, mine[:, None], new] = False
        self._residual[:, metric, mine[:, None], old] = np.nan
        self._cusum[:, metric, mine] = 0.0
        self._stale = True

    def _grow(self, names: Sequence[str], number: int) -> None:
        if not names:
            return
        for name in names:
            self.index[name] = len(self.names)
            self.names.append(name)
        more = len(names)
        self._first = np.append(self._first, np.full(more, number))
        self._columns = _widened(self._columns, 1, more, 0.0)
        self._masked = _widened(self._masked, 1, more, False)
        self._residual = _widened(self._residual, 2, more, np.nan)
        self._cusum = _widened(self._cusum, 2, more, 0.0)
        self._level = _widened(self._level, 1, more, 0.0)
        self._unit = _widened(self._unit, 1, more, 1.0)
        self._spread = _widened(self._spread, 2, more, 1.0)
        self._stale = True

    def _forget(self) -> None:
        """Let go of series that did nothing for an hour."""
        kept = self._columns[0].any(axis=1)
        if kept.all():
            return
        self.names = [name for name, keep in zip(self.names, kept, strict=True) if keep]
        self.index = {name: row for row, name in enumerate(self.names)}
        self._first = self._first[kept]
        self._columns = self._columns[:, kept]
        self._masked = self._masked[:, kept]
        self._residual = self._residual[:, :, kept]
        self._cusum = self._cusum[:, :, kept]
        self._level, self._unit = self._level[:, kept], self._unit[:, kept]
        self._spread = self._spread[:, :, kept]

    # --- what is normal --------------------------------------------------------------------------

    def _learn(self) -> None:
        """Learn levels and spreads anew, once a minute."""
        self._stale = False
        calls, failures, successes, latency, cost, tokens = self._columns
        known = self._known()
        season = np.where(known, self._season, 0.0)
        for metric, values in ((CALLS, calls), (COST, cost), (TOKENS, tokens)):
            fine = ~self._masked[metric] & known
            exposure = np.maximum((fine * season).sum(axis=1), 1e-9)
            total, counted = (values * fine).sum(axis=1), (calls * fine).sum(axis=1)
            self._level[metric] = total / exposure
            if metric != CALLS:
                self._unit[metric] = np.maximum(total / np.maximum(counted, 1.0), 1.0)
        fine = ~self._masked[FAILURES]
        share = ((failures * fine).sum(axis=1) + _FAILING_MIN) / ((calls * fine).sum(axis=1) + 1.0)
        self._level[FAILURES] = np.maximum(share, _FAILING_MIN)
        fine = ~self._masked[LATENCY]
        answered = (successes * fine).sum(axis=1)
        self._level[LATENCY] = (latency * fine).sum(axis=1) / np.maximum(answered, 1.0)
        fine = ~self._masked[PRICE]
        self._level[PRICE] = (cost * fine).sum(axis=1) / np.maximum(
            (tokens * fine).sum(axis=1), 1.0
        )
        self._learn_spread()

    def _learn_spread(self) -> None:
        if not self.names:
            return
        usual = np.where(self._masked[None], np.nan, self._residual)
        enough = np.isfinite(usual).sum(axis=3) >= POINTS_MIN
        spread = _MAD * _median(np.abs(usual - _median(usual)[..., None]))
        self._spread = np.maximum(np.where(enough, spread, 0.0), self._chance())

    def _chance(self) -> Array:
        """Return the spread that chance alone explains, by window, metric and series."""
        least = np.ones((len(WINDOWS), len(METRICS), len(self.names)))
        calls = np.array(WINDOWS)[:, None] * np.maximum(self._level[CALLS], 1e-9)[None, :]
        sizes = _SIZES_SPREAD + _SIZES_TAIL * np.minimum(1.0, np.sqrt(_FEW_CALLS / calls))
        least[:, [COST, TOKENS]] = sizes[:, None, :]
        return least

    def _known(self) -> Array:
        """Return which places of the ring hold a bucket of ours."""
        if self.pushed >= HISTORY or self.last is None:
            return np.ones(HISTORY, bool)
        known = np.zeros(HISTORY, bool)
        known[
            [number % HISTORY for number in range(self.last - self.pushed + 1, self.last + 1)]
        ] = True
        return known

    # --- judging ---------------------------------------------------------------------------------

    def scores(self) -> Scores:
        """Judge the last bucket, and note its scores for the spread. Call once per bucket."""
        assert self.last is not None
        shape = (len(WINDOWS), len(METRICS), len(self.names))
        raw, expected, actual = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        calls = np.zeros((len(WINDOWS), len(self.names)))
        for place, window in enumerate(WINDOWS):
            numbers = [(self.last - back) % HISTORY for back in range(min(window, self.pushed))]
            sums = self._columns[:, :, numbers].sum(axis=2)
            calls[place] = sums[0]
            season = float(self._season[numbers].sum())
            for metric, column in ((CALLS, 0), (COST, 4), (TOKENS, 5)):
                expected[place, metric] = self._level[metric] * season
                actual[place, metric] = sums[column]
            expected[place, FAILURES] = sums[0] * self._level[FAILURES]
            actual[place, FAILURES] = sums[1]
            expected[place, LATENCY] = sums[2] * self._level[LATENCY]
            actual[place, LATENCY] = sums[3]
            expected[place, PRICE] = sums[5] * self._level[PRICE]
            actual[place, PRICE] = sums[4]
            counts = [CALLS, COST, TOKENS, FAILURES]
            unit = self._unit[counts]
            raw[place, counts] = _deviance(
                actual[place, counts] / unit, expected[place, counts] / unit
            )
            for metric, cv in ((LATENCY, _LATENCY_CV), (PRICE, _PRICE_CV)):
                raw[place, metric] = _log_ratio(
                    actual[place, metric], expected[place, metric], sums[2], cv
                )
        score = raw / self._spread
        self._note(raw, score)
        warm = (self.last - self._first + 1 >= POINTS_MIN) & (self.pushed >= POINTS_MIN)
        earlier = self._columns[0].sum(axis=1) - calls[-1]
        warm &= (earlier >= POINTS_MIN) & self._settle(score, earlier)
        points = np.clip(np.minimum(self.last - self._first + 1, self.pushed), POINTS_MIN, None)
        doubt = 1.0 + (POINTS_MIN / points) ** 1.5
        return Scores(score, expected, actual, calls, self._cumulated(score), warm, doubt)

    def _settle(self, score: Array, earlier: Array) -> bool:
        """Return whether there is a baseline: a few calls, or those before a silence, are none.

        `earlier` are the calls of each series before the longest window. Where the first load that is
        enough differs from what was before it, that is forgotten, and history begins with the load.
        """
        row = self.index.get(TOTAL)
        if row is None:
            return True
        if earlier[row] < POINTS_MIN:
            self._settled = False
        elif not self._settled and self.pushed >= POINTS_MIN:
            self._settled = bool(np.abs(score[:, CALLS, row]).max() < _STRANGE)
            if not self._settled:
                self._begin()
        return self._settled

    def _begin(self) -> None:
        """Forget all but the buckets of the longest window."""
        assert self.last is not None
        self.pushed = WINDOWS[-1]
        self._first = np.maximum(self._first, self.last - self.pushed + 1)
        self._columns[:, :, ~self._known()] = 0.0
        self._masked[:] = False
        self._residual[:] = np.nan
        self._cusum[:] = 0.0
        self._stale = True

    def _note(self, raw: Array, score: Array) -> None:
        assert self.last is not None
        at = self.last % HISTORY
        self._residual[:, :, :, at] = raw
        self._masked[:, :, at] |= np.abs(score[0]) >= _STRANGE

    def _cumulated(self, score: Array) -> Array:
        """Add the minute that just ended to the cumulative sums, up and down."""
        assert self.last is not None
        if self.last % MINUTE == MINUTE - 1 and self.pushed >= POINTS_MIN:
            minute = np.clip(score[-1], -4.0, 4.0)
            self._cusum[0] = np.maximum(0.0, self._cusum[0] + minute - _SLACK)
            self._cusum[1] = np.maximum(0.0, self._cusum[1] - minute - _SLACK)
        return self._cusum.copy()

    def minutes(self, metric: int, row: int) -> tuple[Array, Array]:
        """Return the sums of each whole minute of the last hour, oldest first, and their seasons."""
        assert self.last is not None
        column = {CALLS: 0, COST: 4, TOKENS: 5, FAILURES: 1, LATENCY: 3}[metric]
        end = self.last + 1 - (self.last + 1) % MINUTE
        count = min(self.pushed - (self.last + 1 - end), HISTORY) // MINUTE * MINUTE
        places = [number % HISTORY for number in range(end - count, end)]
        values = self._columns[column, row, places].reshape(-1, MINUTE).sum(axis=1)
        return values, self._season[places].reshape(-1, MINUTE).sum(axis=1)

    def since(self, column: int, number: int) -> Array:
        """Return each series' sum of a column from a bucket on."""
        assert self.last is not None
        first = max(number, self.last - min(HISTORY, self.pushed) + 1)
        return np.asarray(
            self._columns[column][:, [n % HISTORY for n in range(first, self.last + 1)]].sum(axis=1)
        )


def _median(values: Array) -> Array:
    """Return the lower median along the last axis, of what is there; 0 of nothing.

    Sorting puts what is not there last; numpy's own nanmedian takes five times as long.
    """
    ordered = np.sort(values, axis=-1)
    middle = np.maximum(np.isfinite(values).sum(axis=-1) - 1, 0) // 2
    found = np.take_along_axis(ordered, middle[..., None], axis=-1)[..., 0]
    return np.asarray(np.nan_to_num(found))


def _deviance(actual: Array, expected: Array) -> Array:
    """Return the signed root of the Poisson deviance."""
    expected = np.maximum(expected, _EXPECTED_MIN)
    actual = np.maximum(actual, 0.0)
    ratio = np.log(np.maximum(actual, 1e-12) / expected)
    deviance = 2.0 * (np.where(actual > 0, actual * ratio, 0.0) - (actual - expected))
    return np.asarray(np.sign(actual - expected) * np.sqrt(np.maximum(deviance, 0.0)))


def _log_ratio(actual: Array, expected: Array, calls: Array, cv: float) -> Array:
    """Return how far a mean is from the expected one, in standard errors of its logarithm.

    `cv` is the standard deviation of one call's logarithm.
    """
    there = (calls > 0) & (expected > 0) & (actual > 0)
    ratio = np.log(np.where(there, actual, 1.0) / np.where(there, expected, 1.0))
    return np.where(there, ratio * np.sqrt(calls) / cv, 0.0)


def _widened(array: Array, axis: int, more: int, value: float) -> Array:
    shape = list(array.shape)
    shape[axis] = more
    return np.concatenate([array, np.full(shape, value, array.dtype)], axis=axis)
