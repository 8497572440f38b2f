"""Feedback by id, by time and by user (FB-05), its texts opened as far as their keys exist."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from projections.database import Database
from projections.moments import naive
from schemas.errors import ContentErased, NotFound
from schemas.privacy import Opener, Sealed

TEXTS = ("original_prompt", "model_response", "corrected_response", "user_context", "metadata")
_OPEN = (
    "request_id",
    "key_id",
    "user_id",
    "feedback_type",
    "satisfaction_score",
    "has_correction",
    "user_segment",
    "model_id",
    "deployment_id",
    "task_type",
)
_CONTEXT = (
    "session_id",
    "client_application",
    "request_parameters",
    "prompt_tokens",
    "response_tokens",
    "processing_time_ms",
)

Fields = dict[str, Any]


class FeedbackStore:
    """Reads the live database; `opener` None leaves every text sealed."""

    def __init__(self, opener: Opener | None) -> None:
        self._opener = opener

    def get(self, database: Database, feedback_id: str) -> Fields:
        """Return one piece of feedback. Raises NotFound."""
        found = self._read(database, "feedback_id = ?", [feedback_id], 1, 0)
        if not found:
            raise NotFound(f"there is no feedback {feedback_id}")
        return found[0]

    def since(
        self, database: Database, since: datetime | None, kind: str | None, limit: int, offset: int
    ) -> list[Fields]:
        """Return feedback from a time on, oldest first: what datasets are made of."""
        condition, values = _since(since, kind)
        return self._read(database, condition, values, limit, offset)

    def count(self, database: Database, since: datetime | None, kind: str | None) -> int:
        """Return how much feedback there is from a time on."""
        condition, values = _since(since, kind)
        return int(database.query(f"SELECT count(*) FROM feedback WHERE {condition}", values)[0][0])

    def by_user(self, database: Database, user_id: str, limit: int, offset: int) -> list[Fields]:
        """Return a user's feedback, newest first."""
        return self._read(database, "user_id = ?", [user_id], limit, offset, "DESC")

    def _read(
        self,
        database: Database,
        condition: str,
        values: list[Any],
        limit: int,
        offset: int,
        direction: str = "ASC",
    ) -> list[Fields]:
        rows = database.records(
            f"SELECT * FROM feedback WHERE {condition} "
            f"ORDER BY occurred_at {direction}, event_id {direction} LIMIT ? OFFSET ?",
            [*values, limit, offset],
        )
        return [self._opened(row) for row in rows]

    def _opened(self, row: Fields) -> Fields:
        sealed = Sealed(row["data_key_id"], row["nonce"], row["ciphertext"])
        texts: Fields = dict.fromkeys(TEXTS)
        erased = False
        if self._opener is not None:
            try:
                texts |= msgspec.json.decode(self._opener.open(sealed, row["feedback_id"]))
            except ContentErased:
                erased = True
        return {
            "id": row["feedback_id"],
            "timestamp": row["occurred_at"].replace(tzinfo=UTC),
            **{name: row[name] for name in _OPEN},
            "request_context": {name: row[name] for name in _CONTEXT},
            **texts,
            "erased": erased,
        }


def _since(since: datetime | None, kind: str | None) -> tuple[str, list[Any]]:
    conditions, values = ["true"], list[Any]()
    if since is not None:
        conditions.append("occurred_at >= ?")
        values.append(naive(since))
    if kind is not None:
        conditions.append("feedback_type = ?")
        values.append(kind)
    return " AND ".join(conditions), values
