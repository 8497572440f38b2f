"""A gateway worker as a process of its own, without Kafka: `python -m tests.gateway.one_worker`.

Arguments: port, the sandbox's address, a folder. Prints `ready`; SIGTERM ends it in order.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

import uvloop

from gateway.app import App, server_of
from gateway.durability import Durability
from gateway.http1 import Pool
from gateway.outbox import OutboxSettings
from gateway.server import bound
from gateway.settings import GatewaySettings
from infra.kafka import KafkaLog
from schemas.log import Connection
from schemas.privacy import MasterKey
from tests.gateway.states import sandbox_state


async def serve(port: int, sandbox_url: str, folder: Path) -> None:
    """Serve until SIGTERM."""
    os.environ["TEST_PROVIDER_KEY"] = "sk-provider-secret"
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    settings = GatewaySettings(
        host="127.0.0.1",
        port=port,
        worker=1,
        control_url="http://127.0.0.1:9",
        data_dir=folder,
        outbox_dir=folder / "outbox",
        master_key=bytes(32),
    )
    outbox = OutboxSettings(folder=settings.outbox_dir)
    master, nowhere = MasterKey(settings.master_key), Connection("127.0.0.1:1")
    durability = Durability(outbox, nowhere, master, "/gateway/test")
    log = KafkaLog(nowhere, "/gateway/test")
    app = App(settings, sandbox_state(sandbox_url), durability, Pool(), log)
    server = server_of(app, settings)
    await server.listen(bound("127.0.0.1", port))
    print("ready", flush=True)
    await stop.wait()
    await server.close(settings.drain_s)


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
