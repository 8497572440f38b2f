"""The server on bare sockets: framing, bounds, pipelining, leaving, stopping."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway.alarm import Alarm
from gateway.caller import ServerLimits
from gateway.client import JSON, Client
from gateway.server import Server, bound
from gateway.websocket import Sockets
from infra.broker import free_port
from schemas.errors import WeirError
from tests.gateway.worker import SECRET, Worker, started
from tests.sandbox.served import Served

pytestmark = pytest.mark.req("GW-09")
LIMITS = ServerLimits(head_s=0.3, body_s=0.3, idle_s=0.4, connections_max=20)
CHAT: Any = {"model": "openai/gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}


class Small:
    """A server whose answers say what was asked; `/slow` takes a while, `/huge` does not end."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.port = free_port()
        self.seen: list[tuple[str, bytes]] = []
        self.left = threading.Event()
        self.written = 0
        self.server: Server
        self.stop = asyncio.Event()

    async def run(self, ready: threading.Event, limits: ServerLimits) -> None:
        self.server = Server(self.handle, self.refusal, Sockets(self.no_socket, 1000, 15.0), limits)
        await self.server.listen(bound("127.0.0.1", self.port))
        ready.set()
        await self.stop.wait()
        await self.server.close(5.0)

    async def handle(self, client: Client) -> None:
        try:
            body = await client.body(100_000)
        except WeirError as error:
            if not client.left:
                await client.whole(error.status, [JSON], error.code.encode())
            return
        self.seen.append((f"{client.method} {client.path}", body))
        client.watch()
        if client.path == "/broken":
            raise RuntimeError("secret detail")
        try:
            if client.path == "/slow":
                await asyncio.sleep(0.3)
            if client.path == "/huge":
                await client.start(200, [])
                while True:
                    await client.write(b"x" * 100_000)
                    self.written += 100_000
            if client.path == "/stream":
                await client.start(200, [])
                await client.write(b"one")
                await client.end(b"two")
            else:
                await client.whole(200, [JSON], client.path.encode())
        except asyncio.CancelledError:
            self.left.set()

    async def no_socket(self, _: Any) -> None:
        raise AssertionError("no WebSocket is opened here")

    def refusal(self, error: WeirError) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        return error.status, [JSON], json.dumps({"code": error.code}).encode()

    def talk(self, *sent: bytes, pause_s: float = 0.0, wait_s: float = 5.0) -> bytes:
        """Send pieces with pauses, and return what comes until the server closes."""
        with self.connected() as sock:
            sock.settimeout(wait_s)
            for piece in sent:
                sock.sendall(piece)
                time.sleep(pause_s)
            return rest_of(sock)

    @contextmanager
    def connected(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as sock:
            yield sock


def rest_of(sock: socket.socket) -> bytes:
    heard = b""
    while piece := sock.recv(65536):
        heard += piece
    return heard


@contextmanager
def small(limits: ServerLimits = LIMITS) -> Iterator[Small]:
    server, ready = Small(), threading.Event()
    thread = threading.Thread(
        target=lambda: server.loop.run_until_complete(server.run(ready, limits))
    )
    thread.start()
    assert ready.wait(5)
    try:
        yield server
    finally:
        server.loop.call_soon_threadsafe(server.stop.set)
        thread.join(10)
        assert not thread.is_alive()


def get(path: str, *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: x", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


CLOSE = "Connection: close"


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nbroken header\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\na : b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_what_is_no_request_is_answered_and_closed(sent: bytes) -> None:
    with small() as server:
        heard = server.talk(sent)
        assert heard.startswith(b"HTTP/1.1 400 ")
        assert b"connection: close" in heard
        assert b"invalid_request" in heard.partition(b"\r\n\r\n")[2]
        assert server.seen == []


def test_a_head_has_bounds() -> None:
    with small() as server:
        many = get("/", *[f"h{number}: x" for number in range(200)])
        assert server.talk(many).startswith(b"HTTP/1.1 431 ")
        assert server.talk(b"GET / HTTP/1.1\r\nh: " + b"x" * 70_000).startswith(b"HTTP/1.1 431 ")
        assert server.talk(b"GET /" + b"x" * 70_000).startswith(b"HTTP/1.1 431 ")


def test_slow_heads_and_slow_bodies_are_told_and_idle_connections_closed() -> None:
    with small() as server:
        heard = server.talk(b"GET / HT")
        assert heard.startswith(b"HTTP/1.1 408 ")
        pieces = [get("/", "Content-Length: 100", method="POST"), *[b"x"] * 6]
        heard = server.talk(*pieces, pause_s=0.1)
        assert heard.startswith(b"HTTP/1.1 408 ")
        assert heard.endswith(b"request_timeout")
        assert server.talk() == b""
        heard = server.talk(get("/a"))
        assert heard.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" not in heard


def test_requests_that_come_together_are_answered_in_order() -> None:
    with small() as server:
        paths = ["/slow", *[f"/{number}" for number in range(40)], "/stream"]
        sent = b"".join(get(path) for path in paths) + get("/end", CLOSE)
        heard = server.talk(sent)
        assert [path for path, _ in server.seen] == [f"GET {path}" for path in [*paths, "/end"]]
        assert heard.count(b"HTTP/1.1 200 OK") == len(paths) + 1
        assert heard.index(b"\r\n\r\n/slow") < heard.index(b"\r\n\r\n/39")
        assert b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\nHTTP/1.1 200" in heard
        heard = server.talk(get("/slow") + b"nonsense\r\n\r\n")
        assert heard.count(b"HTTP/1.1 200") == 1
        assert heard.index(b" 200 ") < heard.index(b" 400 ")


def test_bodies_come_whole_in_pieces_in_chunks_and_after_100() -> None:
    with small() as server:
        server.talk(
            get("/a", "Content-Length: 4", CLOSE, method="POST"), b"ab", b"cd", pause_s=0.02
        )
        chunked = get("/b", "Transfer-Encoding: chunked", CLOSE, method="POST")
        server.talk(
            chunked, b"3\r\nabc\r\n", b"1;x=y\r\nd\r\n0\r\nhost: evil\r\n\r\n", pause_s=0.02
        )
        with server.connected() as sock:
            sock.sendall(
                get("/c", "Content-Length: 4", "Expect: 100-continue", CLOSE, method="PUT")
            )
            assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            sock.sendall(b"abcd")
            assert b"200 OK" in rest_of(sock)
        assert server.seen == [("POST /a", b"abcd"), ("POST /b", b"abcd"), ("PUT /c", b"abcd")]


def test_a_body_too_large_is_told_even_to_who_sends_on() -> None:
    with small() as server:
        heard = server.talk(get("/", "Content-Length: 3000000", method="POST"), b"x" * 3_000_000)
        assert heard.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close" in heard
        chunked = get("/", "Transfer-Encoding: chunked", method="POST")
        heard = server.talk(chunked, *[b"10000\r\n" + b"x" * 0x10000 + b"\r\n"] * 8)
        assert heard.startswith(b"HTTP/1.1 413 ")
        trailers = b"1\r\nx\r\n0\r\nt: " + b"x" * 200_000
        assert server.talk(chunked, trailers).startswith(b"HTTP/1.1 400 ")


def test_head_http_1_0_and_wishes_for_other_protocols() -> None:
    with small() as server:
        heard = server.talk(get("/abc", CLOSE, method="HEAD"))
        assert b"content-length: 4\r\n" in heard
        assert heard.endswith(b"\r\n\r\n")
        heard = server.talk(get("/stream", version="1.0"))
        assert heard.endswith(b"\r\n\r\nonetwo")
        assert b"chunked" not in heard
        upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "Content-Length: 2")
        heard = server.talk(get("/a", *upgrade, method="POST") + b"hi" + get("/b", CLOSE))
        assert heard.count(b"200 OK") == 2
        assert server.seen[-2:] == [("POST /a", b"hi"), ("GET /b", b"")]
        server.talk(get("/%C3%A4?q=%20", CLOSE))
        assert server.seen[-1][0] == "GET /ä"


def test_a_fault_of_ours_is_no_silence() -> None:
    with small() as server:
        heard = server.talk(get("/broken") + get("/a", CLOSE))
        assert heard.startswith(b"HTTP/1.1 500 ")
        assert b"secret" not in heard
        assert b"200 OK" in heard


def test_a_slow_reader_stops_the_writer_and_a_leaving_one_cancels_it() -> None:
    with small() as server:
        with server.connected() as sock:
            sock.sendall(get("/huge"))
            time.sleep(0.3)
            first = server.written
            time.sleep(0.3)
            assert server.written == first
            assert not server.left.is_set()
        assert server.left.wait(5)
    limits = ServerLimits(stall_s=0.2)
    with small(limits) as server, server.connected() as sock:
        sock.sendall(get("/huge"))
        assert server.left.wait(5)


def test_connections_are_counted() -> None:
    with small(ServerLimits(connections_max=2)) as server:
        with server.connected(), server.connected():
            time.sleep(0.1)
            assert server.talk().startswith(b"HTTP/1.1 503 ")
        time.sleep(0.1)
        assert b"200 OK" in server.talk(get("/a", CLOSE))


def test_a_stop_lets_running_requests_end_and_begins_no_other(
    sandbox: Served, tmp_path: Path
) -> None:
    sandbox.behave("gpt-4o", "/a", per_token_ms=20, answer_tokens_min=20, answer_tokens_max=20)
    with started(sandbox, tmp_path) as worker:
        body = json.dumps({**CHAT, "model": "a/gpt-4o"}).encode()
        idle = socket.create_connection(("127.0.0.1", worker.port), timeout=5)
        busy = socket.create_connection(("127.0.0.1", worker.port), timeout=5)
        given = (f"Authorization: Bearer {SECRET}", f"Content-Length: {len(body)}")
        busy.sendall(get("/v1/chat/completions", *given, method="POST") + body)
        time.sleep(0.15)
        worker.stop()
        assert idle.recv(10) == b""
        heard = rest_of(busy)
        assert heard.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in heard
        assert worker.responses()[-1].outcome == "success"
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", worker.port), timeout=5)
        idle.close()
        busy.close()


@pytest.mark.req("GW-16")
def test_the_gateway_says_why_in_its_own_words(worker: Worker) -> None:
    with socket.create_connection(("127.0.0.1", worker.port), timeout=5) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        head, _, body = rest_of(sock).partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert error["code"] == "invalid_request"
    assert error["action"]
    assert b"x-weir-request-id: " + error["request_id"].encode() in head


async def test_an_alarm_rings_once_at_the_last_time_set() -> None:
    rung: list[float] = []
    loop = asyncio.get_running_loop()
    alarm = Alarm(loop, lambda: rung.append(loop.time()))
    begun_s = loop.time()
    alarm.set(begun_s + 0.3)
    alarm.set(begun_s + 0.02)
    alarm.set(begun_s + 0.1)
    await asyncio.sleep(0.2)
    assert len(rung) == 1
    assert rung[0] >= begun_s + 0.09
    alarm.set(loop.time() + 0.01)
    alarm.clear()
    await asyncio.sleep(0.05)
    alarm.set(loop.time() + 0.01)
    alarm.stop()
    await asyncio.sleep(0.05)
    assert len(rung) == 1
