"""Claim: no request that the API's document allows or forbids breaks Weir: 100,000 fuzzed cases.

Schemathesis makes requests of the OpenAPI document of the whole surface, right ones and spoilt ones.
Each answer must be as the document says: status, content type, headers, body. None may be a server
error, but where a case asks for what was made to fail (`bench.fuzz_judge`). Afterwards every
process still lives, none has logged a breakdown, and the installation serves as before.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil

from bench.claim import Arguments, Limit, Verdict, main
from bench.fuzz_cases import as_meant, with_hints
from bench.fuzz_garden import Garden
from bench.fuzz_planting import called, plant
from bench.fuzz_send import Row, Share, read_problems, read_rows, work
from bench.fuzz_words import SLOW, known_words
from bench.stack import SANDBOX_KEY_VARIABLE, Stack, base_port, fetch

CASES = 100_000
SCOPES = ["admin", "inference", "sql", "metrics", "passthrough"]
FAST = {"first_token_ms": 0, "per_token_ms": 0, "tokens_per_frame": 8, "answer_tokens_max": 32}
BREAKDOWNS = (b"a handler failed", b"a request broke down", b"Traceback (most recent call last)")
"""What the parts' logs say when code has met what it did not expect."""
SLOW_S = 20
"""A call of a batch that is meant to run when a case cancels it takes so long."""
KEY_SETTLES_S = 2.0
SERVES_S = 20.0
MEMORY_MIB = 512.0


def _serves(stack: Stack) -> bool:
    """Return whether calls are answered, once the workers know that the last case's limit is gone."""
    until_s = time.monotonic() + SERVES_S
    while True:
        try:
            return bool(called(stack))
        except OSError:
            if time.monotonic() > until_s:
                return False
            time.sleep(KEY_SETTLES_S / 4)


def fuzz(stack: Stack, arguments: Arguments) -> dict[str, Any]:
    """Send the cases from as many processes as there are cores; return how it went."""
    wanted, url = {"name": "fuzz", "scopes": SCOPES}, f"{stack.control_url}/api/v1/admin/keys"
    key = fetch(url, key=stack.key, method="POST", body=wanted)["secret"]
    document = fetch(f"{stack.url}/openapi.json", timeout_s=30.0)
    (arguments.out / "openapi.json").write_text(json.dumps(document), "utf-8")
    time.sleep(KEY_SETTLES_S)
    words = known_words(document, plant(stack, key))
    told, meant = with_hints(document, words), as_meant(document, words)
    processes = max(2, min(4, len(os.sched_getaffinity(0))))
    sizes = [arguments.size // processes] * processes
    sizes[0] += arguments.size - sum(sizes)
    shares = [
        Share(
            document,
            told,
            meant,
            stack.port,
            key,
            arguments.seed,
            size,
            number,
            processes,
            str(arguments.out),
            arguments.sabotage,
        )
        for number, size in enumerate(sizes)
    ]
    garden = Garden(stack)
    garden.start()
    begun = time.monotonic()
    try:
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
            list(pool.map(work, shares))
    finally:
        garden.close()
    took_s, own = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "fuzz_s": round(took_s, 1),
        "cases_per_s": round(arguments.size / took_s, 1),
        "own_cpu_ms_per_case": round((own.ru_utime + own.ru_stime) * 1000 / arguments.size, 2),
        "mended": garden.mended,
        "mending_failures": len(garden.failures),
        "first_mending_failures": garden.failures[:3],
    }


def recounted(rows: list[Row], document: dict[str, Any]) -> dict[str, Any]:
    """Return what the ledgers say."""
    statuses = Counter(str(row.status) for row in rows)
    good = {row.operation for row in rows if 200 <= row.status < 300}
    declared = {
        f"{method.upper()} {path}" for path, place in document["paths"].items() for method in place
    }
    return {
        "cases": len(rows),
        "distinct": len({row.digest for row in rows}),
        "spoilt_on_purpose": sum(row.mode == "negative" for row in rows),
        "operations": len({row.operation for row in rows} & declared),
        "never_sent": sorted(declared - {row.operation for row in rows}),
        "never_succeeded": sorted(declared - good),
        "statuses": dict(sorted(statuses.items())),
        "told_to_fail": sum(row.excused for row in rows),
        "problems": sum(row.problem is not None for row in rows),
        "slowest_ms": max((row.elapsed_ms for row in rows), default=0.0),
    }


