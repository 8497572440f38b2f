"""A DuckDB file that holds projections and, in the same transactions, how far they have read."""

from __future__ import annotations

import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from projections.decode import empty
from projections.projection import Projection, tables
from schemas.clock import now_us
from schemas.errors import ConfigurationError
from schemas.event import Event
from schemas.log import Cursor

_log = logging.getLogger(__name__)

_CLOSE_S = 30.0
_SETTINGS: dict[str, str | int | float | list[str]] = {
    # Checkpoints are ours to time: an automatic one stalls commits for seconds while anybody reads.
    "checkpoint_threshold": "1TB",
    "auto_checkpoint_skip_wal_threshold": 10**15,
    "preserve_insertion_order": False,
    "memory_limit": "2GB",
    "threads": 2,
}


class Database:
    """The single writer of one file. Reads may come from any thread, writes from one at a time.

    While it is open no other process can open the file, and nothing in this process may open and
    close it by other means: that would drop the lock.
    """

    def __init__(self, path: Path, chosen: Sequence[Projection]) -> None:
        self.path = path
        self.chosen = tuple(chosen)
        self._tables = tables(chosen)
        try:
            self._connection = duckdb.connect(str(path), config=dict(_SETTINGS))
        except duckdb.Error as error:
            raise ConfigurationError(
                f"the database {path} cannot be opened: {error}",
                action="Stop the other process that has it open, or delete the file: "
                "it is rebuilt from the log.",
            ) from error
        # A connection refuses a second caller instead of waiting: readers are made from their own.
        self._readers = self._connection.cursor()
        self._writing, self._reading = threading.Lock(), threading.Condition()
        self._reads = 0
        self.commits = 0
        self._migrate()

    @property
    def event_types(self) -> set[type[Event]]:
        """The events that fill tables here."""
        return set(self._tables)

    def close(self) -> None:
        """Wait for the reads under way, fold the write-ahead log in and release the file."""
        with self._writing, self._reading:
            if not self._reading.wait_for(lambda: self._reads == 0, _CLOSE_S):
                _log.warning("%s closes although it is being read", self.path.name)
            self._readers.close()
            self._connection.close()

    def discard(self) -> None:
        """Close the file and remove it."""
        self.close()
        for suffix in ("", ".wal"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    # --- structure ---------------------------------------------------------------------------

    def _migrate(self) -> None:
        (exists,) = self._one(
            "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'weir' "
            "AND table_name = 'migrations'"
        )
        with self._transaction() as connection:
            if not exists:
                connection.execute("CREATE SCHEMA weir")
                connection.execute("CREATE TABLE weir.migrations (number INTEGER, name VARCHAR)")
            (done,) = self._one("SELECT coalesce(max(number), 0) FROM weir.migrations", connection)
            for number, name, text in _migrations():
                if number > done:
                    connection.execute(text)
                    connection.execute("INSERT INTO weir.migrations VALUES (?, ?)", [number, name])
            if not self._one("SELECT count(*) FROM weir.definitions", connection)[0]:
                self._create(connection)

    def _create(self, connection: duckdb.DuckDBPyConnection) -> None:
        for projection in self.chosen:
            if projection.event_type is not None:
                events = _events(empty(projection.event_type), 0)
                connection.register("events", events)
                connection.execute(f"CREATE TABLE {projection.name} AS {projection.query}")
                connection.unregister("events")
            else:
                connection.execute(f"CREATE VIEW {projection.name} AS {projection.query}")
            connection.execute(
                "INSERT INTO weir.definitions VALUES (?, ?, ?)",
                [projection.name, projection.version, projection.digest],
            )
        connection.execute("INSERT INTO weir.cursor VALUES (?)", [Cursor().dump()])

    def is_current(self) -> bool:
        """Whether the file was built from the definitions that this program has."""
        stored = dict(self.query("SELECT name, digest FROM weir.definitions"))
        return stored == {item.name: item.digest for item in self.chosen}

    # --- writing -----------------------------------------------------------------------------

    def apply(self, rows: Mapping[type[Event], pa.Table], cursor: Cursor) -> int:
        """Commit rows together with the cursor behind them; return how many were new.

        A row whose event_id is stored already is left out: sequences stop an outbox from
        repeating itself, this stops everybody else.
        """
        ingested_us = now_us()
        added = 0
        with self._transaction() as connection:
            for event_type, table in rows.items():
                projection = self._tables[event_type]
                table = self._unseen(connection, projection.name, table)
                if table.num_rows == 0:
                    continue
                connection.register("events", _events(table, ingested_us))
                connection.execute(f"INSERT INTO {projection.name} BY NAME {projection.query}")
                connection.unregister("events")
                added += table.num_rows
            connection.execute("UPDATE weir.cursor SET value = ?", [cursor.dump()])
        self.commits += 1
        return added

    def _unseen(
        self, connection: duckdb.DuckDBPyConnection, name: str, table: pa.Table
    ) -> pa.Table:
        ids = table.column("event_id")
        if pc.count_distinct(ids).as_py() < table.num_rows:
            table = _first_of_each(table)
            ids = table.column("event_id")
        # Ids begin with their time, so the range keeps the scan to the rows of these minutes.
        span = pc.min_max(ids)
        connection.register("incoming", pa.table({"event_id": ids}))
        known = connection.execute(
            f"SELECT event_id FROM {name} WHERE event_id BETWEEN ? AND ? "
            "AND event_id IN (SELECT event_id FROM incoming)",
            [span["min"].as_py(), span["max"].as_py()],
        ).fetchall()
        connection.unregister("incoming")
        if not known:
            return table
        stored = pa.array([row[0] for row in known], pa.string())
        return table.filter(pc.invert(pc.is_in(ids, value_set=stored)))

    @contextmanager
    def _transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._writing:
            self._connection.begin()
            try:
                yield self._connection
                self._connection.commit()
            except BaseException:
                with suppress(duckdb.Error):
                    self._connection.rollback()
                raise

    # --- reading -----------------------------------------------------------------------------

    def cursor(self) -> Cursor:
        """Return how far the tables have come."""
        return Cursor.load(self.query("SELECT value FROM weir.cursor")[0][0])

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a statement of ours, from any thread, as of the last commit."""
        with self._reader() as connection:
            return connection.execute(statement, list(values)).fetchall()

    def records(self, statement: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Return rows as dictionaries."""
        with self._reader() as connection:
            result = connection.execute(statement, list(values))
            names = [column[0] for column in result.description]
            return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    @contextmanager
    def _reader(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._reading:
            connection = self._readers.cursor()
            self._reads += 1
        try:
            yield connection
        finally:
            connection.close()
            with self._reading:
                self._reads -= 1
                self._reading.notify_all()

    def _one(
        self, statement: str, connection: duckdb.DuckDBPyConnection | None = None
    ) -> tuple[Any, ...]:
        (row,) = (connection or self._connection).execute(statement).fetchall()
        return tuple(row)

    # --- the file ----------------------------------------------------------------------------

    def wal_bytes(self) -> int:
        """Return the size of the write-ahead log."""
        try:
            return self.path.with_name(self.path.name + ".wal").stat().st_size
        except FileNotFoundError:
            return 0

    def checkpoint(self) -> None:
        """Fold the write-ahead log into the file, which then holds everything committed.

        DuckDB refuses while any other transaction that wrote is not over (seen once in 90,000
        requests), so it is asked again for a second. Raises duckdb.TransactionException after that.
        """
        with self._writing:
            for pause_s in (0.01, 0.05, 0.2, 0.75):
                with suppress(duckdb.TransactionException):
                    self._connection.execute("CHECKPOINT")
                    return
                time.sleep(pause_s)
            self._connection.execute("CHECKPOINT")


def _events(table: pa.Table, ingested_us: int) -> pa.Table:
    """The input of a projection's query: the event's fields, where it stood, when it came here."""
    appended = pc.multiply(table.column("appended_at_ms"), 1000).cast(pa.timestamp("us"))
    ingested = pa.repeat(pa.scalar(ingested_us, pa.timestamp("us")), table.num_rows)
    return (
        table.drop_columns(["appended_at_ms"])
        .append_column("appended_at", appended)
        .append_column("ingested_at", ingested)
    )


def _first_of_each(table: pa.Table) -> pa.Table:
    """Keep the earliest of the rows with one event_id; they share a key, so also a partition."""
    seen: set[str] = set()
    keep: list[int] = []
    order = pc.sort_indices(table, [("log_partition", "ascending"), ("log_offset", "ascending")])
    ids = table.column("event_id").to_pylist()
    for index in order.to_pylist():
        if ids[index] not in seen:
            seen.add(ids[index])
            keep.append(index)
    return table.take(keep)


def _migrations() -> list[tuple[int, str, str]]:
    folder = resources.files("projections") / "migrations"
    found = []
    for entry in folder.iterdir():
        match = re.fullmatch(r"(\d{4})_(\w+)\.sql", entry.name)
        if match:
            found.append((int(match[1]), match[2], entry.read_text("utf-8")))
    return sorted(found)


# --- versions of the live file --------------------------------------------------------------


class Folder:
    """The data folder: numbered database files, and a link that names the live one.

    A file that is open is never replaced, since its readers would go on with the old one: a new
    version has a new name, and moving the link is the switch.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.snapshots = root / "snapshots"
        self.moments = root / "moments"
        for folder in (root, self.snapshots, self.moments):
            folder.mkdir(parents=True, exist_ok=True)
        self._link = root / "live"

    def live(self) -> Path:
        """Return the live file, which need not exist yet."""
        with suppress(OSError):
            return self.root / os.readlink(self._link)
        path = self.next()
        self.switch(path)
        return path

    def next(self) -> Path:
        """Return a name that no version has had."""
        numbers = [
            int(match[1])
            for entry in self.root.iterdir()
            if (match := re.match(r"weir-(\d+)\.duckdb", entry.name))
        ]
        return self.root / f"weir-{max(numbers, default=0) + 1:06d}.duckdb"

    def switch(self, path: Path) -> None:
        """Make a version the live one, atomically."""
        temporary = self.root / "live.new"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(path.name)
        temporary.rename(self._link)

    def tidy(self) -> None:
        """Remove every version but the live one, and all snapshots of earlier runs."""
        live = self.live().name
        for entry in [*self.root.glob("weir-*.duckdb*"), *self.snapshots.iterdir()]:
            if not (entry.parent == self.root and entry.name.startswith(live)):
                _log.info("removing %s", entry.name)
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)
