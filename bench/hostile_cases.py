"""Callers that misbehave below HTTP: what they send, and how it must end.

Sources of the shapes: RFC 9112, 5.2, 6.1, 6.3 and 11.2 (request smuggling), RFC 6455 (WebSockets), and
the slow attacks known as Slowloris, R.U.D.Y. and slow read.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

HEAD_S, BODY_S = 20.0, 30.0
"""The gateway's own bounds for a head and a body (`gateway.caller`), which a slow caller must feel."""
SLACK_S = 10.0
"""A second counts for more on a busy machine."""
SLOW_AT_ONCE = 200
BODY_BYTES_MAX = 32 * 1024 * 1024
MIB = 1024 * 1024
PIPELINED = 2_000
READ_SLOWLY_S = 15.0

Act = Callable[[asyncio.StreamReader, asyncio.StreamWriter, bytes], Awaitable[None]]
"""What a caller does; it is given the key of a real caller."""


@dataclass(frozen=True)
class Case:
    """One misbehaviour, and by when (seconds) it must have ended, and how.

    `refused`: a 4xx, or closed, and never a second answer. `served`: no answer but 200s and a 4xx at
    their end. `left`: the caller leaves by itself; nothing is asked of the answer but that it is no 5xx.
    """

    name: str
    act: Act
    rule: str = "refused"
    within_s: float = 15.0
    at_once: int = 4


def cases() -> Iterator[Case]:
    """Yield every misbehaviour, the slow ones last."""
    for name, data in (_LINES | _HEADS | _SMUGGLED).items():
        yield Case(name, _saying(data))
    for name, data in _CHUNKED.items():
        yield Case(name, _saying(_CHUNKED_HEAD + data), within_s=BODY_S + SLACK_S)
    for name, body in _BODIES.items():
        yield Case(name, _saying(_head(len(body)) + body))
    yield Case("chunk extensions", _saying(_CHUNKED_HEAD + _EXTENDED))
    yield Case("body of 33 MiB, by length", _saying(_head(33 * MIB) + b" " * (33 * MIB)))
    yield Case("body of 33 MiB, in chunks", _too_large, within_s=60.0)
    yield Case("half closed in the head", _half_closed(b"POST /v1/messages HTTP/1.1\r\nHo"))
    yield Case("half closed in the body", _half_closed(_head(100) + b'{"model":'))
    yield Case("half closed after a request", _half_closed(_GET), rule="left", within_s=5.0)
    yield Case("two thousand requests at once", _saying(_GET * PIPELINED), rule="served")
    yield Case("hangs up in the answer", _hang_up, rule="left", at_once=20)
    for name, frames in _FRAMES.items():
        yield Case(f"WebSocket: {name}", _saying(_UPGRADE + frames), rule="left", within_s=5.0)
    yield Case("WebSocket: nobody's, and 8 MiB", _saying(_STRANGERS + _LARGE), rule="left")
    yield Case("WebSocket: no key of the handshake", _saying(_UPGRADE.replace(b"Sec-", b"X-")))
    yield Case("WebSocket: behind a running request", _saying(_GET + _UPGRADE), rule="served")
    slow = {"at_once": SLOW_AT_ONCE}
    yield Case("slow heads", _drip(_FIRST, b"X-A: b\r\n"), within_s=HEAD_S + SLACK_S, **slow)
    yield Case("silent heads", _saying(b"GET / HT"), within_s=HEAD_S + SLACK_S, **slow)
    yield Case("slow bodies", _drip(_head(MIB), b" "), within_s=BODY_S + SLACK_S, **slow)
    yield Case("slow readers", _read_slowly, rule="left", within_s=READ_SLOWLY_S + SLACK_S, **slow)


