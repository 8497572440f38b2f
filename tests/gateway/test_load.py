"""Too much to do, and an orderly end: refused early with a hint, and nothing begun is lost."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.load import CALLS_FLOOR, TICKS, Load
from infra.broker import free_port
from tests.gateway.worker import SECRET, Worker
from tests.sandbox.served import Served

MODEL = "gpt-4o-mini"
HEADERS = {"authorization": f"Bearer {SECRET}", "content-type": "application/json"}


def body(stream: bool) -> bytes:
    messages = [{"role": "user", "content": "Say hello."}]
    return json.dumps({"model": f"a/{MODEL}", "messages": messages, "stream": stream}).encode()


# --- load ----------------------------------------------------------------------------------------


def test_calls_in_progress_are_bounded() -> None:
    load = Load(2, 0.5)
    load.calls = 2
    refusal = load.refusal()
    assert refusal is not None
    assert (refusal.status, refusal.code, refusal.retry_after_seconds) == (503, "overloaded", 1)
    load.calls = 1
    assert load.refusal() is None
    assert load.refused == 1


def test_a_loop_that_is_late_all_the_time_refuses_and_a_spike_does_not() -> None:
    load = Load(1000, 0.5)
    load.calls = CALLS_FLOOR
    for _ in range(TICKS - 1):
        load.note_lag(0.9)
    assert load.refusal() is None
    load.note_lag(0.9)
    assert load.refusal() is not None
    load.note_lag(0.1)
    assert load.refusal() is None


def test_few_calls_are_not_why_a_loop_is_late() -> None:
    load = Load(1000, 0.5)
    for _ in range(TICKS):
        load.note_lag(5.0)
    assert load.refusal() is None


def test_a_call_too_many_is_refused_before_its_body_is_read(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.app.load, "_calls_max", 0)
    for path, kind in (("/v1/chat/completions", "error"), ("/v1/messages", "type")):
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n"
        with socket.create_connection(("127.0.0.1", worker.port), 5) as sock:
            sock.sendall(head.encode())
            answer = http.client.HTTPResponse(sock)
            answer.begin()
            assert answer.status == 503
            assert answer.headers["retry-after"] == "1"
            assert "overloaded" in json.dumps(seen := json.loads(answer.read()))
            assert kind in seen
    monkeypatch.setattr(worker.app.load, "_calls_max", 10)
    assert worker.request("POST", "/v1/chat/completions", body(stream=False))[0] == 200


# --- an orderly end --------------------------------------------------------------------------------


class Processes:
    """Workers of one port, each a process."""

    def __init__(self, sandbox: Served, folder: Path) -> None:
        self.port = free_port()
        self._sandbox = sandbox
        self._folder = folder
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.gateway.one_worker", str(self.port)]
        command += [self._sandbox.url, str(self._folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        self.running.append(process)

    def retire(self) -> None:
        """End the oldest in order, and wait for it."""
        process = self.running.pop(0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0

    def kill(self) -> None:
        for process in self.running:
            process.kill()
            process.wait(5)


class Callers:
    """Threads that call until told to stop; what went wrong is in `wrong`."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._over = threading.Event()
        self.answers = 0
        self.wrong: list[str] = []
        kinds: list[Callable[[], None]] = [self._kept, self._kept, self._new, self._new]
        kinds += [lambda: self._kept(stream=True), lambda: self._new(stream=True)]
        self._threads = [threading.Thread(target=kind) for kind in kinds]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(20)

    def _kept(self, stream: bool = False) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        while not self._over.is_set():
            self._ask(connection, stream)
        connection.close()

    def _new(self, stream: bool = False) -> None:
        while not self._over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
            self._ask(connection, stream)
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection, stream: bool) -> None:
        try:
            connection.request("POST", "/v1/chat/completions", body(stream), HEADERS)
            answer = connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.wrong.append(repr(error))
            connection.close()
            return
        if answer.status != 200 or (stream and not data.endswith(b"data: [DONE]\n\n")):
            self.wrong.append(f"{answer.status} {data[-200:]!r}")
        self.answers += 1


@pytest.mark.req("OPS-04", "BEY-20")
def test_a_rolling_restart_loses_no_request(sandbox: Served, tmp_path: Path) -> None:
    sandbox.behave(MODEL, "/a", per_token_ms=10, answer_tokens_min=20, answer_tokens_max=20)
    workers = Processes(sandbox, tmp_path)
    try:
        workers.start()
        workers.start()
        callers = Callers(workers.port)
        for _ in range(2):
            time.sleep(0.3)
            workers.start()
            workers.retire()
        callers.stop()
    finally:
        workers.kill()
        sandbox.behave(MODEL, "/a")
    assert callers.wrong == []
    assert callers.answers > 30


@pytest.mark.req("OPS-04")
def test_a_running_stream_ends_well_and_new_connections_are_not_taken(
    sandbox: Served, tmp_path: Path
) -> None:
    sandbox.behave(MODEL, "/a", per_token_ms=50, answer_tokens_min=40, answer_tokens_max=40)
    workers = Processes(sandbox, tmp_path)
    seen: list[Any] = []

    def read() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", workers.port, timeout=20)
        connection.request("POST", "/v1/chat/completions", body(stream=True), HEADERS)
        answer = connection.getresponse()
        seen.append(answer.status)
        seen.append(answer.read())

    try:
        workers.start()
        reading = threading.Thread(target=read)
        reading.start()
        while not seen:
            time.sleep(0.01)
        workers.running[0].send_signal(signal.SIGTERM)
        time.sleep(0.6)
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", workers.port), 5).close()
        assert workers.running[0].poll() is None
        reading.join(10)
        assert workers.running[0].wait(20) == 0
    finally:
        workers.kill()
        sandbox.behave(MODEL, "/a")
    assert seen[1].endswith(b"data: [DONE]\n\n")
