"""``/v1/messages/batches`` as Anthropic's clients know it.

Source: https://docs.anthropic.com/en/api/creating-message-batches and the pages beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from gateway.admission import own_headers
from gateway.batches import lines
from gateway.batches.commits import Commits
from gateway.batches.files import Files, tenant_of
from gateway.batches.openai_api import PAGE, PAGE_MAX, cancel, new_batch
from gateway.batches.runner import WINDOW_US
from gateway.client import JSON, Client
from gateway.dialects.neutral import Json
from gateway.dialects.reading import entries, read_object
from schemas.access import Grant
from schemas.errors import Conflict, InvalidRequest, NotFound
from schemas.events.batches import BatchChanged
from schemas.table_view import TableView

DIALECT = "anthropic"
ENDPOINT = "/v1/messages"
PATH = "/v1/messages/batches"
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_encode, _decode = msgspec.json.encode, msgspec.json.decode


class AnthropicBatches:
    """Answers requests below ``/v1/messages/batches``."""

    def __init__(
        self, files: Files, batches: TableView[BatchChanged], commits: Commits, bytes_max: int
    ) -> None:
        self._files = files
        self._batches = batches
        self._commits = commits
        self._bytes_max = bytes_max

    async def serve(self, client: Client, grant: Grant) -> None:
        """Answer one request. Raises the WeirError that says why not."""
        parts = [part for part in client.path.removeprefix(PATH).split("/") if part]
        tenant = tenant_of(grant)
        host = client.header(b"host") or ""
        match client.method, parts:
            case "POST", []:
                body: Any = shown(await self._create(client, grant, tenant), host)
            case "GET", []:
                body = self._list(client, tenant, host)
            case "GET", [batch_id]:
                body = shown(await self._get(batch_id, tenant), host)
            case "POST", [batch_id, "cancel"]:
                batch = await self._get(batch_id, tenant)
                body = shown(await cancel(self._batches, self._commits, batch), host)
            case "GET", [batch_id, "results"]:
                results = await self._results(await self._get(batch_id, tenant))
                await client.whole(
                    200, own_headers(kind=(JSON[0], b"application/x-jsonl")), results
                )
                return
            case "DELETE", [batch_id]:
                body = await self._delete(await self._get(batch_id, tenant))
            case _:
                raise NotFound(f"{client.method} {client.path} is not served")
        await client.whole(200, own_headers(), _encode(body))

    async def _get(self, batch_id: str, tenant: str) -> BatchChanged:
        batch = await self._commits.find(self._batches, f"batch:{batch_id}")
        if batch is None or batch.tenant != tenant or batch.dialect != DIALECT:
            raise NotFound(f"there is no message batch {batch_id}")
        return batch

    async def _create(self, client: Client, grant: Grant, tenant: str) -> BatchChanged:
        fields = read_object(await client.body(self._bytes_max))
        requests = entries(fields, "requests")
        content = b"".join(_line(number, raw) for number, raw in enumerate(requests))
        _, faults = lines.read(content, ENDPOINT)
        if faults:  # there is no state for a batch that cannot begin
            raise InvalidRequest(f"the batch is wrong: {faults[0]}", details=faults)
        writer = self._files.writer(grant.key.user_id or grant.key.key_id)
        writer.write(content)
        file = await self._files.keep(writer.close("requests.jsonl", "batch", tenant))
        batch = new_batch(DIALECT, ENDPOINT, grant, tenant, file.file_id, {})
        batch = msgspec.structs.replace(batch, total=len(requests))
        await self._commits.commit(self._batches, batch, version=1)
        return batch

    def _list(self, client: Client, tenant: str, host: str) -> Json:
        query = dict(parse_qsl(client.query.decode("latin-1")))
        mine = [
            batch
            for batch in self._batches.entries.values()
            if batch.tenant == tenant and batch.dialect == DIALECT
        ]
        mine.sort(key=lambda batch: -batch.times_us["validating"])
        limit = int(query["limit"]) if query.get("limit", "").isdigit() else PAGE
        ids = [batch.batch_id for batch in mine]
        start = ids.index(query["after_id"]) + 1 if query.get("after_id") in ids else 0
        page = [shown(batch, host) for batch in mine[start : start + max(1, min(limit, PAGE_MAX))]]
        return {
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": start + len(page) < len(mine),
        }

    async def _results(self, batch: BatchChanged) -> bytes:
        if batch.status not in _ENDED:
            raise Conflict(
                f"the batch {batch.batch_id} has not ended",
                action="Ask again when its processing_status is ended.",
            )
        results = bytearray()
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id is not None:
                file = await self._files.get(file_id, batch.tenant)
                content = await self._files.content(file)
                results += b"".join(_results(content))
        return bytes(results)

    async def _delete(self, batch: BatchChanged) -> Json:
        if batch.status not in _ENDED:
            raise Conflict(f"the batch {batch.batch_id} has not ended", action="Cancel it first.")
        await self._commits.update(self._batches, batch.key, deleted=True)
        return {"id": batch.batch_id, "type": "message_batch_deleted"}


def _line(number: int, raw: msgspec.Raw) -> bytes:
    try:
        request: Any = _decode(raw)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"requests[{number}] is not valid JSON") from error
    if not isinstance(request, dict):
        raise InvalidRequest(f"requests[{number}] is not an object")
    custom_id, params = request.get("custom_id"), request.get("params")
    line = {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": params}
    return _encode(line) + b"\n"


def _results(content: bytes) -> Iterator[bytes]:
    """Yield the lines of an output file as Anthropic writes them."""
    for raw in content.splitlines():
        line = _decode(raw)
        response, error = line["response"], line["error"]
        result: Json
        if error is not None:
            kind = "expired" if error["code"] == "batch_expired" else "canceled"
            result = {"type": kind}
        elif response["status_code"] < 300:
            result = {"type": "succeeded", "message": response["body"]}
        else:
            result = {"type": "errored", "error": response["body"]}
        yield _encode({"custom_id": line["custom_id"], "result": result}) + b"\n"


def shown(batch: BatchChanged, host: str) -> Json:
    """Return a batch as the clients read it."""
    created_us = batch.times_us["validating"]
    ended = batch.status in _ENDED
    stopping = batch.status == "cancelling"
    not_run = batch.total - batch.completed - batch.failed
    results = f"http://{host}{PATH}/{batch.batch_id}/results" if ended else None
    return {
        "id": batch.batch_id,
        "type": "message_batch",
        "processing_status": "ended" if ended else "canceling" if stopping else "in_progress",
        "request_counts": {
            "processing": 0 if ended else not_run,
            "succeeded": batch.completed,
            "errored": batch.failed,
            "canceled": not_run if batch.status == "cancelled" else 0,
            "expired": not_run if batch.status == "expired" else 0,
        },
        "created_at": _time(created_us),
        "expires_at": _time(created_us + WINDOW_US),
        "ended_at": _time(batch.times_us[batch.status]) if ended else None,
        "cancel_initiated_at": (
            _time(batch.times_us["cancelling"]) if "cancelling" in batch.times_us else None
        ),
        "archived_at": None,
        "results_url": results,
    }


def _time(time_us: int) -> str:
    moment = datetime.fromtimestamp(time_us / 1e6, UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
