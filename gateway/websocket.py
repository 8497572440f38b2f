"""Calls over a WebSocket: the caller's side of `gateway.client` once more, one message per event.

A message of the caller is the body of a call, the calls of a connection follow one another, and each
runs through the same path as over HTTP. What HTTP says in headers is the message `started`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.client import JSON, Client, Headers
from gateway.dialects.neutral import Chat, Delta, Fields, Opening, Receipt, StreamWriter
from gateway.dialects.reading import member
from gateway.generate import GenerateDialect, completed
from schemas.errors import PayloadTooLarge, ValidationFailed, WeirError

if TYPE_CHECKING:
    from gateway.socket_protocol import House

SUBPROTOCOL = "weir"
KEY_PREFIX = "key."
"""Browsers cannot send headers with a WebSocket: `new WebSocket(url, ["weir", "key.SECRET"])`."""
WAITING_MAX, WAITING_BYTES_MAX = 8, 32 * 1024 * 1024
"""Calls that may wait behind the running one, and their size together (one may be larger)."""
CLOSE_CODES = {401: 4401, 403: 4403}
TRY_AGAIN_LATER, POLICY_VIOLATION, SERVICE_RESTART = 1013, 1008, 1012
DRAIN = "weir.drain"
"""The server's word to a connection that it will stop; no event of ASGI's own."""
REASON_BYTES_MAX = 123
"""The protocol's own limit for the text of a close frame."""
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_encode = msgspec.json.encode


class Sockets:
    """Every WebSocket of a worker.

    `serve` is called once per connection with a `Socket`; sizes in bytes, times in seconds. What speaks
    the protocol (`gateway.socket_protocol`) is loaded when the first comes: it takes a fifth of a worker's
    start, and 6 MiB.
    """

    def __init__(
        self, serve: Callable[[Socket], Awaitable[None]], message_bytes_max: int, ping_s: float
    ) -> None:
        async def application(scope: Any, receive: Any, send: Any) -> None:
            await serve(Socket(scope, receive, send))

        self._application = application
        self._message_bytes_max = message_bytes_max
        self._ping_s = ping_s
        self._house: House | None = None
        self.ready = False

    async def prepare(self) -> None:
        """Load what the first connection has to wait for, beside the calls that run."""
        await asyncio.to_thread(import_module, "gateway.socket_protocol")
        self.ready = True

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """The running connections."""
        return set() if self._house is None else self._house.tasks

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return 0 if self._house is None else self._house.connections

    def protocol(self) -> asyncio.Protocol:
        """Return a protocol for one connection, whose first bytes are the request's head."""
        if self._house is None:
            from gateway.socket_protocol import House

            self._house = House(self._application, self._message_bytes_max, self._ping_s)
        return self._house.protocol()

    def drain(self) -> None:
        """Begin no further call, and close each connection after its running one."""
        if self._house is not None:
            self._house.drain()


