"""Claim: every live table is exact, whatever dies under it, and keeps pace with the gateways.

Rounds: under load streams processes are stopped and killed, a second one joins and leaves, the
broker stops and dies. Then a steady load, undisturbed. After each of the two, every table is held
against a recount of the ledger that shares no code with the folds, and every row of every fold
against the log itself.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bench.claim import Arguments, Limit, Verdict, main
from bench.streams_load import Load, Sent, producer
from bench.streams_recount import differences, lost_and_doubled, recount
from bench.streams_replay import followed, replay
from bench.streams_tables import Follower, Tables
from bench.streams_worker import Worker
from infra.broker import Broker, BrokerSettings, free_port
from infra.topics import ensure_topics
from schemas.log import Connection

EVENTS = 1_000_000
ROUNDS = 50
EVENTS_PER_ROUND = EVENTS // ROUNDS
EVENTS_PER_S = 2_000
DISTURBED_EVENTS_PER_S = 1_000
PAUSE_S = (1.5, 4.5)
LAG_P95_S_MAX = 5.0
CATCH_UP_S = 300.0
ACTIONS = ("stop", "kill", "second", "broker", "second")


@dataclass
class Ledger:
    """What was sent, in a file: a million lines need no memory."""

    path: Path

    def __post_init__(self) -> None:
        self._out = self.path.open("ab")

    def note(self, sent: Sent) -> None:
        """Keep a line."""
        self._out.write(msgspec.json.encode(sent) + b"\n")

    def read(self) -> Iterator[Sent]:
        """Yield what was kept."""
        self._out.flush()
        decoder = msgspec.json.Decoder(Sent)
        with self.path.open("rb") as lines:
            for line in lines:
                yield decoder.decode(line)


class Sending:
    """Sends a load in a thread, at a steady pace."""

    def __init__(self, bootstrap: str, load: Load, events_per_s: int, events_max: int = 0) -> None:
        self._bootstrap = bootstrap
        self._load = load
        self._per_s = events_per_s
        self._max = events_max
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Sending:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def finish(self) -> None:
        """Wait until everything is sent."""
        self._thread.join()

    def _run(self) -> None:
        sender = producer(self._bootstrap)
        begun, already = time.monotonic(), self._load.sent
        while not self._over.wait(0.1):
            due = int((time.monotonic() - begun) * self._per_s)
            if self._max:
                due = min(due, self._max)
            self._load.send(sender, max(0, already + due - self._load.sent))
            if self._max and self._load.sent - already >= self._max:
                return


@dataclass
class Disturbance:
    """Two streams processes and a broker to which things happen; what died is started again."""

    broker: Broker
    home: Path
    draw: random.Random
    actions: tuple[str, ...] = ACTIONS
    done: list[dict[str, Any]] = field(default_factory=list)
    died: int = 0
    slow: int = 0
    """Processes that had not ended half a minute after SIGTERM, and were killed."""

    def __post_init__(self) -> None:
        self.first, self.second = (
            Worker(self.broker.bootstrap, self.home / f"worker{number}", {"worker": number})
            for number in range(2)
        )
        self._wanted = {id(self.first)}

    def rounds(self, count: int, pause_s: tuple[float, float] = PAUSE_S) -> None:
        """Do one thing after another, each sort as often as the others, in a drawn order."""
        left: list[str] = []
        self.watch()
        for _ in range(count):
            if not left:
                left = self.draw.sample(self.actions, len(self.actions))
            until = time.monotonic() + self.draw.uniform(*pause_s)
            while time.monotonic() < until:
                time.sleep(0.2)
                self.watch()
            number = self.draw.choice([signal.SIGKILL, signal.SIGTERM])
            self.done.append({"action": self._do(left.pop(), number), "at": time.time()})
            self.watch()

    def _do(self, action: str, number: signal.Signals) -> str:
        if action == "broker":
            if number is signal.SIGKILL:
                self.broker.kill()
            else:
                self.broker.stop()
            self.broker.start()
            return f"broker {number.name}"
        if action != "second":
            number = signal.SIGKILL if action == "kill" else signal.SIGTERM
            self._end(self.first, number)
            return f"first {number.name}"
        if id(self.second) in self._wanted:
            self._wanted.discard(id(self.second))
            self._end(self.second, number)
            return f"second {number.name}"
        self._wanted.add(id(self.second))
        return "second joins"

    def _end(self, worker: Worker, number: int) -> None:
        if worker.runs:
            self.slow += not worker.end(number)
        worker.process = None

    def watch(self) -> None:
        """Start what should run and does not, as a supervisor would."""
        for worker in (self.first, self.second):
            if id(worker) in self._wanted and not worker.runs:
                if worker.process is not None:
                    self.died += 1
                    ended = f"{worker.home.name} ended by itself, {worker.process.returncode}"
                    self.done.append({"action": ended, "at": time.time()})
                worker.start()

    def wait_caught_up(self, tables: Tables, limit_s: float = CATCH_UP_S) -> None:
        """Wait for the tables, with what may die meanwhile. Raises TimeoutError."""
        begun = time.monotonic()
        while True:
            self.watch()
            try:
                tables.caught_up(limit_s=2.0)
                return
            except TimeoutError:
                if time.monotonic() - begun > limit_s:
                    raise

    def close(self) -> None:
        """End the processes."""
        for worker in (self.first, self.second):
            if worker.runs:
                worker.end()


def compared(
    bootstrap: str, tables: Tables, ledger: Ledger, prefix: str, out: Path, *, sabotage: bool
) -> dict[str, Any]:
    """Return how the tables fare against ledger and log; what differs is kept in files."""
    lines = ledger.read()
    if sabotage:
        next(lines)
    wanted = recount(lines)
    found = tables.figures(prefix)
    wrong = differences(wanted, found)
    log = replay(bootstrap, tables, {f"{prefix}-"})
    missing = sum(sent.event_id not in log.ids for sent in ledger.read())
    (out / f"differences-{prefix}.txt").write_text("\n".join([*wrong, *log.wrong]), "utf-8")
    lost, doubled = lost_and_doubled(wanted, found)
    lags = sorted(log.lags_ms)
    return {
        "events": log.events,
        "repeats": log.repeats,
        "rows": log.rows,
        "empty_tables": len(log.empty),
        "figures": len(wanted),
        "wrong": len(wrong) + len(log.wrong),
        "lost": lost + missing,
        "doubled": doubled,
        "lag_p50_s": lags[len(lags) // 2] / 1_000,
        "lag_p95_s": lags[len(lags) * 95 // 100] / 1_000,
        "lag_max_s": lags[-1] / 1_000,
    }


def disturbed(
    broker: Broker, home: Path, arguments: Arguments, rounds: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Send while things happen; return the figures, and what happened."""
    prefix = f"d{arguments.seed}"
    ledger = Ledger(arguments.out / "disturbed.jsonl")
    load = Load(arguments.seed, prefix, int(time.time()), ledger.note, DISTURBED_EVENTS_PER_S)
    tables = Tables(broker.bootstrap, followed())
    disturbance = Disturbance(broker, home, random.Random(arguments.seed))
    try:
        with Follower(tables), Sending(broker.bootstrap, load, DISTURBED_EVENTS_PER_S):
            disturbance.rounds(rounds)
        disturbance.wait_caught_up(tables)
        figures = compared(
            broker.bootstrap, tables, ledger, prefix, arguments.out, sabotage=arguments.sabotage
        )
    finally:
        disturbance.close()
        tables.close()
    for kind in ("first SIGTERM", "first SIGKILL", "second joins", "broker SIG"):
        told = kind.lower().replace(" ", "_").removesuffix("_sig")
        figures[told] = sum(done["action"].startswith(kind) for done in disturbance.done)
    figures["died_by_itself"] = disturbance.died
    figures["slow_to_end"] = disturbance.slow
    return figures, disturbance.done


