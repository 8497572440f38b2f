"""The whole installation as a user starts it: `weir up`, killed, taken over, stopped in order."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.broker import BrokerError, free_port, require_free
from infra.state import load_state

READY_S = 110
HELLO = [{"role": "user", "content": "Hello"}]


def free_range(count: int = 6) -> int:
    """The first of `count` consecutive free ports."""
    while True:
        port = free_port()
        try:
            for offset in range(count):
                require_free(port + offset)
        except BrokerError:
            continue
        return port


class Weir:
    """One `weir up` in a folder of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_range()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")},
            "WEIR_HOME": str(home / "data"),
            "WEIR_PORT": str(self.port),
            "WEIR_TRAINER": "off",
            "WEIR_ADMIN_KEY": "weir-test",
            "WEIR_ORPHAN_GRACE_S": "300",
        }
        self.process: subprocess.Popen[str] | None = None
        self.starts = 0

    def up(self) -> str:
        """Start it and wait for the ready block; what it has printed."""
        self.starts += 1
        output = self.home / f"up-{self.starts}.txt"
        with output.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "infra.cli", "up"],
                stdout=file,
                stderr=file,
                **self.options(),
            )
        wait(lambda: "weir status" in output.read_text() or self.process.poll() is not None)
        text = output.read_text()
        assert "Weir is ready" in text, text
        return text

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "infra.cli", *arguments],
            capture_output=True,
            check=False,
            **self.options(),
        )

    def options(self) -> dict[str, Any]:
        root = Path(__file__).parents[2]
        return {"env": self.environment, "cwd": root, "text": True}

    def pids(self) -> dict[str, int]:
        state = load_state(self.home / "data")
        assert state is not None
        return {part.name: part.pid for part in state.parts if part.pid is not None}

    def call(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": "Bearer weir-test", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return dict(json.load(response))

    def status(self) -> dict[str, Any]:
        return self.call("/status")

    def sql(self, statement: str) -> list[list[Any]]:
        return list(json.loads(self.command("sql", statement, "--json").stdout)["rows"])

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def wait(true: Callable[[], bool], seconds: float = READY_S) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def weir(tmp_path: Path) -> Iterator[Weir]:
    installation = Weir(tmp_path)
    yield installation
    if installation.process is not None and installation.process.poll() is None:
        installation.process.kill()
    state = load_state(tmp_path / "data")
    for part in state.parts if state else []:
        if part.alive() and part.pid is not None:
            os.kill(part.pid, signal.SIGKILL)


@pytest.mark.timeout(400)
@pytest.mark.req("BEY-03", "BEY-04", "EVT-03", "GW-07", "GW-14")
def test_up_survives_kills_and_stops_in_order(weir: Weir) -> None:
    text = weir.up()
    assert "weir-test" in text
    assert "NO PROVIDER KEY" in text
    # Calls are served before the folds have their partitions: only streams may still be starting.
    wait(lambda: {part["status"] for part in weir.status()["parts"]} == {"ready"}, 30)
    status = weir.status()
    assert status["broker"]["reachable"] is True

    answer = weir.call("/v1/chat/completions", {"model": "auto", "messages": HELLO})
    assert answer["usage"]["completion_tokens"] > 0
    statement = "select count(*), sum(cost_nano_usd) > 0 from calls where outcome = 'success'"
    wait(lambda: weir.sql(statement) == [[1, True]], 30)
    replayed = json.loads(weir.command("replay", "calls", "--verify", "--json").stdout)
    assert replayed["passed"] is True

    second = weir.command("up")
    assert second.returncode == 1
    assert "already runs" in second.stderr

    before = weir.pids()
    os.kill(before["gateway-0"], signal.SIGKILL)
    wait(lambda: weir.pids().get("gateway-0", before["gateway-0"]) != before["gateway-0"], 30)

    assert weir.process is not None
    weir.process.kill()
    weir.process.wait()
    assert "still serve" in weir.command("status").stderr
    assert weir.status()["broker"]["reachable"] is True

    parts = weir.pids()
    assert "taking over" in weir.up()
    assert weir.pids() == parts
    topics = json.loads(weir.command("topics", "--json").stdout)
    keys = next(topic for topic in topics if topic["topic"] == "weir.identity.changes.v1")
    assert keys["records"] == 1
    [line] = weir.command("tail", "identity", "--no-follow", "--json").stdout.splitlines()
    assert json.loads(line)["event"]["name"] == "first admin key"

    assert weir.stop() == 0
    for port in range(weir.port, weir.port + 6):
        require_free(port)
    assert "does not run" in weir.command("status").stderr


def test_a_taken_port_is_named_before_anything_starts(weir: Weir) -> None:
    import socket

    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", weir.port + 1))
        holder.listen()
        failed = weir.command("up")
    assert failed.returncode == 1
    assert f"port {weir.port + 1} is taken" in failed.stderr
    assert "WEIR_PORT" in failed.stderr
