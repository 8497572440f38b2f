"""Prometheus metrics as sums over the projected facts: exact over all workers, restarts and replicas.

A worker counts nothing: each scrape adds up the rows that were committed since the last one, so a
scrape costs a query over few rows, and the totals are those of the log. Names and buckets of
``gen_ai_*`` are those of OpenTelemetry's semantic conventions (1.37) as Prometheus spells them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from projections.database import Database
from schemas.event import Topic
from schemas.events.llm import COSTS, RESPONSES
from schemas.events.operations import DEAD_LETTERS

DURATIONS_S = (
    0.01,
    0.02,
    0.04,
    0.08,
    0.16,
    0.32,
    0.64,
    1.28,
    2.56,
    5.12,
    10.24,
    20.48,
    40.96,
    81.92,
)
FIRST_TOKENS_S = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    10.0,
)
TOKENS = tuple(float(4**power) for power in range(14))
SERIES_MAX = 2_000
"""Sets of labels per sum; callers may name any model, so what comes later counts as ``other``."""
OTHER = "other"

Labels = tuple[str, ...]
Sums = dict[Labels, list[float]]


class Table:
    """Sums of one statement by its labels, kept up to date by offsets."""

    def __init__(self, topic: Topic, labels: Sequence[str], statement: str) -> None:
        self.topic = topic
        self.labels = list(labels)
        self.sums: Sums = {}
        self._statement = statement
        self._read: Mapping[int, int] = {}

    def follow(self, database: Database) -> None:
        """Add the rows that were committed since the last call."""
        ends = database.cursor().positions.get(self.topic.name, {})
        if not ends:
            return
        places = " OR ".join(
            f"(log_partition = {part} AND log_offset >= {self._read.get(part, 0)} AND log_offset < {end})"
            for part, end in ends.items()
        )
        for row in database.query(self._statement.replace("$PLACES", f"({places})")):
            self._add(tuple(str(label or "") for label in row[: len(self.labels)]), row)
        self._read = dict(ends)

    def _add(self, labels: Labels, row: Sequence[Any]) -> None:
        figures = row[len(self.labels) :]
        if labels not in self.sums and len(self.sums) >= SERIES_MAX:
            labels = tuple(OTHER for _ in labels)
        sums = self.sums.setdefault(labels, [0.0] * len(figures))
        for index, figure in enumerate(figures):
            sums[index] += float(figure or 0)


def _buckets(column: str, bounds: Sequence[float], scale: float) -> str:
    """Return the columns of a histogram: a count below each bound, the count, the sum."""
    below = [f"count(*) FILTER ({column} <= {bound * scale:.0f})" for bound in bounds]
    return ", ".join([*below, f"count({column})", f"sum({column}) / {scale}"])


CALLS = ("route", "surface", "provider", "model", "outcome", "cache")
MODELS = ("surface", "provider", "model", "error_code")


class LogMetrics(Collector):
    """What the log says, for a scrape. `live` gives the database as it is now."""

    def __init__(self, live: Callable[[], Database]) -> None:
        self._live = live
        self._lock = threading.Lock()
        self._calls = _table(RESPONSES, "responses", CALLS, "count(*)")
        self._durations = _table(
            RESPONSES, "responses", MODELS, _buckets("latency_us", DURATIONS_S, 1e6)
        )
        self._first = _table(
            RESPONSES, "responses", MODELS[:3], _buckets("first_token_us", FIRST_TOKENS_S, 1e6)
        )
        self._tokens = {
            kind: _table(RESPONSES, "responses", MODELS[:3], _buckets(f"{kind}_tokens", TOKENS, 1))
            for kind in ("input", "output")
        }
        self._attempts = Table(
            RESPONSES,
            ("target", "outcome", "error_class"),
            "SELECT attempt.target, attempt.outcome, attempt.error_class, count(*) FROM "
            "(SELECT unnest(attempts) AS attempt FROM responses WHERE $PLACES) GROUP BY ALL",
        )
        self._costs = _table(
            COSTS,
            "costs",
            ("provider", "model", "team"),
            "sum(greatest(cost_nano_usd, 0)) FILTER (entry <> 'admitted') / 1e9, "
            "count(*) FILTER (entry = 'unpriced'), sum(cache_saved_nano_usd) / 1e9, "
            "-sum(least(cost_nano_usd, 0)) FILTER (entry <> 'admitted') / 1e9",
        )
        self._letters = _table(DEAD_LETTERS, "dead_letters", ("consumer", "error_code"), "count(*)")

    def collect(self) -> Iterator[Metric]:
        """Yield the families, after reading what is new."""
        with self._lock:
            database = self._live()
            tables = [self._calls, self._durations, self._first, *self._tokens.values()]
            tables += [self._attempts, self._costs, self._letters]
            for table in tables:
                table.follow(database)
            yield _counter("weir_requests", "Calls that ended.", self._calls, 0)
            yield _counter("weir_attempts", "Upstream calls.", self._attempts, 0)
            yield _counter("weir_cost_usd", "Spend, before what was taken back.", self._costs, 0)
            # A counter must not fall: Prometheus would take it for a restart.
            taken_back = "Spend taken back, as prices were lowered for the past."
            yield _counter("weir_cost_taken_back_usd", taken_back, self._costs, 3)
            yield _counter("weir_unpriced_calls", "Calls without a known price.", self._costs, 1)
            yield _counter("weir_cache_saved_usd", "What cache hits did not cost.", self._costs, 2)
            yield _counter("weir_dead_letters", "Records nobody could read.", self._letters, 0)
            yield _histogram(
                "gen_ai_client_operation_duration_seconds",
                "Duration of calls.",
                (self._durations,),
                DURATIONS_S,
            )
            yield _histogram(
                "gen_ai_server_time_to_first_token_seconds",
                "Time to the first token of streams.",
                (self._first,),
                FIRST_TOKENS_S,
            )
            yield _histogram(
                "gen_ai_client_token_usage_tokens",
                "Tokens per call.",
                tuple(self._tokens.values()),
                TOKENS,
                {"gen_ai_token_type": tuple(self._tokens)},
            )


def _table(topic: Topic, name: str, labels: Sequence[str], figures: str) -> Table:
    columns = ", ".join(labels)
    statement = f"SELECT {columns}, {figures} FROM {name} WHERE $PLACES GROUP BY {columns}"
    return Table(topic, labels, statement)


_GEN_AI = {
    "surface": "gen_ai_operation_name",
    "provider": "gen_ai_provider_name",
    "model": "gen_ai_request_model",
    "error_code": "error_type",
}


def _counter(name: str, text: str, table: Table, column: int) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=table.labels)
    for labels, sums in table.sums.items():
        family.add_metric(labels, sums[column])
    return family


def _histogram(
    name: str,
    text: str,
    tables: Sequence[Table],
    bounds: Sequence[float],
    further: Mapping[str, Sequence[str]] | None = None,
) -> HistogramMetricFamily:
    """Return one family of several tables, told apart by the value of one further label."""
    [(label, values)] = (further or {"": [""]}).items()
    names = [_GEN_AI[label] for label in tables[0].labels] + ([label] if label else [])
    family = HistogramMetricFamily(name, text, labels=names)
    for table, value in zip(tables, values, strict=True):
        for labels, sums in table.sums.items():
            *below, count, total = sums
            if not count:
                continue
            limits = [*map(str, map(float, bounds)), "+Inf"]
            buckets = list(zip(limits, [*below, count], strict=True))
            family.add_metric([*labels, *([value] if label else [])], buckets, total)
    return family


def gauge(
    name: str, text: str, values: Iterable[tuple[Sequence[str], float]], labels: Sequence[str]
) -> Metric:
    """Return a family of figures as of now."""
    family = GaugeMetricFamily(name, text, labels=list(labels))
    for key, value in values:
        family.add_metric(key, value)
    return family
