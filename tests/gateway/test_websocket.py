"""Calls over a WebSocket, by a client library on a real socket."""

import contextlib
import json
import logging
import time
from decimal import Decimal
from pathlib import Path
from socket import SHUT_RDWR, SO_RCVBUF, SO_SNDBUF, SOL_SOCKET, create_connection, socket
from typing import Any

import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from gateway.server import bound
from schemas.events.changes import RouteTarget
from schemas.events.llm import ResponseCompleted
from tests.gateway.worker import SECRET, Worker, key, route, started
from tests.sandbox.served import Served

pytestmark = pytest.mark.req("GW-04")
BEARER = {"authorization": f"Bearer {SECRET}"}
MODEL = "openai/gpt-4o-mini"


def opened(worker: Worker, path: str = "/api/v1/generate", **options: Any) -> ClientConnection:
    options = {"additional_headers": BEARER, "open_timeout": 5, **options}
    return connect(f"ws://127.0.0.1:{worker.port}{path}", **options)


def hear(socket: ClientConnection) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(socket.recv(timeout=5))
    return found


def ask(socket: ClientConnection, **fields: Any) -> list[dict[str, Any]]:
    """Make a call and return its messages up to the last."""
    body = {"prompt": "Say hello.", "modelId": MODEL, "maxTokens": 30, **fields}
    socket.send(json.dumps(body))
    heard = [hear(socket)]
    while heard[-1]["type"] in {"started", "text"}:
        heard.append(hear(socket))
    return heard


def heard_of(socket: ClientConnection, *texts: str) -> None:
    """Send, and read until the connection ends."""
    for text in texts:
        socket.send(text)
    while True:
        socket.recv(timeout=5)


def closing(socket: ClientConnection) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed) as closed:
        socket.recv(timeout=5)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


def await_responses(worker: Worker, count: int) -> ResponseCompleted:
    until_s = time.monotonic() + 5
    while len(worker.responses()) < count and time.monotonic() < until_s:
        time.sleep(0.02)
    assert len(worker.responses()) == count
    return worker.responses()[-1]


@pytest.mark.parametrize("path", ["/generate", "/api/v1/generate"])
def test_several_calls_on_one_connection(worker: Worker, path: str) -> None:
    ids = set()
    with opened(worker, path) as socket:
        for model in (MODEL, "anthropic/claude-sonnet-4-5"):
            heard = ask(socket, modelId=model, tags={"a": "b"})
            assert heard[0]["type"] == "started"
            assert heard[0]["headers"]["x-weir-model"] == model
            assert sum(message["type"] == "text" for message in heard) > 1
            last = heard[-1]
            assert last["type"] == "completed"
            assert last["metadata"]["route"] == model
            request_id = last["metadata"]["request_id"]
            assert heard[0]["headers"]["x-weir-request-id"] == request_id
            admitted, response, cost = worker.call(request_id)
            assert response.outcome == "success"
            assert response.output_tokens == last["metrics"]["output_tokens"]
            assert cost.cost_nano_usd == Decimal(last["metadata"]["cost_usd"]).scaleb(9)
            assert admitted.stream
            assert admitted.tags == {"a": "b"}
            ids.add(request_id)
    assert len(ids) == 2


def test_messages_that_come_early_wait_their_turn(worker: Worker) -> None:
    with opened(worker) as socket:
        for number in range(3):
            body = {"prompt": f"Say {number}.", "modelId": MODEL, "maxTokens": 5}
            socket.send(json.dumps(body).encode() if number else json.dumps(body))
        kinds: list[str] = []
        while kinds.count("completed") < 3:
            kinds.append(hear(socket)["type"])
    runs = [kind for kind in kinds if kind != "text"]
    assert runs == ["started", "completed"] * 3


def test_text_arrives_while_the_provider_still_writes(worker: Worker, sandbox: Served) -> None:
    sandbox.behave("gpt-4o", "/a", per_token_ms=30, answer_tokens_min=40)
    before = len(worker.responses())
    with opened(worker) as socket:
        socket.send(json.dumps({"prompt": "hi", "modelId": "a/gpt-4o"}))
        assert hear(socket)["type"] == "started"
        assert hear(socket)["type"] == "text"
        assert len(worker.responses()) == before
        while hear(socket)["type"] != "completed":
            pass
    await_responses(worker, before + 1)


@pytest.mark.parametrize("abruptly", [False, True])
def test_leaving_cancels_the_provider_and_bills_what_was_produced(
    worker: Worker, sandbox: Served, abruptly: bool
) -> None:
    sandbox.behave("gpt-4o", "/a", per_token_ms=50, answer_tokens_min=150)
    before = len(worker.responses())
    with opened(worker) as socket:
        socket.send(json.dumps({"prompt": "hi", "modelId": "a/gpt-4o"}))
        while hear(socket)["type"] != "text":
            pass
        if abruptly:
            socket.socket.shutdown(SHUT_RDWR)
    response = await_responses(worker, before + 1)
    assert response.outcome == "cancelled"
    assert response.usage_basis == "estimated"
    assert response.output_tokens
    _, _, cost = worker.call(response.request_id)
    assert cost.output_tokens == response.output_tokens
    time.sleep(0.3)
    row = [row for row in sandbox.rows("/a") if row["weir_request_id"] == response.request_id][-1]
    assert not row["complete"]


