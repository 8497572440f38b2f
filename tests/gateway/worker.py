"""Starts a gateway worker without Kafka: its state is made by hand, its events are kept in a list."""

import asyncio
import contextlib
import http.client
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import anthropic
import openai
import uvloop

from gateway.app import App, server_of
from gateway.durability import Durability
from gateway.http1 import Pool
from gateway.outbox import OutboxSettings
from gateway.routing import REUSE_S
from gateway.server import bound
from gateway.settings import GatewaySettings
from gateway.state import GatewayState
from infra.broker import free_port
from infra.kafka import KafkaLog
from schemas.event import Event
from schemas.events.changes import (
    Change,
)
from schemas.events.llm import CostEntry, RequestAdmitted, ResponseCompleted
from schemas.log import Connection
from schemas.privacy import MasterKey
from tests.gateway.recorded import follow
from tests.gateway.states import (
    META,
    SECRET,
    key,
    price,
    provider,
    put,
    route,
    sandbox_state,
    target,
)
from tests.sandbox.served import Served

__all__ = [
    "META",
    "SECRET",
    "Worker",
    "key",
    "price",
    "provider",
    "put",
    "route",
    "sandbox_state",
    "started",
    "target",
]

E = TypeVar("E", bound=Event)


@dataclass
class Worker:
    """A running worker and what it recorded."""

    port: int
    state: GatewayState
    app: App
    loop: asyncio.AbstractEventLoop
    stopping: asyncio.Event
    written: list[Event] = field(default_factory=list)

    @property
    def recorded(self) -> list[Event]:
        """What has been recorded by now: what a turn of the loop appends is written as it ends."""
        if self.loop.is_running():
            ended = threading.Event()
            self.loop.call_soon_threadsafe(ended.set)
            assert ended.wait(10)
        return self.written

    def stop(self) -> None:
        """Tell the worker to stop, and do not wait for it."""
        self.loop.call_soon_threadsafe(self.stopping.set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def openai(self, **options: Any) -> openai.OpenAI:
        options = {"api_key": SECRET, "max_retries": 0, **options}
        return openai.OpenAI(base_url=f"{self.url}/v1", **options)

    def anthropic(self, **options: Any) -> anthropic.Anthropic:
        options = {"api_key": SECRET, "max_retries": 0, **options}
        return anthropic.Anthropic(base_url=self.url, **options)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = 10,
    ) -> tuple[int, dict[str, str], bytes]:
        """Call without any client's help."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            given = {"authorization": f"Bearer {SECRET}", "content-type": "application/json"}
            connection.request(method, path, data, given if headers is None else headers)
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def events(self, kind: type[E], request_id: str, wait_s: float = 3.0) -> list[E]:
        """Return the events of a call, waiting for the first."""
        until_s = time.monotonic() + wait_s
        while True:
            found = [
                event
                for event in list(self.recorded)
                if isinstance(event, kind) and event.request_id == request_id
            ]
            if found or time.monotonic() > until_s:
                return found
            time.sleep(0.01)

    def call(self, request_id: str) -> tuple[RequestAdmitted, ResponseCompleted, CostEntry]:
        """Return the three events of a call, each of which must be there exactly once."""
        kinds = (RequestAdmitted, ResponseCompleted, CostEntry)
        found = [self.events(kind, request_id) for kind in kinds]
        assert [len(events) for events in found] == [1, 1, 1], found
        return found[0][0], found[1][0], found[2][0]

    def responses(self) -> list[ResponseCompleted]:
        return [event for event in list(self.recorded) if isinstance(event, ResponseCompleted)]

    def forget(self, *, lanes: bool = True) -> None:
        """Forget how targets fared, as a worker that has just started; `lanes`: their vendors' pace too."""
        self.app.proxy.book._book.clear()
        self.app.proxy.circuits._own.clear()
        if lanes:
            self.app.proxy.outbound._lanes.clear()

    def change(self, *events: Change) -> None:
        """Make events part of the state, in the worker's own thread."""
        done = threading.Event()

        def apply() -> None:
            put(self.state, *events)
            done.set()

        self.loop.call_soon_threadsafe(apply)
        assert done.wait(5)
        time.sleep(2 * REUSE_S)  # plans look for news at most so often


@contextlib.contextmanager
def started(sandbox: Served, folder: Path) -> Iterator[Worker]:
    """Run a worker in a thread of its own."""
    os.environ["TEST_PROVIDER_KEY"] = "sk-provider-secret"
    loop, port = uvloop.new_event_loop(), free_port()
    ready = threading.Event()
    running: list[Any] = []
    settings = GatewaySettings(
        host="127.0.0.1",
        port=port,
        worker=1,
        control_url=f"http://127.0.0.1:{free_port()}",
        data_dir=folder / "gateway",
        outbox_dir=folder / "outbox",
        master_key=bytes(32),
        heartbeat_s=0.7,
    )

    async def serve() -> None:
        state = sandbox_state(sandbox.url)
        outbox = OutboxSettings(folder=settings.outbox_dir)
        durability = Durability(
            outbox, Connection("127.0.0.1:1"), MasterKey(settings.master_key), "/gateway/test"
        )
        log = KafkaLog(Connection("127.0.0.1:1"), "/gateway/test")
        app = App(settings, state, durability, Pool(), log)
        server, stopping = server_of(app, settings), asyncio.Event()
        worker = Worker(port, state, app, loop, stopping)
        follow(durability.outbox, worker.written.extend)
        running.append(worker)
        await server.listen(bound("127.0.0.1", port))
        ready.set()
        await stopping.wait()
        await server.close(settings.drain_s)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(10)
    worker = running[0]
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(15)
        assert not thread.is_alive()
