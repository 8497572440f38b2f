"""Claim: more of everything changes nothing: keys, targets, workers.

The same calls before and after 30,000 keys and 300 targets: processor time per call of the workers. The
same load on one worker and on two: calls per second, held against its limit only where the machine has
two cores beside those that sandbox, broker, folds and client take. And a worker started alone against a
running Kafka: the time from the process to its first authenticated answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import psutil
from confluent_kafka import Producer

from bench.checks import CALL_TOPICS, COMPLETED, calls
from bench.claim import Arguments, Limit, Verdict, main
from bench.rawlog import read_topics
from bench.speed import Caller
from bench.stack import ROOT, Stack, base_port, compile_first, fetch
from schemas import codec
from schemas.clock import now_us
from schemas.events.changes import KeyChanged
from schemas.identity import uuid7
from schemas.partition import partition_of

MODEL = "gpt-4.1-nano"
INSTANT = {"first_token_ms": 0, "per_token_ms": 0, "answer_tokens_max": 16}
KEYS, MODELS = 30_000, 150
"""Each of the two tenants of the stack has every model: 300 targets."""
WARM_UP = 500
FOLLOWED_S = 60.0
READY_S = 30.0
STARTS = 3
CORES_BESIDE = 2
"""What sandbox, broker, folds and client need while two workers are busy."""

Figures = dict[str, float | int | str | None]


def measure(arguments: Arguments) -> Verdict:
    """Run three stacks one after the other."""
    compile_first()
    few, figures = _stack(arguments, "few", workers=1)
    many, more = _stack(arguments, "many", workers=1, keys=KEYS, models=MODELS)
    two, _ = _stack(arguments, "two", workers=2)
    figures |= {
        "cpu_us_few": few["cpu_us"],
        "cpu_us_many": many["cpu_us"],
        "cpu_many_to_few": round(many["cpu_us"] / few["cpu_us"], 3),
        "many_worker_mib": many["worker_mib"],
        "calls_per_s_one": few["calls_per_s"],
        "calls_per_s_two": two["calls_per_s"],
        "two_to_one": round(two["calls_per_s"] / few["calls_per_s"], 2),
        "recorded": few["recorded"] + many["recorded"] + two["recorded"],
        "alone_with_30000_keys_s": more["alone_ready_s"],
    }
    answered = int(few["answered"] + many["answered"] + two["answered"])
    if arguments.sabotage:
        figures["recorded"] = int(figures["recorded"] or 0) - 1
    limits = [
        Limit("cpu_many_to_few", 1.15),
        Limit("many_worker_mib", 100.0),
        Limit("alone_ready_s", 1.0),
        Limit("recorded", answered, "equal"),
    ]
    cores = len(os.sched_getaffinity(0))
    if cores >= 2 + CORES_BESIDE:
        limits.append(Limit("two_to_one", 1.8, "min"))
    else:
        figures["two_to_one_note"] = f"{cores} cores: none is free beside the load's own processes"
    return Verdict(figures=figures, limits=limits)


def _stack(
    arguments: Arguments, name: str, *, workers: int, keys: int = 0, models: int = 1
) -> tuple[dict[str, float], Figures]:
    """Return what the calls came to, and how fast a further worker alone is ready."""
    names = [MODEL, *(f"model-{number}" for number in range(1, models))]
    environment = {"WEIR_WORKERS": str(workers), "WEIR_LOG_LEVEL": "warning"}
    out = arguments.out / name
    with Stack(out, seed=arguments.seed, environment=environment, models=names) as stack:
        stack.sandbox.behave("", MODEL, **INSTANT)
        if keys:
            _publish_keys(stack.bootstrap, keys)
            _await_key(stack, _secret(keys - 1))
        compiled = stack.compiled()
        pids = [pid for part, pid in stack.pids().items() if part.startswith("gateway")]
        found = asyncio.run(_calls(stack, pids, arguments.size, out / "calls.json"))
        found["worker_mib"] = max(psutil.Process(pid).memory_info().rss / 2**20 for pid in pids)
        alone_s = min(_alone(stack, out, number) for number in range(STARTS))
        deadline = time.monotonic() + FOLLOWED_S
        while True:
            records = read_topics(stack.bootstrap, CALL_TOPICS)
            if len(calls(records).completed) >= found["answered"] or time.monotonic() > deadline:
                break
            time.sleep(0.5)
    found["recorded"] = sum(record.type == COMPLETED for record in records)
    return found, {"alone_ready_s": round(alone_s, 2), "compiled": compiled}


async def _calls(stack: Stack, pids: list[int], count: int, ledger: Path) -> dict[str, float]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        caller = Caller(session, stack.url, stack.key)
        await caller.many(WARM_UP, f"openai/{MODEL}", ledger)
        before_s = _cpu_s(pids)
        calls_per_s = await caller.many(count, f"openai/{MODEL}", ledger)
        return {
            "cpu_us": round((_cpu_s(pids) - before_s) * 1e6 / count, 1),
            "calls_per_s": round(calls_per_s, 1),
            "answered": len(caller.answered),
        }


def _cpu_s(pids: list[int]) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(float(it.user + it.system) for it in times)


def _secret(number: int) -> str:
    return f"weir-bench-key-{number}"


def _publish_keys(bootstrap: str, count: int) -> None:
    """Append the keys to the log, as commands would have."""
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 20})
    for number in range(count):
        event = KeyChanged(
            event_id=uuid7(),
            occurred_at_us=now_us(),
            entity_version=1,
            actor="bench",
            key_id=f"bench-{number}",
            name=f"bench {number}",
            scopes=["inference"],
            secret_hash=hashlib.sha256(_secret(number).encode()).hexdigest(),
        )
        key = event.key.encode()
        producer.produce(
            event.topic.name,
            codec.encode(event),
            key,
            partition_of(key, event.topic.partitions),
            headers=codec.headers(event, "/bench"),
        )
        producer.poll(0)
    if producer.flush(FOLLOWED_S):
        raise TimeoutError("Kafka did not take the keys")


def _await_key(stack: Stack, secret: str) -> None:
    deadline = time.monotonic() + FOLLOWED_S
    while not _knows(stack.url, secret):
        if time.monotonic() > deadline:
            raise TimeoutError("the worker does not know the last key")
        time.sleep(0.2)


def _knows(url: str, key: str) -> bool:
    try:
        fetch(f"{url}/v1/models", key=key, timeout_s=2.0)
    except OSError:
        return False
    return True


def _alone(stack: Stack, out: Path, number: int) -> float:
    """Start one more worker on a port of its own; return the seconds until it serves a known key."""
    port = base_port() + 9
    environment: Mapping[str, str] = {
        **stack.environment(),
        "WEIR_PORT": str(port),
        # The broker's port goes with the worker's: without this it would look for another one.
        "WEIR_KAFKA__BOOTSTRAP": stack.bootstrap,
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "infra.start", f"gateway-{7 + number}"]
    with (out / "alone.log").open("ab") as log:
        begun = time.monotonic()
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT)
        try:
            while not _knows(f"http://127.0.0.1:{port}", stack.key):
                if time.monotonic() - begun > READY_S or process.poll() is not None:
                    raise TimeoutError("the worker alone does not become ready")
                time.sleep(0.01)
            return time.monotonic() - begun
        finally:
            process.terminate()
            process.wait(60)


if __name__ == "__main__":
    main("scale", 3_000, measure)
