"""Starts a gateway worker without Kafka: its state is made by hand, its events are kept in a list."""

import asyncio
import contextlib
import hashlib
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
from gateway.server import bound
from gateway.settings import GatewaySettings
from gateway.state import GatewayState
from infra.broker import free_port
from infra.kafka import KafkaLog
from schemas.event import Event
from schemas.events.changes import (
    Change,
    KeyChanged,
    PriceChanged,
    ProviderChanged,
    RouteChanged,
    TargetChanged,
)
from schemas.events.llm import CostEntry, RequestAdmitted, ResponseCompleted
from schemas.log import Connection, TableView
from schemas.privacy import MasterKey
from tests.sandbox.served import Served

SECRET = "weir-test-key"
E = TypeVar("E", bound=Event)


@dataclass
class Worker:
    """A running worker and what it recorded."""

    port: int
    state: GatewayState
    app: App
    loop: asyncio.AbstractEventLoop
    stopping: asyncio.Event
    recorded: list[Event] = field(default_factory=list)

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

    def forget(self) -> None:
        """Forget how targets fared, as a worker that has just started."""
        self.app.proxy.book._book.clear()
        self.app.proxy.circuits._own.clear()

    def change(self, *events: Change) -> None:
        """Make events part of the state, in the worker's own thread."""
        done = threading.Event()

        def apply() -> None:
            put(self.state, *events)
            done.set()

        self.loop.call_soon_threadsafe(apply)
        assert done.wait(5)


def put(state: GatewayState, *events: Change) -> None:
    """Make events part of a state."""
    views: dict[type[Event], TableView[Any]] = {
        view.event_type: view for view in state.durable_views
    }
    for event in events:
        view = views[type(event)]
        view.entries[event.key] = event
        view.generation += 1


META: dict[str, Any] = {
    "event_id": "e",
    "occurred_at_us": 1,
    "entity_version": 1,
    "actor": "test",
}


def key(secret: str = SECRET, **fields: Any) -> KeyChanged:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    fields = {"key_id": f"key-{digest[:6]}", "name": "test", "scopes": ["inference"], **fields}
    return KeyChanged(**META, secret_hash=digest, **fields)


def provider(name: str, dialect: str, url: str, **fields: Any) -> ProviderChanged:
    fields = {"secret": "env:TEST_PROVIDER_KEY", **fields}
    return ProviderChanged(**META, name=name, dialect=dialect, base_url=url, **fields)


def target(name: str, model: str, **fields: Any) -> TargetChanged:
    fields = {"capabilities": ["chat", "stream", "tools"], **fields}
    return TargetChanged(**META, provider=name, model=model, **fields)


def route(name: str, *targets: Any, **fields: Any) -> RouteChanged:
    return RouteChanged(**META, name=name, targets=list(targets), **fields)


def price(name: str, model: str, input_price: int, output_price: int) -> PriceChanged:
    return PriceChanged(
        **META,
        provider=name,
        model=model,
        valid_from_us=0,
        input_price=input_price,
        output_price=output_price,
        price_version="test-1",
        source="test",
    )


def sandbox_state(url: str) -> GatewayState:
    """A state with both vendors of the sandbox and two further bases of the OpenAI kind."""
    state = GatewayState()
    put(
        state,
        key(),
        provider("openai", "openai", f"{url}/v1"),
        provider("anthropic", "anthropic", url),
        provider("a", "openai", f"{url}/a/v1"),
        provider("b", "openai", f"{url}/b/v1"),
        target("openai", "gpt-4o-mini"),
        target("openai", "gpt-4o"),
        target("anthropic", "claude-sonnet-4-5", max_output_tokens=64_000),
        price("openai", "gpt-4o-mini", 150_000_000, 600_000_000),
        price("anthropic", "claude-sonnet-4-5", 3_000_000_000, 15_000_000_000),
    )
    return state


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
        append = durability.outbox.append

        def keeping(*events: Event, **options: Any) -> int:
            sequence = append(*events, **options)
            worker.recorded.extend(events)
            return sequence

        durability.outbox.append = keeping  # type: ignore[method-assign]
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
