"""Controls on a real broker: their administration on a socket, and a client for it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientSession
from uvicorn import Config

from infra.administration import Administration
from infra.broker import free_port
from infra.control import _Server, build
from infra.door import Keys
from infra.kafka import KafkaLog
from schemas.events.changes import TenantChanged
from schemas.key_view import KeyView
from schemas.log import Connection
from schemas.table_view import TableView

OPERATOR = "the-operators-token"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: Any


def lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


@dataclass
class Control:
    """One control process's administration, served over HTTP."""

    url: str
    administration: Administration
    log: KafkaLog
    session: ClientSession

    async def call(
        self, method: str, path: str, body: Any = None, secret: str = OPERATOR
    ) -> Answer:
        """Ask; a body of bytes is sent as it is."""
        headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
        data = body if isinstance(body, bytes | None) else json.dumps(body)
        async with self.session.request(
            method, self.url + path, data=data, headers=headers
        ) as answer:
            return Answer(answer.status, lower(answer.headers), json.loads(await answer.read()))

    async def put(self, path: str, body: Any) -> Answer:
        return await self.call("PUT", path, body)

    async def get(self, path: str) -> Any:
        answer = await self.call("GET", path)
        assert answer.status == 200, answer
        return answer.body


@asynccontextmanager
async def control(bootstrap: str) -> AsyncIterator[Control]:
    """A control until the block ends; its views have caught up."""
    stop = asyncio.Event()
    async with KafkaLog(Connection(bootstrap), "/control/test") as log, ClientSession() as session:
        administration = Administration(log)
        keys, tenants = KeyView(), TableView(TenantChanged)
        app = build(Keys(keys, OPERATOR, tenants), administration.routers)
        port = free_port()
        server = _Server(Config(app, "127.0.0.1", port, log_config=None))
        running = [
            asyncio.create_task(server.serve()),
            asyncio.create_task(administration.run(stop)),
            asyncio.create_task(log.follow([keys, tenants], stop)),
        ]
        views = [*administration.commands.views, keys, tenants]
        async with asyncio.timeout(30):
            for view in views:
                await view.caught_up.wait()
            while not server.started:
                await asyncio.sleep(0.01)
        try:
            yield Control(f"http://127.0.0.1:{port}", administration, log, session)
        finally:
            stop.set()
            server.should_exit = True
            await asyncio.gather(*running)
