"""Data keys as a reader of sealed texts finds them: destroyed ones told from unread ones."""

from __future__ import annotations

import time

from schemas.errors import Unavailable
from schemas.events.operations import DataKeyCreated
from schemas.identity import uuid7_ms
from schemas.table_view import TableView

YOUNG_MS = 10_000
"""A key created this recently may not have been read yet: its topic is another than its text's."""
PATIENCE_S = 2.0
_POLL_S = 0.02


class DataKeys:
    """The view of all data keys; `find` blocks, so it belongs to a worker thread."""

    def __init__(self) -> None:
        self.view = TableView(DataKeyCreated)

    def find(self, data_key_id: str) -> DataKeyCreated | None:
        """Return a data key, None when it was destroyed.

        Waits for a young key. Raises Unavailable while nobody can tell: an unread key must not
        pass for an erased one.
        """
        found = self.view.get(data_key_id)
        if found is not None:
            return found
        if not self.view.caught_up.is_set():
            raise Unavailable("the data keys have not been read yet", retry_after_seconds=1.0)
        until_s = time.monotonic() + PATIENCE_S
        while found is None and _is_young(data_key_id) and time.monotonic() < until_s:
            time.sleep(_POLL_S)
            found = self.view.get(data_key_id)
        return found


def _is_young(data_key_id: str) -> bool:
    try:
        created_ms = uuid7_ms(data_key_id)
    except ValueError:
        return False
    return time.time() * 1000 - created_ms < YOUNG_MS
