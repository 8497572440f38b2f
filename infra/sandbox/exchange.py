"""One HTTP call: reads the request, writes the answer, watches for the client leaving, fills the row."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from infra.sandbox.books import Row, now_us
from infra.sandbox.errors import ApiError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]

TRANSPORT = "sandbox.transport"
# SO_LINGER on, zero seconds: closing then sends RST instead of FIN.
_LINGER_RESET = struct.pack("ii", 1, 0)
_JSON: Header = (b"content-type", b"application/json")


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, which also hands the transport on: the faults need the bare connection."""

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self.scope["extensions"] = {TRANSPORT: {"transport": self.transport}}


class Disconnected(Exception):
    """The client left before its answer was complete."""


class Exchange:
    """A call in flight."""

    __slots__ = ("_leaving", "_receive", "_send", "_waiter", "headers", "rest", "row", "scope")

    def __init__(self, scope: Scope, receive: Receive, send: Send, row: Row, rest: str) -> None:
        self.scope = scope
        self.rest = rest
        """The path behind `/v1/`."""
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.row = row
        self._receive = receive
        self._send = send
        self._leaving: asyncio.Task[Message] | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def query(self) -> dict[str, str]:
        """Query parameters."""
        return dict(parse_qsl(self.scope["query_string"].decode()))

    def header(self, name: bytes) -> str | None:
        """A request header's value."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def body(self, bytes_max: int) -> bytes:
        """The whole request body.

        Raises:
            ApiError: 413 when it is larger than allowed.
            Disconnected: the client left while it sent.

        """
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            part: bytes = message["body"]
            size += len(part)
            if size > bytes_max:
                raise ApiError(
                    413, "too_large", "Request exceeds the maximum allowed number of bytes."
                )
            parts.append(part)
            if not message["more_body"]:
                self.row.bytes_in = size
                return b"".join(parts) if len(parts) > 1 else part

    async def start(self, status: int, headers: list[Header]) -> None:
        """Send status and headers."""
        self.row.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes, *, more: bool = True) -> None:
        """Send a part of the body; the last one with `more=False`."""
        row = self.row
        if row.first_byte_at_us is None:
            row.first_byte_at_us = now_us()
        row.bytes_out += len(data)
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def answer(self, status: int, body: bytes, headers: list[Header] | None = None) -> None:
        """Send a whole answer; JSON unless `headers` hold another content type."""
        lines = [(b"content-length", b"%d" % len(body)), *(headers or [])]
        if not any(name == b"content-type" for name, _ in lines):
            lines.append(_JSON)
        await self.start(status, lines)
        self.row.complete = True
        await self.write(body, more=False)

    async def answer_json(self, value: object, headers: list[Header] | None = None) -> None:
        """Send 200 with a value as JSON."""
        await self.answer(200, msgspec.json.encode(value), headers)

    async def wait(self, seconds: float | None) -> None:
        """Let time pass (None: for ever) while watching the client.

        Raises:
            Disconnected: the client left.

        """
        leaving = self._watch()
        if not leaving.done() and (seconds is None or seconds > 0):
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = None if seconds is None else loop.call_later(seconds, self._wake)
            await self._waiter
            if timer is not None:
                timer.cancel()
        if leaving.done():
            raise Disconnected

    def _watch(self) -> asyncio.Task[Message]:
        """The task that ends when the client leaves, made when it is first needed."""
        if self._leaving is None:
            self._leaving = asyncio.ensure_future(self._receive())
            self._leaving.add_done_callback(self._wake)
        return self._leaving

    def _wake(self, _: object = None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def reset(self) -> None:
        """End the connection by RST, as a crashed peer or a firewall does."""
        transport = self.scope["extensions"][TRANSPORT]["transport"]
        sock: socket.socket | None = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        transport.abort()
        await self._gone()

    async def cut(self) -> None:
        """Close the connection in the middle of an answer: what was written still arrives."""
        self.scope["extensions"][TRANSPORT]["transport"].close()
        await self._gone()

    async def _gone(self) -> None:
        await self._watch()