def breakdowns(logs: Path) -> list[str]:
    """Return the lines of the parts' logs that tell of code that broke."""
    found = []
    for path in sorted(logs.rglob("*")):
        if path.is_file():
            with path.open("rb") as lines:
                told = (line for line in lines if any(word in line for word in BREAKDOWNS))
                found += [f"{path.name}: {line[:600].decode('utf-8', 'replace')}" for line in told]
    return found


def memory_mib(stack: Stack) -> dict[str, float]:
    """Return the resident memory of every part."""
    return {
        name: round(psutil.Process(pid).memory_info().rss / 2**20, 1)
        for name, pid in stack.pids().items()
    }


def cpu_s(stack: Stack) -> dict[str, float]:
    """Return the processor time that every part has taken."""
    times = {name: psutil.Process(pid).cpu_times() for name, pid in stack.pids().items()}
    return {name: it.user + it.system for name, it in times.items()}


def measure(arguments: Arguments) -> Verdict:
    """Fuzz, then read the ledgers, the logs and the processes."""
    environment = {"WEIR_DOCS": "true"}
    with Stack(
        arguments.out,
        seed=arguments.seed,
        environment=environment,
        config=_providers(),
        keep=arguments.keep,
    ) as stack:
        _behave(stack)
        began, worked_s = stack.pids(), cpu_s(stack)
        figures = fuzz(stack, arguments)
        worked_s = {name: it - worked_s.get(name, 0.0) for name, it in cpu_s(stack).items()}
        memory = memory_mib(stack)
        figures["restarts"] = sum(stack.pids().get(name) != pid for name, pid in began.items())
        figures["serves_after"] = _serves(stack)
        shutil.copytree(stack.home / "logs", arguments.out / "logs", dirs_exist_ok=True)
    document = json.loads((arguments.out / "openapi.json").read_text("utf-8"))
    broken = breakdowns(arguments.out / "logs")
    worst = read_problems(arguments.out)
    figures |= recounted(list(read_rows(arguments.out)), document)
    figures |= {
        "kinds": [f"{it.count}: {it.operation}: {it.kind}" for it in worst[:20]],
        "breakdowns": len(broken),
        "first_breakdowns": broken[:3],
        "memory_mib": memory,
        "cpu_ms_per_case": {
            name: round(it * 1000 / arguments.size, 2) for name, it in worked_s.items()
        },
        "worker_mib": max(size for name, size in memory.items() if name.startswith("gateway")),
    }
    return Verdict(figures=figures, limits=limits(arguments.size))


def limits(size: int) -> list[Limit]:
    """Return what must hold."""
    return [
        Limit("cases", size, "equal"),
        Limit("problems", 0),
        Limit("breakdowns", 0),
        Limit("restarts", 0),
        Limit("serves_after", True, "equal"),
        Limit("worker_mib", MEMORY_MIB),
    ]


def _behave(stack: Stack) -> None:
    for tenant in ("a", "b"):
        stack.sandbox.behave(tenant, "gpt-4.1-nano", **FAST)
    tenant, _, model = SLOW.partition("/")
    stack.sandbox.behave(tenant, model, first_token_ms=SLOW_S * 1000)
    faults = [{"kind": "unavailable", "rate": 0.7}, {"kind": "malformed_frame"}]
    stack.sandbox.behave("failing", "gpt-4.1-nano", **FAST, faults=faults)


def _providers() -> str:
    """Return the tables of a provider that fails, and of one for the surfaces of no other."""
    return (
        "[providers.failing]\n"
        f'base_url = "http://127.0.0.1:{base_port() + 6}/failing/v1"\n'
        f'key_env = "{SANDBOX_KEY_VARIABLE}"\n'
        'price_provider = "openai"\n'
        'models = ["gpt-4.1-nano"]\n'
        "[providers.ranking]\n"
        'dialect = "cohere"\n'
        f'base_url = "http://127.0.0.1:{base_port() + 6}"\n'
        f'key_env = "{SANDBOX_KEY_VARIABLE}"\n'
        'models = ["rerank-v3.5"]\n'
        '[targets."ranking/rerank-v3.5"]\ncapabilities = ["rerank"]\n'
    )


if __name__ == "__main__":
    main("fuzz", CASES, measure)
