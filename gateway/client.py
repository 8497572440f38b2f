"""The caller's side of one HTTP exchange, on bare ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from gateway.dialects.sse import HEARTBEAT
from schemas.errors import InvalidRequest, PayloadTooLarge

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
_NOSNIFF = (b"x-content-type-options", b"nosniff")
STREAM_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Client:
    """Reads one request and writes its answer; notices when the caller leaves."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        self.raw_path: bytes | None = scope.get("raw_path")
        self.header_list: Headers = scope["headers"]
        self.headers: dict[bytes, bytes] = dict(self.header_list)
        self.query: bytes = scope.get("query_string", b"")
        self.started = False
        self.left = False
        self._receive = receive
        self._send = send
        self._watcher: asyncio.Task[None] | None = None
        self._serving: asyncio.Task[Any] | None = None
        self._heart: Heart | None = None
        self._patience: asyncio.TimerHandle | None = None

    def header(self, name: bytes) -> str | None:
        """Return a header's text (lower-case name), None when absent."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def body(self, bytes_max: int) -> bytes:
        """Read the whole body. Raises PayloadTooLarge, InvalidRequest when the caller leaves."""
        length = self.headers.get(b"content-length")
        if length is not None and length.isdigit() and int(length) > bytes_max:
            raise PayloadTooLarge(f"the body has {int(length)} bytes, the limit is {bytes_max}")
        chunks, size = [], 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.left = True
                raise InvalidRequest("the caller left before the body was complete")
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > bytes_max:
                raise PayloadTooLarge(f"the body exceeds the limit of {bytes_max} bytes")
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    # --- leaving -----------------------------------------------------------------------------

    def watch(self) -> None:
        """From now on, cancel the current task as soon as the caller leaves."""
        self._serving = asyncio.current_task()
        self._watcher = asyncio.create_task(self._watch())

    def give_up_after(self, wait_s: float) -> None:
        """Count the caller as gone if it has not taken its answer by then."""
        serving, loop = asyncio.current_task(), asyncio.get_running_loop()
        self._patience = loop.call_later(wait_s, self._give_up, serving)

    def _give_up(self, serving: asyncio.Task[Any] | None) -> None:
        self.left = True
        if serving is not None:
            serving.cancel()

    def done(self) -> None:
        """Stop looking after the caller."""
        self.unwatch()
        if self._patience is not None:
            self._patience.cancel()

    def unwatch(self) -> None:
        """Leave the current task alone: what follows must run to its end."""
        self._serving = None
        if self._heart is not None:
            self._heart.stop()
            self._heart = None
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None

    def beat(self, every_s: float, headers: Callable[[], Headers]) -> None:
        """Send a comment after so much silence, starting the stream with `headers` if needed."""
        self._heart = Heart(self, every_s, headers)

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left = True
        if self._serving is not None:
            self._serving.cancel()

    # --- the answer --------------------------------------------------------------------------

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer."""
        await self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self._send({"type": "http.response.body", "body": body})

    async def start(self, status: int, headers: Headers) -> None:
        """Send status and headers."""
        self.started = True
        start = {"type": "http.response.start", "status": status, "headers": [*headers, _NOSNIFF]}
        await self._send(start)

    async def write(self, data: bytes) -> None:
        """Send a piece; waits while the caller is slow to take it."""
        if self._heart is not None:
            self._heart.wrote()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """Send the last piece."""
        await self._send({"type": "http.response.body", "body": data, "more_body": False})


class Heart:
    """Heartbeats of one stream, by one timer that looks again rather than being set anew."""

    def __init__(self, client: Client, every_s: float, headers: Callable[[], Headers]) -> None:
        self._client = client
        self._every_s = every_s
        self._headers = headers
        self._loop = asyncio.get_running_loop()
        self._wrote_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(every_s, self._look)
        self._beat: asyncio.Task[None] | None = None

    def wrote(self) -> None:
        """Note that something was sent."""
        self._wrote_s = self._loop.time()

    def stop(self) -> None:
        """Beat no more; nothing is sent after this."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        wait_s = self._wrote_s + self._every_s - self._loop.time()
        if wait_s <= 0:
            self._beat = asyncio.create_task(self._send())
            wait_s = self._every_s
        self._timer = self._loop.call_later(wait_s, self._look)

    async def _send(self) -> None:
        if self._timer is None:
            return
        if not self._client.started:
            await self._client.start(200, [*self._headers(), *STREAM_HEADERS])
        await self._client.write(HEARTBEAT)
