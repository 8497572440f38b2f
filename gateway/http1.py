"""An HTTP/1.1 client on httptools and asyncio.Protocol, with a bounded keep-alive pool.

A connection carries one exchange at a time. Its reader says how long it is willing to wait at
every step, so that connect, first byte, stall and total can each have their own limit. Whoever
leaves an exchange early closes its connection, which is what tells a provider to stop.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import zlib
from collections import deque
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httptools

from gateway.alarm import Alarm
from gateway.header_names import LOWERED, lowered
from schemas.errors import UpstreamError, UpstreamNetwork, UpstreamProtocol, UpstreamTimeout

BUFFERED_BYTES_MAX = 256 * 1024
"""Unread bytes after which the socket is no longer read: a slow client slows its provider."""
HEADER_BYTES_MAX = 64 * 1024
JOIN_BYTES_MAX = 64 * 1024
"""Head and body up to this size leave in one write."""
IDLE_S_MAX = 50.0
"""Below the idle limit of common load balancers (60 s), which close without a word."""
STALE_AFTER_S = 1.0
"""Servers keep idle connections for seconds: one that breaks sooner broke on our request."""
DRAIN_S = 1.0
"""How long the last bytes of a finished answer may take before its connection is given up."""


class Origin(NamedTuple):
    """Where connections go."""

    host: str
    port: int
    tls: bool

    @classmethod
    def of(cls, url: str) -> Origin:
        """Return the origin of an http or https URL. Raises ValueError for any other."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"not an http(s) address: {url!r}")
        tls = parts.scheme == "https"
        return cls(parts.hostname, parts.port or (443 if tls else 80), tls)

    @property
    def host_header(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


class Connection(asyncio.Protocol):
    """One connection; `send` starts an exchange, `head` and `read` follow its answer."""

    def __init__(self, pool: Pool, origin: Origin) -> None:
        self.origin = origin
        self.idle_since_s = 0.0
        self.reused = False
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.complete = False
        self.answered = False
        self._pool = pool
        self._loop = pool.loop
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._paused = False
        self._error: UpstreamError | None = None
        self._has_head = False
        self._header_bytes = 0
        self._inflate: zlib._Decompress | None = None
        self._busy = False
        self._draining: asyncio.TimerHandle | None = None
        self._keep = False
        self._alarm = Alarm(self._loop, self._expired)

    # --- the exchange ------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether another exchange may start here."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, head: bytes, body: bytes) -> None:
        """Start an exchange."""
        self.status = 0
        self.headers = {}
        self.complete = self.answered = self._has_head = False
        self._header_bytes = 0
        self._inflate = None
        self._busy = True
        if self._transport is None or self._transport.is_closing():
            self._fail(UpstreamNetwork(f"{self.origin.host} closed the connection"))
        elif len(body) <= JOIN_BYTES_MAX:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    async def head(self, wait_s: float) -> int:
        """Return the status once all headers are there. Raises UpstreamError, TimeoutError."""
        while not self._has_head:
            self._raise()
            await self._news(wait_s)
        return self.status

    async def read(self, wait_s: float) -> bytes:
        """Return the next bytes of the body, b"" at its end. Raises UpstreamError, TimeoutError."""
        while not self._chunks:
            if self.complete:
                return b""
            self._raise()
            await self._news(wait_s)
        data = self._chunks.popleft() if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    def done(self) -> None:
        """Leave the exchange: keep the connection when the answer has ended, else drop it."""
        self._chunks.clear()
        if self.complete:
            self._release()
        else:
            self.abort()

    def drain(self) -> None:
        """Leave an answer of which only the framing is missing: keep the connection if it comes."""
        if self.complete or not self.usable:
            self.done()
            return
        self._chunks.clear()
        self._draining = self._loop.call_later(DRAIN_S, self.abort)

    def abort(self) -> None:
        """Close at once, which cancels the provider's work."""
        if self._transport is not None:
            self._transport.abort()

    def interrupt(self, error: UpstreamError) -> None:
        """Make the exchange fail with this error, and close."""
        self._fail(error)
        self.abort()

    # --- asyncio.Protocol ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if not self._busy:
            self.abort()  # bytes that nobody asked for: the connection is out of step
            return
        self.answered = True
        if not self._has_head:
            self._header_bytes += len(data)  # perhaps with the first bytes of the body
        try:
            self._parser.feed_data(data)
        except UpstreamError as error:
            self.interrupt(error)
        except (httptools.HttpParserError, zlib.error) as error:
            self.interrupt(UpstreamProtocol(f"{self.origin.host} broke HTTP/1.1: {error}"))
        if self._header_bytes > HEADER_BYTES_MAX and not self._has_head:
            self.interrupt(self._too_many_headers())

    def eof_received(self) -> bool:
        if self._busy and self._has_head and not self.complete and self._ends_by_close():
            self.complete = True
            self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.forget(self)
        self._alarm.stop()
        if self._draining is not None:
            self._draining.cancel()
        if self._busy and not self.complete:
            reason = f": {exc}" if exc else ""
            self._fail(UpstreamNetwork(f"{self.origin.host} closed the connection{reason}"))
        self._transport = None

    # --- httptools callbacks -------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[LOWERED.get(name) or lowered(name)] = value

    def on_headers_complete(self) -> None:
        if self.complete:
            raise UpstreamProtocol(f"{self.origin.host} answered twice")
        if self._header_bytes > HEADER_BYTES_MAX and _size(self.headers) > HEADER_BYTES_MAX:
            raise self._too_many_headers()
        status = self._parser.get_status_code()
        if status < 200:
            return
        self.status = status
        encoding = self.headers.get(b"content-encoding", b"identity").lower()
        if encoding in {b"gzip", b"deflate"}:
            self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
        elif encoding != b"identity":
            raise UpstreamProtocol(f"{self.origin.host} sent an encoding nobody accepted")
        self._has_head = True
        self._wake()

    def on_body(self, body: bytes) -> None:
        if self._draining is not None:
            return
        if self._inflate is not None:
            body = self._inflate.decompress(body)
        if not body:
            return
        self._chunks.append(body)
        self._buffered += len(body)
        if self._buffered > BUFFERED_BYTES_MAX and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        if not self._has_head:  # an interim answer (1xx): the real one follows
            self.headers = {}
            return
        self.complete = True
        # Only inside this callback does the parser know: afterwards its flags are cleared.
        self._keep = self._parser.should_keep_alive()
        if self._draining is not None:
            self._draining.cancel()
            self._draining = None
            self._release()
        self._wake()

    def _too_many_headers(self) -> UpstreamProtocol:
        return UpstreamProtocol(f"{self.origin.host} sent headers beyond {HEADER_BYTES_MAX} B")

    # --- inside --------------------------------------------------------------------------------

    def _news(self, wait_s: float) -> asyncio.Future[None]:
        """Return what ends when more of the answer is there, or in a TimeoutError."""
        self._alarm.set(self._loop.time() + max(wait_s, 0.0))
        self._waiter = self._loop.create_future()
        return self._waiter

    def _expired(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(TimeoutError())

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            self._alarm.clear()
            if not waiter.done():
                waiter.set_result(None)

    def _fail(self, error: UpstreamError) -> None:
        if self._error is None:
            self._error = error
        self._wake()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _ends_by_close(self) -> bool:
        headers = self.headers
        return b"content-length" not in headers and b"transfer-encoding" not in headers

    def _release(self) -> None:
        self._busy = False
        if self.usable and self._keep and not self._paused:
            self._pool.release(self)
        else:
            self.abort()


def _size(headers: dict[bytes, bytes]) -> int:
    return sum(len(name) + len(value) for name, value in headers.items())


class Pool:
    """Connections by origin: the latest used first, bounded in number and in idle time."""

    def __init__(self, *, connections_max: int = 1024, ca_file: str | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self._connections_max = connections_max
        self._ca_file = ca_file
        self._tls: ssl.SSLContext | None = None
        self._idle: dict[Origin, list[Connection]] = {}
        self._open: dict[Origin, set[Connection]] = {}
        self._reserved: dict[Origin, int] = {}
        self._queue: dict[Origin, deque[asyncio.Future[None]]] = {}

    async def exchange(
        self, origin: Origin, head: bytes, body: bytes, *, connect_s: float, first_byte_s: float
    ) -> Connection:
        """Send a request and return its connection once the headers are there.

        A reused connection that was closed while idle is replaced once, without a word. Raises
        UpstreamNetwork, UpstreamTimeout, UpstreamProtocol.
        """
        while True:
            connection = self._idle_connection(origin) or await self._acquire(origin, connect_s)
            idle_s = self.loop.time() - connection.idle_since_s if connection.reused else 0.0
            try:
                connection.send(head, body)
                await connection.head(first_byte_s)
            except TimeoutError:
                connection.abort()
                raise UpstreamTimeout(
                    f"{origin.host} sent nothing for {first_byte_s:.1f} s"
                ) from None
            except UpstreamNetwork:
                connection.abort()
                stale = connection.reused and not connection.answered and idle_s > STALE_AFTER_S
                if not stale:
                    raise
            except BaseException:
                connection.abort()
                raise
            else:
                return connection

    def release(self, connection: Connection) -> None:
        """Take a connection back for the next exchange."""
        connection.reused = True
        connection.idle_since_s = self.loop.time()
        self._idle.setdefault(connection.origin, []).append(connection)
        self._admit_next(connection.origin)

    def forget(self, connection: Connection) -> None:
        """Drop a connection that was closed."""
        self._open.get(connection.origin, set()).discard(connection)
        idle = self._idle.get(connection.origin)
        if idle and connection in idle:
            idle.remove(connection)
        self._admit_next(connection.origin)

    def close(self) -> None:
        """Close every connection."""
        for connections in list(self._open.values()):
            for connection in list(connections):
                connection.abort()

    def _idle_connection(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if not connection.usable:
                continue
            if self.loop.time() - connection.idle_since_s < IDLE_S_MAX:
                return connection
            connection.abort()
        return None

    async def _acquire(self, origin: Origin, connect_s: float) -> Connection:
        deadline_s = self.loop.time() + connect_s
        while True:
            connection = self._idle_connection(origin)
            if connection is not None:
                return connection
            if self._count(origin) < self._connections_max:
                return await self._connect(origin, deadline_s)
            await self._wait_turn(origin, deadline_s)

    async def _connect(self, origin: Origin, deadline_s: float) -> Connection:
        self._reserved[origin] = self._reserved.get(origin, 0) + 1
        try:
            async with asyncio.timeout_at(deadline_s):
                transport, connection = await self.loop.create_connection(
                    lambda: Connection(self, origin),
                    origin.host,
                    origin.port,
                    ssl=self._context() if origin.tls else None,
                )
        except TimeoutError as error:
            raise UpstreamTimeout(f"{origin.host}:{origin.port} did not accept in time") from error
        except (OSError, ssl.SSLError) as error:
            raise UpstreamNetwork(
                f"cannot connect to {origin.host}:{origin.port}: {error}"
            ) from error
        finally:
            self._reserved[origin] -= 1
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open.setdefault(origin, set()).add(connection)
        return connection

    async def _wait_turn(self, origin: Origin, deadline_s: float) -> None:
        turn: asyncio.Future[None] = self.loop.create_future()
        queue = self._queue.setdefault(origin, deque())
        queue.append(turn)
        try:
            async with asyncio.timeout_at(deadline_s):
                await turn
        except TimeoutError as error:
            raise UpstreamTimeout(
                f"all {self._connections_max} connections to {origin.host} are in use"
            ) from error
        finally:
            if turn in queue:
                queue.remove(turn)

    def _admit_next(self, origin: Origin) -> None:
        queue = self._queue.get(origin)
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _count(self, origin: Origin) -> int:
        return len(self._open.get(origin, ())) + self._reserved.get(origin, 0)

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context(cafile=self._ca_file)
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls
