"""The caller's side of one call, whatever carries it: `gateway.exchange` over HTTP/1.1,
`gateway.websocket` over a WebSocket.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from gateway.alarm import Alarm
from gateway.dialects.sse import HEARTBEAT
from gateway.pace import Pass

Header = tuple[bytes, bytes]
Headers = list[Header]

JSON = (b"content-type", b"application/json")
STREAM_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Client(ABC):
    """Reads one request and writes its answer; notices when the caller leaves.

    `path` is decoded, `raw_path` as it came; header names are in lower case. `passed` is what the
    call took of its limits, `limit_headers` what the caller is told of them; `edge_headers` are in
    whatever answer there is.
    """

    def __init__(
        self, method: str, path: str, header_list: Headers, query: bytes, raw_path: bytes
    ) -> None:
        self.method = method
        self.path = path
        self.raw_path = raw_path
        self.query = query
        self.header_list = header_list
        self.headers = {name: value for name, value in header_list}  # noqa: C416 - compiled faster
        self.on_behalf_of: str | None = None
        """The key (its id) of a caller who left this call with the gateway; no stranger can set it."""
        self.started = False
        self.left = False
        self.passed: Pass | None = None
        self.limit_headers: Headers = []
        self.edge_headers: Headers = []
        self._serving: asyncio.Task[Any] | None = None
        self._heart: Heart | None = None

    @property
    def peer(self) -> str | None:
        """The caller's address, None where it is not known."""
        return None

    def header(self, name: bytes) -> str | None:
        """Return a header's text (lower-case name), None when absent."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    # --- leaving -----------------------------------------------------------------------------

    def watch(self) -> None:
        """From now on, cancel the current task as soon as the caller leaves."""
        self._serving = asyncio.current_task()
        if self.left:
            self.leave()

    def unwatch(self) -> None:
        """Leave the current task alone: what follows must run to its end."""
        self._serving = None
        if self._heart is not None:
            self._heart.stop()
            self._heart = None

    def leave(self) -> None:
        """Note that the caller has left."""
        self.left = True
        if self._serving is not None:
            self._serving.cancel()

    @abstractmethod
    def give_up_after(self, wait_s: float) -> None:
        """Count the caller as gone if it has not taken its answer by then."""

    def done(self) -> None:
        """Stop looking after the caller."""
        self.unwatch()

    def beat(self, every_s: float, headers: Callable[[], Headers]) -> None:
        """Send a comment after so much silence, starting the stream with `headers` if needed."""
        self._heart = Heart(self, every_s, headers)

    # --- request and answer ------------------------------------------------------------------

    @abstractmethod
    async def body(self, bytes_max: int) -> bytes:
        """Read the whole body.

        Raises PayloadTooLarge, RequestTimeout, and InvalidRequest when it is malformed or the
        caller leaves.
        """

    @abstractmethod
    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer."""

    @abstractmethod
    async def start(self, status: int, headers: Headers) -> None:
        """Begin an answer. Status and headers may leave with the first `write`, even an empty one."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Send a piece; waits while the caller is slow to take it."""

    @abstractmethod
    async def end(self, data: bytes = b"") -> None:
        """Send the last piece."""


class Heart:
    """Heartbeats of one stream."""

    def __init__(self, client: Client, every_s: float, headers: Callable[[], Headers]) -> None:
        self._client = client
        self._every_s = every_s
        self._headers = headers
        self._loop = asyncio.get_running_loop()
        self._alarm: Alarm | None = Alarm(self._loop, self._ring)
        self._beat: asyncio.Task[None] | None = None
        self.wrote()

    def wrote(self) -> None:
        """Note that something was sent."""
        if self._alarm is not None:
            self._alarm.set(self._loop.time() + self._every_s)

    def stop(self) -> None:
        """Beat no more; nothing is sent after this."""
        if self._alarm is not None:
            self._alarm.stop()
            self._alarm = None

    def _ring(self) -> None:
        self._beat = asyncio.create_task(self._send())
        self.wrote()

    async def _send(self) -> None:
        if self._alarm is None:
            return
        if not self._client.started:
            await self._client.start(200, [*self._headers(), *STREAM_HEADERS])
        await self._client.write(HEARTBEAT)
