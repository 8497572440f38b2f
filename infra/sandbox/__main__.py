"""Runs the sandbox alone: `python -m infra.sandbox --port 8083 --books books.jsonl`."""

import argparse
import asyncio
import signal
from pathlib import Path

import uvloop

from infra.sandbox.server import run
from infra.sandbox.settings import SandboxSettings


def _settings() -> SandboxSettings:
    parser = argparse.ArgumentParser(
        prog="python -m infra.sandbox", description="OpenAI and Anthropic, as a sandbox."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8083)
    parser.add_argument(
        "--books", type=Path, help="JSONL file of everything served (default: memory alone)"
    )
    parser.add_argument(
        "--behaviour", type=Path, help="TOML or JSON file with rules and further models"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of every draw of latencies and faults"
    )
    parser.add_argument(
        "--tuning-s", type=float, default=10.0, help="seconds that a fine-tuning job takes"
    )
    parser.add_argument(
        "--key", action="append", default=[], help="a key to accept (default: any key)"
    )
    given = parser.parse_args()
    return SandboxSettings(
        host=given.host,
        port=given.port,
        books=given.books,
        behaviour=given.behaviour,
        seed=given.seed,
        keys=frozenset(given.key),
        tuning_s=given.tuning_s,
    )


async def _main(settings: SandboxSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    print(f"sandbox listens on http://{settings.host}:{settings.port}", flush=True)
    await run(settings, stop)


if __name__ == "__main__":
    uvloop.run(_main(_settings()))
