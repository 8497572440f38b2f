"""Callers that misbehave below HTTP: raw sockets, each of which must be answered by a 4xx or closed.

Every case is a function that is given an open socket. What it hears back is judged by `Case.rule`:
``refused`` is a 4xx or a closed connection, ``served`` is any whole answer below 500. A case that
ends later than its `within_s` has failed, whatever was said.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec

HEAD_S = 20.0
"""The gateway's time for a head; `gateway.caller.ServerLimits` says it, and the case is to notice."""
BODY_S = 30.0
SLACK_S = 10.0
SLOW_AT_ONCE = 200
BODY_BYTES_MAX = 32 * 1024 * 1024
PIPELINED = 2_000


@dataclass(frozen=True)
class Case:
    """One misbehaviour: what it does with a socket, how it must end, and by when (seconds)."""

    name: str
    act: Callable[[socket.socket, bytes], None]
    rule: str = "refused"
    within_s: float = 15.0
    at_once: int = 1


class Outcome(msgspec.Struct):
    """How one socket fared."""

    name: str
    status: int | None
    closed: bool
    elapsed_s: float
    problem: str | None = None


def cases() -> Iterator[Case]:
    """Yield every misbehaviour."""
    for name, data in _LINES.items():
        yield Case(name, _saying(data))
    for name, data in _HEADS.items():
        yield Case(name, _saying(data))
    for name, body in _CHUNKED.items():
        yield Case(name, _chunked(body), within_s=BODY_S + SLACK_S)
    for name, body in _BODIES.items():
        yield Case(name, _posting(body))
    yield Case("body of 32 MiB and a byte, by length", _too_large)
    yield Case("body of 32 MiB and a byte, in chunks", _too_large_chunked, within_s=60.0)
    yield Case("half closed in the head", _half_closed(b"POST /v1/messages HTTP/1.1\r\nHo"))
    yield Case("half closed in the body", _half_closed(_head(100) + b'{"model":'))
    yield Case("two thousand requests in a row", _pipeline, rule="ended")
    yield Case("WebSocket, then garbage", _websocket(b"\xff" * 4_096))
    yield Case("WebSocket, a frame of 2^63 bytes", _websocket(b"\x81\xff" + b"\x7f" + b"\xff" * 7))
    yield Case(
        "slow heads", _drip(b"", b"X-A: b\r\n"), within_s=HEAD_S + SLACK_S, at_once=SLOW_AT_ONCE
    )
    yield Case(
        "slow bodies", _drip(_slow_head(), b" "), within_s=BODY_S + SLACK_S, at_once=SLOW_AT_ONCE
    )
    yield Case(
        "silent heads", _silent(b"GET / HT"), within_s=HEAD_S + SLACK_S, at_once=SLOW_AT_ONCE
    )


_KEYED = b"Host: w\r\nAuthorization: Bearer %b\r\n"
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
    "address of 1 MiB": b"GET /" + b"a" * 1_048_576 + b" HTTP/1.1\r\nHost: w\r\n\r\n",
    "invalid UTF-8 in the address": b"GET /\xff\xfe/%ff%fe HTTP/1.1\r\n" + _KEYED + b"\r\n",
}
_HEADS = {
    "ten thousand headers": b"GET /health HTTP/1.1\r\nHost: w\r\n"
    + b"X-A: b\r\n" * 10_000
    + b"\r\n",
    "129 headers": b"GET /health HTTP/1.1\r\nHost: w\r\n" + b"X-A: b\r\n" * 128 + b"\r\n",
    "header of 1 MiB": b"GET /health HTTP/1.1\r\nX: " + b"a" * 1_048_576 + b"\r\n\r\n",
    "header name of 1 MiB": b"GET /health HTTP/1.1\r\n" + b"a" * 1_048_576 + b": b\r\n\r\n",
    "two lengths": b"POST /v1/messages HTTP/1.1\r\nHost: w\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "negative length": b"POST /v1/messages HTTP/1.1\r\nHost: w\r\nContent-Length: -1\r\n\r\n",
    "endless length": b"POST /v1/messages HTTP/1.1\r\nHost: w\r\nContent-Length: 99999999999999999999\r\n\r\n",
    "length and chunks": b"POST /v1/messages HTTP/1.1\r\nHost: w\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "unknown coding": b"POST /v1/messages HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: x, y\r\n\r\nabc",
}
_CHUNKED = {
    "chunk size of garbage": b"zz\r\nabc\r\n0\r\n\r\n",
    "chunk size of 2^64": b"10000000000000000\r\nabc\r\n",
    "negative chunk size": b"-1\r\nabc\r\n",
    "chunk longer than said": b"1\r\nabcdef\r\n0\r\n\r\n",
    "chunk extension of 1 MiB": b"1;" + b"e" * 1_048_576 + b"\r\na\r\n0\r\n\r\n",
    "bodies of framing": b"1\r\na\r\n" * 100_000 + b"0\r\n\r\n",
    "trailers of 1 MiB": b"1\r\na\r\n0\r\n" + b"T: " + b"t" * 1_048_576 + b"\r\n\r\n",
}
_BODIES = {
    "invalid UTF-8": b'{"model": "auto", "messages": [{"role": "user", "content": "\xff\xfe"}]}',
    "a lone surrogate": b'{"model": "auto", "messages": [{"role": "\\ud800", "content": "x"}]}',
    "arrays 100,000 deep": b"[" * 100_000,
    "objects 100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "messages 100,000 deep": b'{"model": "auto", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a number of a megabyte": b'{"model": "auto", "messages": [], "max_tokens": ' + b"9" * 1_048_576 + b"}",
    "a NUL": b'{"model": "a\x00b", "messages": []}',
    "not JSON": b"<xml/>",
    "nothing": b"",
}  # fmt: skip


