"""``POST /generate/batch`` (GW-03): up to a hundred prompts in one request, each a call of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from gateway.admission import own_headers
from gateway.client import Client, Headers
from gateway.dialects.neutral import Json
from gateway.dialects.reading import read_object
from gateway.generate import NAMES
from gateway.inner import InnerCall
from schemas.errors import ValidationFailed

PATHS = frozenset({"/api/v1/generate/batch", "/generate/batch"})
CALL_PATH = "/api/v1/generate"
ITEMS_MAX = 100
AT_ONCE = 8
"""Calls of one batch that run at the same time."""
_NOT_PASSED_ON = frozenset({b"content-length", b"idempotency-key", b"transfer-encoding"})

_encode = msgspec.json.encode


async def serve(
    client: Client, call: Callable[[InnerCall], Awaitable[None]], bytes_max: int
) -> None:
    """Answer a batch: its results in the order of its prompts, errors among them.

    `call` serves one call. Raises ValidationFailed naming every fault, before anything is called.
    """
    items = read_batch(await client.body(bytes_max))
    headers = [pair for pair in client.header_list if pair[0] not in _NOT_PASSED_ON]
    client.watch()  # who leaves takes his calls with him
    room = asyncio.Semaphore(AT_ONCE)
    results = await asyncio.gather(*(_one(item, headers, call, room) for item in items))
    client.unwatch()
    answers = [
        {"index": index, "status": status, **answer}
        for index, (status, answer) in enumerate(results)
    ]
    failed = sum(status >= 400 for status, _ in results)
    body = {"results": answers, "succeeded": len(results) - failed, "failed": failed}
    await client.whole(200, own_headers(), _encode(body))


async def _one(
    item: Json,
    headers: Headers,
    call: Callable[[InnerCall], Awaitable[None]],
    room: asyncio.Semaphore,
) -> tuple[int, Json]:
    async with room:
        inner = InnerCall(CALL_PATH, headers, _encode(item))
        await call(inner)
        return inner.status, msgspec.json.decode(inner.answer)


def read_batch(body: bytes) -> list[Json]:
    """Return the body of every call. Raises InvalidRequest, ValidationFailed."""
    fields = read_object(body)
    shared = {name: msgspec.json.decode(raw) for name, raw in fields.items() if name != "prompts"}
    prompts: Any = msgspec.json.decode(fields["prompts"]) if "prompts" in fields else None
    if not isinstance(prompts, list) or not 1 <= len(prompts) <= ITEMS_MAX:
        raise ValidationFailed(
            "1 field is wrong", details=[f"prompts: a list of 1 to {ITEMS_MAX} entries"]
        )
    faults = [f"{name}: unknown field" for name in shared if name not in NAMES]
    faults += [
        f"prompts[{index}]: neither a text nor an object"
        for index, prompt in enumerate(prompts)
        if not isinstance(prompt, str | dict)
    ]
    if shared.get("stream") or any(p.get("stream") for p in prompts if isinstance(p, dict)):
        faults.append("stream: a batch is answered as a whole")
    if faults:
        raise ValidationFailed(f"{len(faults)} fields are wrong", details=faults)
    shared = _by_wire_name(shared)
    return [
        {**shared, **({"prompt": entry} if isinstance(entry, str) else _by_wire_name(entry))}
        for entry in prompts
    ]


def _by_wire_name(fields: Json) -> Json:
    """An entry's own value wins over a shared one, whichever of its two names each was given."""
    return {NAMES.get(name, name): value for name, value in fields.items()}
