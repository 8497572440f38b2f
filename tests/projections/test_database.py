"""Rows and cursor together, versions of the file, digests."""

import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from projections.database import Database, Folder
from projections.decode import decode_batch
from projections.digest import digest_of
from projections.projection import closure, projections
from projections.projector import open_live
from projections.settings import ProjectionsSettings
from projections.snapshots import Snapshots
from schemas.errors import ConfigurationError
from schemas.event import Event
from schemas.events.llm import RequestAdmitted
from schemas.log import Cursor, Record
from tests.projections.records import Appender, admitted

CURSOR = Cursor(
    positions={"t": {0: 7}},
    watermarks={"t": {0: {"outbox": 3}}},
    cluster_id="c",
    topic_ids={"t": "i"},
)


def rows_of(database: Database, records: list[Record]) -> dict[type[Event], pa.Table]:
    return decode_batch(records, database.event_types).rows


@pytest.fixture
def database(tmp_path: Path) -> Any:
    opened = Database(tmp_path / "x.duckdb", closure("requests"))
    yield opened
    opened.close()


@pytest.mark.req("EVT-02")
def test_rows_and_cursor_are_one(database: Database) -> None:
    records = Appender().records([admitted("a"), admitted("b")])
    assert database.apply(rows_of(database, records), CURSOR) == 2
    assert database.cursor() == CURSOR

    class Torn(Cursor):
        def dump(self) -> bytes:
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        database.apply(rows_of(database, Appender().records([admitted("c")])), Torn())
    assert database.query("SELECT count(*) FROM requests") == [(2,)]
    assert database.cursor() == CURSOR
    assert database.apply(rows_of(database, Appender().records([admitted("c")])), Cursor()) == 1


@pytest.mark.req("EVT-02")
def test_an_event_is_stored_once(database: Database) -> None:
    appender = Appender()
    twice = admitted("a")
    first = [appender.record(twice), appender.record(twice), appender.record(admitted("b"))]
    assert database.apply(rows_of(database, first), Cursor()) == 2
    later = [appender.record(twice), appender.record(admitted("c"))]
    assert database.apply(rows_of(database, later), Cursor()) == 1
    stored = database.query("SELECT request_id, log_offset FROM requests ORDER BY ALL")
    assert [row[0] for row in stored] == ["a", "b", "c"]
    assert stored[0][1] == first[0].offset


def test_a_file_opens_again_with_what_it_had(tmp_path: Path) -> None:
    path = tmp_path / "x.duckdb"
    first = Database(path, closure("calls"))
    first.apply(rows_of(first, Appender().records([admitted("a")])), CURSOR)
    first.close()
    second = Database(path, closure("calls"))
    assert second.is_current()
    assert second.cursor() == CURSOR
    assert second.query("SELECT request_id FROM calls") == [("a",)]
    second.close()


@pytest.mark.req("EVT-03")
def test_changed_definitions_lead_to_a_rebuild(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    old = Database(folder.live(), closure("requests"))
    old.apply(rows_of(old, Appender().records([admitted("a")])), CURSOR)
    assert old.is_current()
    old.close()
    database = open_live(folder)  # of all projections: not what the file was built from
    assert database.path != old.path
    assert database.path == folder.live()
    assert not old.path.exists()
    assert database.cursor() == Cursor()
    assert {item.name for item in database.chosen} == {item.name for item in projections()}
    database.close()


def test_the_file_of_another_process_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "x.duckdb"
    path.write_bytes(b"this is no database, and it is long enough to be read as a header" * 100)
    with pytest.raises(ConfigurationError, match=r"x\.duckdb"):
        Database(path, closure("requests"))


@pytest.mark.req("BEY-04")
def test_a_digest_covers_every_row_and_column_but_the_time_of_ingestion(
    database: Database,
) -> None:
    records = Appender().records([admitted("a"), admitted("b"), admitted("c")])
    database.apply(rows_of(database, records), Cursor())
    before = digest_of(database.query, "requests")
    writer = database._connection
    writer.execute("UPDATE requests SET ingested_at = TIMESTAMP '2000-01-01'")
    assert digest_of(database.query, "requests") == before
    columns = [row[0] for row in database.query("DESCRIBE requests")]
    for column in columns:
        if column == "ingested_at":
            continue
        writer.execute("BEGIN")
        writer.execute(f"UPDATE requests SET {column} = NULL WHERE request_id = 'b'")
        assert digest_of(lambda text: writer.execute(text).fetchall(), "requests") != before, column
        writer.execute("ROLLBACK")
    writer.execute("INSERT INTO requests SELECT * FROM requests WHERE request_id = 'a'")
    doubled = digest_of(database.query, "requests")
    assert doubled.rows == 4
    assert doubled.value != before.value


def test_a_snapshot_is_taken_when_there_is_something_new(tmp_path: Path) -> None:
    settings = ProjectionsSettings(tmp_path, snapshot_age_s=0.0)
    folder = Folder(tmp_path)
    database = open_live(folder)
    snapshots = Snapshots(settings, folder)
    appender = Appender()
    database.apply(rows_of(database, appender.records([admitted("a")])), Cursor())
    first = snapshots.fresh(lambda: database)
    assert snapshots.fresh(lambda: database, 0.0) is first
    database.apply(rows_of(database, appender.records([admitted("b")])), Cursor())
    assert snapshots.fresh(lambda: database, 3600.0) is first
    second = snapshots.fresh(lambda: database, 0.0)
    assert second.path != first.path
    copy = Database(second.path, projections())
    assert copy.query("SELECT count(*) FROM requests") == [(2,)]
    copy.close()
    # The writer still has its lock and goes on.
    database.apply(rows_of(database, appender.records([admitted("c")])), Cursor())
    assert database.query("SELECT count(*) FROM requests") == [(3,)]
    third = snapshots.fresh(lambda: database, 0.0)
    assert not first.path.exists()
    assert third.path.exists()
    snapshots.close()
    database.close()


def test_a_checkpoint_waits_for_who_is_just_writing(database: Database) -> None:
    other = database._connection.cursor()
    other.execute("BEGIN TRANSACTION")
    other.execute("CREATE TABLE of_another (number INTEGER)")
    ending = threading.Timer(0.1, other.execute, ["COMMIT"])
    ending.start()
    database.checkpoint()
    ending.join()
    assert database.wal_bytes() == 0


def test_the_live_version_switches_atomically(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    first = folder.live()
    assert folder.live() == first
    first.touch()
    second = folder.next()
    assert second != first
    second.touch()
    folder.switch(second)
    assert Folder(tmp_path).live() == second
    folder.tidy()
    assert second.exists()
    assert not first.exists()


def test_columns_hold_what_the_event_says(database: Database) -> None:
    item = admitted("a", candidates=[], tags={}, team="", user_id=None)
    database.apply(rows_of(database, Appender().records([item])), Cursor())
    [row] = database.records("SELECT * FROM requests")
    assert (row["candidates"], row["tags"], row["team"], row["user_id"]) == ([], {}, "", None)
    assert isinstance(item, RequestAdmitted)
