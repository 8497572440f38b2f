"""Statements in killable children: limits that hold, and what survives them."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from projections.analyst import Analyst, StatementTooLarge, StatementTooSlow
from projections.database import Database
from projections.decode import decode_batch
from projections.projection import projections
from projections.settings import MIB, ProjectionsSettings
from projections.snapshots import Snapshot
from projections.worker import open_guarded
from schemas.errors import InvalidRequest, PermissionDenied, Unavailable
from schemas.log import Cursor
from tests.projections.records import Appender, admitted, settled

CALLS = 50


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("analyst") / "snapshot.duckdb"
    database = Database(path, projections())
    items = [admitted(f"r{n:02}") for n in range(CALLS)]
    costs = [settled(f"r{n:02}", cost_nano_usd=n) for n in range(CALLS)]
    decoded = decode_batch(Appender().records([*items, *costs]), database.event_types)
    database.apply(decoded.rows, Cursor())
    database.close()
    return path


@pytest.fixture(scope="module")
def analyst(path: Path) -> Iterator[Analyst]:
    settings = ProjectionsSettings(
        path.parent,
        sql_workers=1,
        sql_queue_s=0.2,
        sql_memory_bytes=256 * MIB,
        sql_result_bytes_max=100_000,
    )
    opened = Analyst(
        settings,
        lambda _: Snapshot(path, time.monotonic(), 0, 0.0),
        [item.name for item in projections()],
    )
    yield opened
    opened.close()


def rows(result: Any) -> list[list[Any]]:
    return json.loads(bytes(result.rows))


def test_rows_come_with_their_columns(analyst: Analyst) -> None:
    result = analyst.run("SELECT count(*) AS calls, sum(cost_nano_usd) AS cost FROM calls")
    assert rows(result) == [[CALLS, sum(range(CALLS))]]
    assert [column["name"] for column in result.columns] == ["calls", "cost"]
    assert result.truncated is None


def test_values_that_json_does_not_have(analyst: Analyst) -> None:
    result = analyst.run(
        "SELECT 2::HUGEINT ** 100, 170141183460469231731687303715884105727, 1.50::DECIMAL(9, 2), "
        "'nan'::DOUBLE, TIMESTAMP '2026-01-02 03:04:05.000006', DATE '2026-01-02', "
        "INTERVAL 90 SECOND, 'ab'::BLOB, {'a': [1, NULL]}, MAP {'k': 1}, 'é', NULL, true"
    )
    [values] = rows(result)
    assert values[1:] == [
        "170141183460469231731687303715884105727",
        "1.50",
        "nan",
        "2026-01-02T03:04:05.000006",
        "2026-01-02",
        90.0,
        "YWI=",
        {"a": [1, None]},
        {"k": 1},
        "é",
        None,
        True,
    ]


def test_too_many_rows_are_cut_and_said_to_be(analyst: Analyst) -> None:
    result = analyst.run("FROM calls", rows=7)
    assert (result.row_count, result.truncated) == (7, "limit of 7 rows")
    result = analyst.run("SELECT repeat('x', 1000) FROM range(1000)")
    assert result.truncated == "limit of 100000 bytes"
    assert len(result.rows) <= 100_000
    assert analyst.run("FROM calls", rows=CALLS).truncated is None


@pytest.mark.req("GEN-05")
@pytest.mark.parametrize(
    "statement",
    [
        "COPY calls TO '/tmp/weir-stolen.csv'",
        "SELECT * FROM read_text('/etc/passwd')",
        "WITH x AS (INSERT INTO requests SELECT * FROM requests RETURNING 1) SELECT * FROM x",
        "DROP TABLE requests",
    ],
)
def test_writing_and_reading_files_is_refused(analyst: Analyst, statement: str) -> None:
    with pytest.raises(PermissionDenied):
        analyst.run(statement)
    assert not Path("/tmp/weir-stolen.csv").exists()
    assert rows(analyst.run("SELECT count(*) FROM requests")) == [[CALLS]]


@pytest.mark.parametrize(
    "statement",
    [
        "COPY calls TO '{path}.wal'",
        "COPY calls TO '/tmp/weir-stolen.csv'",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "ATTACH '/tmp/weir-stolen.duckdb'",
        "INSERT INTO requests SELECT * FROM requests",
        "SET enable_external_access = true",
        "SET disabled_filesystems = ''",
        "SET memory_limit = '100GB'",
        "INSTALL httpfs",
    ],
)
def test_the_connection_refuses_what_the_guard_would_have_missed(
    path: Path, statement: str
) -> None:
    import duckdb

    connection = open_guarded(str(path), 256 * MIB, 1)
    with pytest.raises(duckdb.Error):
        connection.execute(statement.format(path=path)).fetchall()
    connection.close()
    assert not path.with_name(path.name + ".wal").exists()


@pytest.mark.req("GEN-05")
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT repeat('x', 4000000000)",
        "SELECT length(repeat('x', 4000000000))",
        "SELECT list(range) FROM range(200000000)",
    ],
)
def test_a_flood_of_memory_is_stopped(analyst: Analyst, statement: str) -> None:
    with pytest.raises(StatementTooLarge, match="256 MiB"):
        analyst.run(statement, timeout_s=30)
    assert rows(analyst.run("SELECT 1")) == [[1]]


@pytest.mark.req("GEN-05")
@pytest.mark.parametrize(
    "statement",
    [
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t",
        "SELECT sum(a.range * b.range) FROM range(100000000) a, range(1000) b",
    ],
)
def test_what_never_ends_is_killed(analyst: Analyst, statement: str) -> None:
    with pytest.raises(StatementTooSlow, match="stopped after 1 second"):
        analyst.run(statement, timeout_s=1.0)
    assert rows(analyst.run("SELECT 1")) == [[1]]


def test_a_mistake_is_explained(analyst: Analyst) -> None:
    with pytest.raises(InvalidRequest, match="nope"):
        analyst.run("SELECT nope FROM calls")
    with pytest.raises(PermissionDenied, match="there is no table 'kalls'; there are: .*calls"):
        analyst.run("FROM kalls")


def test_a_snapshot_that_is_gone_is_our_fault(analyst: Analyst, tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        analyst.run("SELECT 1", database=tmp_path / "gone.duckdb")
    assert rows(analyst.run("SELECT 1")) == [[1]]


def test_children_know_no_secrets(analyst: Analyst, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    child = analyst._idle.get()
    child.kill()
    analyst._idle.put(child)
    assert rows(analyst.run("SELECT 1")) == [[1]]
    assert child._process is not None
    environment = Path(f"/proc/{child._process.pid}/environ")
    if environment.exists():
        assert b"secret" not in environment.read_bytes()


def test_closing_leaves_no_child(path: Path) -> None:
    analyst = Analyst(
        ProjectionsSettings(path.parent, sql_workers=1),
        lambda _: Snapshot(path, time.monotonic(), 0, 0.0),
        ["calls"],
    )
    analyst.run("SELECT 1")
    child = analyst._idle.queue[0]._process
    assert child is not None
    analyst.close()
    assert child.poll() is not None
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)
