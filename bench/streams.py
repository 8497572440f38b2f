"""Claim: the folds' tables are exact under kills, and fast: ``python -m bench.streams``.

Exactness: under load the streams processes are killed with -9 or stopped at seeded times, and
every figure of every table must equal a recount of the ledger. Speed: `size` responses and as
many cost entries wait as a backlog for two processes, one per fold.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench.claim import Arguments, Limit, Verdict, main
from bench.streams_load import TOPICS, Load, Tables, differences, expected, producer
from infra.broker import Broker, BrokerSettings, free_port
from infra.topics import ensure_topics
from schemas.log import Connection

EVENTS_PER_S_MIN = 20_000
CATCH_UP_S = 120.0
KILLS = 6


@dataclass
class Worker:
    """A streams process that can be killed and started again."""

    bootstrap: str
    home: Path
    words: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process; it is ready a few seconds later."""
        words = {"bootstrap": self.bootstrap, "data_dir": str(self.home), **self.words}
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bench.streams_worker", json.dumps(words)],
                stdout=log,
                stderr=log,
            )

    def end(self, number: int = signal.SIGKILL) -> None:
        """Send a signal and wait for the end."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(30)

    def cpu_s(self) -> float:
        """Return the processor time that the process has used."""
        assert self.process is not None
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)


def wait_caught_up(
    tables: Tables, sources: tuple[str, ...] = TOPICS, limit_s: float = CATCH_UP_S
) -> float:
    """Wait until the tables include everything; return the seconds. Raises TimeoutError."""
    begun = time.monotonic()
    while (behind := tables.behind(sources)) > 0:
        if time.monotonic() - begun > limit_s:
            raise TimeoutError(f"the tables are {behind} records behind")
        time.sleep(0.1)
    return time.monotonic() - begun


def exactness(
    bootstrap: str,
    home: Path,
    load: Load,
    *,
    events_per_s: int,
    kills: int,
    pause_s: tuple[float, float] = (3.0, 7.0),
) -> tuple[Tables, list[dict[str, Any]]]:
    """Send a load while two workers are killed in turn; return the tables, and the kills."""
    draw = random.Random(load.seed)
    workers = [Worker(bootstrap, home / f"worker{n}", {"worker": n}) for n in range(2)]
    over = threading.Event()

    def send() -> None:
        sender = producer(bootstrap)
        while not over.is_set():
            begun = time.monotonic()
            load.send(sender, events_per_s // 4)
            over.wait(max(0.0, 0.25 - (time.monotonic() - begun)))

    sending = threading.Thread(target=send)
    sending.start()
    done: list[dict[str, Any]] = []
    try:
        for worker in workers:
            worker.start()
        for _ in range(kills):
            time.sleep(draw.uniform(*pause_s))
            victim, number = draw.choice(workers), draw.choice([signal.SIGKILL, signal.SIGTERM])
            victim.end(number)
            done.append({"worker": workers.index(victim), "signal": number.name})
            victim.start()
        over.set()
        sending.join()
        tables = Tables(bootstrap)
        wait_caught_up(tables)
    finally:
        over.set()
        sending.join()
        for worker in workers:
            worker.end()
    return tables, done


def throughput(bootstrap: str, home: Path, count: int) -> dict[str, Any]:
    """Fold a backlog with one process per fold; return events per second of all and of each."""
    load = Load(seed=7, prefix="speed", start_s=int(time.time()) - 3_600, feedback=0.0, repeats=0.0)
    load.send(producer(bootstrap), 2 * count)
    figures: dict[str, Any] = {}
    workers = {
        name: Worker(bootstrap, home / f"speed-{name}", {"folds": [name]})
        for name in ("health", "spend")
    }
    tables = Tables(bootstrap)
    tables.read()
    tables.forget_times()
    for worker in workers.values():
        worker.start()
    try:
        wait_caught_up(tables, TOPICS[:2])
        used_s = {name: worker.cpu_s() for name, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.end(signal.SIGTERM)
    seconds = tables.busy_s()
    figures["backlog_seconds"] = seconds
    figures["events_per_s"] = round(2 * count / seconds)
    figures["events_per_s_two_cores"] = round(2 * count / max(used_s.values()))
    for name, used in used_s.items():
        figures[f"{name}_cpu_us_per_event"] = round(used * 1e6 / count, 1)
    tables.close()
    return figures


def measure(arguments: Arguments) -> Verdict:
    home = Path(tempfile.mkdtemp(prefix="weir-streams-"))
    broker = Broker(BrokerSettings(home / "kafka", port=free_port(), controller_port=free_port()))
    broker.start()
    try:
        asyncio.run(ensure_topics(Connection(broker.bootstrap)))
        speed = throughput(broker.bootstrap, home, arguments.size)
        load = Load(arguments.seed, f"s{arguments.seed}", int(time.time()))
        tables, kills = exactness(broker.bootstrap, home, load, events_per_s=2_000, kills=KILLS)
        if arguments.sabotage:
            load.ledger.remove(next(sent for sent in load.ledger if sent.kind == "cost"))
        wrong = differences(expected(load.ledger), tables.figures(load.prefix))
        tables.close()
    finally:
        broker.stop()
        if arguments.keep:
            print(home, file=sys.stderr)
        else:
            shutil.rmtree(home, ignore_errors=True)
    (arguments.out / "differences.txt").write_text("\n".join(wrong), "utf-8")
    (arguments.out / "kills.json").write_text(json.dumps(kills), "utf-8")
    with (arguments.out / "ledger.jsonl").open("w", encoding="utf-8") as ledger:
        ledger.writelines(json.dumps(vars(sent)) + "\n" for sent in load.ledger)
    figures = {
        **speed,
        "events": len(load.ledger),
        "kills": len(kills),
        "figures": len(expected(load.ledger)),
        "wrong": len(wrong),
    }
    limits = [
        Limit("wrong", 0),
        Limit("figures", 1, "min"),
        Limit("events_per_s_two_cores", EVENTS_PER_S_MIN, "min"),
    ]
    return Verdict(figures, limits)


if __name__ == "__main__":
    main("streams", 200_000, measure)
