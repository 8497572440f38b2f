"""Claim (`make faults`): no process that dies takes an answer, a cent or a request with it.

Under a load of half streams in both dialects every process is killed with -9 at a time drawn from
the seed (each gateway worker, streams, control, the trainer, the broker, and the supervisor, which a
new `weir up` replaces), and the broker is away for a third of the load. `--size` is the load in
requests per second over 60 s.
"""

from __future__ import annotations

from collections import Counter

from bench.checks import calls, unexcused, workers_of
from bench.claim import Arguments, Limit, Verdict, main
from bench.fault_plan import Executioner, plan
from bench.gather import PACE, SHAPE, settle
from bench.load import Row, Settings, load, summary
from bench.rawlog import read_log
from bench.stack import Stack

DURATION_S = 60.0
WORKERS = 2
OTHERS = ("streams", "control", "trainer", "broker", "supervisor")


def measure(arguments: Arguments) -> Verdict:
    """Load, kill, wait, compare."""
    environment = {"WEIR_WORKERS": str(WORKERS), "WEIR_TRAINER": "on"}
    with Stack(
        arguments.out, seed=arguments.seed, environment=environment, keep=arguments.keep
    ) as stack:
        for model in ("gpt-4.1-nano", "claude-haiku-4-5"):
            stack.sandbox.behave("", model, **PACE)
        workers = [name for name in stack.pids() if name.startswith("gateway")]
        faults = plan(arguments.seed, DURATION_S, workers, list(OTHERS))
        executioner = Executioner(stack, faults)
        with executioner.at_work():
            rows = _load(stack, arguments)
        figures = settle(stack, rows, arguments)
    (arguments.out / "faults.txt").write_text(
        "\n".join(str(item) for item in (*faults, *executioner.deaths)) + "\n", "utf-8"
    )
    bad = unexcused(
        rows, executioner.deaths, workers_of(calls(read_log(arguments.out / "log.jsonl")))
    )
    figures |= {
        "faults": len(executioner.deaths) + (executioner.away_s > 0),
        "killed": dict(Counter(death.part for death in executioner.deaths)),
        "broker_away_s": round(executioner.away_s, 1),
        "faults_not_done": executioner.errors,
        "requests": len(rows),
        "streams": sum(row.stream for row in rows),
        "client_errors": sum(not row.complete for row in rows),
        "client_errors_unexcused": len(bad),
        "unexcused": dict(Counter(f"{row.status} {row.error}" for row in bad)),
        "latency_ms": summary(rows)["latency_ms"],
    }
    return Verdict(
        figures=figures,
        limits=[
            Limit("faults", len(workers) + len(OTHERS) + 1, "equal"),
            Limit("requests", 0.9 * arguments.size * DURATION_S, "min"),
            Limit("lost", 0),
            Limit("doubled", 0),
            Limit("not_projected", 0),
            Limit("repeat_rule_broken", 0),
            Limit("unsettled", 0),
            Limit("drift_nano_usd", 0),
            Limit("spend_drift_nano_usd", 0),
            Limit("client_errors_unexcused", 0),
        ],
    )


def _load(stack: Stack, arguments: Arguments) -> list[Row]:
    return load(
        Settings(stack.url, stack.key),
        seed=arguments.seed,
        rate_per_s=arguments.size,
        duration_s=DURATION_S,
        shape=SHAPE,
        ledger=arguments.out / "client.jsonl",
    )


if __name__ == "__main__":
    main("faults", 200, measure)
