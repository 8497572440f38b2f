"""Each projection against the example beside it, in every order, and its audits."""

import json
import random
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from projections.database import Database
from projections.decode import decode_batch
from projections.digest import Digest, digest_of, failed_audits
from projections.projection import closure, find, parse, projections, tables
from schemas.errors import ConfigurationError, NotFound
from schemas.event import Event
from schemas.log import Cursor
from tests.projections.records import Appender, admitted, event, settled

NAMES = [projection.name for projection in projections()]
FOLDER = resources.files("projections") / "sql"


def load(database: Database, events: list[Event], cuts: int = 1) -> None:
    """Apply events in `cuts` batches."""
    records = Appender().records(events)
    size = -(-len(records) // cuts)
    for start in range(0, len(records), size):
        decoded = decode_batch(records[start : start + size], database.event_types)
        assert decoded.rejected == []
        database.apply(decoded.rows, Cursor())


def plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value.decode() if isinstance(value, bytes) else value


@pytest.mark.req("EVT-03")
@pytest.mark.parametrize("name", NAMES)
def test_the_example_beside_the_file(name: str, tmp_path: Path) -> None:
    example = json.loads((FOLDER / f"{name}.test.json").read_text("utf-8"))
    database = Database(tmp_path / "x.duckdb", closure(name))
    # Events of a shared topic that the projection does not want are passed over, not refused.
    events = [event(item["type"], **item["set"]) for item in example["events"]]
    load(database, events)
    grain = find(name).grain
    rows = database.records(f"SELECT * FROM {name} ORDER BY {grain}")
    expected = sorted(example["expected"], key=lambda row: str(row[grain]))
    assert len(rows) == len(expected)
    for row, wanted in zip(rows, expected, strict=True):
        assert {column: plain(row[column]) for column in wanted} == wanted
    database.close()


@pytest.mark.req("EVT-03")
@pytest.mark.parametrize("name", NAMES)
def test_rows_do_not_depend_on_order_or_batches(name: str, tmp_path: Path) -> None:
    example = json.loads((FOLDER / f"{name}.test.json").read_text("utf-8"))
    events = [event(item["type"], **item["set"]) for item in example["events"]]
    found: set[Digest] = set()
    for seed in range(4):
        database = Database(tmp_path / f"{seed}.duckdb", closure(name))
        # Positions are part of a row, so the log is fixed; what varies is how it is consumed.
        records = Appender().records(events)
        random.Random(seed).shuffle(records)
        for start in range(0, len(records), seed + 1):
            decoded = decode_batch(records[start : start + seed + 1], database.event_types)
            database.apply(decoded.rows, Cursor())
        found.add(digest_of(database.query, name))
        database.close()
    assert len(found) == 1
    assert next(iter(found)).rows == len(example["expected"])


@pytest.mark.parametrize("name", NAMES)
def test_every_column_of_the_event_is_there(name: str) -> None:
    projection = find(name)
    if projection.event_type is None:
        return
    for field in projection.event_type.__struct_fields__:
        assert field.removesuffix("_us") in projection.query, f"{name} drops {field}"
    for column in ("log_topic", "log_partition", "log_offset", "appended_at", "ingested_at"):
        assert column in projection.query


def test_audits_find_what_they_promise(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.duckdb", closure("calls"))
    load(database, [admitted("a"), admitted("b"), settled("a"), settled("b")])
    assert failed_audits(database.query, database.chosen) == []
    load(database, [settled("a")])
    assert failed_audits(database.query, database.chosen) == ["costs.settled_once: 1 rows"]
    load(database, [admitted("c", propensity=1.5)])
    assert "requests.propensity_is_a_probability: 1 rows" in failed_audits(
        database.query, database.chosen
    )
    database.close()


def test_one_projection_per_event() -> None:
    chosen = projections()
    assert len(tables(chosen)) == sum(item.event_type is not None for item in chosen)


def test_what_a_view_reads_comes_along() -> None:
    assert [item.name for item in closure("calls")] == [
        "costs",
        "feedback",
        "requests",
        "responses",
        "calls",
    ]
    with pytest.raises(NotFound, match="nonsense"):
        closure("nonsense")


@pytest.mark.parametrize(
    "text",
    ["SELECT 1", "-- projection: x\n-- version: one\n-- grain: a\nSELECT 1", "-- projection: x"],
)
def test_a_header_must_be_whole(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse(text)
