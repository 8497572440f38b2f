"""Claim: a slow provider on a real stack gives calls away by an optimizer's decision, and gets them back.

Of two equal targets one, drawn from the seed, answers too slowly for a while. Decisions are read from
the log, shares from the admissions. The figures of the optimizer are small, so that minutes are enough.
"""

from __future__ import annotations

import random
import time

from bench.claim import Arguments, Limit, Verdict, main
from bench.gather import Background
from bench.rawlog import Raw, dump, read_log, read_topics, unique
from bench.stack import TENANTS, Stack
from bench.steering import MODEL, SHAPE, share

OPTIMIZER = "weir.optimizer.v1"
TOPICS = ("weir.llm.requests.v1", OPTIMIZER)
ACTED = "weir.optimizer.acted"
QUICK = {"first_token_ms": 10, "per_token_ms": 0.2, "answer_tokens_max": 24, "tokens_per_frame": 4}
SLOW = QUICK | {"first_token_ms": 900}
CONFIG = """[optimizer]
interval_s = 5
window_s = 60
cooldown_s = 30
expiry_s = 180
latency_max_ms = 400

[routes.pair]
strategy = "weighted"
targets = [{}]
""".format(", ".join(f'{{ target = "{tenant}/{MODEL}" }}' for tenant in TENANTS))
CALM_S = 30.0
LONGEST_S = 240.0
"""So long may a decision take, and so long the way back."""
LOOK_S = 3.0
HELD_S = 20.0


def acts(stack: Stack, target: str) -> list[dict[str, object]]:
    """Return the decisions about a target so far, in order."""
    found = [
        record.body
        for record in unique(read_topics(stack.bootstrap, [OPTIMIZER]))
        if record.type == ACTED and record.body is not None and record.body["target"] == target
    ]
    return sorted(found, key=lambda body: body["number"])


def awaited(stack: Stack, target: str, states: set[str], factor: float) -> float | None:
    """Wait for a decision in one of the states that leaves at most, or is, a part; seconds it took."""
    begun = time.monotonic()
    while time.monotonic() - begun < LONGEST_S:
        last = acts(stack, target)[-1:]
        if last and last[0]["state"] in states and float(str(last[0]["factor"])) <= factor:
            return round(time.monotonic() - begun, 1)
        time.sleep(LOOK_S)
    return None


def measure(arguments: Arguments) -> Verdict:
    """Load both targets at `--size` requests a second; sabotage never lets the victim be slow."""
    tenant = random.Random(arguments.seed).choice(TENANTS)
    victim = f"{tenant}/{MODEL}"
    with Stack(arguments.out, seed=arguments.seed, config=CONFIG, keep=arguments.keep) as stack:
        for name in TENANTS:
            stack.sandbox.behave(name, MODEL, **QUICK)
        with Background(stack, arguments.seed, arguments.size, SHAPE) as load:
            time.sleep(CALM_S)
            onset_us = time.time_ns() / 1e3
            stack.sandbox.behave(tenant, MODEL, **(QUICK if arguments.sabotage else SLOW))
            acted_s = awaited(stack, victim, {"active"}, 0.5)
            acted_us = time.time_ns() / 1e3 + LOOK_S * 1e6
            time.sleep(HELD_S)
            shifted_us = time.time_ns() / 1e3
            stack.sandbox.behave(tenant, MODEL, **QUICK)
            restored_s = awaited(stack, victim, {"restored", "expired"}, 1.0)
            restored_us = time.time_ns() / 1e3 + LOOK_S * 1e6
            time.sleep(HELD_S)
            end_us = time.time_ns() / 1e3
        decided = acts(stack, victim)
        dump(read_topics(stack.bootstrap, TOPICS), arguments.out / "log.jsonl")
    records: list[Raw] = read_log(arguments.out / "log.jsonl")
    figures = {
        "victim": victim,
        "acted_after_s": acted_s,
        "restored_after_s": restored_s,
        "decisions": [[one["rule"], one["state"], one["factor"]] for one in decided],
        "wrong_rules": sum(one["rule"] != "high_latency" for one in decided),
        "share_before": share(records, victim, 0, onset_us),
        "share_shifted": share(records, victim, acted_us, shifted_us),
        "share_restored": share(records, victim, restored_us, end_us),
        "client_errors": sum(not row.complete for row in load.rows),
    }
    return Verdict(
        figures,
        [
            Limit("acted_after_s", 150.0),
            Limit("restored_after_s", LONGEST_S),
            Limit("wrong_rules", 0),
            Limit("share_before", 0.40, "min"),
            Limit("share_shifted", 0.32),
            Limit("share_restored", 0.40, "min"),
            Limit("client_errors", 0),
        ],
    )


if __name__ == "__main__":
    main("rules_live", 20, measure)
