"""OpenAI's `/v1/files`, held in memory."""

import secrets
import time
from typing import Any

import msgspec
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from infra.sandbox.errors import ApiError, invalid
from infra.sandbox.exchange import Exchange
from infra.sandbox.openai_wire import plain_headers

PURPOSES = frozenset({"assistants", "batch", "fine-tune", "vision", "user_data", "evals"})
PAGE_MAX = 10_000


class StoredFile(msgspec.Struct):
    """A file with its content."""

    id: str
    base: str
    filename: str
    purpose: str
    content: bytes
    created_at: int

    def shown(self) -> dict[str, Any]:
        """The vendor's file object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.content),
            "created_at": self.created_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
            "expires_at": None,
        }


class Files:
    """The files of all base paths; each base sees its own."""

    def __init__(self, bytes_max: int) -> None:
        self._files: dict[str, StoredFile] = {}
        self._bytes_max = bytes_max
        self._bytes = 0

    def add(self, base: str, filename: str, purpose: str, content: bytes) -> StoredFile:
        """Keep a file.

        Raises:
            ApiError: 413 when the sandbox's room for files is spent.
        """
        if self._bytes + len(content) > self._bytes_max:
            raise ApiError(413, "too_large", "You have exceeded your file storage quota.")
        file = StoredFile(
            f"file-{secrets.token_hex(12)}", base, filename, purpose, content, int(time.time())
        )
        self._files[file.id] = file
        self._bytes += len(content)
        return file

    def get(self, base: str, file_id: str) -> StoredFile:
        """The file by that id.

        Raises:
            ApiError: 404 when there is none.
        """
        file = self._files.get(file_id)
        if file is None or file.base != base:
            raise ApiError(404, "not_found", f"No such File object: {file_id}", param="id")
        return file

    async def serve(self, exchange: Exchange, parts: list[str], body: bytes) -> None:
        """Serve a call below `/v1/files`.

        Raises:
            ApiError: the vendor would refuse it.
        """
        base = exchange.row.base
        headers = plain_headers(exchange)
        match exchange.row.method, parts:
            case "POST", []:
                file = await self._upload(exchange, body)
                await exchange.answer_json(file.shown(), headers)
            case "GET", []:
                await exchange.answer_json(self._list(base, exchange.query), headers)
            case "GET", [file_id]:
                await exchange.answer_json(self.get(base, file_id).shown(), headers)
            case "GET", [file_id, "content"]:
                file = self.get(base, file_id)
                kind = (b"content-type", b"application/octet-stream")
                await exchange.answer(200, file.content, [*headers, kind])
            case "DELETE", [file_id]:
                file = self.get(base, file_id)
                del self._files[file_id]
                self._bytes -= len(file.content)
                gone = {"id": file_id, "object": "file", "deleted": True}
                await exchange.answer_json(gone, headers)
            case _:
                raise ApiError(
                    404, "not_found", f"Invalid URL ({exchange.row.method} {exchange.row.path})"
                )

    def _list(self, base: str, query: dict[str, str]) -> dict[str, Any]:
        purpose = query.get("purpose")
        files = [
            file
            for file in self._files.values()
            if file.base == base and purpose in (None, file.purpose)
        ]
        if query.get("order", "desc") == "desc":
            files.reverse()
        return page([file.shown() for file in files], query, default=PAGE_MAX)

    async def _upload(self, exchange: Exchange, body: bytes) -> StoredFile:
        async def replay() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        if not (exchange.header(b"content-type") or "").startswith("multipart/form-data"):
            raise invalid(
                "Invalid content type: use multipart/form-data.", code="invalid_content_type"
            )
        try:
            form = await Request(exchange.scope, replay).form(max_part_size=self._bytes_max)
        except MultiPartException as error:
            raise invalid(f"Invalid multipart body: {error.message}") from error
        file, purpose = form.get("file"), form.get("purpose")
        if not isinstance(file, UploadFile):
            raise invalid("'file' is a required property")
        if not isinstance(purpose, str) or purpose not in PURPOSES:
            raise invalid(f"'{purpose}' is not one of {sorted(PURPOSES)} - 'purpose'")
        return self.add(exchange.row.base, file.filename or "file", purpose, await file.read())


def page(entries: list[dict[str, Any]], query: dict[str, str], *, default: int) -> dict[str, Any]:
    """The vendor's list envelope: `limit` entries behind `after`, and whether there are more.

    Raises:
        ApiError: 400 for a limit that is no positive number.
    """
    limit = query.get("limit", str(default))
    if not limit.isdigit() or int(limit) < 1:
        raise invalid(f"Invalid 'limit': {limit}.", param="limit")
    after = query.get("after")
    ids = [entry["id"] for entry in entries]
    start = 0 if after is None else ids.index(after) + 1 if after in ids else len(ids)
    data = entries[start : start + int(limit)]
    return {
        "object": "list",
        "data": data,
        "has_more": len(entries) > start + int(limit),
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }
