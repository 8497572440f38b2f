"""A worker that records calls until it is killed: ``python -m …writer FOLDER BOOTSTRAP SEED``.

Prints ``ok REQUEST_ID`` once a call is durable, which is when a client would see its answer end.
"""

import asyncio
import random
import sys
from pathlib import Path

from gateway import durability as durability_module
from gateway import relay as relay_module
from gateway.durability import Durability
from gateway.ledger import cost_entry
from schemas.log import Connection
from tests.gateway_durability.support import MASTER, PRICE, request, response, settings


async def one_call(durability: Durability, draw: random.Random) -> None:
    recorder = durability.recorder
    admitted = request()
    content = b'"' + b"c" * draw.randint(10, 5_000) + b'"'
    recorder.admitted(admitted, len(content))
    await asyncio.sleep(draw.random() * 0.02)
    answer = response(admitted)
    sequence = recorder.completed(answer, cost_entry(answer, PRICE, 7), content, mode="full")
    await recorder.durable(draw.choice(["written", "written", "synced"]), sequence)
    sys.stdout.write(f"ok {admitted.request_id}\n")
    sys.stdout.flush()


async def main(folder: Path, bootstrap: str, seed: int) -> None:
    # Segments are used again within the short life of this worker.
    relay_module.KEEP_SECONDS = relay_module.MARK_SECONDS = 0.05
    durability_module.PREPARE_AFTER_S = 0.05
    draw = random.Random(seed)
    chosen = settings(folder, segment_bytes=200_000, chunk_bytes=64 * 1024)
    durability = Durability(chosen, Connection(bootstrap), MASTER, f"/writer/{seed}")
    durability.adopter.stop()  # the test adopts, and counts
    async with durability:

        async def client() -> None:
            while True:
                await one_call(durability, draw)

        await asyncio.gather(*(client() for _ in range(8)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