def test_a_wrong_message_is_an_error_message_and_the_connection_goes_on(worker: Worker) -> None:
    with opened(worker) as socket:
        for text in ("no json", '{"prompt": 7}', '{"stream": false, "prompt": "x"}', "[]"):
            socket.send(text)
            heard = hear(socket)
            assert heard["type"] == "error"
            assert heard["status"] in {400, 422}
            assert heard["error"]["code"] in {"invalid_request", "validation_failed"}
            assert heard["error"]["request_id"]
        heard = ask(socket, modelId="nobody/nothing")[0]
        assert (heard["type"], heard["error"]["code"]) == ("error", "model_not_found")
        assert ask(socket)[-1]["type"] == "completed"


@pytest.mark.parametrize("kind", ["stall", "cut", "error_event", "malformed_frame"])
def test_a_fault_after_the_first_text_is_an_error_message(
    worker: Worker, sandbox: Served, kind: str
) -> None:
    model = "gpt-4.1"
    fault = {"kind": kind, "after_tokens": 5, "count": 1}
    sandbox.behave(model, "/a", faults=[fault], per_token_ms=8)
    sandbox.behave(model, "/b")
    targets = [RouteTarget(f"a/{model}", priority=1), RouteTarget(f"b/{model}")]
    worker.forget()
    worker.change(route("ws-faulty", *targets, strategy="failover", stall_timeout_ms=400))
    with opened(worker) as socket:
        heard = ask(socket, modelId="ws-faulty", maxTokens=200)
        assert [message["type"] for message in heard[:2]] == ["started", "text"]
        assert heard[-1]["type"] == "error"
        assert heard[-1]["error"]["code"].startswith("upstream_")
        _, response, cost = worker.call(heard[-1]["error"]["request_id"])
        assert response.outcome == "failed"
        assert cost.output_tokens
        assert ask(socket, modelId="b/gpt-4o")[-1]["type"] == "completed"


def test_fails_over_before_the_first_text(worker: Worker, sandbox: Served) -> None:
    model = "gpt-4.1"
    sandbox.behave(model, "/a", faults=[{"kind": "server_error"}])
    sandbox.behave(model, "/b")
    targets = [RouteTarget(f"a/{model}", priority=1), RouteTarget(f"b/{model}")]
    worker.forget()
    worker.change(route("ws-failover", *targets, strategy="failover"))
    with opened(worker) as socket:
        heard = ask(socket, modelId="ws-failover")
    assert heard[-1]["type"] == "completed"
    assert heard[-1]["metadata"]["attempts"] == 2


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}])
def test_a_wrong_key_is_told_and_closed(worker: Worker, headers: dict[str, str]) -> None:
    with opened(worker, additional_headers=headers) as socket:
        heard = hear(socket)
        assert (heard["type"], heard["status"]) == ("error", 401)
        assert heard["error"]["code"] == "authentication_failed"
        code, reason = closing(socket)
    assert code == 4401
    assert reason


def test_a_key_that_is_revoked_ends_with_the_next_call(worker: Worker) -> None:
    secret = "short-lived"
    worker.change(key(secret))
    with opened(worker, additional_headers={"x-api-key": secret}) as socket:
        assert ask(socket)[-1]["type"] == "completed"
        worker.change(key(secret, revoked=True))
        heard = ask(socket)
        assert heard[0]["error"]["code"] == "authentication_failed"
        assert closing(socket)[0] == 4401


def test_a_browser_sends_its_key_as_a_subprotocol(worker: Worker) -> None:
    names: Any = ["weir", f"key.{SECRET}"]
    with opened(worker, additional_headers={}, subprotocols=names) as socket:
        assert socket.subprotocol == "weir"
        assert ask(socket)[-1]["type"] == "completed"


