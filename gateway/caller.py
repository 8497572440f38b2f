"""A caller's connection: HTTP/1.1 on httptools and asyncio.Protocol, up to a `Client`.

Everything that a stranger may send has a bound: bytes and number of headers, time for a head and
for a body, requests that wait behind one another. What cannot be understood is answered (400, 408,
431) and closed. A caller who leaves is noticed where the loop notices it. Sources: RFC 9112
(framing, pipelining, tear-down), RFC 9110, 7.8 (Upgrade).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import httptools

from gateway.alarm import Alarm
from gateway.client import Headers
from gateway.exchange import HttpExchange
from gateway.header_names import LOWERED, lowered
from schemas.errors import (
    HeadersTooLarge,
    InvalidRequest,
    RequestTimeout,
    Unavailable,
    WeirError,
)

if TYPE_CHECKING:
    from gateway.server import Server

PIPELINE_AHEAD, PIPELINE_MAX = 16, 256
"""Requests read behind the running one; more than may lie in what is read at once are refused."""
FRAMING_BYTES = 64 * 1024
FRAMING_SHARE = 16
"""A body's framing (chunk sizes, trailers) may take this much, and so many times the body itself."""
LINGER_S = 5.0
"""How long the rest of a refused body is read away: a close at once would take back our answer."""
_UPGRADE = frozenset({b"connection", b"http2-settings", b"upgrade"})
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerLimits:
    """Bounds of what callers may do; sizes in bytes, times in seconds.

    A body has `body_s` and in addition the time that it takes at `body_bytes_per_s`.
    """

    connections_max: int = 8192
    head_bytes_max: int = 64 * 1024
    headers_max: int = 128
    head_s: float = 20.0
    body_s: float = 30.0
    body_bytes_per_s: int = 8 * 1024
    idle_s: float = 75.0
    drain_idle_s: float = 1.0
    """The same once the worker stops: how long a request that is on its way may take to arrive."""
    stall_s: float = 120.0
    """How long a caller may take nothing of what was sent."""