_KEYED = b"Host: w\r\nAuthorization: Bearer %KEY%\r\n"
_FIRST = b"GET /health HTTP/1.1\r\nHost: w\r\n"
_GET = b"GET /v1/models HTTP/1.1\r\n" + _KEYED + b"\r\n"
_HIDDEN = b"GET /health HTTP/1.1\r\nHost: w\r\n\r\n"
"""The request that is smuggled: whoever answers it has let it through."""
_LINES = {
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "no version": b"GET /\r\n\r\n",
    "HTTP/9.9": b"GET / HTTP/9.9\r\nHost: w\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "method of garbage": b"G\x00T / HTTP/1.1\r\nHost: w\r\n\r\n",
    "space before the colon": b"GET / HTTP/1.1\r\nHost : w\r\n\r\n",
    "no Host": b"GET /health HTTP/1.1\r\n\r\n",
    "CONNECT": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "line folding": b"GET / HTTP/1.1\r\nHost: w\r\n folded\r\nX: \x00\r\n\r\n",
    "bare line feeds in a header": b"GET / HTTP/1.1\r\nHost: w\r\nX: a\nY: b\x00\r\n\r\n",
    "address of 1 MiB": b"GET /" + b"a" * MIB + b" HTTP/1.1\r\nHost: w\r\n\r\n",
    "bad UTF-8 in the address": b"GET /api/v1/models/%ff%fe HTTP/1.1\r\n" + _KEYED + b"\r\n",
    "bad UTF-8 in the key": b"GET /v1/models HTTP/1.1\r\nHost: w\r\nX-Api-Key: \xff\xfe\r\n\r\n",
}
_HEADS = {
    "ten thousand headers": _FIRST + b"X-A: b\r\n" * 10_000 + b"\r\n",
    "129 headers": _FIRST + b"X-A: b\r\n" * 128 + b"\r\n",
    "header of 1 MiB": _FIRST + b"X: " + b"a" * MIB + b"\r\n\r\n",
    "header without an end": _FIRST + b"X: " + b"a" * (8 * MIB),
    "header name of 1 MiB": _FIRST + b"a" * MIB + b": b\r\n\r\n",
    "unknown coding": _FIRST.replace(b"GET", b"POST") + b"Transfer-Encoding: x, y\r\n\r\nabc",
}


def _posted(*lines: bytes) -> bytes:
    head = [b"POST /v1/messages HTTP/1.1", b"Host: w", *lines, b"", b""]
    return b"\r\n".join(head)


