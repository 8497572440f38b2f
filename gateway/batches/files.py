"""Files of callers, in the log: sealed pieces in one topic, what they are in another."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import msgspec

from gateway.batches.commits import Commits
from gateway.ledger import Recorder
from gateway.log_reading import data_key, records_from
from schemas.access import Grant
from schemas.clock import now_us
from schemas.codec import decode_as
from schemas.errors import NotFound, Unavailable
from schemas.events.batches import FILE_CONTENT, FileChanged, FileChunk
from schemas.events.operations import DataKeyCreated
from schemas.identity import uuid7
from schemas.log import Log
from schemas.partition import partition_of
from schemas.privacy import MasterKey, Opener, Sealed
from schemas.table_view import TableView

CHUNK_BYTES = 256 * 1024
EARLIER_MS = 60_000
"""The broker's clock, by which positions are found, may be so much behind a worker's."""
READ_S = 60.0


def tenant_of(grant: Grant) -> str:
    """Return whose files and batches a caller sees: his organisation's, team's, or key's own."""
    if grant.organization:
        return f"organization:{grant.organization}"
    return f"team:{grant.key.team}" if grant.key.team else f"key:{grant.key.key_id}"


class FileWriter:
    """Writes one file piece by piece."""

    def __init__(self, recorder: Recorder, file_id: str, subject: str) -> None:
        self.file_id = file_id
        self.size_bytes = self.chunks = 0
        self._recorder = recorder
        self._subject = subject
        self._digest = hashlib.sha256()
        self._held = bytearray()
        self._began_us = now_us()

    def write(self, data: bytes) -> None:
        """Add bytes. Raises OutboxFull."""
        self._held += data
        while len(self._held) >= CHUNK_BYTES:
            self._append(bytes(self._held[:CHUNK_BYTES]))
            del self._held[:CHUNK_BYTES]

    def close(self, filename: str, purpose: str, tenant: str) -> FileChanged:
        """Write the rest; return the change that makes it a file. Raises OutboxFull."""
        if self._held:
            self._append(bytes(self._held))
            self._held.clear()
        return FileChanged(
            event_id="",
            occurred_at_us=0,
            entity_version=1,
            actor="",
            file_id=self.file_id,
            filename=filename,
            purpose=purpose,
            tenant=tenant,
            subject=self._subject,
            size_bytes=self.size_bytes,
            chunks=self.chunks,
            sha256=self._digest.hexdigest(),
            created_at_us=self._began_us,
        )

    def _append(self, piece: bytes) -> None:
        bound_to = f"{self.file_id}/{self.chunks}"
        sealed = self._recorder.sealer.seal(self._subject, piece, bound_to=bound_to)
        chunk = FileChunk(
            event_id=uuid7(),
            occurred_at_us=now_us(),
            file_id=self.file_id,
            number=self.chunks,
            data_key_id=sealed.data_key_id,
            nonce=sealed.nonce,
            ciphertext=sealed.ciphertext,
        )
        self._recorder.outbox.append(chunk)
        self._digest.update(piece)
        self.size_bytes += len(piece)
        self.chunks += 1


class Files:
    """The files that the log knows."""

    def __init__(
        self,
        view: TableView[FileChanged],
        commits: Commits,
        recorder: Recorder,
        log: Log,
        master: MasterKey,
    ) -> None:
        self.view = view
        self._commits = commits
        self._recorder = recorder
        self._log = log
        self._master = master

    def writer(self, subject: str, file_id: str | None = None) -> FileWriter:
        """Begin a file."""
        return FileWriter(self._recorder, file_id or f"file-{uuid7()}", subject)

    async def keep(self, file: FileChanged) -> FileChanged:
        """Make written pieces a file. Raises Unavailable."""
        await self._commits.commit(self.view, file, version=1)
        return file

    async def get(self, file_id: str, tenant: str) -> FileChanged:
        """Return a tenant's file. Raises NotFound."""
        file = await self._commits.find(self.view, f"file:{file_id}")
        if file is None or file.tenant != tenant:
            raise NotFound(f"there is no file {file_id}")
        return file

    def of(self, tenant: str) -> list[FileChanged]:
        """Return a tenant's files, the newest first."""
        mine = [file for file in self.view.entries.values() if file.tenant == tenant]
        return sorted(mine, key=lambda file: -file.created_at_us)

    async def delete(self, file: FileChanged) -> None:
        """Forget a file; its pieces stay sealed in the log until they expire. Raises Unavailable."""
        gone = msgspec.structs.replace(file, deleted=True)
        await self._commits.commit(self.view, gone, version=file.entity_version + 1)

    async def content(self, file: FileChanged) -> bytes:
        """Return a whole file. Raises Unavailable, ContentErased."""
        try:
            pieces = [piece async for piece in self._pieces(file)]
        except TimeoutError:
            pieces = []
        if hashlib.sha256(content := b"".join(pieces)).hexdigest() != file.sha256:
            raise Unavailable(
                f"the content of {file.file_id} has expired, or is not all there yet",
                retry_after_seconds=5.0,
            )
        return content

    async def _pieces(self, file: FileChanged) -> AsyncIterator[bytes]:
        partition = partition_of(file.file_id.encode(), FILE_CONTENT.partitions)
        since_ms = file.created_at_us // 1_000 - EARLIER_MS
        starts = await self._log.positions_at([FILE_CONTENT], since_ms)
        keys: dict[str, DataKeyCreated] = {}
        opener = Opener(self._master, keys.get)
        number = 0
        async with asyncio.timeout(READ_S):
            async for record in records_from(
                self._log, FILE_CONTENT, partition, starts[FILE_CONTENT.name][partition]
            ):
                chunk = None if record.value is None else decode_as(record.value, FileChunk)
                if chunk is None or chunk.file_id != file.file_id or chunk.number != number:
                    continue
                if chunk.data_key_id not in keys:
                    keys[chunk.data_key_id] = await data_key(self._log, chunk.data_key_id)
                sealed = Sealed(chunk.data_key_id, chunk.nonce, chunk.ciphertext)
                yield opener.open(sealed, f"{file.file_id}/{number}")
                number += 1
                if number == file.chunks:
                    return
