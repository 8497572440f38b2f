"""When a score is an anomaly, and who made the difference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from schemas.events.operations import AnomalyDriver
from schemas.traffic import TOTAL
from streams.anomalies.panel import (
    CALLS,
    COST,
    FAILURES,
    LATENCY,
    MINUTE,
    PRICE,
    TOKENS,
    WINDOWS,
    Panel,
    Scores,
)

FIRE = (8.0, 6.5, 5.5)
"""Scores that fire, by window: the shorter, the more often it is looked at."""

STRANGE = 4.0
"""Scores from which on a series counts among those that may have made the difference."""

QUIET = 3.0
CUSUM = 12.0
SHIFT_DIMENSIONS = ("total", "target", "team", "project")
"""Small shifts are looked for where many calls meet, and not in latencies, which drift."""
PRICE_DIMENSIONS = ("target", "model")
"""Who else pays another price asks for something else."""
RISE, FALL, SHIFT = 1.5, 0.5, 1.3
"""Changes below these factors matter to nobody, however sure they are."""

CALLS_MIN = {CALLS: 10, COST: 3, TOKENS: 3, FAILURES: 8, LATENCY: 8, PRICE: 8}
DROP_CALLS_MIN = 12.0
FAILURES_MIN = 5
FAILURE_RISE_MIN = 0.1
SHARE_MIN = 0.5
"""Who made less of the change than this did not make it alone."""
LIFT_MIN = 1.25
"""Who has made as much of the change as of everything before has only gone with the others."""
SAME_MIN = 0.7
EVERYBODY = 0.95
"""Who had a greater part of the total before is no better an explanation than the total."""

PREFERRED = (
    "user",
    "team",
    "project",
    "cost_center",
    "organization",
    "key",
    "target",
    "model",
    "task",
    "total",
)
"""Of two that explain the same equally well, the first."""

TREND_MINUTES, TREND_MINUTES_MIN = 60, 30
TREND_RISE_MIN = 1.2
"""So much must a level that shifted have risen steadily to be called a trend."""
TREND_SCORE = 6.0
TREND_DIMENSIONS = ("total", "target", "team", "project", "key")

NEW_CALLS_MIN = 20
NEW_SHARE_MIN = 0.05
NEW_DIMENSIONS = ("target", "model", "team", "project", "key", "task")


class Firing(NamedTuple):
    """A series that is strange: `sign` +1 above what was expected, `place` the window."""

    metric: int
    row: int
    sign: int
    place: int
    kind: str
    score: float
    excess: float


def dimension_of(name: str) -> str:
    """Return the dimension of a series."""
    return name.partition(":")[0]


def fired(scores: Scores, names: Sequence[str]) -> list[Firing]:
    """Return what fires in this bucket, of each series and metric the surest window."""
    found: list[Firing] = []
    steady = scores.warm & np.array(
        [dimension_of(name) in SHIFT_DIMENSIONS for name in names], bool
    )
    priced = np.array([dimension_of(name) in PRICE_DIMENSIONS for name in names], bool)
    for metric in (CALLS, COST, TOKENS, FAILURES, LATENCY, PRICE):
        judged = scores.warm & priced if metric == PRICE else scores.warm
        taken: set[int] = set()
        for place in sorted(range(len(WINDOWS)), key=lambda at: -WINDOWS[at]):
            for sign in (1, -1):
                hits = _hits(scores, metric, place, sign) & judged
                for row in np.flatnonzero(hits):
                    if int(row) not in taken:
                        taken.add(int(row))
                        kind = "spike" if sign > 0 else "drop"
                        found.append(_firing(scores, metric, int(row), sign, place, kind))
        for direction, sign in ((0, 1), (1, -1)):
            shifted = (scores.sums[direction, metric] >= CUSUM) & steady
            shifted &= metric not in (LATENCY, PRICE)
            for row in np.flatnonzero(shifted & _shift(scores, metric, sign)):
                if int(row) not in taken:
                    taken.add(int(row))
                    found.append(_firing(scores, metric, int(row), sign, 2, "level_shift"))
    return sorted(found, key=lambda firing: (firing.metric, -abs(firing.excess), firing.row))


def _firing(scores: Scores, metric: int, row: int, sign: int, place: int, kind: str) -> Firing:
    at = (place, metric, row)
    excess = float(scores.actual[at] - scores.expected[at])
    return Firing(metric, row, sign, place, kind, float(scores.score[at]), excess)


def _hits(scores: Scores, metric: int, place: int, sign: int) -> np.ndarray:
    actual, expected = scores.actual[place, metric], scores.expected[place, metric]
    calls = scores.calls[place]
    sure = sign * scores.score[place, metric] >= FIRE[place] * scores.doubt
    if sign > 0:
        hits = sure & (actual >= RISE * expected) & (calls >= CALLS_MIN[metric])
        if metric == FAILURES:
            share = actual / np.maximum(calls, 1.0)
            usual = expected / np.maximum(calls, 1.0)
            hits &= (actual >= FAILURES_MIN) & (share >= usual + FAILURE_RISE_MIN)
        return np.asarray(hits)
    if metric in (FAILURES, LATENCY, PRICE):
        return np.zeros(
            len(actual), bool
        )  # fewer failures, shorter waits, lower prices alarm nobody
    return np.asarray(
        sure & (actual <= FALL * expected) & (scores.expected[place, CALLS] >= DROP_CALLS_MIN)
    )


def _shift(scores: Scores, metric: int, sign: int) -> np.ndarray:
    """Return which series are still away from their level, over the last minute."""
    actual, expected = scores.actual[-1, metric], scores.expected[-1, metric]
    busy = scores.expected[-1, CALLS] >= DROP_CALLS_MIN
    if sign > 0:
        enough = actual >= FAILURES_MIN if metric == FAILURES else busy
        return np.asarray(enough & (actual >= SHIFT * expected))
    if metric in (FAILURES, LATENCY):
        return np.zeros(len(actual), bool)
    return np.asarray(busy & (actual * SHIFT <= expected))


def drivers(panel: Panel, scores: Scores, firing: Firing) -> tuple[str, list[AnomalyDriver]]:
    """Return the series in which it shows, and who made the difference, the first of all first.

    Of the series that changed the same way the one that explains nearly as much as any other and had
    the smallest part before: a user rather than his team, a team rather than the model it asks.
    Nobody when the total changed and no one made half of it.
    """
    excess = firing.sign * (
        scores.actual[firing.place, firing.metric] - scores.expected[firing.place, firing.metric]
    )
    score = firing.sign * scores.score[firing.place, firing.metric]
    before = scores.expected[firing.place, firing.metric]
    whole_before = before[panel.index[TOTAL]] if TOTAL in panel.index else np.inf
    strange = score >= STRANGE
    if firing.kind == "level_shift":  # of what is small and stays, scores tell little
        strange |= scores.sums[(1 - firing.sign) // 2, firing.metric] >= CUSUM / 2
    strange &= (excess > 0) & (before < EVERYBODY * whole_before)
    rows = [int(row) for row in np.flatnonzero(strange) if _named(panel, int(row))]
    if firing.row not in rows and _named(panel, firing.row):
        rows.append(firing.row)
    total = panel.index.get(TOTAL)
    in_total = total is not None and score[total] >= STRANGE and excess[total] > 0
    if not rows:
        return panel.names[firing.row], []
    first = _narrowest(panel, rows, excess, before)
    if in_total and total is not None:
        made = excess[first] / excess[total]
        if made < SHARE_MIN or made < LIFT_MIN * before[first] / max(before[total], 1e-9):
            return TOTAL, []
    whole = total if in_total and total is not None else first
    order = [first, *sorted((row for row in rows if row != first), key=lambda row: -excess[row])]
    shown: dict[str, int] = {}
    for row in order:
        shown.setdefault(dimension_of(panel.names[row]), int(row))
    told = [_driver(panel, scores, firing, row, whole) for row in shown.values()]
    return panel.names[whole], told


def _named(panel: Panel, row: int) -> bool:
    return not panel.names[row].endswith(":")


def _narrowest(panel: Panel, rows: list[int], excess: np.ndarray, before: np.ndarray) -> int:
    most = max(excess[row] for row in rows)
    same = [row for row in rows if excess[row] >= SAME_MIN * most]
    least = min(before[row] for row in same)
    close = [row for row in same if before[row] <= 1.1 * least + 1e-9]
    return int(min(close, key=lambda row: PREFERRED.index(dimension_of(panel.names[row]))))


def _driver(panel: Panel, scores: Scores, firing: Firing, row: int, whole: int) -> AnomalyDriver:
    dimension, _, name = panel.names[row].partition(":")
    total = panel.index.get(TOTAL, whole)
    actual, expected = (
        values[firing.place, firing.metric] for values in (scores.actual, scores.expected)
    )
    usual, now = in_unit(scores, firing.metric, firing.place, row)
    change = actual[whole] - expected[whole]
    return AnomalyDriver(
        dimension=dimension,
        name=name,
        contribution=_part(actual[row] - expected[row], change),
        share_before=_part(expected[row], expected[total]),
        share_after=_part(actual[row], actual[total]),
        expected=usual,
        actual=now,
    )


def _part(part: float, whole: float) -> float:
    return round(float(part / whole), 4) if whole else 0.0


def in_unit(scores: Scores, metric: int, place: int, row: int) -> tuple[float, float]:
    """Return what was expected and what came: per minute, as a share, as a mean, or per million tokens."""
    expected, actual = scores.expected[place, metric, row], scores.actual[place, metric, row]
    calls = float(scores.calls[place, row])
    if metric == FAILURES:
        return _rounded(expected / max(calls, 1.0)), _rounded(actual / max(calls, 1.0))
    if metric == PRICE:
        tokens = max(float(scores.actual[place, TOKENS, row]), 1.0) / 1e6
        return _rounded(expected / tokens), _rounded(actual / tokens)
    if metric == LATENCY:
        failed = float(scores.actual[place, FAILURES, row])
        answered = max(calls - failed, 1.0)
        return _rounded(expected / answered), _rounded(actual / answered)
    per_minute = MINUTE / WINDOWS[place]
    return _rounded(expected * per_minute), _rounded(actual * per_minute)


def _rounded(value: float) -> float:
    return float(f"{float(value):.6g}")


def trend(panel: Panel, metric: int, row: int, rise: float = RISE) -> tuple[float, float, float]:
    """Return (score, first level, last level) of up to an hour of minutes; score 0 where there is none.

    Mann (Econometrica 13, 1945) and Kendall: how many more pairs of minutes rise than fall, in standard
    deviations, after the season is taken out.
    """
    values, season = panel.minutes(metric, row)
    count = min(len(values), TREND_MINUTES)
    if count < TREND_MINUTES_MIN:
        return 0.0, 0.0, 0.0
    level = values[-count:] / np.maximum(season[-count:], 1e-9) * MINUTE
    rises = np.sign(level[None, :] - level[:, None])[np.triu_indices(count, 1)].sum()
    spread = np.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    third = count // 3
    first, middle, last = (float(np.median(level[at : at + third])) for at in (0, third, 2 * third))
    steady = min(first, last) < middle < max(first, last)
    busy = max(first, last) >= DROP_CALLS_MIN or metric != CALLS
    big = last >= rise * first or first >= rise * last
    score = float(rises / spread)
    return (score if steady and busy and big else 0.0), first, last