class CallerConnection(asyncio.Protocol):
    """A caller's connection: requests are read ahead, and answered one after the other."""

    def __init__(self, server: Server) -> None:
        self.closing = False
        """Whether the connection ends with the running answer."""
        self.paused = False
        """Whether the caller is slow to take what was sent."""
        self.serving: HttpExchange | None = None
        self._server = server
        self._limits = server.limits
        self._loop = server.loop
        self._alarm = Alarm(self._loop, self._expired)
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._reading: HttpExchange | None = None
        self._waiting: deque[HttpExchange] = deque()
        self._target = b""
        self._headers: Headers = []
        self._in_head = False
        self._head_bytes = 0
        self._deaf = False
        self._fault: WeirError | None = None
        self._body_began_s = 0.0
        self._body_bytes = 0
        self._held = False
        self._patience_s: float | None = None
        self._drained: asyncio.Future[None] | None = None
        self._handing_over: asyncio.Task[None] | None = None

    @property
    def peer(self) -> str | None:
        """The caller's address."""
        address = self._transport.get_extra_info("peername")
        return str(address[0]) if address else None

    # --- asyncio.Protocol ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._server.full:
            self._refuse(
                Unavailable("the gateway has all the connections it may", retry_after_seconds=1.0)
            )
            return
        self.closing = self._server.draining
        self._server.connections.add(self)
        self._alarm.set(self._loop.time() + self._limits.head_s)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            cause = error.__context__
            if not isinstance(cause, WeirError):
                cause = InvalidRequest(f"the request is not HTTP/1.1: {error}")
            self._break(cause)
            return
        if self._in_head:
            self._note_head(len(data))
        elif self._reading is not None:
            self._note_body(self._reading, len(data))

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.paused = True
        self._set_alarm()

    def resume_writing(self) -> None:
        self.paused = False
        self._set_alarm()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc  # however it ended, nobody listens any more
        self._alarm.stop()
        self._deaf = self.closing = True
        self._server.connections.discard(self)
        for exchange in (self.serving, self._reading, *self._waiting):
            if exchange is not None:
                exchange.leave()
        self._waiting.clear()
        self.resume_writing()

    # --- httptools callbacks -------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._target, self._headers = b"", []
        self._in_head = True
        self._head_bytes = 0

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # what comes later is a trailer, which nobody reads
            self._headers.append((LOWERED.get(name) or lowered(name), value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        parser, headers = self._parser, self._headers
        if len(headers) > self._limits.headers_max:
            raise HeadersTooLarge(f"the request has more than {self._limits.headers_max} headers")
        if parser.should_upgrade():
            return  # `data_received` hears of it by an exception
        if len(self._waiting) >= PIPELINE_MAX:
            raise InvalidRequest(f"more than {PIPELINE_MAX} requests wait on one connection")
        version = parser.get_http_version()
        if version not in {"1.1", "1.0"}:
            raise InvalidRequest(f"HTTP/{version} is not spoken here, HTTP/1.1 is")
        old = version == "1.0"
        exchange = HttpExchange(
            self,
            parser.get_method(),
            self._target,
            headers,
            keep_alive=parser.should_keep_alive(),
            http_1_0=old,
        )
        if not old and b"host" not in exchange.headers:
            raise InvalidRequest("the request has no Host header")
        self._reading = exchange
        self._body_began_s = self._loop.time()
        self._body_bytes = 0
        if self.serving is None:
            self._serve(exchange)
        else:
            self._waiting.append(exchange)
            if len(self._waiting) >= PIPELINE_AHEAD:
                self.hold()

    def on_body(self, body: bytes) -> None:
        if self._reading is not None:
            self._reading.feed(body)

    def on_message_complete(self) -> None:
        exchange, self._reading = self._reading, None
        if exchange is not None:
            exchange.complete()
            self._set_alarm()

    # --- bounds on what comes ------------------------------------------------------------------

    def _note_head(self, size: int) -> None:
        """Look at a head that is not whole yet."""
        begins = not self._head_bytes
        self._head_bytes += size
        if self._head_bytes > self._limits.head_bytes_max:
            bound = self._limits.head_bytes_max
            self._break(HeadersTooLarge(f"the request's head is larger than {bound} bytes"))
        elif begins and self.serving is None:
            self._alarm.set(self._loop.time() + self._limits.head_s)

    def _note_body(self, exchange: HttpExchange, size: int) -> None:
        """Look at a body that is not whole yet."""
        self._body_bytes += size
        if self._body_bytes > FRAMING_BYTES + FRAMING_SHARE * exchange.size:
            self._break(InvalidRequest("the request's body is nearly all framing"))
        else:
            self._set_alarm()

    def _set_alarm(self) -> None:
        """Set the deadline of whatever is awaited now."""
        now_s, limits = self._loop.time(), self._limits
        if self._deaf:
            return
        if self.paused:
            self._alarm.set(min(now_s + limits.stall_s, self._patience_s or now_s + limits.stall_s))
        elif self._reading is not None and self._reading is self.serving:
            received_s = self._reading.size / limits.body_bytes_per_s
            self._alarm.set(self._body_began_s + limits.body_s + received_s)
        elif self.serving is not None:
            if self._patience_s is None:
                self._alarm.clear()
            else:
                self._alarm.set(self._patience_s)
        elif self._in_head:
            self._alarm.set(now_s + limits.head_s)
        else:
            self._alarm.set(now_s + (limits.drain_idle_s if self.closing else limits.idle_s))

    def _expired(self) -> None:
        if self.paused or self._deaf:
            self._transport.abort()
        elif self._reading is not None and self._reading is self.serving:
            self._break(RequestTimeout("the request's body took too long to come"))
        elif self.serving is not None:
            self.serving.leave()
        elif self._in_head:
            self._break(RequestTimeout("the request's head took too long to come"))
        else:
            self._transport.close()

    def _break(self, fault: WeirError) -> None:
        """Understand no more of what comes; whoever is to hear why hears it in turn."""
        self._deaf = True
        self._alarm.clear()
        if self._reading is not None:
            self._reading.fail(fault)
        elif self.serving is not None:
            self._fault = fault
        else:
            self._refuse(fault)

    def _refuse(self, fault: WeirError) -> None:
        """Answer what is no request, and close."""
        status, headers, body = self._server.refusal(fault)
        exchange = HttpExchange(self, b"GET", b"", [], keep_alive=False, http_1_0=False)
        self.send(exchange.rendered(status, headers, body))
        self._close(linger=True)

    # --- exchanges -----------------------------------------------------------------------------

    def _serve(self, exchange: HttpExchange) -> None:
        self.serving = exchange
        exchange.task = self._server.start(self._run(exchange))

    async def _run(self, exchange: HttpExchange) -> None:
        try:
            await self._server.handle(exchange)
        except Exception:  # noqa: BLE001 - one call's fault must not end the connection's others
            _log.exception("a request broke down")
            if not exchange.started and not exchange.left:
                await exchange.whole(*self._server.refusal(WeirError("the gateway broke down")))
        finally:
            self._server.ended(exchange.task)
            if not exchange.ended:
                exchange.ended = True
                self._transport.abort()

    def answered(self, exchange: HttpExchange) -> None:
        """Note that an answer is whole."""
        self.serving, self._patience_s = None, None
        if not exchange.keep_alive:
            self._close(linger=not exchange.arrived)
        elif self._waiting:
            self._serve(self._waiting.popleft())
            self._set_alarm()
            if not self._waiting:
                self._release()
        elif self._fault is not None:
            self._refuse(self._fault)
        else:
            self._set_alarm()
            self._release()

    def _close(self, *, linger: bool) -> None:
        self._deaf = self.closing = True
        if self._transport.is_closing():
            return
        if linger:
            self._release()
            with contextlib.suppress(OSError):  # the caller may be gone already
                self._transport.write_eof()
            self._alarm.set(self._loop.time() + LINGER_S)
        else:
            # What was not taken yet still leaves, within the time that a slow caller has.
            self._alarm.set(self._loop.time() + self._limits.stall_s)
            self._transport.close()

    def drain(self) -> None:
        """Close after the next answer that can say so, or when no request comes any more.

        A close at once would meet a request that is on its way, and cost it.
        """
        self.closing = True
        if self.serving is None:
            self._set_alarm()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    # --- what an exchange asks of it -----------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send bytes, unless the connection is closed."""
        if not self._transport.is_closing():
            self._transport.write(data)

    async def drained(self) -> None:
        """Wait until the caller has taken enough of what was sent, or has left."""
        while self.paused:
            if self._drained is None or self._drained.done():
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)

    def hold(self) -> None:
        """Read no further for now."""
        if not self._held and not self._transport.is_closing():
            self._held = True
            self._transport.pause_reading()

    def _release(self) -> None:
        if self._held and not self._transport.is_closing():
            self._held = False
            self._transport.resume_reading()

    def read_body(self, exchange: HttpExchange) -> None:
        """Read on: somebody wants this body."""
        if exchange.headers.get(b"expect", b"").lower() == b"100-continue" and not exchange.size:
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._release()
        self._set_alarm()

    def give_up_after(self, wait_s: float) -> None:
        """Count the caller as gone when its answer is not whole by then."""
        self._patience_s = self._loop.time() + wait_s
        self._set_alarm()

    # --- upgrades ------------------------------------------------------------------------------

    def _upgrade(self, rest: bytes) -> None:
        """Hand the connection over to WebSockets, or ignore a wish for another protocol."""
        method, wish = self._parser.get_method(), dict(self._headers).get(b"upgrade", b"")
        if method == b"CONNECT":
            self._break(InvalidRequest("this is no proxy: CONNECT is not served"))
        elif self.serving is not None:
            self._break(InvalidRequest("a WebSocket begins on a connection of its own"))
        elif wish.lower() == b"websocket":
            head = self._head_again(method, frozenset())
            if self._server.sockets.ready:
                self._hand_over(head + rest)
            else:
                self._transport.pause_reading()
                self._handing_over = self._loop.create_task(self._hand_over_soon(head + rest))
        else:
            self._parser = httptools.HttpRequestParser(self)
            self.data_received(self._head_again(method, _UPGRADE) + rest)

    async def _hand_over_soon(self, data: bytes) -> None:
        """Hand the connection over once what speaks the protocol is loaded: most never need it."""
        await self._server.sockets.prepare()
        if not self._transport.is_closing():
            self._transport.resume_reading()
            self._hand_over(data)

    def _hand_over(self, data: bytes) -> None:
        """Have WebSockets' protocol take the connection over, with the request that asked for it."""
        self._alarm.stop()
        self._server.connections.discard(self)
        protocol = self._server.sockets.protocol()
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(data)

    def _head_again(self, method: bytes, without: frozenset[bytes]) -> bytes:
        lines = [b"%b %b HTTP/1.1\r\n" % (method, self._target)]
        lines += [b"%b: %b\r\n" % pair for pair in self._headers if pair[0] not in without]
        return b"".join([*lines, b"\r\n"])
