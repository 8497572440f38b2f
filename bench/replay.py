"""Every projection again from offset 0: how fast, and whether it is the same.

    python -m bench.replay --seed 1 --size 1000000

Three proofs on one log: a rebuild beside the live projections while statements on these go on; a
projector that lost all of its local state; and an independent comparison, row by row in plain
SQL, of the database before and after that loss.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import duckdb

from bench.claim import Arguments, Limit, Verdict, main
from bench.facts import cpu_seconds, on_own_log, produce
from bench.projection import caught_up, projecting, sabotage
from infra.kafka import KafkaLog
from projections.projector import Projector
from projections.replay import Replayer, Report
from schemas.log import Connection

SIZE = 1_000_000
REBUILD_S_MAX_PER_MILLION = 25.0
TABLES = ("requests", "responses", "costs", "feedback", "calls")


class Questions:
    """Statements on the live database while something else goes on."""

    def __init__(self, projector: Projector) -> None:
        self._projector = projector
        self.answers: list[tuple[float, int]] = []

    def ask(self) -> None:
        """Run one statement and note how long it took and what it said."""
        started = time.monotonic()
        [(count,)] = self._projector.live().query("SELECT count(*) FROM requests")
        self.answers.append((time.monotonic() - started, count))


async def rebuild(connection: Connection, projector: Projector) -> tuple[Report, Questions]:
    """Replay `calls` and compare, asking questions meanwhile."""
    replayer = Replayer(projector.settings, lambda: KafkaLog(connection, "/bench"), projector)
    questions = Questions(projector)
    work = asyncio.create_task(
        asyncio.to_thread(asyncio.run, replayer.replay("calls", verify=True))
    )
    while not work.done():
        await asyncio.to_thread(questions.ask)
        await asyncio.sleep(0.25)
    return await work, questions


def difference(one: Path, other: Path) -> int:
    """Return how many rows the two databases do not share, by SQL that knows no digest."""
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{one}' AS one (READ_ONLY)")
        connection.execute(f"ATTACH '{other}' AS other (READ_ONLY)")
        total = 0
        for table in TABLES[:-1]:
            columns = f"SELECT hash(COLUMNS(* EXCLUDE (ingested_at))) FROM {{}}.{table}"
            a, b = columns.format("one"), columns.format("other")
            for left, right in ((a, b), (b, a)):
                [(count,)] = connection.execute(
                    f"SELECT count(*) FROM ({left} EXCEPT ALL {right})"
                ).fetchall()
                total += count
    return total


async def measure_on(connection: Connection, arguments: Arguments, home: Path) -> Verdict:
    """Produce, project, rebuild beside, lose everything, project again, compare."""
    rng = random.Random(arguments.seed)
    await produce(connection, rng, arguments.size)
    kept = home.with_name("before.duckdb")
    async with projecting(connection, home) as projector:
        await caught_up(projector)
        path = projector.live().path
    if arguments.sabotage:
        sabotage(path, rng)
    async with projecting(connection, home) as projector:
        await caught_up(projector)
        cpu = cpu_seconds()
        report, questions = await rebuild(connection, projector)
        cpu = cpu_seconds() - cpu
    shutil.copyfile(path, kept)
    shutil.rmtree(home)
    started = time.monotonic()
    async with projecting(connection, home) as projector:
        await caught_up(projector)
        again_s = time.monotonic() - started
        path = projector.live().path
    waits = sorted(wait for wait, _ in questions.answers)
    plain: dict[str, Any] = report.to_dict()
    (arguments.out / "report.json").write_text(json.dumps(plain), "utf-8")
    figures = {
        "events": report.events,
        "rebuild_s": report.seconds,
        "rebuild_s_per_million": round(report.seconds / report.events * 1e6, 2),
        "events_per_second": plain["events_per_second"],
        "cpu_us_per_event": round(cpu / report.events * 1e6, 1),
        "digests_different": sum(not pair.equal for pair in report.digests.values()),
        "failed_audits": len(report.failed_audits),
        "from_nothing_s": round(again_s, 2),
        "rows_different": difference(kept, path),
        "questions": len(waits),
        "question_p95_ms": round(waits[int(0.95 * len(waits))] * 1000),
        "answers_different": len({count for _, count in questions.answers}) - 1,
        "load_average": round(os.getloadavg()[0], 1),
    }
    limits = [
        Limit("rebuild_s_per_million", REBUILD_S_MAX_PER_MILLION),
        *(
            Limit(name, 0, "exactly")
            for name in (
                "digests_different",
                "failed_audits",
                "rows_different",
                "answers_different",
            )
        ),
    ]
    return Verdict(figures, limits)


def measure(arguments: Arguments) -> Verdict:
    """Run on a broker and a folder that are removed afterwards."""
    return on_own_log(measure_on, arguments)


if __name__ == "__main__":
    main("replay", SIZE, measure)
