"""Kafka to committed rows: how fast, and how soon SQL sees an event.

    python -m bench.projection --seed 1 --size 1000000

A backlog of `size` events is projected into an empty database (throughput); then calls arrive at
a steady pace while statements are run through the analysts' path, snapshots included, and each
call's time from its acknowledgement by Kafka to the first answer that shows it is taken. At the
end the rows are compared with the producer's books.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from bench.claim import Arguments, Limit, Verdict, main
from bench.facts import Books, Outbox, call_events, cpu_seconds, on_own_log, produce
from infra.kafka import KafkaLog
from projections.analyst import Analyst
from projections.projection import projections
from projections.projector import Projector
from projections.settings import ProjectionsSettings
from schemas.events.llm import RequestAdmitted
from schemas.log import Connection

SIZE = 1_000_000
EVENTS_PER_SECOND_MIN = 60_000
VISIBLE_S_MAX = 5.0
CALLS = 1_000
CALLS_PER_SECOND = 50
POLL_S = 0.1


@contextlib.asynccontextmanager
async def projecting(connection: Connection, folder: Path) -> AsyncIterator[Projector]:
    """A projector that runs, with its database in `folder`."""
    projector = Projector(ProjectionsSettings(folder), lambda: KafkaLog(connection, "/bench"))
    stop = asyncio.Event()
    task = asyncio.create_task(projector.run(stop))
    try:
        yield projector
    finally:
        stop.set()
        await task


async def caught_up(projector: Projector) -> None:
    """Wait until the projector has committed everything there is."""
    while not (projector.caught_up.is_set() and projector.status.lag_records == 0):  # noqa: ASYNC110
        await asyncio.sleep(0.02)


class Visibility:
    """When each call was acknowledged, and when a statement first showed it."""

    def __init__(self) -> None:
        self.sent: dict[str, float] = {}
        self.seen: dict[str, float] = {}

    def look(self, analyst: Analyst) -> None:
        """Run one statement as an analyst would and note what it shows."""
        result = analyst.run(
            "SELECT request_id FROM calls WHERE session_id = 'visibility'", rows=CALLS
        )
        now = time.monotonic()
        for (request_id,) in msgspec.json.decode(result.rows, type=list[tuple[str]]):
            self.seen.setdefault(request_id, now)

    def quantile(self, q: float) -> float | None:
        """Return the q-quantile in seconds; a call that never showed makes it unknown."""
        if not self.sent or self.sent.keys() - self.seen.keys():
            return None
        waits = sorted(self.seen[request] - sent for request, sent in self.sent.items())
        return round(waits[min(len(waits) - 1, int(q * len(waits)))], 3)


async def watch(
    connection: Connection, projector: Projector, rng: random.Random, books: Books
) -> Visibility:
    """Produce calls at a pace while statements look for them."""
    found = Visibility()
    analyst = Analyst(projector.settings, projector.snapshot, [item.name for item in projections()])
    outbox = Outbox(connection, f"{rng.getrandbits(64):016x}")

    def load() -> None:
        started = time.monotonic()
        for number in range(CALLS):
            time.sleep(max(0.0, started + number / CALLS_PER_SECOND - time.monotonic()))
            for event in call_events(rng, books):
                if isinstance(event, RequestAdmitted):
                    event = msgspec.structs.replace(event, session_id="visibility")
                    request_id = event.request_id
                outbox.send(event)
            outbox.flush()
            found.sent[request_id] = time.monotonic()

    loading = asyncio.create_task(asyncio.to_thread(load))
    deadline = time.monotonic() + CALLS / CALLS_PER_SECOND + 60
    while not loading.done() or (len(found.seen) < len(found.sent) and time.monotonic() < deadline):
        await asyncio.to_thread(found.look, analyst)
        await asyncio.sleep(POLL_S)
    await loading
    analyst.close()
    return found


def sabotage(path: Path, rng: random.Random) -> None:
    """Drop or double one row of the ledger."""
    with duckdb.connect(str(path)) as connection:
        one = "(SELECT min(event_id) FROM costs WHERE cost_nano_usd > 0)"
        if rng.random() < 0.5:
            connection.execute(f"DELETE FROM costs WHERE event_id = {one}")
        else:
            connection.execute(f"INSERT INTO costs SELECT * FROM costs WHERE event_id = {one}")


def recount(path: Path, books: Books) -> dict[str, Any]:
    """Compare the tables with the producer's books, in plain SQL over plain rows."""
    with duckdb.connect(str(path), read_only=True) as connection:
        rows = distinct = 0
        for table in ("requests", "responses", "costs", "feedback"):
            [(count, ids)] = connection.execute(
                f"SELECT count(*), count(DISTINCT event_id) FROM {table}"
            ).fetchall()
            rows, distinct = rows + count, distinct + ids
        by_team = dict(
            connection.execute(
                "SELECT team, sum(cost_nano_usd)::VARCHAR FROM costs GROUP BY team"
            ).fetchall()
        )
        [(calls,)] = connection.execute("SELECT count(*) FROM calls").fetchall()
    teams = books.cost_by_team.keys() | by_team.keys()
    return {
        "lost": books.events - distinct,
        "doubled": rows - distinct,
        "calls_difference": calls - books.calls,
        "cost_drift_nano_usd": sum(
            abs(int(by_team.get(team) or 0) - books.cost_by_team.get(team, 0)) for team in teams
        ),
    }


async def measure_on(connection: Connection, arguments: Arguments, home: Path) -> Verdict:
    """Produce, project, watch, recount."""
    rng = random.Random(arguments.seed)
    books = await produce(connection, rng, arguments.size)
    cpu, started = cpu_seconds(), time.monotonic()
    async with projecting(connection, home) as projector:
        await caught_up(projector)
        seconds, cpu = time.monotonic() - started, cpu_seconds() - cpu
        backlog = projector.status.events_total
        visibility = await watch(connection, projector, rng, books)
        await caught_up(projector)
        path = projector.live().path
    if arguments.sabotage:
        sabotage(path, rng)
    (arguments.out / "books.json").write_text(json.dumps(msgspec.to_builtins(books)), "utf-8")
    (arguments.out / "visibility.json").write_text(
        json.dumps({"sent": visibility.sent, "seen": visibility.seen}), "utf-8"
    )
    figures = {
        "events": backlog,
        "seconds": round(seconds, 2),
        "events_per_second": int(backlog / seconds),
        "cpu_us_per_event": round(cpu / backlog * 1e6, 1),
        "visible_p50_s": visibility.quantile(0.5),
        "visible_p99_s": visibility.quantile(0.99),
        "load_average": round(os.getloadavg()[0], 1),
        **recount(path, books),
    }
    limits = [
        Limit("events_per_second", EVENTS_PER_SECOND_MIN, "min"),
        Limit("visible_p99_s", VISIBLE_S_MAX),
        *(
            Limit(name, 0, "exactly")
            for name in ("lost", "doubled", "calls_difference", "cost_drift_nano_usd")
        ),
    ]
    return Verdict(figures, limits)


def measure(arguments: Arguments) -> Verdict:
    """Run on a broker and a folder that are removed afterwards."""
    return on_own_log(measure_on, arguments)


if __name__ == "__main__":
    main("projection", SIZE, measure)
