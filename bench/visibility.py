"""Claim: an answer is visible to `weir sql` within seconds, at exactly the cost that the books say.

Visible means that the outcome of the request is among the rows of a query that an analyst sends;
the clock runs from the moment in which the client has its whole answer to the moment in which the
answer of the first query that shows it has arrived.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import threading
import time
from typing import Any

from bench.claim import Arguments, Limit, Verdict, main
from bench.gather import PACE, SHAPE, Background, settle
from bench.recount import price_list, read_books, recount
from bench.stack import ROOT, Stack, weir

RATE_PER_S = 60
POLL_S = 0.25
VISIBLE_S = 5.0
WAIT_S = 30.0
SEEN = "SELECT request_id FROM calls WHERE outcome IS NOT NULL AND cost_nano_usd IS NOT NULL"


class Watcher:
    """Asks for the visible calls again and again; `seen_us` is when each was first there."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.seen_us: dict[str, int] = {}
        self.queries: list[float] = []
        self.error: Exception | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the query in progress. Raises what a query has raised."""
        self._stop.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _watch(self) -> None:
        try:
            while not self._stop.wait(POLL_S):
                begun = time.monotonic()
                rows = self._stack.sql(SEEN)
                self.queries.append(time.monotonic() - begun)
                now_us = time.time_ns() // 1_000
                for row in rows:
                    self.seen_us.setdefault(str(row["request_id"]), now_us)
        except Exception as error:  # noqa: BLE001 - raised again by `stop`
            self.error = error


def measure(arguments: Arguments) -> Verdict:
    """Send `--size` requests and watch them appear."""
    with Stack(arguments.out, seed=arguments.seed, keep=arguments.keep) as stack:
        for model in ("gpt-4.1-nano", "claude-haiku-4-5"):
            stack.sandbox.behave("", model, **PACE)
        watcher = Watcher(stack)
        watcher.start()
        with Background(stack, arguments.seed, RATE_PER_S, SHAPE) as load:
            while len(load.rows) < arguments.size:
                time.sleep(0.1)
        rows = load.rows
        deadline = time.monotonic() + WAIT_S
        while len(watcher.seen_us) < len(rows) and time.monotonic() < deadline:
            time.sleep(0.1)
        watcher.stop()
        figures = settle(stack, rows, arguments)
        expected = sum(
            call.cost_nano_usd
            for call in recount(read_books(stack.sandbox.books), price_list()).values()
        )
        asked = ask_weir_sql(stack)
    (arguments.out / "seen.json").write_text(json.dumps(watcher.seen_us), "utf-8")
    if arguments.sabotage:
        watcher.seen_us.pop(next(iter(watcher.seen_us)))
    delays = sorted(
        max(0, watcher.seen_us[row.request_id] - row.ended_at_us) / 1e6
        for row in rows
        if row.request_id in watcher.seen_us
    )
    figures |= {
        "requests": len(rows),
        "client_errors": sum(not row.complete for row in rows),
        "never_visible": len(rows) - len(delays),
        "visible_p50_s": round(statistics.median(delays), 3),
        "visible_p99_s": round(delays[max(0, -(-len(delays) * 99 // 100) - 1)], 3),
        "visible_max_s": round(delays[-1], 3),
        "query_p50_ms": round(statistics.median(watcher.queries) * 1_000, 1),
        "cost_nano_usd": int(asked["cost"]),
        "recount_nano_usd": expected,
        "cost_difference": abs(int(asked["cost"]) - expected),
    }
    return Verdict(
        figures=figures,
        limits=[
            Limit("visible_p99_s", VISIBLE_S),
            Limit("never_visible", 0),
            Limit("client_errors", 0),
            Limit("cost_difference", 0),
            Limit("drift_nano_usd", 0),
            Limit("spend_drift_nano_usd", 0),
            Limit("lost", 0),
            Limit("doubled", 0),
        ],
    )


def ask_weir_sql(stack: Stack) -> dict[str, Any]:
    """Return the sums that the command `weir sql --json` prints."""
    query = "SELECT count(*) AS n, CAST(sum(cost_nano_usd) AS BIGINT) AS cost FROM calls"
    environment = stack.environment() | {"WEIR_KEY": stack.key}
    run = subprocess.run(
        weir("sql", "--json", query),
        check=True,
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        timeout=60,
    )
    answer = json.loads(run.stdout)
    names = [column["name"] for column in answer["columns"]]
    return dict(zip(names, answer["rows"][0], strict=True))


if __name__ == "__main__":
    main("visibility", 1_000, measure)
