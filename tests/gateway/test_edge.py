"""The front itself: paths that go to control, readiness, a full outbox, faults of our own."""

import asyncio
import errno
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from gateway.control_link import LIVE_SOCKETS, ControlLink
from gateway.http1 import Pool
from schemas.errors import ConfigurationError
from schemas.events.llm import CostEntry, RequestAdmitted
from tests.gateway.worker import Worker

CHAT: Any = {"model": "openai/gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}


class Control(BaseHTTPRequestHandler):
    """Echoes what it was asked."""

    protocol_version = "HTTP/1.1"

    def _stream(self) -> None:
        known = self.headers.get("authorization") == "Bearer of-an-admin"
        body = b'id: 1\nevent: alert\ndata: {"n":1}\n\n: \n\nevent: alert\ndata: {"n":2}\n\n'
        self.send_response(200 if known else 401)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _answer(self) -> None:
        if self.headers.get("accept") == "text/event-stream":
            self._stream()
            return
        length = int(self.headers.get("content-length", "0"))
        body = json.dumps(
            {
                "method": self.command,
                "path": self.path,
                "body": self.rfile.read(length).decode(),
                "authorization": self.headers.get("authorization"),
                "request_id": self.headers.get("x-weir-request-id"),
            }
        ).encode()
        self.send_response(202)
        self.send_header("x-own", "yes")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = _answer  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def control(worker: Worker) -> Iterator[None]:
    """A control process for this test."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Control)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    before = worker.app._control

    async def link() -> ControlLink:
        return ControlLink(Pool(), f"http://127.0.0.1:{server.server_port}")

    worker.app._control = asyncio.run_coroutine_threadsafe(link(), worker.loop).result(5)
    yield
    worker.app._control = before
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_other_paths_reach_control_as_they_are(worker: Worker, control: None, method: str) -> None:
    path = "/api/v1/things%2Fx?limit=3&q=%C3%A4"
    status, headers, body = worker.request(method, path, b'{"a": 1}' if method == "POST" else None)
    seen = json.loads(body)
    assert status == 202
    assert headers["x-own"] == "yes"
    assert seen["method"] == method
    assert seen["path"] == path
    assert seen["body"] == ('{"a": 1}' if method == "POST" else "")
    assert seen["authorization"].startswith("Bearer ")
    assert headers["x-weir-request-id"] == seen["request_id"]


@pytest.mark.req("GW-07")
def test_health_ready_and_status(worker: Worker, control: None) -> None:
    status, _, body = worker.request("GET", "/health")
    assert (status, json.loads(body)["status"]) == (200, "ok")
    # This worker has no Kafka behind it: its relay has never run, so nothing says it is away.
    status, _, body = worker.request("GET", "/ready")
    assert (status, json.loads(body)["path"]) == (202, "/ready")
    assert json.loads(worker.request("GET", "/status")[2])["path"] == "/status"


@pytest.mark.req("BEY-03")
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/generate"])
def test_a_full_disk_refuses_new_work_in_the_clients_dialect(worker: Worker, path: str) -> None:
    outbox = worker.app._durability.outbox
    body: Any = {"prompt": "x"} if path == "/generate" else {**CHAT, "max_tokens": 3}
    before = len(worker.recorded)
    outbox.failing = OSError(errno.ENOSPC, "No space left on device")
    try:
        status, headers, answer = worker.request("POST", path, body)
    finally:
        outbox.failing = None
    assert status == 503
    assert headers["retry-after"]
    assert "error" in json.loads(answer)
    assert len(worker.recorded) == before
    assert worker.request("POST", path, body)[0] == 200


@pytest.mark.interpreted("a method replaced, to break down")
def test_a_fault_of_ours_still_settles_the_call(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(worker.app.proxy._upstream, "endpoint", broken)
    status, headers, body = worker.request("POST", "/v1/chat/completions", CHAT)
    assert status == 500
    assert b"secret detail" not in body
    request_id = headers["x-weir-request-id"]
    assert len(worker.events(RequestAdmitted, request_id)) == 1
    assert worker.call(request_id)[1].outcome == "failed"
    assert len(worker.events(CostEntry, request_id)) == 1


@pytest.mark.interpreted("a function replaced, to find no key")
def test_a_provider_without_its_key_fails_with_a_hint(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unset(*_: Any) -> Any:
        raise ConfigurationError("the key env:OPENAI_API_KEY is not set")

    monkeypatch.setattr("gateway.upstream.read_secret", unset)
    monkeypatch.setattr("gateway.upstream.SECRET_TTL_S", -1.0)
    status, _, body = worker.request("POST", "/generate", {"prompt": "x", "model_id": "a/gpt-4o"})
    error = json.loads(body)["error"]
    assert status == 502
    assert error["code"] == "upstream_authentication"
    assert "OPENAI_API_KEY" in error["message"]


@pytest.mark.req("BEY-03")
def test_content_is_recorded_sealed_and_only_as_the_route_says(worker: Worker) -> None:
    from schemas.events.llm import ContentCaptured

    _, headers, _ = worker.request("POST", "/v1/chat/completions", CHAT)
    captured = worker.events(ContentCaptured, headers["x-weir-request-id"])
    assert len(captured) == 1
    assert captured[0].mode == "full"
    assert b"messages" not in captured[0].ciphertext


@pytest.mark.req("ANA-04", "OPS-01")
@pytest.mark.parametrize("path", sorted(LIVE_SOCKETS))
def test_what_control_streams_comes_as_messages_of_a_websocket(
    worker: Worker, control: None, path: str
) -> None:
    url = f"ws://127.0.0.1:{worker.port}{path}"
    with connect(url, subprotocols=["weir", "key.of-an-admin"]) as socket:  # type: ignore[list-item]
        assert [json.loads(socket.recv(timeout=5)) for _ in range(2)] == [{"n": 1}, {"n": 2}]
    with connect(url, additional_headers={"authorization": "Bearer of-nobody"}) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=5)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401
