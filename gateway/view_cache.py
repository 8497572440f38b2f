"""The cache file of a worker's views: what it knew of the log when it last ran."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from schemas import codec
from schemas.errors import LogError
from schemas.log import Cursor
from schemas.table_view import TableView

_MAGIC = b"WEIRVIEW"
_log = logging.getLogger(__name__)


class CachedView(msgspec.Struct, array_like=True):
    """One view as the cache file holds it: its event type, cursor (JSON) and encoded events.

    `unread` as in `TableView`: the cursor is past records of these schemas.
    """

    event_type: str
    cursor: bytes
    entries: Mapping[str, bytes]
    unread: list[bytes] = []


def packed(views: Sequence[TableView[Any]]) -> bytes:
    """Return what a cache file holds of these views."""
    return msgspec.msgpack.encode(
        [
            CachedView(
                view.event_type.type,
                view.cursor.dump(),
                view.records(),
                sorted(view.unread),
            )
            for view in views
        ]
    )


def load(path: Path, views: Sequence[TableView[Any]]) -> int | None:
    """Fill the views; return when the log was heard then (Unix µs), None for no file of use."""
    try:
        data = path.read_bytes()
        heard_ns = path.stat().st_mtime_ns
    except OSError:
        return None
    start = len(_MAGIC) + 4
    checksum = data[len(_MAGIC) : start]
    body = memoryview(data)[start:]
    if not data.startswith(_MAGIC) or zlib.crc32(body) != int.from_bytes(checksum, "little"):
        _log.warning("the view cache %s is damaged and ignored", path)
        return None
    try:
        cached = msgspec.msgpack.decode(body, type=list[CachedView])
        # What an older version could not read, this one reads from the start.
        readable = [it for it in cached if codec.writers().keys().isdisjoint(it.unread)]
        kept = {it.event_type: it for it in readable}
        loaded = [
            (view, view.entries_of(it.entries), Cursor.load(it.cursor), set(it.unread))
            for view in views
            if (it := kept.get(view.event_type.type)) is not None
        ]
    except (msgspec.DecodeError, LogError) as error:
        _log.warning("the view cache %s is of another version: %s", path, error)
        return None
    for view, entries, cursor, unread in loaded:
        view.entries, view.cursor, view.unread = entries, cursor, unread
        view.generation += 1
    return heard_ns // 1_000


def write(path: Path, body: bytes) -> None:
    """Replace the cache file. Raises OSError."""
    data = _MAGIC + zlib.crc32(body).to_bytes(4, "little") + body
    path.parent.mkdir(parents=True, exist_ok=True)
    # Workers share the file: each writes its own temporary one, the last rename wins.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
