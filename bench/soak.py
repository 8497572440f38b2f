"""Claim: under half an hour of mixed load the workers' memory stays where it is.

Both dialects in front of both vendors, whole and streamed, for `--size` seconds. The slope is that of a
straight line through the memory of all workers together, seen every two seconds after the first third,
in which caches, connections and the allocator find their size.
"""

from __future__ import annotations

import json
import statistics
import time

import psutil

from bench.claim import Arguments, Limit, Verdict, main
from bench.gather import PACE, SHAPE, Background, settle
from bench.stack import Stack

RATE_PER_S = 40
SAMPLE_S = 2.0
SLOPE_MIB_PER_HOUR = 6.0


def measure(arguments: Arguments) -> Verdict:
    """Load for `--size` seconds, and watch."""
    samples: list[tuple[float, float]] = []
    with Stack(arguments.out, seed=arguments.seed, keep=arguments.keep) as stack:
        for model in ("gpt-4.1-nano", "claude-haiku-4-5"):
            stack.sandbox.behave("", model, **PACE)
        workers = [pid for name, pid in stack.pids().items() if name.startswith("gateway")]
        with Background(stack, arguments.seed, RATE_PER_S, SHAPE) as load:
            begun = time.monotonic()
            while (passed_s := time.monotonic() - begun) < arguments.size:
                memory = sum(psutil.Process(pid).memory_info().rss for pid in workers)
                samples.append((passed_s, memory / 2**20))
                time.sleep(SAMPLE_S)
        rows = load.rows
        figures = settle(stack, rows, arguments)
    (arguments.out / "memory.json").write_text(json.dumps(samples), "utf-8")
    late = samples[len(samples) // 3 :]
    slope = statistics.linear_regression(*zip(*late, strict=True)).slope
    figures |= {
        "seconds": arguments.size,
        "requests": len(rows),
        "client_errors": sum(not row.complete for row in rows),
        "worker_mib": round(max(memory for _, memory in samples) / len(workers), 1),
        "slope_mib_per_hour": round(slope * 3_600 / len(workers), 2),
    }
    return Verdict(
        figures=figures,
        limits=[
            Limit("slope_mib_per_hour", SLOPE_MIB_PER_HOUR),
            Limit("worker_mib", 100),
            Limit("client_errors", 0),
            Limit("lost", 0),
            Limit("doubled", 0),
            Limit("drift_nano_usd", 0),
        ],
    )


if __name__ == "__main__":
    main("soak", 1_800, measure)