_SMUGGLED = {
    "length and chunks": _posted(b"Content-Length: 4", b"Transfer-Encoding: chunked")
    + b"0\r\n\r\n"
    + _HIDDEN,
    "chunks and length": _posted(b"Transfer-Encoding: chunked", b"Content-Length: 5")
    + b"0\r\n\r\n"
    + _HIDDEN,
    "two lengths": _posted(b"Content-Length: 0", b"Content-Length: 9") + _HIDDEN,
    "a list of lengths": _posted(b"Content-Length: 0, 9") + _HIDDEN,
    "a signed length": _posted(b"Content-Length: +0") + _HIDDEN,
    "a negative length": _posted(b"Content-Length: -1") + _HIDDEN,
    "a length of 2^66": _posted(b"Content-Length: 99999999999999999999") + _HIDDEN,
    "chunked, spelt oddly": _posted(b"Transfer-Encoding: xchunked", b"Content-Length: 0") + _HIDDEN,
    "chunked not at the end": _posted(b"Transfer-Encoding: chunked, identity") + b"0\r\n\r\n",
    "chunked behind a tab": _posted(b"Transfer-Encoding:\tchunked\x0b", b"Content-Length: 0")
    + _HIDDEN,
    "chunk size of garbage": _posted(b"Transfer-Encoding: chunked") + b"0x0\r\n\r\n" + _HIDDEN,
}
_CHUNKED_HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\n" + _KEYED + b"Transfer-Encoding: chunked\r\n\r\n"
)
_CHUNKED = {
    "chunk size of 2^64": b"10000000000000000\r\nabc\r\n",
    "negative chunk size": b"-1\r\nabc\r\n",
    "chunk longer than said": b"1\r\nabcdef\r\n0\r\n\r\n",
    "chunk extension of 1 MiB": b"1;" + b"e" * MIB + b"\r\na\r\n0\r\n\r\n",
    "bodies of framing": b"1\r\na\r\n" * 100_000 + b"0\r\n\r\n",
    "trailers of 1 MiB": b"1\r\na\r\n0\r\n" + b"T: " + b"t" * MIB + b"\r\n\r\n",
}
_EXTENDED = b'1;a="b";c\r\n{\r\n0;end\r\nT: t\r\n\r\n'
_BODIES = {
    "bad UTF-8": b'{"model": "auto", "messages": [{"role": "user", "content": "\xff\xfe"}]}',
    "a lone surrogate": b'{"model": "auto", "messages": [{"role": "\\ud800", "content": "x"}]}',
    "arrays 100,000 deep": b"[" * 100_000,
    "objects 100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "messages 100,000 deep": b'{"model": "auto", "messages": '
    + b"[" * 100_000
    + b"]" * 100_000
    + b"}",
    "a number of a megabyte": b'{"model": "auto", "messages": [], "max_tokens": '
    + b"9" * MIB
    + b"}",
    "a NUL": b'{"model": "a\x00b", "messages": []}',
    "not JSON": b"<xml/>",
    "nothing": b"",
}
_UPGRADE = (
    b"GET /api/v1/generate HTTP/1.1\r\n" + _KEYED + b"Connection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: " + base64.b64encode(b"0123456789abcdef") + b"\r\n\r\n"
)
_STRANGERS = _UPGRADE.replace(b"Authorization: Bearer %KEY%\r\n", b"")
_LARGE = b"\x81\xff" + (8 * MIB).to_bytes(8) + b"\x00" * 4 + b" " * (8 * MIB)
_FRAMES = {
    "garbage": b"\xff" * 4_096,
    "a frame of 2^63 bytes": b"\x81\xff" + b"\x7f" + b"\xff" * 7,
    "an unmasked frame": b"\x81\x02{}",
    "a control frame of 65,535 bytes": b"\x89\xfe\xff\xff" + b"\x00" * 4,
    "text that is no UTF-8": b"\x81\x82\x00\x00\x00\x00\xff\xfe",
    "a thousand messages": b"\x81\x82\x00\x00\x00\x00{}" * 1_000,
    "a message of a million fragments": b"\x01\x81\x00\x00\x00\x00 "
    + b"\x00\x81\x00\x00\x00\x00 " * 300_000,
    "ten thousand pings": b"\x89\x80\x00\x00\x00\x00" * 10_000,
    "a hundred thousand pings of 125 bytes": (b"\x89\xfd\x00\x00\x00\x00" + b"p" * 125) * 100_000,
    "a goodbye, and 8 MiB behind it": b"\x88\x80\x00\x00\x00\x00"
    + b"\x82\x80\x00\x00\x00\x00" * (8 * MIB // 6),
}


def _head(length: int) -> bytes:
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\n"
        + _KEYED
        + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % length
    )


def keyed(data: bytes, key: bytes) -> bytes:
    """Return bytes with the caller's key in its place."""
    return data.replace(b"%KEY%", key)


def _saying(data: bytes) -> Act:
    async def act(_: asyncio.StreamReader, writer: asyncio.StreamWriter, key: bytes) -> None:
        writer.write(keyed(data, key))
        await writer.drain()

    return act


async def _too_large(_: asyncio.StreamReader, writer: asyncio.StreamWriter, key: bytes) -> None:
    writer.write(keyed(_CHUNKED_HEAD, key))
    for _number in range(33):
        writer.write(b"100000\r\n" + b" " * MIB + b"\r\n")
        await writer.drain()


def _half_closed(data: bytes) -> Act:
    async def act(_: asyncio.StreamReader, writer: asyncio.StreamWriter, key: bytes) -> None:
        writer.write(keyed(data, key))
        await writer.drain()
        writer.write_eof()

    return act


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: bytes) -> None:
    writer.write(keyed(_GET, key))
    await writer.drain()
    await reader.read(1)
    writer.transport.abort()


def _drip(begin: bytes, drop: bytes) -> Act:
    """Send a little every second until the gateway has had enough."""

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: bytes) -> None:
        writer.write(keyed(begin, key))
        while not reader.at_eof() and not writer.is_closing():
            writer.write(drop)
            await writer.drain()
            await asyncio.sleep(1.0)

    return act


async def _read_slowly(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: bytes
) -> None:
    """Ask for much and take it a little at a time."""
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(keyed(_GET * 200, key))
    await writer.drain()
    for _ in range(int(READ_SLOWLY_S)):
        await asyncio.sleep(1.0)
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        await reader.read(1_024)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.transport.abort()
