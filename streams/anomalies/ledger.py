"""What was found, of tables and of its own decisions: each anomaly once, ended when it is over.

Everything is made of what the log holds: after a restart the last two hours are gone through again,
with the anomalies that were found then, and nothing is opened or ended for a time that had its turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import msgspec
import numpy as np

from schemas.event import Event
from schemas.events.operations import AnomalyChanged, AnomalyDriver, Heartbeat
from schemas.events.traffic import TRAFFIC_TABLE, TrafficCursor, TrafficRow
from schemas.traffic import FINE, HOURS, TOTAL, TrafficTable
from streams.anomalies import rules
from streams.anomalies.frontier import Frontier
from streams.anomalies.panel import (
    CALLS,
    FAILURES,
    HISTORY,
    LATENCY,
    METRICS,
    PRICE,
    WINDOWS,
    Panel,
    Scores,
)
from streams.anomalies.rules import Firing, dimension_of
from streams.anomalies.season import Season
from streams.anomalies.words import alert_of, explained, severity_of
from streams.decider import Ledger, decision_id

BUCKET_US = FINE.bucket_s * 1_000_000
GRACE_US = 5_000_000
"""How long a bucket waits for what is late."""

LAG_US_MAX = 30_000_000
"""Streams that are further behind are catching up: nothing is judged until then."""

BUCKETS_AT_ONCE = 20
"""Judged in one go, so that the folds beside us do not wait."""

REPLAY = 2 * HISTORY
"""Buckets that are gone through again after a start; the table holds them."""

ANEW = 60
"""Buckets before the start in which something may still be found: those that had no turn, mostly."""

QUIET_BUCKETS = 12
"""So long must it be quiet until it is over."""
SHIFT_US = 1_800_000_000
"""What lasts longer is a new level."""
COOLDOWN_US = 120_000_000
TREND_COOLDOWN_US = 3_600_000_000
TREND_BUCKETS = 60
"""What a series did in the last ten minutes of a trend is its new level."""
NEW_BUCKETS = 60
DAY_US = 86_400_000_000
OPEN_MAX = 200
"""Anomalies that are open at once; what comes beyond them is not told."""

OPEN, ENDED = "open", "ended"


class AnomalyLedger(Ledger):
    """Traffic as it was, and the anomalies that were found in it."""

    def __init__(self) -> None:
        self._traffic = TrafficTable()
        self._frontier = Frontier()
        self._season = Season()
        self._panel = Panel()
        self._from: int | None = None
        """The first bucket in which something may be found."""
        self._seen: dict[str, int] = {}
        self._known: dict[str, AnomalyChanged] = {}
        """By id: those that are open, and those that ended within the time that is gone through."""
        self._numbered: dict[str, AnomalyChanged] = {}
        """By metric, series and day: the last anomaly of the last days."""
        self._quiet: dict[str, int] = {}
        self._pending: list[AnomalyChanged] = []

    def apply(self, event: Event) -> None:
        """Take in a row, a cursor, a heartbeat or a decision."""
        if isinstance(event, TrafficRow):
            self._traffic.apply(event)
        elif isinstance(event, TrafficCursor):
            self._frontier.cursor(event)
        elif isinstance(event, Heartbeat):
            self._frontier.beat(event)
        elif isinstance(event, AnomalyChanged):
            self._learn_of(event)

    def removed(self, topic: str, key: bytes) -> None:
        """Take in that a row has expired."""
        if topic == TRAFFIC_TABLE.name:
            self._traffic.removed(key.decode())

    def remembered(self) -> Sequence[Event]:
        """Return the anomalies that are still heeded, and those that give others their number."""
        heeded = {e.anomaly_id: e for e in (*self._numbered.values(), *self._known.values())}
        return sorted(heeded.values(), key=lambda change: change.occurred_at_us)

    def knows(self, decision: Event) -> bool:
        """Whether this change, or a later one of the same anomaly, has been read back."""
        if not isinstance(decision, AnomalyChanged):
            return False
        known = self._known.get(decision.anomaly_id)
        return known is not None and known.number >= decision.number

    def due(self, at_us: int) -> Sequence[Event]:
        """Return what is to be published now: of each change its alert first."""
        self._pending = [change for change in self._pending if not self.knows(change)]
        whole_us = min(self._frontier.at_us, at_us)
        if not self._pending and at_us - whole_us <= LAG_US_MAX:
            self._go_on(whole_us, at_us)
        return [event for change in self._pending for event in (alert_of(change), change)]

    def _go_on(self, whole_us: int, at_us: int) -> None:
        """Judge the buckets that are whole, until something is to be told."""
        ready = (whole_us - GRACE_US) // BUCKET_US - 1
        last = self._panel.last
        if last is None or ready - last > REPLAY:
            last = self._begin(ready)
        for number in range(last + 1, min(ready, last + BUCKETS_AT_ONCE) + 1):
            self._judge(number, at_us)
            if self._pending:
                break

    # --- what is known ---------------------------------------------------------------------------

    def _learn_of(self, event: AnomalyChanged) -> None:
        known = self._known.get(event.anomaly_id)
        if known is not None and known.number >= event.number:
            return
        self._known[event.anomaly_id] = event
        name, number = numbered(event)
        last = self._numbered.get(name)
        if last is None or number >= numbered(last)[1]:
            self._numbered[name] = event
        old_us = event.occurred_at_us - 2 * REPLAY * BUCKET_US
        for stale in [e for e in self._known.values() if (e.ended_at_us or old_us) < old_us]:
            del self._known[stale.anomaly_id]
        past_us = event.started_at_us - 2 * DAY_US
        for gone in [n for n, e in self._numbered.items() if e.started_at_us < past_us]:
            del self._numbered[gone]

    def _begin(self, ready: int) -> int:
        """Begin anew with the hours before `ready`; return the bucket before the first."""
        self._panel = Panel()
        self._quiet.clear()
        start_s = (ready - REPLAY + 1) * FINE.bucket_s
        first = ready + 1
        for at in range(ready - REPLAY + 1, ready + 1):
            if self._traffic.bucket(FINE, at * FINE.bucket_s):
                first = at
                break
        self._from = max(first, ready - ANEW + 1)
        self._seen = {
            f"{dimension}:{name}": 0
            for dimension in rules.NEW_DIMENSIONS
            for name in self._traffic.members(
                dimension, HOURS, start_s - HOURS.keep_s, start_s - HOURS.bucket_s
            )
        }
        return first - 1

    # --- one bucket ------------------------------------------------------------------------------

    def _judge(self, number: int, at_us: int) -> None:
        time_s = number * FINE.bucket_s
        found = {
            name: sums
            for name, sums in self._traffic.bucket(FINE, time_s).items()
            if name == TOTAL or not name.endswith(":")
        }
        if self._panel.last is not None or found:
            self._panel.push(number, found, self._season.factor(self._traffic, time_s))
        else:
            return
        for name in found:
            self._seen.setdefault(name, number)
        scores = self._panel.scores()
        self._leave_out(number, scores)
        if self._from is None or number < self._from:
            return
        self._end(number, scores, at_us)
        self._open(number, scores, at_us)
        if number % 6 == 5:
            self._look_for_trends(number, at_us)
        self._look_for_news(number, scores, at_us)

    def _leave_out(self, number: int, scores: Scores) -> None:
        """Keep what belongs to a known anomaly out of what is normal, and adopt new levels."""
        now_us = (number + 1) * BUCKET_US
        for change in self._known.values():
            if change.kind == "new_value":
                continue
            metric, sign = METRICS.index(change.metric), sign_of(change)
            if change.status == ENDED and change.kind in ("level_shift", "trend"):
                if change.ended_at_us == now_us - BUCKET_US:
                    rows = self._concerned(change)
                    rows |= sign * scores.score[-1, metric] >= rules.QUIET
                    rows |= not change.drivers  # everybody's level is a new one
                    since = change.started_at_us // BUCKET_US
                    if change.kind == "trend":
                        since = number - TREND_BUCKETS
                    self._panel.adopt(metric, rows, since)
                continue
            if change.started_at_us <= now_us - BUCKET_US < (change.ended_at_us or now_us):
                rows = sign * scores.score[-1, metric] >= rules.QUIET
                self._panel.mask(metric, rows | self._concerned(change), [number])

    def _concerned(self, change: AnomalyChanged) -> np.ndarray:
        rows = np.zeros(len(self._panel.names), bool)
        for name in (change.dimension, *names_of(change.drivers[:1])):
            if name in self._panel.index:
                rows[self._panel.index[name]] = True
        return rows

    # --- the end ---------------------------------------------------------------------------------

    def _end(self, number: int, scores: Scores, at_us: int) -> None:
        now_us = (number + 1) * BUCKET_US
        for change in list(self._known.values()):
            if change.status != OPEN or now_us <= change.occurred_at_us - GRACE_US:
                continue  # this bucket had its turn before the anomaly was found
            if change.kind == "new_value":
                over = now_us - change.started_at_us > NEW_BUCKETS * BUCKET_US
                if over:
                    self._close(change, now_us, change.kind, at_us)
                continue
            if change.kind == "trend":
                self._close(change, now_us, change.kind, at_us)
                continue
            quiet = self._is_quiet(change, scores)
            self._quiet[change.anomaly_id] = (
                self._quiet.get(change.anomaly_id, 0) + 1 if quiet else 0
            )
            if self._quiet[change.anomaly_id] >= QUIET_BUCKETS:
                since_us = now_us - (QUIET_BUCKETS + WINDOWS[-1] - 1) * BUCKET_US
                self._close(change, max(since_us, change.started_at_us), change.kind, at_us)
            elif now_us - change.started_at_us > SHIFT_US:
                self._close(change, now_us, "level_shift", at_us)

    def _is_quiet(self, change: AnomalyChanged, scores: Scores) -> bool:
        metric, sign = METRICS.index(change.metric), sign_of(change)
        rows = self._concerned(change)
        actual, expected = scores.actual[-1, metric], scores.expected[-1, metric]
        more = actual >= 1.25 * expected if sign > 0 else actual <= 0.75 * expected
        return not (rows & more & (sign * scores.score[-1, metric] >= rules.QUIET)).any()

    def _close(self, change: AnomalyChanged, ended_us: int, kind: str, at_us: int) -> None:
        self._quiet.pop(change.anomaly_id, None)
        number = change.number + 1
        self._pending.append(
            msgspec.structs.replace(
                change,
                event_id=decision_id("anomaly", f"{change.anomaly_id}#{number}"),
                occurred_at_us=at_us,
                kind=kind,
                status=ENDED,
                ended_at_us=ended_us,
                number=number,
            )
        )

    # --- the beginning ---------------------------------------------------------------------------

    def _open(self, number: int, scores: Scores, at_us: int) -> None:
        for firing in rules.fired(scores, self._panel.names):
            if self._is_told(firing, scores, number):
                continue
            if self._goes_on(firing, number):
                firing = firing._replace(kind="trend")
            dimension, made = rules.drivers(self._panel, scores, firing)
            if self._is_known(firing, dimension, names_of(made[:1]), number):
                continue  # another series shows the same
            row = self._panel.index[dimension]
            length = WINDOWS[firing.place]
            self._raise(
                METRICS[firing.metric],
                dimension,
                firing.kind,
                (number - length + 1) * BUCKET_US,
                rules.in_unit(scores, firing.metric, firing.place, row),
                firing.score,
                made,
                at_us,
            )
            rows = firing.sign * scores.score[-1, firing.metric] >= rules.QUIET
            rows[row] = True
            self._panel.mask(firing.metric, rows, range(number - length + 1, number + 1))

    def _goes_on(self, firing: Firing, number: int) -> bool:
        """Whether what fires has risen or fallen steadily, or its level shifted the same way within the hour."""
        if firing.metric in (FAILURES, LATENCY, PRICE):
            return False
        rise = rules.trend(self._panel, firing.metric, firing.row, rules.TREND_RISE_MIN)[0]
        if firing.sign * rise >= rules.TREND_SCORE:
            return True
        now_us = (number + 1) * BUCKET_US
        return firing.kind == "level_shift" and any(
            change.kind == "level_shift"
            and change.dimension == self._panel.names[firing.row]
            and sign_of(change) == firing.sign
            for change in self._current(METRICS[firing.metric], now_us, TREND_COOLDOWN_US)
        )

    def _is_told(self, firing: Firing, scores: Scores, number: int) -> bool:
        """Whether an anomaly that is open, or has just ended, explains what fires."""
        name = self._panel.names[firing.row]
        now_us = (number + 1) * BUCKET_US
        for change in self._current(METRICS[firing.metric], now_us, TREND_COOLDOWN_US):
            if change.kind == "new_value" or sign_of(change) != firing.sign:
                continue
            if firing.kind == "level_shift" and change.kind == "trend":
                return True
            is_all = change.kind == "level_shift" and not change.drivers
            if firing.kind == "level_shift" and is_all and name != change.dimension:
                return True  # everybody's level is a new one
            if change.ended_at_us is not None and now_us - change.ended_at_us >= COOLDOWN_US:
                continue
            names = names_of(change.drivers[:1])
            if not names or name in (*names, change.dimension):
                return True
            row = self._panel.index.get(names[0])
            if dimension_of(name) == dimension_of(names[0]) or row is None:
                continue
            at = (firing.place, firing.metric, row)
            left = firing.excess - float(scores.actual[at] - scores.expected[at])
            rest = abs(firing.score) * max(0.0, left / firing.excess)
            if change.status == ENDED or rest < rules.FIRE[firing.place]:
                return True
        return False

    def _is_known(self, firing: Firing, dimension: str, names: list[str], number: int) -> bool:
        """Whether the same was told of the same series with the same driver."""
        now_us = (number + 1) * BUCKET_US
        return any(
            change.kind != "new_value"
            and sign_of(change) == firing.sign
            and (change.dimension, names_of(change.drivers[:1])) == (dimension, names)
            for change in self._current(METRICS[firing.metric], now_us, COOLDOWN_US)
        )

    def _current(self, metric: str, now_us: int, cooldown_us: int) -> Iterator[AnomalyChanged]:
        for change in [*self._known.values(), *self._pending]:
            over_us = change.ended_at_us
            if change.metric == metric and (over_us is None or now_us - over_us < cooldown_us):
                yield change

    def _look_for_trends(self, number: int, at_us: int) -> None:
        now_us = (number + 1) * BUCKET_US
        for metric in range(CALLS, CALLS + 3):
            if any(
                change.kind not in ("new_value", "level_shift")
                for change in self._current(METRICS[metric], now_us, TREND_COOLDOWN_US)
            ):
                continue  # what leapt within the hour has also risen in it
            for row, name in enumerate(self._panel.names):
                if dimension_of(name) not in rules.TREND_DIMENSIONS:
                    continue
                score, first, last = rules.trend(self._panel, metric, row)
                if abs(score) >= rules.TREND_SCORE:
                    since_us = now_us - rules.TREND_MINUTES * 60_000_000
                    self._raise(
                        METRICS[metric], name, "trend", since_us, (first, last), score, [], at_us
                    )
                    break

    def _look_for_news(self, number: int, scores: Scores, at_us: int) -> None:
        """Find members of a dimension that were never there and are busy at once."""
        if self._panel.pushed < HISTORY or TOTAL not in self._panel.index:
            return
        now_us = (number + 1) * BUCKET_US
        calls = scores.calls[-1]
        all_calls = float(calls[self._panel.index[TOTAL]])
        busy = (calls >= rules.NEW_CALLS_MIN) & (calls >= rules.NEW_SHARE_MIN * all_calls)
        for row in np.flatnonzero(busy):
            name = self._panel.names[row]
            first = self._seen.get(name, 0)
            if number - first >= NEW_BUCKETS or dimension_of(name) not in rules.NEW_DIMENSIONS:
                continue
            told = [
                c for c in self._current("calls", now_us, 2 * SHIFT_US) if c.kind == "new_value"
            ]
            if any(abs(c.started_at_us - first * BUCKET_US) < COOLDOWN_US for c in told):
                continue  # a model that is new comes at a target that is new
            dimension, _, member = name.partition(":")
            share = round(float(calls[row]) / all_calls, 4)
            driver = AnomalyDriver(dimension, member, 1.0, 0.0, share, 0.0, float(calls[row]))
            self._raise(
                "calls",
                name,
                "new_value",
                first * BUCKET_US,
                (0.0, float(calls[row])),
                float(scores.score[-1, CALLS, row]),
                [driver],
                at_us,
            )

    def _raise(
        self,
        metric: str,
        dimension: str,
        kind: str,
        started_us: int,
        levels: tuple[float, float],
        score: float,
        made: list[AnomalyDriver],
        at_us: int,
    ) -> None:
        day = datetime.fromtimestamp(started_us // 1_000_000, UTC).strftime("%Y-%m-%d")
        series = f"{metric}|{dimension}#{day}"
        pending = sum(
            change.number == 1 and change.anomaly_id.startswith(f"{series}-")
            for change in self._pending
        )
        if sum(c.status == OPEN for c in self._known.values()) + len(self._pending) >= OPEN_MAX:
            return
        last = self._numbered.get(series)
        number = (numbered(last)[1] if last is not None else 0) + pending + 1
        anomaly_id = f"{series}-{number}"
        expected, actual = levels
        self._pending.append(
            AnomalyChanged(
                event_id=decision_id("anomaly", f"{anomaly_id}#1"),
                occurred_at_us=at_us,
                anomaly_id=anomaly_id,
                metric=metric,
                dimension=dimension,
                kind=kind,
                severity=severity_of(metric, kind, score, expected, actual),
                status=OPEN,
                expected=expected,
                actual=actual,
                score=round(score, 2),
                started_at_us=started_us,
                found_at_us=at_us,
                explanation=explained(metric, dimension, kind, expected, actual, made),
                number=1,
                drivers=made,
            )
        )


def numbered(change: AnomalyChanged) -> tuple[str, int]:
    """Return what counts an anomaly (metric, series, day), and its number there."""
    name, _, told = change.anomaly_id.rpartition("#")
    day, _, number = told.rpartition("-")
    return f"{name}#{day}", int(number)


def sign_of(change: AnomalyChanged) -> int:
    """Return +1 for more than expected, -1 for less."""
    return 1 if (change.actual or 0.0) >= (change.expected or 0.0) else -1


def names_of(made: Sequence[AnomalyDriver]) -> list[str]:
    """Return the series of drivers."""
    return [f"{driver.dimension}:{driver.name}" for driver in made]
