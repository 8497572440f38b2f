"""Files that callers keep here, and batches of calls over them."""

from __future__ import annotations

import msgspec

from schemas.event import DAYS, Event, Topic
from schemas.events.changes import Change

FILES = Topic("weir.files.changes.v1", partitions=1)
FILE_CONTENT = Topic("weir.files.content.v1", retention_ms=30 * DAYS)
BATCHES = Topic("weir.batches.changes.v1", partitions=1)


class FileChanged(Change, frozen=True, kw_only=True):
    """A file of `tenant`: its content lies in `chunks` records, sealed for `subject`."""

    topic = FILES
    type = "weir.files.file.changed"

    file_id: str
    filename: str
    purpose: str
    tenant: str
    subject: str
    size_bytes: int
    chunks: int
    sha256: str
    created_at_us: int

    @property
    def key(self) -> str:
        return f"file:{self.file_id}"


class FileChunk(Event, frozen=True, kw_only=True):
    """A piece of a file's content, numbered from 0, as ciphertext."""

    topic = FILE_CONTENT
    type = "weir.files.chunk"

    file_id: str
    number: int
    data_key_id: str
    nonce: bytes
    ciphertext: bytes

    @property
    def key(self) -> str:
        return self.file_id


class BatchChanged(Change, frozen=True, kw_only=True):
    """A batch of calls; `status` moves as OpenAI names it: validating, in_progress, finalizing,
    completed, failed, expired, cancelling, cancelled.

    `outbox_id` is the node that runs it; when that outbox is closed another one may take over.
    `times_us` says when each status was reached. Calls run with the rights of `key_id`.
    """

    topic = BATCHES
    type = "weir.batches.batch.changed"

    batch_id: str
    dialect: str
    endpoint: str
    tenant: str
    key_id: str
    status: str
    input_file_id: str
    output_file_id: str | None = None
    error_file_id: str | None = None
    outbox_id: str | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    errors: list[str] = msgspec.field(default_factory=list)
    times_us: dict[str, int] = msgspec.field(default_factory=dict)
    metadata: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"batch:{self.batch_id}"