def _head(length: int, path: bytes = b"/v1/chat/completions") -> bytes:
    """Return a head; the key is filled in by whoever sends it."""
    head = b"POST " + path + b" HTTP/1.1\r\n" + _KEYED + b"Content-Type: application/json\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % length


def _slow_head() -> bytes:
    return _head(1_000_000)


def _filled(data: bytes, key: bytes) -> bytes:
    return data.replace(b"Bearer %b", b"Bearer " + key)


def _saying(data: bytes) -> Callable[[socket.socket, bytes], None]:
    def act(sock: socket.socket, key: bytes) -> None:
        sock.sendall(_filled(data, key))

    return act


def _posting(body: bytes) -> Callable[[socket.socket, bytes], None]:
    return _saying(_head(len(body)) + body)


def _chunked(body: bytes) -> Callable[[socket.socket, bytes], None]:
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\n" + _KEYED + b"Transfer-Encoding: chunked\r\n\r\n"
    )
    return _saying(head + body)


def _too_large(sock: socket.socket, key: bytes) -> None:
    sock.sendall(_filled(_head(BODY_BYTES_MAX + 1), key))
    for _ in range(33):
        sock.sendall(b" " * 1_048_576)


def _too_large_chunked(sock: socket.socket, key: bytes) -> None:
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\n" + _KEYED + b"Transfer-Encoding: chunked\r\n\r\n"
    )
    sock.sendall(_filled(head, key))
    for _ in range(33):
        sock.sendall(b"100000\r\n" + b" " * 1_048_576 + b"\r\n")


def _half_closed(data: bytes) -> Callable[[socket.socket, bytes], None]:
    def act(sock: socket.socket, key: bytes) -> None:
        sock.sendall(_filled(data, key))
        sock.shutdown(socket.SHUT_WR)

    return act


def _pipeline(sock: socket.socket, key: bytes) -> None:
    one = _filled(b"GET /v1/models HTTP/1.1\r\n" + _KEYED + b"\r\n", key)
    sock.sendall(one * PIPELINED)
    sock.shutdown(socket.SHUT_WR)


def _websocket(data: bytes) -> Callable[[socket.socket, bytes], None]:
    head = (
        b"GET /api/v1/generate HTTP/1.1\r\n" + _KEYED + b"Connection: Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    return _saying(head + data)


def _drip(data: bytes, drop: bytes) -> Callable[[socket.socket, bytes], None]:
    """Send a little every second until the gateway has had enough."""
    begin = data or b"GET /health HTTP/1.1\r\nHost: w\r\n"

    def act(sock: socket.socket, key: bytes) -> None:
        sock.sendall(_filled(begin, key))
        until_s = time.monotonic() + BODY_S + SLACK_S
        sock.settimeout(1.0)
        while time.monotonic() < until_s:
            sock.sendall(drop)
            try:
                if sock.recv(1, socket.MSG_PEEK) is not None:
                    return
            except TimeoutError:
                continue

    return act


def _silent(data: bytes) -> Callable[[socket.socket, bytes], None]:
    return _saying(data)


def attack(case: Case, port: int, key: str) -> Outcome:
    """Misbehave once; return how it ended."""
    begun = time.monotonic()
    heard = b""
    closed = False
    with socket.create_connection(("127.0.0.1", port), timeout=10.0) as sock:
        try:
            sock.settimeout(case.within_s)
            case.act(sock, key.encode())
        except TimeoutError:
            pass  # it takes no more: what it said is still read
        except OSError:
            closed = True
        status, heard, ended = _hear(sock, begun + case.within_s)
        closed = closed or ended
    elapsed_s = time.monotonic() - begun
    outcome = Outcome(case.name, status, closed, round(elapsed_s, 3))
    outcome.problem = _judge(case, outcome, heard)
    return outcome


def _hear(sock: socket.socket, until_s: float) -> tuple[int | None, bytes, bool]:
    """Return the last status that was said, the last bytes, and whether the connection ended."""
    heard = b""
    status = None
    while (left_s := until_s - time.monotonic()) > 0:
        sock.settimeout(left_s)
        try:
            data = sock.recv(65_536)
        except TimeoutError:
            return status, heard, False
        except OSError:
            return status, heard, True
        if not data:
            return status, heard, True
        heard = (heard + data)[-65_536:]
        at = heard.rfind(b"HTTP/1.1 ")
        if at >= 0 and heard[at + 9 : at + 12].isdigit():
            status = int(heard[at + 9 : at + 12])
            if 400 <= status < 500 or status >= 500:
                return status, heard, False
    return status, heard, False


def _judge(case: Case, outcome: Outcome, heard: bytes) -> str | None:
    if outcome.elapsed_s > case.within_s + 0.5:
        return f"took {outcome.elapsed_s:.1f} s"
    if outcome.status is not None and outcome.status >= 500:
        return f"{outcome.status}: {heard[-300:]!r}"
    if outcome.closed or (outcome.status is not None and 400 <= outcome.status < 500):
        return None
    return f"neither refused nor closed: {outcome.status} {heard[-200:]!r}"


def attack_all(port: int, key: str, times: int) -> list[Outcome]:
    """Misbehave in every way, `times` over, many at once."""
    every = [case for case in cases() if case.at_once == 1] * times
    slow = [case for case in cases() if case.at_once > 1]
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda case: attack(case, port, key), every))
    for case in slow:
        with ThreadPoolExecutor(case.at_once) as pool:
            outcomes += pool.map(lambda each: attack(each, port, key), [case] * case.at_once)
    return outcomes
