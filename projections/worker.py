"""The child process that runs analysts' statements: ``python -m projections.worker``.

It reads requests from standard input and answers on standard output, each a 4-byte big-endian
length and JSON. Whatever happens in here, the parent can kill it: that alone stops every statement,
since neither DuckDB's memory limit nor its interrupt is heeded everywhere.
"""

from __future__ import annotations

import base64
import os
import resource
import struct
import sys
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, BinaryIO
from uuid import UUID

import duckdb
import msgspec

from projections.guard import check
from schemas.errors import InvalidRequest, Unavailable, WeirError

_LENGTH = struct.Struct(">I")
_FETCH_ROWS = 500
_JSON_INTEGER_MAX = 2**63 - 1
_OVERHEAD_BYTES = 1536 * 1024 * 1024
"""Address space that an idle interpreter with DuckDB maps (libraries, stacks of threads)."""


class Query(msgspec.Struct, frozen=True):
    """A statement, the database it reads, and what it may use."""

    path: str
    statement: str
    tables: list[str]
    rows_max: int
    bytes_max: int
    memory_bytes: int
    threads: int


class Answer(msgspec.Struct, frozen=True):
    """The rows, or the error; `truncated` names the limit that cut the rows off."""

    columns: list[dict[str, str]] = []
    rows: msgspec.Raw = msgspec.Raw(b"[]")
    row_count: int = 0
    truncated: str | None = None
    error: str | None = None
    kind: str | None = None
    action: str | None = None


def send(stream: BinaryIO, message: msgspec.Struct) -> None:
    """Write one message."""
    data = msgspec.json.encode(message)
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def receive(stream: BinaryIO) -> bytes | None:
    """Read one message, None at the end of the stream."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    body = stream.read(length)
    return body if len(body) == length else None


def main() -> None:
    """Answer requests until the parent closes the stream."""
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not break the protocol
    _restrain()
    worker = Worker()
    send(sink, Answer())  # ready: the time of a statement starts here, not at the imports
    while (data := receive(source)) is not None:
        send(sink, worker.answer(msgspec.json.decode(data, type=Query)))


def _restrain() -> None:
    """Give up what no statement needs: writing to files, core dumps, priority."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)


class Worker:
    """Keeps one database open, since most statements read the same snapshot."""

    def __init__(self) -> None:
        self._path: str | None = None
        self._connection: duckdb.DuckDBPyConnection | None = None

    def answer(self, query: Query) -> Answer:
        """Run a statement; never raises."""
        try:
            check(query.statement, query.tables)
            connection = self._open(query)
        except WeirError as error:
            return Answer(error=error.message, kind=error.code, action=error.advice)
        except duckdb.Error as error:
            return Answer(error=f"the snapshot cannot be opened: {error}", kind=Unavailable.code)
        try:
            return _run(connection, query)
        except (MemoryError, duckdb.OutOfMemoryException):
            self._close()
            return Answer(
                error=f"the statement needs more than {query.memory_bytes >> 20} MiB",
                kind="memory",
                action="Aggregate earlier, select fewer columns or add a filter.",
            )
        except duckdb.Error as error:
            return Answer(error=str(error).split("\n\nLINE")[0], kind=InvalidRequest.code)

    def _open(self, query: Query) -> duckdb.DuckDBPyConnection:
        if self._connection is not None and self._path == query.path:
            return self._connection
        self._close()
        limit = query.memory_bytes + _OVERHEAD_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        self._connection = open_guarded(query.path, query.memory_bytes, query.threads)
        self._path = query.path
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection, self._path = None, None


def open_guarded(path: str, memory_bytes: int, threads: int) -> duckdb.DuckDBPyConnection:
    """Open a database so that statements reach nothing but its tables.

    The order matters: without the second setting ``COPY … TO 'name.wal'`` would still write beside
    a read-only database, and only the third keeps a statement from taking the others back.
    """
    connection = duckdb.connect(
        path,
        read_only=True,
        config={
            "memory_limit": f"{memory_bytes >> 20}MiB",
            "threads": threads,
            "temp_directory": "",
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
        },
    )
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET disabled_filesystems = 'LocalFileSystem'")
    connection.execute("SET lock_configuration = true")
    return connection


def _run(connection: duckdb.DuckDBPyConnection, query: Query) -> Answer:
    with connection.cursor() as cursor:
        cursor.execute(query.statement)
        columns = [{"name": item[0], "type": str(item[1])} for item in cursor.description]
        parts: list[bytes] = []
        size = count = 0
        truncated: str | None = None
        while truncated is None and (rows := cursor.fetchmany(_FETCH_ROWS)):
            for row in rows:
                if count == query.rows_max:
                    truncated = f"limit of {query.rows_max} rows"
                    break
                data = msgspec.json.encode([_plain(value) for value in row])
                size += len(data) + 1
                if size > query.bytes_max:
                    truncated = f"limit of {query.bytes_max} bytes"
                    break
                parts.append(data)
                count += 1
    return Answer(
        columns=columns,
        rows=msgspec.Raw(b"[" + b",".join(parts) + b"]"),
        row_count=count,
        truncated=truncated,
    )


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: exact numbers beyond 64 bits and decimals are text."""
    match value:
        case None | bool() | str():
            return value
        case int():
            return value if abs(value) <= _JSON_INTEGER_MAX else str(value)
        case float():
            return value if value - value == 0 else str(value)  # infinities and NaN are not JSON
        case Decimal() | UUID():
            return str(value)
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(value).decode("ascii")
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
    return str(value)


if __name__ == "__main__":
    main()
