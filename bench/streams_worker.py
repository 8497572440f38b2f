"""The streams part with settings of the caller's choice: ``python -m bench.streams_worker JSON``.

The JSON names `bootstrap` and any field of `streams.settings.StreamsSettings`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from infra.kafka import KafkaLog
from schemas.log import Connection
from streams import READY_FILE
from streams.app import run
from streams.settings import StreamsSettings

END_S = 30
"""After that a supervisor would kill what does not end."""


@dataclass
class Worker:
    """A streams process that can be killed and started again."""

    bootstrap: str
    home: Path
    words: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process; it is ready a few seconds later."""
        words = {"bootstrap": self.bootstrap, "data_dir": str(self.home), **self.words}
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bench.streams_worker", json.dumps(words)],
                env=os.environ | self.environment,
                stdout=log,
                stderr=log,
            )

    @property
    def runs(self) -> bool:
        """Whether it was started, and neither ended nor died since."""
        return self.process is not None and self.process.poll() is None

    def ready(self, limit_s: float = 300.0) -> None:
        """Wait until all its folds read on. Raises TimeoutError."""
        assert self.process is not None
        begun, told = time.monotonic(), self.home / READY_FILE
        while not (told.exists() and told.read_text("utf-8") == str(self.process.pid)):
            if time.monotonic() - begun > limit_s:
                raise TimeoutError("the streams process is not ready")
            time.sleep(0.05)

    def end(self, number: int = signal.SIGKILL) -> bool:
        """Send a signal and wait for the end; return whether it came, or had to be forced."""
        assert self.process is not None
        self.process.send_signal(number)
        obeyed = True
        try:
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            obeyed = False
            self.process.kill()
            self.process.wait()
        self.process = None
        return obeyed

    def cpu_s(self) -> float:
        """Return the processor time that the process has used."""
        assert self.process is not None
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)


async def main(words: dict[str, object]) -> None:
    """Run the part until SIGTERM."""
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