class Socket:
    """One connection. Its reader never rests, so that a caller who leaves is noticed at once."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.left = False
        self._receive = receive
        self._send = send
        self._waiting: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._exchange: Exchange | None = None
        self._draining = False

    async def accept(self) -> None:
        """Open the connection, whoever asks: browsers see nothing of an answer that refuses it."""
        await self._receive()  # websocket.connect
        offered = self.scope.get("subprotocols", ())
        chosen = SUBPROTOCOL if SUBPROTOCOL in offered else None
        await self.send({"type": "websocket.accept", "subprotocol": chosen})

    async def deny(self, status: int, body: bytes) -> None:
        """Answer the handshake with an HTTP error."""
        await self._receive()
        start = {"type": "websocket.http.response.start", "status": status, "headers": [JSON]}
        await self.send(start)
        await self.send({"type": "websocket.http.response.body", "body": body})

    async def serve(self, serve: Callable[[Exchange], Awaitable[None]]) -> None:
        """Serve the caller's messages one after the other until one of the two closes."""
        reader = asyncio.create_task(self._read())
        try:
            while (body := await self._next()) is not None:
                exchange = self._exchange = self.exchange(body)
                try:
                    await serve(exchange)
                finally:
                    self._exchange = None
                if exchange.left:
                    break
                if exchange.refused in CLOSE_CODES:
                    await self.close(CLOSE_CODES[exchange.refused], "the key is not accepted")
        except asyncio.CancelledError:
            if not self.left:
                raise
        finally:
            reader.cancel()

    async def pour(self, messages: AsyncIterator[bytes]) -> None:
        """Send what comes, one message each, until it ends or the caller leaves."""
        reader = asyncio.create_task(self._read())
        pouring = asyncio.create_task(self._pour(messages))
        try:
            await asyncio.wait({reader, pouring}, return_when=asyncio.FIRST_COMPLETED)
            if pouring.done():
                pouring.result()
        finally:
            for task in (reader, pouring):
                task.cancel()
            await asyncio.gather(reader, pouring, return_exceptions=True)

    async def _pour(self, messages: AsyncIterator[bytes]) -> None:
        async for message in messages:
            await self.send({"type": "websocket.send", "text": message.decode()})
            if self._draining:
                await self.close(SERVICE_RESTART, "the gateway stops: connect again")
            if self.left:
                return

    def exchange(self, body: bytes = b"") -> Exchange:
        """Return the caller's side of one call."""
        return Exchange(self, body)

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Send, or do nothing when the caller has left: the reader says so to who must know."""
        if self.left:
            return
        try:
            await self._send(message)
        except (
            OSError,
            RuntimeError,
        ):  # the server's words for a connection that is gone or closing
            self.leave()

    async def close(self, code: int, reason: str) -> None:
        """Close the connection."""
        reason = reason.encode()[:REASON_BYTES_MAX].decode("utf-8", "ignore")
        await self.send({"type": "websocket.close", "code": code, "reason": reason})
        self.leave()

    def leave(self) -> None:
        """Note that nobody listens any more, and cancel the running call."""
        self.left = True
        self._news.set()
        if self._exchange is not None:
            self._exchange.leave()

    async def _read(self) -> None:
        while not self.left:
            message = await self._receive()
            if message["type"] == DRAIN:
                self._draining = True
                self._news.set()
                continue
            if message["type"] != "websocket.receive":
                self.leave()
                return
            text = message.get("text")
            data: bytes = message["bytes"] if text is None else text.encode()
            if not self._has_room(len(data)):
                await self.close(POLICY_VIOLATION, "too many calls are waiting")
                return
            self._waiting.append(data)
            self._news.set()

    def _has_room(self, size: int) -> bool:
        if not self._waiting:
            return True
        waiting_bytes = sum(map(len, self._waiting))
        return len(self._waiting) < WAITING_MAX and waiting_bytes + size <= WAITING_BYTES_MAX

    async def _next(self) -> bytes | None:
        """Return the next message, None when the connection has ended."""
        while not self.left:
            if self._draining:
                await self.close(SERVICE_RESTART, "the gateway stops: connect again")
                return None
            if self._waiting:
                return self._waiting.popleft()
            self._news.clear()
            await self._news.wait()
        return None


class Exchange(Client):
    """One call of a connection, as the gateway sees every call."""

    def __init__(self, socket: Socket, body: bytes) -> None:
        scope = socket.scope
        headers, query = scope["headers"], scope.get("query_string", b"")
        super().__init__("GET", scope["path"], headers, query, scope["raw_path"])
        self.left = socket.left
        self.refused = 0
        self._patience: asyncio.TimerHandle | None = None
        self._socket = socket
        self._body = body
        secret = _offered_key(socket.scope)
        if secret is not None:
            self.headers.setdefault(b"authorization", b"Bearer " + secret.encode("latin-1"))

    @property
    def peer(self) -> str | None:
        address = self._socket.scope.get("client")
        return str(address[0]) if address else None

    async def body(self, bytes_max: int) -> bytes:
        """Return the message. Raises PayloadTooLarge."""
        if len(self._body) > bytes_max:
            raise PayloadTooLarge(f"the message exceeds the limit of {bytes_max} bytes")
        return self._body

    def give_up_after(self, wait_s: float) -> None:
        """Count the caller as gone if it has not taken its answer by then."""
        self._patience = asyncio.get_running_loop().call_later(wait_s, self.leave)

    def done(self) -> None:
        """Stop looking after the caller."""
        super().done()
        if self._patience is not None:
            self._patience.cancel()

    def beat(self, every_s: float, headers: Callable[[], Headers]) -> None:
        """Do nothing: the server pings the connection."""

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a refusal: answers are streams here."""
        _ = headers
        self.started = True
        self.refused = status
        await self._say(body)

    async def start(self, status: int, headers: Headers) -> None:
        """Send what HTTP would say in headers."""
        _ = status
        self.started = True
        ours = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in headers
            if name.startswith(b"x-weir-")
        }
        await self._say(_encode({"type": "started", "headers": ours}))

    async def write(self, data: bytes) -> None:
        """Send each line as a message; waits while the caller is slow to take it."""
        for line in data.splitlines():
            await self._say(line)

    async def end(self, data: bytes = b"") -> None:
        """Send the last messages; the connection stays for the next call."""
        await self.write(data)

    async def _say(self, data: bytes) -> None:
        await self._socket.send({"type": "websocket.send", "text": data.decode()})


def _offered_key(scope: Scope) -> str | None:
    for name in scope.get("subprotocols", ()):
        if name.startswith(KEY_PREFIX):
            secret: str = name.removeprefix(KEY_PREFIX)
            return secret
    return None


class GenerateSocket(GenerateDialect):
    """The product's own dialect with one JSON line per event; it always streams."""

    def open(self, fields: Fields) -> Opening:
        if member(fields, "stream", bool) is False:
            fault = "stream: must be true or absent, a WebSocket always streams"
            raise ValidationFailed("1 field is wrong", details=[fault])
        return msgspec.structs.replace(super().open(fields), stream=True)

    def read_request(self, fields: Fields) -> Chat:
        return msgspec.structs.replace(super().read_request(fields), stream=True)

    def stream_writer(self, opening: Opening) -> StreamWriter:
        del opening
        return _Lines()

    def end_of_stream(self, receipt: Receipt) -> bytes:
        return _encode(completed(receipt)) + b"\n"

    def write_error(self, error: WeirError, status: int, request_id: str) -> bytes:
        fault = error.told(request_id)
        return _encode({"type": "error", "status": status, "error": fault})

    def write_error_frame(self, error: WeirError, status: int, request_id: str) -> bytes:
        return self.write_error(error, status, request_id) + b"\n"


class _Lines:
    def write(self, delta: Delta) -> bytes:
        if delta.kind == "text":
            return _encode({"type": "text", "text": delta.text}) + b"\n"
        return b""


GENERATE_SOCKET = GenerateSocket()
