"""Two gateway workers on one real log, as `weir up` starts them, with the real sandbox behind."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from gateway import app as gateway
from gateway.settings import GatewaySettings
from infra.broker import Broker, free_port
from infra.kafka import KafkaLog
from schemas.events.changes import KeyChanged
from schemas.identity import uuid7
from schemas.log import Connection
from tests.gateway.worker import META, price, provider, target
from tests.sandbox.served import Served

KEY = f"weir-two-workers-{uuid7()}"
KEY_ID = uuid7()


@asynccontextmanager
async def workers(
    broker: Broker, sandbox: Served, folder: Path, base: str
) -> AsyncIterator[list[str]]:
    """Two workers, as `weir up` starts them, each with a port and an outbox folder of its own.

    `base` is the sandbox's base path, and the name of the provider there: the log is shared by all
    tests, and what one has said of a provider stands.
    """
    os.environ["TEST_PROVIDER_KEY"] = "sk-provider-secret"
    connection = Connection(broker.bootstrap)
    stop, urls, running = asyncio.Event(), [], []
    async with KafkaLog(connection, "/test") as log:
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        fields: Any = {"key_id": KEY_ID, "name": "two workers", "scopes": ["inference"]}
        for event in (
            KeyChanged(**META, secret_hash=digest, **fields),
            provider(base, "openai", f"{sandbox.url}/{base}/v1"),
            target(base, "gpt-4o-mini"),
            price(base, "gpt-4o-mini", 150_000_000, 600_000_000),
        ):
            await log.publish(event)
        logs = [KafkaLog(connection, f"/gateway/{number}") for number in range(2)]
        for number, own in enumerate(logs):
            await own.__aenter__()
            settings = GatewaySettings(
                host="127.0.0.1",
                port=free_port(),
                worker=number,
                control_url=f"http://127.0.0.1:{free_port()}",
                data_dir=folder / f"gateway-{number}",
                outbox_dir=folder / f"outbox-{number}",
                master_key=bytes(32),
            )
            running.append(asyncio.create_task(gateway.run(settings, own, stop)))
            urls.append(f"http://127.0.0.1:{settings.port}")
        try:
            for url in urls:
                await _until_ready(url)
            yield urls
        finally:
            stop.set()
            await asyncio.gather(*running)
            for own in logs:
                await own.__aexit__(None, None, None)


async def _until_ready(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(400):
            try:
                async with session.get(f"{url}/v1/models", headers=headers()) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)
    raise TimeoutError(url)


def headers(**more: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEY}", "content-type": "application/json", **more}
