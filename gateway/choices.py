"""Several answers to one request (`n`) of a target whose vendor gives one: as many calls, side by side.

Each is a call of its own, as if the client had asked so often: routed, reserved, settled and in the
log by itself. Here their answers are put together: choices by their index, usage and cost summed.
Where one fails the others are given up, and the client hears why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from gateway.admission import Admitted
from gateway.client import Client, Headers
from gateway.dialects.neutral import Json
from gateway.dialects.sse import HEARTBEAT, FrameSplitter, write_frame
from gateway.inner import InnerCall
from gateway.routing import Router
from gateway.upstream import Upstream
from schemas.errors import InvalidRequest
from schemas.events.changes import ProviderChanged

CHOICES_MAX = 16
KEY, COST = b"idempotency-key", b"x-weir-cost-usd"
CALLS = b"x-weir-calls"
"""The header that names the calls, in the order of the choices."""
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_DONE = b"[DONE]"
_encode, _decode = msgspec.json.encode, msgspec.json.decode

Serve = Callable[[InnerCall], Awaitable[None]]


def are_calls(
    admitted: Admitted,
    router: Router,
    providers: Mapping[str, ProviderChanged],
    upstream: Upstream,
) -> bool:
    """Whether each choice has to be a call of its own: no target's vendor gives several in one.

    Raises InvalidRequest for more than are called side by side.
    """
    front, count = admitted.front, admitted.opening.choices
    plan = router.plan(admitted.opening.model, admitted.grant, front.name)
    rows = (providers.get(member.target.provider) for member in plan.members)
    if any(row is not None and upstream.is_own(row, front) for row in rows):
        return False
    if count > CHOICES_MAX:
        raise InvalidRequest(
            f"'n' must be at most {CHOICES_MAX}: each answer is a call of its own for this target",
            action="Ask again, or name a target whose vendor gives several answers at once.",
        )
    return True


async def serve(client: Client, admitted: Admitted, call: Serve) -> None:
    """Answer a chat completion of several choices; `call` serves one of them."""
    answer = _Together(client, admitted)
    client.watch()  # who leaves takes his calls with him
    try:
        answer.running = [asyncio.ensure_future(call(choice)) for choice in answer.choices]
        for ended in await asyncio.gather(*answer.running, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended  # a fault of ours: what is missing must not look whole
    except asyncio.CancelledError:
        if not client.left:
            raise
        return
    finally:
        client.done()
    await answer.end()


class _Choice(InnerCall):
    """One of the calls; what it streams goes on at once."""

    def __init__(self, index: int, together: _Together, headers: Headers, body: bytes) -> None:
        client = together.client
        super().__init__(client.path, headers, body, client.on_behalf_of)
        self.index = index
        self._client, self._together = client, together
        self._splitter = FrameSplitter()

    @property
    def peer(self) -> str | None:
        """The caller's address: its limits hold for each call."""
        return self._client.peer

    def give_up_after(self, wait_s: float) -> None:
        """Count the client as gone when it has not taken its answer by then: one says so for all."""
        if self.index == 0:
            self._client.give_up_after(wait_s)

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Keep the answer; one that failed ends the others."""
        self.started = True
        self.status, self.answer_headers, self.answer = status, headers, body
        if status >= 400:
            self._together.fail(self)

    async def write(self, data: bytes) -> None:
        """Hand on the frames of a stream."""
        if data == HEARTBEAT:
            await self._together.send(self, data)
        for frame in self._splitter.feed(data):
            await self._together.write(self, frame.data)

    async def end(self, data: bytes = b"") -> None:
        """Hand on the last frames."""
        await self.write(data)


class _Together:
    """The answer that the client gets."""

    def __init__(self, client: Client, admitted: Admitted) -> None:
        self.client = client
        self.running: Sequence[asyncio.Future[None]] = []
        self._wants_usage = admitted.opening.wants_usage
        self._failed: _Choice | None = None
        self._id = ""
        self._last: Json = {}
        self._usage: list[Json] = []
        body = _encode({name: raw for name, raw in admitted.fields.items() if name != "n"})
        given = [pair for pair in client.header_list if pair[0] not in {*_FRAMING, KEY}]
        key = client.headers.get(KEY)
        self.choices = [
            _Choice(index, self, [*given, *([(KEY, b"%b#%d" % (key, index))] if key else [])], body)
            for index in range(admitted.opening.choices)
        ]

    def fail(self, choice: _Choice) -> None:
        """Give the others up."""
        if self._failed is None:
            self._failed = choice
            for index, task in enumerate(self.running):
                if index != choice.index:
                    task.cancel()

    async def write(self, choice: _Choice, data: bytes) -> None:
        """Send a piece of a choice under its index; usage and end wait for all."""
        if self._failed is not None or data == _DONE:
            return
        frame: Json = _decode(data)
        if frame.get("error"):
            self.fail(choice)
        else:
            self._id = frame["id"] = self._id or frame["id"]
            if not frame["choices"]:
                self._last = frame
                self._usage.append(frame.get("usage") or {})
                return
            for piece in frame["choices"]:
                piece["index"] = choice.index
        await self.send(choice, write_frame(_encode(frame)))

    async def send(self, choice: _Choice, data: bytes) -> None:
        """Send bytes as they are."""
        if not self.client.started:
            await self.client.start(200, self._headers(choice.answer_headers))
        await self.client.write(data)

    async def end(self) -> None:
        """Send what is left when every call has ended."""
        failed, client = self._failed, self.client
        if client.started:
            tail = b"" if failed is None or not failed.answer else write_frame(failed.answer)
            if failed is None:
                if self._wants_usage:
                    tail = write_frame(_encode({**self._last, "usage": _summed(self._usage)}))
                tail += write_frame(_DONE)
            await client.end(tail)
        elif failed is not None:
            await client.whole(failed.status, failed.answer_headers, failed.answer)
        else:
            answers: list[Json] = [_decode(choice.answer) for choice in self.choices]
            merged = {
                **answers[0],
                "choices": [
                    {**one, "index": index}
                    for index, answer in enumerate(answers)
                    for one in answer["choices"]
                ],
                "usage": _summed([answer.get("usage") or {} for answer in answers]),
            }
            headers = self._headers(self.choices[0].answer_headers)
            await client.whole(200, headers, _encode(merged))

    def _headers(self, first: Headers) -> Headers:
        """Return the headers of one choice, with the cost of all as far as it is known."""
        told = [dict(choice.answer_headers) for choice in self.choices]
        headers = [pair for pair in first if pair[0] != COST]
        if all(COST in one for one in told):
            spent = sum(Decimal(one[COST].decode()) for one in told)
            headers.append((COST, f"{spent:f}".encode()))
        calls = [one.get(b"x-weir-request-id", b"") for one in told]
        return [*headers, (CALLS, b",".join(filter(None, calls)))]


def _summed(parts: list[Json]) -> Json:
    """Return the sums of the numbers, name by name."""
    found: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            if isinstance(value, dict):
                found[name] = _summed([found.get(name) or {}, value])
            elif isinstance(value, int):
                found[name] = (found.get(name) or 0) + value
    return found
