"""Claim: the official clients of every language work, whatever kind of provider stands behind.

One script of cases (`bench/probes/script.json`) is played by the official OpenAI and Anthropic clients,
unmodified, for Python (OpenAI's in three major versions), TypeScript, Go and Java, against one Weir
with a provider of each kind behind it. A language whose tools this machine lacks is skipped and named
with the reason. Every (client, case, target) is a row of `conformance.jsonl`.

With `--sabotage` the clients reach Weir through a proxy that spoils one frame of one stream.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.claim import Arguments, Limit, Verdict, main
from bench.conformance_targets import CASES, TARGETS, Target, added_models, config, environment
from bench.runtimes import PROBES, Probe, probes
from bench.spoiler import Spoiler
from bench.stack import Sandbox, Stack, base_port, fetch

AT_ONCE = 2
RETRY_AFTER_S = 30
PARALLEL_PROMPTS = 40
"""Prompts after which one has made the sandbox call two tools at once (one in four does)."""
FAULTS: dict[str, dict[str, Any]] = {
    "limited": {"kind": "rate_limited", "retry_after_s": RETRY_AFTER_S},
    "away": {"kind": "unavailable"},
    "full": {"kind": "context_too_long"},
}


def measure(arguments: Arguments) -> Verdict:
    """Build what can be built here, then play the script against one Weir."""
    there, skipped = probes(os.environ.get("BENCH_RUNTIMES", ""))
    targets = TARGETS[: arguments.size]
    url = f"http://127.0.0.1:{base_port() + 6}"
    with ExitStack() as exits:
        stack = exits.enter_context(
            Stack(
                arguments.out,
                seed=arguments.seed,
                keep=arguments.keep,
                config=config(targets, url),
                environment=environment(targets, url),
            )
        )
        prepare(stack.sandbox, targets)
        at = stack.url
        if arguments.sabotage:
            at = exits.enter_context(Spoiler(base_port() + 10, stack.port)).url
        plan = write_plan(arguments.out, at, stack.key, targets)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            rows = [row for found in pool.map(lambda p: p.play(plan), there) for row in found]
        stack.stop()  # in order, so that every outbox is on the log
    ledger = arguments.out / "conformance.jsonl"
    ledger.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return judge(rows, there, skipped, targets)


def prepare(sandbox: Sandbox, targets: tuple[Target, ...]) -> None:
    """Give every target its models that fail, each in one way."""
    for model in added_models(targets):
        fetch(f"{sandbox.url}/sandbox/models", method="POST", body=model)
    for target in targets:
        for way, fault in FAULTS.items():
            sandbox.behave(target.base, getattr(target, way), faults=[fault])


def write_plan(out: Path, url: str, key: str, targets: tuple[Target, ...]) -> Path:
    """Write what every probe reads: where, with which key, which cases on which targets."""
    script = json.loads((PROBES / "script.json").read_text("utf-8"))
    script["parallel_prompts"] = PARALLEL_PROMPTS
    plan = {
        "url": url,
        "key": key,
        "script": script,
        "targets": [target.plan() for target in targets],
    }
    path = (out / "plan.json").absolute()
    path.write_text(json.dumps(plan, indent=1) + "\n", "utf-8")
    return path


def judge(
    rows: list[dict[str, Any]],
    there: list[Probe],
    skipped: dict[str, str],
    targets: tuple[Target, ...],
) -> Verdict:
    """Hold the rows against the cases that the clients of this machine must have played."""
    expected = {
        (probe.name, target.name, case)
        for probe in there
        for target in targets
        for case in target.cases(probe.client)
    }
    passed = {(row["probe"], row["target"], row["case"]) for row in rows if row["ok"]}
    failures = sorted(" ".join(names) for names in expected - passed)
    return Verdict(
        figures={
            "clients": {row["probe"]: row["version"] for row in rows},
            "skipped": skipped,
            "targets": {target.name: target.model for target in targets},
            "kinds_of_cases": len({case for cases in CASES.values() for case in cases}),
            "cases": len(expected & passed),
            "by_client": dict(Counter(name for name, _, _ in expected & passed)),
            "failed": len(failures),
            "failures": failures[:50],
        },
        limits=[Limit("cases", len(expected), "min"), Limit("failed", 0)],
    )


if __name__ == "__main__":
    main("conformance", len(TARGETS), measure)
