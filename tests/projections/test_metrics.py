"""Metrics add up what the log says, once, however often they are asked."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from projections import metrics
from projections.database import Database
from projections.decode import decode_batch
from projections.metrics import LogMetrics
from projections.projection import projections
from schemas.event import Event
from schemas.events.llm import Attempt
from schemas.log import Cursor
from tests.projections.records import Appender, event, settled

Sample = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Bench:
    """A database, an appender, and a scrape."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(folder / "metrics.duckdb", projections())
        self.appender = Appender()
        self.cursor = Cursor()
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(LogMetrics(lambda: self.database))

    def add(self, *items: Event) -> None:
        records = self.appender.records(items)
        for record in records:
            at = self.cursor.positions.setdefault(record.topic, {})
            at[record.partition] = record.offset + 1
        rows = decode_batch(records, self.database.event_types).rows
        self.database.apply(rows, self.cursor)

    def scrape(self) -> Sample:
        text = generate_latest(self.registry).decode()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def total(self, name: str, **labels: str) -> float:
        wanted = set(labels.items())
        return sum(
            v for (n, found), v in self.scrape().items() if n == name and wanted <= set(found)
        )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.database.close()


def completed(latency_ms: float = 100, **fields: object) -> Event:
    attempt = Attempt("openai/gpt", "success", None, 200, 1_000, None)
    plain = {
        "provider": "openai",
        "model": "gpt",
        "surface": "chat",
        "outcome": "success",
        "error_code": None,
        "cache": None,
        "attempts": [attempt],
        "latency_us": int(latency_ms * 1_000),
        "input_tokens": 10,
        "output_tokens": 5,
    }
    return event("weir.llm.response.completed", **{**plain, **fields})


@pytest.mark.req("OPS-03", "BEY-14")
def test_scrapes_count_every_call_once(bench: Bench) -> None:
    rng, calls = random.Random(3), 0
    for _ in range(6):
        batch = rng.randrange(1, 40)
        bench.add(*(completed() for _ in range(batch)))
        calls += batch
        for _ in range(rng.randrange(3)):
            assert bench.total("weir_requests_total", outcome="success") == calls
    assert bench.total("weir_attempts_total", target="openai/gpt") == calls
    name = "gen_ai_client_token_usage_tokens_sum"
    assert bench.total(name, gen_ai_token_type="input") == 10 * calls
    assert bench.total(name, gen_ai_token_type="output") == 5 * calls


@pytest.mark.req("OPS-03")
def test_a_second_scraper_and_a_restart_see_the_same_totals(bench: Bench) -> None:
    bench.add(*(completed() for _ in range(7)))
    assert bench.total("weir_requests_total") == 7
    again = CollectorRegistry(auto_describe=False)
    again.register(LogMetrics(lambda: bench.database))
    bench.registry = again
    assert bench.total("weir_requests_total") == 7


@pytest.mark.req("OPS-03")
def test_durations_fall_into_the_conventions_buckets(bench: Bench) -> None:
    bench.add(completed(5), completed(15), completed(1_000), completed(200_000))
    name = "gen_ai_client_operation_duration_seconds_bucket"
    counts = {le: bench.total(name, le=le) for le in ("0.01", "0.02", "1.28", "81.92", "+Inf")}
    assert counts == {"0.01": 1, "0.02": 2, "1.28": 3, "81.92": 3, "+Inf": 4}


@pytest.mark.req("OPS-03", "COST-01")
def test_money_is_what_the_ledger_says_without_reservations(bench: Bench) -> None:
    bench.add(
        settled(cost_nano_usd=2_500_000_000, cache_saved_nano_usd=None),
        settled(cost_nano_usd=0, cache_saved_nano_usd=500_000_000),
        settled(entry="admitted", cost_nano_usd=9_000_000_000, cache_saved_nano_usd=None),
        settled(entry="unpriced", cost_nano_usd=None, cache_saved_nano_usd=None),
    )
    assert bench.total("weir_cost_usd_total") == 2.5
    assert bench.total("weir_cache_saved_usd_total") == 0.5
    assert bench.total("weir_unpriced_calls_total") == 1


@pytest.mark.req("OPS-03", "COST-01")
def test_no_counter_falls_when_a_price_is_lowered_for_the_past(bench: Bench) -> None:
    bench.add(settled(cost_nano_usd=2_500_000_000, cache_saved_nano_usd=None))
    before = bench.total("weir_cost_usd_total")
    bench.add(settled(entry="corrected", cost_nano_usd=-1_000_000_000, cache_saved_nano_usd=None))
    assert bench.total("weir_cost_usd_total") == before == 2.5
    assert bench.total("weir_cost_taken_back_usd_total") == 1.0


@pytest.mark.req("BEY-14")
def test_labels_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "SERIES_MAX", 5)
    bench.add(*(completed(model=f"model-{number}") for number in range(50)))
    models = {
        dict(labels)["model"] for name, labels in bench.scrape() if name == "weir_requests_total"
    }
    assert len(models) == 6
    assert "other" in models
    assert bench.total("weir_requests_total") == 50
