"""Claim: the folds' tables are fast, whatever the number of keys, and soon in the gateways' memory.

`--size` responses and as many cost entries wait as a backlog for two processes, one per fold. Then
one process is fed at an even pace while its table has few keys and while it has many, and is killed
to recover. Then all folds run, and the time is taken from an event to the view that a gateway
follows. With BENCH_PROFILE=1 the processes are sampled, and their profiles lie beside the ledgers.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.claim import Arguments, Limit, Verdict, main
from bench.exactness import Sending
from bench.streams_load import Load, Sent, producer
from bench.streams_tables import FOLLOWED, Tables
from bench.streams_worker import Worker
from infra.broker import Broker, BrokerSettings, free_port
from infra.kafka import KafkaLog
from infra.topics import ensure_topics
from schemas.clock import now_us
from schemas.codec import encode
from schemas.events.llm import Attempt, ResponseCompleted
from schemas.events.tables import HealthRow
from schemas.identity import uuid7
from schemas.log import Connection
from schemas.table_view import TableView

EVENTS_PER_S_MIN = 20_000
SHARED, FEW, MANY = 1_000, 10_000, 100_000
"""Keys: of the fewest, several events of a second share a row; of the others each has its own."""
KEYS_RATIO_MAX = 1.3
RECOVERY_S_MAX = 10.0
FRESH_P99_S_MAX = 1.0
PACE_PER_S = 2_000
PACED_S = 15
PROBES = 300
PROBE_EVERY_S = 0.05
SAMPLER = Path(__file__).parent / "sampler"


@dataclass
class Bench:
    """A broker, and streams processes on it."""

    bootstrap: str
    home: Path
    seed: int
    profiles: Path | None = None
    _prefixes: int = field(default=0, init=False)

    def worker(self, name: str, *folds: str) -> Worker:
        """Return a process for some folds, or all, that was not started yet."""
        environment: dict[str, str] = {}
        if self.profiles is not None:
            paths = [str(SAMPLER), os.environ.get("PYTHONPATH", "")]
            environment = {
                "BENCH_PROFILE": str(self.profiles.absolute()),
                "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            }
        return Worker(self.bootstrap, self.home / name, {"folds": folds}, environment)

    def load(self, **words: Any) -> Load:
        """Return a load of responses and costs alone, an hour ago, whose ledger nobody needs."""
        self._prefixes += 1
        quiet = {"feedback": 0.0, "escrow": 0.0, "repeats": 0.0, **words}
        start_s = int(time.time()) - 3_600
        return Load(self.seed, f"speed{self._prefixes}", start_s, _forget, **quiet)


def _forget(_: Sent) -> None:
    """Keep no ledger."""


def throughput(bench: Bench, count: int) -> dict[str, Any]:
    """Fold a backlog with one process per fold; return events per second of all and of each."""
    bench.load().send(producer(bench.bootstrap), 2 * count)
    workers = {name: bench.worker(f"backlog-{name}", name) for name in ("health", "spend")}
    tables = Tables(bench.bootstrap)
    tables.read()
    tables.forget_times()
    for worker in workers.values():
        worker.start()
    try:
        tables.caught_up(workers)
        used_s = {name: worker.cpu_s() for name, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.end(signal.SIGTERM)
    seconds = tables.busy_s()
    tables.close()
    figures: dict[str, Any] = {
        "backlog_seconds": seconds,
        "events_per_s": round(2 * count / seconds),
        "events_per_s_two_cores": round(2 * count / max(used_s.values())),
    }
    for name, used in used_s.items():
        figures[f"{name}_cpu_us_per_event"] = round(used * 1e6 / count, 1)
    return figures


def keys(bench: Bench) -> dict[str, Any]:
    """Return processor time per event with few and with many keys, and a recovery of the many."""
    spend = next(fold for fold in FOLLOWED if fold.name == "spend")
    tables = Tables(bench.bootstrap, [spend])
    worker = bench.worker("keys", "spend")
    worker.start()
    figures: dict[str, Any] = {}
    try:
        worker.ready()
        for name, count in (("shared", SHARED), ("few", FEW), ("many", MANY)):
            load = bench.load(responses=0.0, keys=count)
            begun_s = worker.cpu_s()
            load.send(producer(bench.bootstrap), 2 * count)
            tables.caught_up()
            filled_s, sent = worker.cpu_s(), load.sent
            pace = Sending(bench.bootstrap, load, PACE_PER_S, PACE_PER_S * PACED_S)
            with pace as sending:
                sending.finish()
            tables.caught_up()
            paced = (worker.cpu_s() - filled_s) / (load.sent - sent)
            figures[f"{name}_keys_cpu_us_per_event"] = round(paced * 1e6, 1)
            figures[f"{name}_keys_backlog_cpu_us_per_event"] = round(
                (filled_s - begun_s) * 1e6 / sent, 1
            )
        figures["rows"] = len(tables.values)
        worker.end()
        begun = time.monotonic()
        worker.start()
        worker.ready()
        figures["recovery_s"] = round(time.monotonic() - begun, 2)
        figures["recovery_cpu_s"] = round(worker.cpu_s(), 2)
    finally:
        if worker.runs:
            worker.end(signal.SIGTERM)
        tables.close()
    costs = [figures[f"{name}_keys_cpu_us_per_event"] for name in ("many", "few")]
    figures["keys_ratio"] = round(costs[0] / costs[1], 3)
    return figures


def freshness(bench: Bench) -> dict[str, Any]:
    """Return how long an event takes to a gateway's view of the health table, all folds running."""
    worker = bench.worker("fresh")
    worker.start()
    try:
        worker.ready()
        tables = Tables(bench.bootstrap)
        tables.caught_up()
        tables.close()
        load = Load(bench.seed, "background", int(time.time()), _forget, PACE_PER_S // 2)
        with Sending(bench.bootstrap, load, PACE_PER_S // 2):
            seconds = sorted(asyncio.run(_fresh(bench)))
    finally:
        if worker.runs:
            worker.end(signal.SIGTERM)
    return {
        "probes": len(seconds),
        "fresh_p50_s": round(seconds[len(seconds) // 2], 3),
        "fresh_p99_s": round(seconds[len(seconds) * 99 // 100], 3),
    }


async def _fresh(bench: Bench) -> list[float]:
    """Send a response for a target of its own from time to time; return when each row arrived."""
    draw = random.Random(bench.seed)
    view = TableView(HealthRow)
    sent: dict[str, float] = {}
    arrived: dict[str, float] = {}

    def hear(_: str, row: HealthRow | None) -> None:
        if row is not None and row.entity in sent:
            arrived.setdefault(row.entity, time.monotonic() - sent[row.entity])
            if len(arrived) == PROBES:
                everywhere.set()

    view.listen(hear)
    stop, everywhere = asyncio.Event(), asyncio.Event()
    sender = producer(bench.bootstrap)
    async with KafkaLog(Connection(bench.bootstrap)) as log:
        following = asyncio.create_task(log.follow([view], stop))  # type: ignore[list-item]
        await view.caught_up.wait()
        for _ in range(PROBES):
            await asyncio.sleep(draw.uniform(0, 2 * PROBE_EVERY_S))
            event = _response(f"probe/{uuid7()}")
            sent[event.attempts[0].target] = time.monotonic()
            sender.produce(event.topic.name, encode(event), event.key.encode())
            sender.poll(0)
        async with asyncio.timeout(30):
            await everywhere.wait()
        stop.set()
        await following
    return list(arrived.values())


def _response(target: str) -> ResponseCompleted:
    return ResponseCompleted(
        event_id=uuid7(),
        occurred_at_us=now_us(),
        request_id=uuid7(),
        key_id="k",
        route="r",
        outcome="success",
        status=200,
        attempts=[Attempt(target, "success", None, 200, 1_000, None)],
        usage_basis="none",
        stream=False,
        latency_us=1_000,
    )


def measure(arguments: Arguments) -> Verdict:
    """Run the parts on a broker of their own."""
    home = Path(tempfile.mkdtemp(prefix="weir-streams-"))
    profiles = arguments.out if os.environ.get("BENCH_PROFILE") else None
    broker = Broker(BrokerSettings(home / "kafka", port=free_port(), controller_port=free_port()))
    broker.start()
    try:
        asyncio.run(ensure_topics(Connection(broker.bootstrap)))
        bench = Bench(broker.bootstrap, home, arguments.seed, profiles)
        figures = throughput(bench, arguments.size) | freshness(bench) | keys(bench)
    finally:
        broker.stop()
        if arguments.keep:
            print(home, file=sys.stderr)
        else:
            shutil.rmtree(home, ignore_errors=True)
    if arguments.sabotage:
        figures["keys_ratio"] *= 2
    (arguments.out / "figures.json").write_text(json.dumps(figures), "utf-8")
    limits = [
        Limit("events_per_s_two_cores", EVENTS_PER_S_MIN, "min"),
        Limit("probes", PROBES, "equal"),
        Limit("fresh_p99_s", FRESH_P99_S_MAX),
        Limit("keys_ratio", KEYS_RATIO_MAX),
        Limit("rows", MANY, "min"),
        Limit("recovery_s", RECOVERY_S_MAX),
    ]
    return Verdict(figures, limits)


if __name__ == "__main__":
    main("streams", 200_000, measure)
