"""One request over HTTP/1.1 and its answer: the caller's side of a call, on `gateway.server`.

Sources: RFC 9110 (status, HEAD, Expect), RFC 9112 (framing, persistence).
"""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from gateway.client import Client, Headers
from schemas.errors import InvalidRequest, PayloadTooLarge, WeirError

if TYPE_CHECKING:
    from gateway.caller import CallerConnection

BODY_AHEAD_BYTES = 256 * 1024
"""What of a body is read before somebody asked for it, i.e. before its key was checked."""
NO_BODY = frozenset({204, 304})
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


class HttpExchange(Client):
    """One request and its answer. `arrived` when the request is whole, `ended` when the answer is."""

    def __init__(
        self,
        wire: CallerConnection,
        method: bytes,
        target: bytes,
        header_list: Headers,
        *,
        keep_alive: bool,
        http_1_0: bool,
    ) -> None:
        raw_path, _, query = target.partition(b"?")
        path = raw_path.decode("latin-1")
        if "%" in path:
            path = unquote_to_bytes(raw_path).decode("utf-8", "replace")
        # HEAD is GET without the answer's content (RFC 9110, 9.3.2): one place knows of it.
        self._bodiless = method == b"HEAD"
        super().__init__(
            "GET" if self._bodiless else method.decode("latin-1"),
            path,
            header_list,
            query,
            raw_path,
        )
        self.arrived = False
        self.ended = False
        self.keep_alive = keep_alive
        self.task: asyncio.Task[None]
        self._http_1_0 = http_1_0
        self._wire = wire
        self._chunks: list[bytes] = []
        self._size = 0
        self._bytes_max: int | None = None
        self._fault: WeirError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._chunked = False
        self._held = b""

    @property
    def peer(self) -> str | None:
        return self._wire.peer

    # --- the request, called by the connection -------------------------------------------------

    @property
    def size(self) -> int:
        """How many bytes of the body have come."""
        return self._size

    def feed(self, chunk: bytes) -> None:
        """Take a piece of the body."""
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._bytes_max is None:
            if self._size > BODY_AHEAD_BYTES:
                self._wire.hold()
        elif self._size > self._bytes_max:
            self.fail(_too_large(self._bytes_max))

    def complete(self) -> None:
        """Note that the request is whole."""
        self.arrived = True
        self._wake()

    def fail(self, fault: WeirError) -> None:
        """Make whoever reads the body hear of this."""
        if self._fault is None and not self.arrived:
            self._fault = fault
            self._chunks.clear()
            self._wake()

    def leave(self) -> None:
        """Note that the caller has left."""
        self.fail(InvalidRequest("the caller left before the body was complete"))
        super().leave()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- the request ---------------------------------------------------------------------------

    async def body(self, bytes_max: int) -> bytes:
        length = self.headers.get(b"content-length")
        if self._size > bytes_max or (length is not None and int(length) > bytes_max):
            raise _too_large(bytes_max)
        self._bytes_max = bytes_max
        if not self.arrived and self._fault is None:
            self._wire.read_body(self)
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._fault is not None:
            raise self._fault
        if len(self._chunks) != 1:  # joined once: whoever asks again gets the same bytes
            self._chunks = [b"".join(self._chunks)]
        return self._chunks[0]

    def watch(self) -> None:
        self._serving = self.task  # known here: `current_task` would have to look for it
        if self.left:
            self.leave()

    def give_up_after(self, wait_s: float) -> None:
        self._wire.give_up_after(wait_s)

    # --- the answer ----------------------------------------------------------------------------

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        self.started = self.ended = True
        self._wire.send(self.rendered(status, headers, body))
        self._wire.answered(self)

    def rendered(self, status: int, headers: Headers, body: bytes) -> bytes:
        """Return a whole answer's bytes."""
        if status in NO_BODY:
            return self._head(status, headers, b"")
        framing = b"content-length: %d\r\n" % len(body)
        return self._head(status, headers, framing, b"" if self._bodiless else body)

    async def start(self, status: int, headers: Headers) -> None:
        self.started = True
        if status in NO_BODY:
            self._bodiless = True
            self._held = self._head(status, headers, b"")
        elif self._http_1_0:
            self.keep_alive = False  # its end is the connection's
            self._held = self._head(status, headers, b"")
        else:
            self._chunked = not self._bodiless
            self._held = self._head(status, headers, b"transfer-encoding: chunked\r\n")

    async def write(self, data: bytes) -> None:
        if self._heart is not None:
            self._heart.wrote()
        if self._wire.paused:
            await self._wire.drained()
        if not self.ended:
            self._send(data, b"")

    async def end(self, data: bytes = b"") -> None:
        if self._wire.paused:
            await self._wire.drained()
        self.ended = True
        self._send(data, b"0\r\n\r\n")
        self._wire.answered(self)

    def _send(self, data: bytes, close: bytes) -> None:
        head, self._held = self._held, b""
        if self._bodiless:
            data = head
        elif not self._chunked:
            data = head + data
        elif data:
            data = b"%b%x\r\n%b\r\n%b" % (head, len(data), data, close)
        else:
            data = head + close
        if data:
            self._wire.send(data)

    def _head(self, status: int, headers: Headers, framing: bytes, body: bytes = b"") -> bytes:
        if not self.arrived or self._wire.closing:
            self.keep_alive = False
        if self.edge_headers:
            headers = [*headers, *self.edge_headers]
        parts = [_opening(status)]
        for name, value in headers:
            parts.append(b"%b: %b\r\n" % (name, value))
        parts.append(framing)
        if not self.keep_alive:
            parts.append(b"connection: close\r\n\r\n")
        elif self._http_1_0:
            parts.append(b"connection: keep-alive\r\n\r\n")
        else:
            parts.append(b"\r\n")
        parts.append(body)
        return b"".join(parts)


SECURITY = (
    b"x-content-type-options: nosniff\r\nx-frame-options: DENY\r\nreferrer-policy: no-referrer\r\n"
)
_openings: dict[int, bytes] = {}
_openings_s = 0


def _opening(status: int) -> bytes:
    """Return the lines with which every answer begins, kept for as long as the date is true."""
    global _openings_s
    now_s = int(time.time())
    if now_s != _openings_s:
        _openings.clear()
        _openings_s = now_s
    lines = _openings.get(status)
    if lines is None:
        lines = _openings[status] = (
            b"HTTP/1.1 %d %b\r\ndate: %b\r\n"
            % (status, _REASONS.get(status, b""), formatdate(now_s, usegmt=True).encode())
            + SECURITY
        )
    return lines


def _too_large(bytes_max: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body exceeds the limit of {bytes_max} bytes")
