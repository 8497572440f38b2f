"""Claim: live health steers. Of two equal targets the one that fails loses its traffic, and gets it back.

A victim drawn from the seed fails half its calls for a while. Its share of first choices is read
from the admissions in the log, by their own time; a call of the books that no admission asked for
would be a probe that somebody pays.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable

from bench.checks import ADMITTED, calls, count_by
from bench.claim import Arguments, Limit, Verdict, main
from bench.gather import Background, settle
from bench.rawlog import Raw, read_log, unique
from bench.recount import price_list, read_books, recount
from bench.stack import TENANTS, Stack
from bench.workload import Shape, Share

MODEL = "gpt-4.1-nano"
QUICK = {"first_token_ms": 10, "per_token_ms": 0.2, "answer_tokens_max": 24, "tokens_per_frame": 4}
CALM_S = 20.0
FAILING_S = 40.0
RECOVERY_S = 60.0
"""The victim must have its traffic back this long after its recovery."""
LOSS_S = 10.0
WINDOW_S = 10.0
CONFIG = "[routes.pair]\ntargets = [{}]\n".format(
    ", ".join(f'{{ target = "{tenant}/{MODEL}" }}' for tenant in TENANTS)
)
SHAPE = Shape(
    (Share("openai", "pair"), Share("anthropic", "pair")),
    tools=0.0,
    feedback=0.0,
    words_median=20,
    words_max=100,
    answer_tokens=(16,),
)


def measure(arguments: Arguments) -> Verdict:
    """Load both targets at `--size` requests a second through one episode of failure."""
    tenant = random.Random(arguments.seed).choice(TENANTS)
    victim = f"{tenant}/{MODEL}"
    with Stack(arguments.out, seed=arguments.seed, config=CONFIG, keep=arguments.keep) as stack:
        for name in TENANTS:
            stack.sandbox.behave(name, MODEL, **QUICK)
        begun = time.monotonic()
        with Background(stack, arguments.seed, arguments.size, SHAPE) as load:
            time.sleep(CALM_S)
            faults = [{"kind": "server_error", "rate": 0.5}]
            stack.sandbox.behave(tenant, MODEL, **QUICK, faults=faults)
            onset_us = time.time_ns() / 1e3
            time.sleep(FAILING_S)
            stack.sandbox.behave(tenant, MODEL, **QUICK)
            recovery_us = time.time_ns() / 1e3
            time.sleep(RECOVERY_S + WINDOW_S)
        duration_s = time.monotonic() - begun
        figures = settle(stack, load.rows, arguments)
        books = recount(read_books(stack.sandbox.books), price_list())
    records = read_log(arguments.out / "log.jsonl")
    admitted = calls(records).admitted
    late_us = recovery_us + RECOVERY_S * 1e6
    figures |= {
        "victim": victim,
        "requests_per_s": round(len(load.rows) / duration_s, 1),
        "first_choices": count_by(admitted.values(), "target"),
        "share_before": share(records, victim, 0, onset_us),
        "share_failing": share(records, victim, onset_us + LOSS_S * 1e6, recovery_us),
        "share_recovered": share(records, victim, late_us, late_us + WINDOW_S * 1e6),
        "recovered_after_s": recovered_after_s(records, victim, recovery_us),
        "client_errors": sum(not row.complete for row in load.rows),
        "unasked_calls": sum(
            call.calls for request, call in books.items() if request not in admitted
        ),
    }
    return Verdict(
        figures=figures,
        limits=[
            Limit("requests_per_s", 50, "min"),
            Limit("share_failing", 0.05),
            Limit("share_recovered", 0.40, "min"),
            Limit("recovered_after_s", RECOVERY_S),
            Limit("client_errors", 0),
            Limit("unasked_calls", 0),
            Limit("lost", 0),
            Limit("doubled", 0),
            Limit("drift_nano_usd", 0),
        ],
    )


def share(records: Iterable[Raw], victim: str, from_us: float, to_us: float) -> float | None:
    """Return the victim's share of the first choices in a span, None when there were none."""
    chosen = [
        record.body["target"]
        for record in unique(records)
        if record.type == ADMITTED
        and record.body is not None
        and from_us <= record.body["occurred_at_us"] < to_us
    ]
    return round(chosen.count(victim) / len(chosen), 4) if chosen else None


def recovered_after_s(records: list[Raw], victim: str, recovery_us: float) -> float | None:
    """Return after how many seconds a span of ten gives the victim over 40% for the first time."""
    for second in range(int(RECOVERY_S) + 1):
        begin_us = recovery_us + second * 1e6
        found = share(records, victim, begin_us, begin_us + WINDOW_S * 1e6)
        if found is not None and found > 0.40:
            return float(second)
    return None


if __name__ == "__main__":
    main("steering", 60, measure)
