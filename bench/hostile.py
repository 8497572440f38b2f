"""Claim: callers that misbehave are contained: nobody beside them loses an answer or waits long.

Malformed HTTP, smuggled requests, floods of headers, huge bodies, broken WebSockets, then 200 slow
callers at once in each of four ways, beside a well-behaved load of both dialects. Each hostile socket
hears a 4xx or is closed in time. Every well-behaved call is answered and stands once in the log, with
its cost; their p99 stays within a factor of what it was before; the workers' memory stays bounded and
comes back, as do their sockets. `--size` is how often the quick cases run, times four.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import msgspec
import psutil

from bench.claim import Arguments, Limit, Verdict, main
from bench.gather import MUST_BE_ZERO, PACE, SHAPE, Background, settle
from bench.hostile_cases import SLOW_AT_ONCE
from bench.hostile_send import Outcome, attack_all
from bench.load import Row, summary
from bench.stack import Stack

TIMES = 4
RATE_PER_S = 15.0
CALM_S = 20.0
AFTER_S = 25.0
"""Longer than a refused caller's rest is read away."""
P99_FACTOR = 5.0
P99_FLOOR_MS = 300.0
GROWTH_MIB = 384.0
LEFT_MIB = 128.0
SAMPLE_S = 0.1


class Watch(threading.Thread):
    """Watches the memory of the gateway's workers."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(daemon=True)
        pids = stack.pids()
        self.workers = {name: pid for name, pid in pids.items() if name.startswith("gateway")}
        self._processes = [psutil.Process(pid) for pid in self.workers.values()]
        self._port = stack.port
        self._over = threading.Event()
        self.peak_mib = 0.0

    def run(self) -> None:
        """Sample until `close`."""
        while not self._over.wait(SAMPLE_S):
            self.peak_mib = max(self.peak_mib, self.mib())

    def mib(self) -> float:
        """Return the resident memory of the largest worker; 0 when one has died."""
        try:
            return float(max(it.memory_info().rss for it in self._processes)) / 2**20
        except psutil.NoSuchProcess:
            return 0.0

    def sockets(self) -> int:
        """Return how many connections of callers the workers hold; all of them when one has died."""
        try:
            return sum(
                connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port == self._port
                for process in self._processes
                for connection in process.net_connections("tcp")
            )
        except psutil.NoSuchProcess:
            return SLOW_AT_ONCE

    def settled_sockets(self) -> int:
        """Return how many connections are still held when nobody calls any more."""
        until_s = time.monotonic() + AFTER_S
        while (held := self.sockets()) and time.monotonic() < until_s:
            time.sleep(SAMPLE_S)
        return held

    def close(self) -> None:
        """Stop."""
        self._over.set()
        self.join()


def storm(stack: Stack, arguments: Arguments) -> tuple[list[Row], dict[str, Any]]:
    """Misbehave beside a well-behaved load; return its ledger, and how both fared."""
    watch = Watch(stack)
    ledger = arguments.out / "hostile.jsonl"
    with Background(stack, arguments.seed, RATE_PER_S, SHAPE) as load:
        time.sleep(CALM_S)
        calm = len(load.rows)
        before_mib = watch.mib()
        watch.start()
        begun = time.monotonic()
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            pool.submit(attack_all, stack.port, stack.key, arguments.size, str(ledger)).result()
        storm_s = time.monotonic() - begun
        stormy = len(load.rows)
    sockets_left = watch.settled_sockets()
    watch.close()
    after_mib = watch.mib()
    with ledger.open("rb") as lines:
        outcomes = [msgspec.json.decode(line, type=Outcome) for line in lines]
    p99_calm = summary(load.rows[:calm])["latency_ms"]["p99"]
    p99_storm = summary(load.rows[calm:stormy])["latency_ms"]["p99"]
    alive = stack.pids()
    problems = Counter(f"{it.case}: {it.problem}" for it in outcomes if it.problem)
    return load.rows, {
        "hostile_sockets": len(outcomes),
        "hostile_cases": len({it.case for it in outcomes}),
        "uncontained": sum(problems.values()),
        "uncontained_first": [f"{count}: {what}" for what, count in problems.most_common(8)],
        "slowest_end_s": max(it.elapsed_s for it in outcomes),
        "storm_s": round(storm_s, 1),
        "calls": len(load.rows),
        "calls_failed": sum(not row.complete for row in load.rows),
        "p99_ms_calm": p99_calm,
        "p99_ms_storm": p99_storm,
        "p99_ratio": round(p99_storm / max(p99_calm, P99_FLOOR_MS), 2),
        "worker_mib": round(before_mib, 1),
        "worker_mib_peak": round(watch.peak_mib, 1),
        "worker_growth_mib": round(watch.peak_mib - before_mib, 1),
        "worker_left_mib": round(after_mib - before_mib, 1),
        "sockets_left": sockets_left,
        "workers_died": sum(alive.get(name) != pid for name, pid in watch.workers.items()),
    }


def measure(arguments: Arguments) -> Verdict:
    """Misbehave, wait until all sides agree, compare."""
    with Stack(arguments.out, seed=arguments.seed, keep=arguments.keep) as stack:
        for model in ("gpt-4.1-nano", "claude-haiku-4-5"):
            stack.sandbox.behave("", model, **PACE)
        rows, figures = storm(stack, arguments)
        figures |= settle(stack, rows, arguments)
    return Verdict(
        figures=figures,
        limits=[
            Limit("uncontained", 0),
            Limit("calls_failed", 0),
            Limit("p99_ratio", P99_FACTOR),
            Limit("worker_growth_mib", GROWTH_MIB),
            Limit("worker_left_mib", LEFT_MIB),
            Limit("sockets_left", 0),
            Limit("workers_died", 0),
            *(Limit(name, 0) for name in MUST_BE_ZERO),
        ],
    )


if __name__ == "__main__":
    main("hostile", TIMES, measure)
