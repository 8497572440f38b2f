"""The streams part with settings of the caller's choice: ``python -m bench.streams_worker JSON``.

The JSON names `bootstrap` and any field of `streams.settings.StreamsSettings`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path

from infra.kafka import KafkaLog
from schemas.log import Connection
from streams.app import run
from streams.settings import StreamsSettings


async def main(words: dict[str, object]) -> None:
    bootstrap = str(words.pop("bootstrap"))
    words["folds"] = tuple(words.get("folds", ()))  # type: ignore[arg-type]
    words["data_dir"] = Path(str(words["data_dir"]))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with KafkaLog(Connection(bootstrap), f"/streams/{os.getpid()}") as log:
        await run(StreamsSettings(**words), log, stop)  # type: ignore[arg-type]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    asyncio.run(main(json.loads(sys.argv[1])))
