"""``/v1/files`` and ``/v1/batches`` as OpenAI's clients know them.

Sources: https://platform.openai.com/docs/api-reference/files and …/batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from gateway.admission import own_headers
from gateway.batches.commits import Commits
from gateway.batches.files import Files, tenant_of
from gateway.batches.runner import WINDOW_US
from gateway.client import JSON, Client
from gateway.dialects.multipart import read_form
from gateway.dialects.neutral import Json
from gateway.dialects.reading import member, read_object, required
from schemas.access import Grant
from schemas.clock import now_us
from schemas.errors import Conflict, InvalidRequest, NotFound
from schemas.events.batches import BatchChanged, FileChanged
from schemas.identity import uuid7
from schemas.table_view import TableView

DIALECT = "openai"
ENDPOINTS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/embeddings",
        "/v1/moderations",
    }
)
KEPT = frozenset({"batch", "batch_output"})
"""Purposes of the files that are kept here."""
METADATA_MAX = 16
PAGE, PAGE_MAX = 20, 100
_TIMES = {
    "in_progress_at": "in_progress",
    "finalizing_at": "finalizing",
    "completed_at": "completed",
    "failed_at": "failed",
    "expired_at": "expired",
    "cancelling_at": "cancelling",
    "cancelled_at": "cancelled",
}
_encode = msgspec.json.encode


class VendorsFile(Exception):
    """A file for anything but a batch is of use to a vendor alone, and is passed through to it."""


class OpenAIBatches:
    """Answers requests below ``/v1/files`` and ``/v1/batches``."""

    def __init__(
        self, files: Files, batches: TableView[BatchChanged], commits: Commits, bytes_max: int
    ) -> None:
        self._files = files
        self._batches = batches
        self._commits = commits
        self._bytes_max = bytes_max

    async def serve(self, client: Client, grant: Grant) -> None:
        """Answer one request. Raises the WeirError that says why not."""
        _, _, kind, *parts = client.path.rstrip("/").split("/")
        tenant = tenant_of(grant)
        match kind, client.method, parts:
            case "files", "GET", [file_id, "content"]:
                content = await self._files.content(await self._files.get(file_id, tenant))
                await client.whole(
                    200, own_headers(kind=(JSON[0], b"application/octet-stream")), content
                )
                return
            case "files", _, _:
                body = await self._file(client, grant, tenant, parts)
            case _:
                body = await self._batch(client, grant, tenant, parts)
        await client.whole(200, own_headers(), _encode(body))

    # --- files ---------------------------------------------------------------------------------

    async def _file(self, client: Client, grant: Grant, tenant: str, parts: list[str]) -> Json:
        match client.method, parts:
            case "POST", []:
                return shown_file(await self._upload(client, grant, tenant))
            case "GET", []:
                query = _query(client)
                files = self._files.of(tenant)
                purpose = query.get("purpose")
                if purpose and purpose not in KEPT:
                    raise VendorsFile
                if purpose:
                    files = [file for file in files if file.purpose == purpose]
                if query.get("order") == "asc":
                    files.reverse()
                return _page([shown_file(file) for file in files], query, 10_000)
            case "GET", [file_id]:
                return shown_file(await self._files.get(file_id, tenant))
            case "DELETE", [file_id]:
                await self._files.delete(await self._files.get(file_id, tenant))
                return {"id": file_id, "object": "file", "deleted": True}
        raise NotFound(f"{client.method} {client.path} is not served")

    async def _upload(self, client: Client, grant: Grant, tenant: str) -> FileChanged:
        body = await client.body(self._bytes_max)
        form = read_form(body, client.header(b"content-type"))
        purpose = required(form, "purpose", str)
        if purpose != "batch":
            raise VendorsFile
        part = next((part for part in form.parts if part.is_file and part.name == "file"), None)
        if part is None:
            raise InvalidRequest("the form has no file named 'file'")
        writer = self._files.writer(grant.key.user_id or grant.key.key_id)
        writer.write(part.data)
        name = part.filename or "file"
        return await self._files.keep(writer.close(name, purpose, tenant))

    # --- batches -------------------------------------------------------------------------------

    async def _batch(self, client: Client, grant: Grant, tenant: str, parts: list[str]) -> Json:
        match client.method, parts:
            case "POST", []:
                return shown_batch(await self._create(client, grant, tenant))
            case "GET", []:
                mine = [
                    batch
                    for batch in self._batches.entries.values()
                    if batch.tenant == tenant and batch.dialect == DIALECT
                ]
                mine.sort(key=lambda batch: -batch.times_us["validating"])
                return _page([shown_batch(batch) for batch in mine], _query(client), PAGE)
            case "GET", [batch_id]:
                return shown_batch(await self._get(batch_id, tenant))
            case "POST", [batch_id, "cancel"]:
                return shown_batch(await self._cancel(await self._get(batch_id, tenant)))
        raise NotFound(f"{client.method} {client.path} is not served")

    async def _get(self, batch_id: str, tenant: str) -> BatchChanged:
        batch = await self._commits.find(self._batches, f"batch:{batch_id}")
        if batch is None or batch.tenant != tenant or batch.dialect != DIALECT:
            raise NotFound(f"there is no batch {batch_id}")
        return batch

    async def _create(self, client: Client, grant: Grant, tenant: str) -> BatchChanged:
        fields = read_object(await client.body(self._bytes_max))
        endpoint = required(fields, "endpoint", str)
        if endpoint not in ENDPOINTS:
            raise InvalidRequest(f"'endpoint' is none of {', '.join(sorted(ENDPOINTS))}")
        if required(fields, "completion_window", str) != "24h":
            raise InvalidRequest("'completion_window' must be 24h")
        metadata = member(fields, "metadata", dict[str, str]) or {}
        if len(metadata) > METADATA_MAX:
            raise InvalidRequest(f"'metadata' has more than {METADATA_MAX} entries")
        file = await self._files.get(required(fields, "input_file_id", str), tenant)
        if file.purpose != "batch":
            raise InvalidRequest(f"the purpose of {file.file_id} is not batch but {file.purpose}")
        batch = new_batch(DIALECT, endpoint, grant, tenant, file.file_id, metadata)
        await self._commits.commit(self._batches, batch, version=1)
        return batch

    async def _cancel(self, batch: BatchChanged) -> BatchChanged:
        return await cancel(self._batches, self._commits, batch)


def new_batch(
    dialect: str,
    endpoint: str,
    grant: Grant,
    tenant: str,
    file_id: str,
    metadata: Mapping[str, str],
) -> BatchChanged:
    """Return a batch that waits for whoever claims it."""
    prefix = "batch" if dialect == DIALECT else "msgbatch"
    return BatchChanged(
        event_id="",
        occurred_at_us=0,
        entity_version=1,
        actor="",
        batch_id=f"{prefix}_{uuid7().replace('-', '')}",
        dialect=dialect,
        endpoint=endpoint,
        tenant=tenant,
        key_id=grant.key.key_id,
        status="validating",
        input_file_id=file_id,
        times_us={"validating": now_us()},
        metadata=dict(metadata),
    )


async def cancel(
    view: TableView[BatchChanged], commits: Commits, batch: BatchChanged
) -> BatchChanged:
    """Begin to cancel a batch. Raises Conflict when it has ended."""
    if batch.status in {"cancelling", "cancelled"}:
        return batch
    if batch.status not in {"validating", "in_progress"}:
        raise Conflict(
            f"the batch {batch.batch_id} is {batch.status}", action="Nothing is left to cancel."
        )
    times = {**batch.times_us, "cancelling": now_us()}
    return await commits.update(view, batch.key, status="cancelling", times_us=times)


def shown_file(file: FileChanged) -> Json:
    """Return a file as the clients read it."""
    return {
        "id": file.file_id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": file.created_at_us // 1_000_000,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }


def shown_batch(batch: BatchChanged) -> Json:
    """Return a batch as the clients read it."""
    created_us = batch.times_us["validating"]
    times = {
        name: batch.times_us[status] // 1_000_000 if status in batch.times_us else None
        for name, status in _TIMES.items()
    }
    errors = [
        {"code": "invalid_line", "message": fault, "param": None, "line": _line_of(fault)}
        for fault in batch.errors
    ]
    return {
        "id": batch.batch_id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": {"object": "list", "data": errors} if errors else None,
        "input_file_id": batch.input_file_id,
        "completion_window": "24h",
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": created_us // 1_000_000,
        "expires_at": (created_us + WINDOW_US) // 1_000_000,
        **times,
        "request_counts": {
            "total": batch.total,
            "completed": batch.completed,
            "failed": batch.failed,
        },
        "metadata": batch.metadata or None,
    }


def _line_of(fault: str) -> int | None:
    _, _, rest = fault.partition("line ")
    number, _, _ = rest.partition(":")
    return int(number) if number.isdigit() else None


def _query(client: Client) -> dict[str, str]:
    return dict(parse_qsl(client.query.decode("latin-1")))


def _page(shown: Sequence[Json], query: Mapping[str, str], default: int) -> dict[str, Any]:
    """Return one page of a list, after the id that the query names."""
    limit = int(query["limit"]) if query.get("limit", "").isdigit() else default
    ids = [entry["id"] for entry in shown]
    start = ids.index(query["after"]) + 1 if query.get("after") in ids else 0
    page = shown[start : start + max(1, min(limit, max(default, PAGE_MAX)))]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": start + len(page) < len(shown),
    }