def steady(broker: Broker, home: Path, arguments: Arguments) -> dict[str, Any]:
    """Send `--size` events at an even pace to one process."""
    prefix = f"s{arguments.seed}"
    ledger = Ledger(arguments.out / "steady.jsonl")
    load = Load(arguments.seed, prefix, int(time.time()), ledger.note, EVENTS_PER_S)
    tables = Tables(broker.bootstrap, followed())
    worker = Worker(broker.bootstrap, home / "steady")
    worker.start()
    try:
        worker.ready()
        tables.caught_up(limit_s=CATCH_UP_S)
        begun = time.monotonic()
        with (
            Follower(tables),
            Sending(broker.bootstrap, load, EVENTS_PER_S, arguments.size) as sending,
        ):
            sending.finish()
            seconds = time.monotonic() - begun
        tables.caught_up(limit_s=CATCH_UP_S)
        cpu_s = worker.cpu_s()
        figures = compared(broker.bootstrap, tables, ledger, prefix, arguments.out, sabotage=False)
    finally:
        if worker.runs:
            worker.end(signal.SIGTERM)
        tables.close()
    figures["sent"] = load.sent
    figures["sent_per_s"] = round(load.sent / seconds)
    figures["cpu_us_per_event"] = round(cpu_s * 1e6 / load.sent, 1)
    return figures


def measure(arguments: Arguments) -> Verdict:
    """Run both parts on a broker of their own; `--size` events make a round for each 20,000."""
    home = Path(tempfile.mkdtemp(prefix="weir-exactness-"))
    rounds = max(len(ACTIONS), min(ROUNDS, arguments.size // EVENTS_PER_ROUND))
    broker = Broker(BrokerSettings(home / "kafka", port=free_port(), controller_port=free_port()))
    broker.start()
    try:
        asyncio.run(ensure_topics(Connection(broker.bootstrap)))
        first, actions = disturbed(broker, home, arguments, rounds)
        second = steady(broker, home, arguments)
    finally:
        broker.stop()
        if arguments.keep:
            print(home, file=sys.stderr)
        else:
            shutil.rmtree(home, ignore_errors=True)
    (arguments.out / "actions.json").write_bytes(msgspec.json.encode(actions))
    parts = {"disturbed": first, "steady": second}
    figures: dict[str, Any] = {"rounds": rounds, "tables": len(followed())}
    for part, found in parts.items():
        figures |= {f"{part}_{name}": value for name, value in found.items()}
    names = ("wrong", "lost", "doubled", "empty_tables")
    limits = [Limit(f"{part}_{name}", 0) for part in parts for name in names]
    limits += [
        Limit("disturbed_figures", 1, "min"),
        Limit("steady_sent", arguments.size, "equal"),
        Limit("steady_lag_p95_s", LAG_P95_S_MAX),
    ]
    return Verdict(figures, limits)


if __name__ == "__main__":
    main("exactness", EVENTS, measure)