def test_the_server_pings_the_idle(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    pings: list[bytes] = []
    with opened(worker, ping_interval=None) as socket:
        frames = socket.protocol.recv_frame

        def noting(frame: Any) -> None:
            if frame.opcode == 0x9:
                pings.append(frame.data)
            frames(frame)

        monkeypatch.setattr(socket.protocol, "recv_frame", noting)
        until_s = time.monotonic() + 5
        while len(pings) < 2 and time.monotonic() < until_s:
            time.sleep(0.02)
        assert len(pings) >= 2
        assert ask(socket)[-1]["type"] == "completed"


def test_too_large_or_too_many_messages_close(worker: Worker, sandbox: Served) -> None:
    # With 1009, unless the sender is still busy then.
    with opened(worker) as socket, pytest.raises(ConnectionClosed):
        heard_of(socket, "x" * (32 * 1024 * 1024 + 1))
    sandbox.behave("gpt-4o", "/a", per_token_ms=50, answer_tokens_min=150)
    with opened(worker) as socket:
        call = json.dumps({"prompt": "hi", "modelId": "a/gpt-4o"})
        with pytest.raises(ConnectionClosed) as closed:
            heard_of(socket, *[call] * 12)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008


def test_other_paths_serve_no_websocket(worker: Worker) -> None:
    with pytest.raises(InvalidStatus) as refused:
        opened(worker, "/v1/chat/completions")
    assert refused.value.response.status_code == 404


def test_a_stop_lets_the_running_call_end(sandbox: Served, tmp_path: Path) -> None:
    sandbox.behave("gpt-4o", "/a", per_token_ms=30, answer_tokens_min=40, answer_tokens_max=60)
    body = json.dumps({"prompt": "hi", "modelId": "a/gpt-4o"})
    with started(sandbox, tmp_path) as worker, opened(worker) as idle, opened(worker) as running:
        running.send(body)
        running.send(body)
        while hear(running)["type"] != "text":
            pass
        worker.stop()
        heard = [hear(running)]
        while heard[-1]["type"] == "text":
            heard.append(hear(running))
        assert heard[-1]["type"] == "completed"
        assert closing(running)[0] == closing(idle)[0] == 1012
        response = worker.responses()[-1]
    assert response.outcome == "success"
    assert len(worker.responses()) == 1


@pytest.mark.parametrize("pieces", [100_000, 3_000])
def test_nearly_nothing_but_framing_is_refused(worker: Worker, pieces: int) -> None:
    empty = b"\x00\x80" + b"\x00" * 4  # a piece of a message without a byte in it
    with opened(worker) as socket:
        with contextlib.suppress(OSError):  # it was refused before all of it was sent
            socket.socket.sendall(b"\x01\x80" + b"\x00" * 4 + empty * pieces)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=5)
    told = closed.value.rcvd  # lost where the rest of what was sent met a closed socket
    assert told is None or (told.code, told.reason) == (1008, "too many small frames")
    assert worker.request("GET", "/health")[0] == 200


def test_a_long_message_may_come_in_many_pieces(worker: Worker) -> None:
    body = json.dumps({"prompt": "word " * 60_000, "modelId": MODEL, "maxTokens": 5})
    with opened(worker) as socket:
        socket.send(body[start : start + 100] for start in range(0, len(body), 100))
        assert hear(socket)["type"] == "started"


@pytest.mark.req("GW-09")
def test_text_that_is_no_utf8_closes_and_fills_no_log(
    worker: Worker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What speaks the protocol has a logger of its own, which hands nothing on.
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "handlers", [caplog.handler])
    caplog.set_level(logging.WARNING, "uvicorn.error")
    frame = b"\x81\x82" + b"\x00" * 4 + b"\xff\xfe"
    for headers in (BEARER, {}):
        with opened(worker, additional_headers=headers) as socket:
            with contextlib.suppress(OSError):
                socket.socket.sendall(frame * 100)
            with pytest.raises(ConnectionClosed) as closed:
                heard_of(socket)
            assert closed.value.rcvd is None or closed.value.rcvd.code in {1007, 4401}
    # Connections of other tests, which end meanwhile, may say something else.
    told = [
        str(record.exc_info[1]) + record.getMessage()
        for record in caplog.records
        if record.exc_info
    ]
    assert [text for text in told if "utf-8" in text.lower()] == []


@pytest.mark.req("GW-09")
def test_pings_that_nobody_hears_answered_are_refused(worker: Worker) -> None:
    with opened(worker) as socket:
        with contextlib.suppress(OSError):
            socket.socket.sendall((b"\x89\xfd" + b"\x00" * 4 + b"p" * 125) * 3_000)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=5)
    assert closed.value.rcvd is None or closed.value.rcvd.code == 1008


@pytest.mark.req("GW-09")
def test_who_takes_nothing_and_answers_no_ping_is_cut_off(
    sandbox: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.socket_protocol.PING_TIMEOUT_S", 0.3)
    sandbox.behave("gpt-4o", "/a", answer_tokens_min=16_000, answer_tokens_max=16_000)
    monkeypatch.setattr("tests.gateway.worker.bound", narrow)
    body = json.dumps({"prompt": "hi", "modelId": "a/gpt-4o", "maxTokens": 16_000}).encode()
    with (
        started(sandbox, tmp_path) as worker,
        create_connection(("127.0.0.1", worker.port)) as sock,
    ):
        sock.setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)
        sock.sendall(
            f"GET /generate HTTP/1.1\r\nhost: w\r\nauthorization: Bearer {SECRET}\r\n"
            "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
            "sec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n".encode()
            + bytes([0x81, 0x80 | len(body), 0, 0, 0, 0])
            + body
        )
        while not worker.responses() or held(worker):
            time.sleep(0.05)
        assert worker.responses()[-1].outcome == "cancelled"


def narrow(host: str, port: int) -> socket:
    """Bind a socket whose connections hold little of what is not taken."""
    sock = bound(host, port)
    sock.setsockopt(SOL_SOCKET, SO_SNDBUF, 4096)
    return sock


def held(worker: Worker) -> bool:
    """Whether the worker holds a connection of a caller."""
    return any(
        it.status == psutil.CONN_ESTABLISHED and it.laddr.port == worker.port
        for it in psutil.Process().net_connections("tcp")
    )
