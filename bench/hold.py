"""Claim: one worker holds a thousand streams at once, none of which stalls.

The same streams run directly first: the longest silence there is what sandbox, client and machine bring
along. Through the gateway none may be longer by more than a quarter of a second. The worker's memory is
the highest seen while all of them were open.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import psutil

from bench.checks import CALL_TOPICS, COMPLETED, calls
from bench.claim import Arguments, Limit, Verdict, main
from bench.rawlog import read_topics
from bench.stack import Stack, compile_first

MODEL = "gpt-4.1-nano"
TOKENS, PER_TOKEN_MS = 40, 500.0
OPENED_OVER_S = 8.0
"""A thousand connections come one after another, not in one moment."""
GAP_MS = 250.0
SAMPLE_S = 0.5
SETTLED_S = 30.0


@dataclass
class Crowd:
    """What the streams of one side came to; gaps are silences after the first piece, in ms."""

    gaps_ms: list[float] = field(default_factory=list)
    whole: int = 0
    broken: int = 0
    open: int = 0
    most_open: int = 0
    memory_mib: float = 0.0


def measure(arguments: Arguments) -> Verdict:
    """Hold `--size` streams, first without the gateway, then through it."""
    compile_first()
    environment = {"WEIR_WORKERS": "1", "WEIR_LOG_LEVEL": "warning"}
    with Stack(
        arguments.out, seed=arguments.seed, environment=environment, keep=arguments.keep
    ) as stack:
        lengths = {"answer_tokens_min": TOKENS, "answer_tokens_max": TOKENS}
        pace = {"first_token_ms": PER_TOKEN_MS, "per_token_ms": PER_TOKEN_MS, "jitter": 0}
        stack.sandbox.behave("", MODEL, **pace, **lengths)
        worker = next(pid for name, pid in stack.pids().items() if name.startswith("gateway"))
        direct = asyncio.run(_crowd(stack.sandbox.url, "direct", MODEL, arguments.size))
        compiled = stack.compiled()
        held = asyncio.run(_crowd(stack.url, stack.key, f"openai/{MODEL}", arguments.size, worker))
        deadline = time.monotonic() + SETTLED_S
        while True:
            records = read_topics(stack.bootstrap, CALL_TOPICS)
            if len(calls(records).completed) >= held.whole or time.monotonic() > deadline:
                break
            time.sleep(0.5)
    if arguments.sabotage:
        records.remove(next(record for record in records if record.type == COMPLETED))
    ledger = {"direct_gaps_ms": direct.gaps_ms, "gateway_gaps_ms": held.gaps_ms}
    (arguments.out / "gaps.json").write_text(json.dumps(ledger), "utf-8")
    return Verdict(
        figures={
            "compiled": compiled,
            "streams": arguments.size,
            "held_at_once": held.most_open,
            "broken": held.broken,
            "direct_longest_gap_ms": round(max(direct.gaps_ms), 1),
            "longest_gap_ms": round(max(held.gaps_ms), 1),
            "gap_beyond_direct_ms": round(max(held.gaps_ms) - max(direct.gaps_ms), 1),
            "worker_mib": round(held.memory_mib, 1),
            "recorded": len(calls(records).completed),
        },
        limits=[
            Limit("held_at_once", arguments.size, "min"),
            Limit("broken", 0),
            Limit("gap_beyond_direct_ms", GAP_MS),
            Limit("worker_mib", 150),
            Limit("recorded", arguments.size, "equal"),
        ],
    )


async def _crowd(url: str, key: str, model: str, count: int, worker: int | None = None) -> Crowd:
    """Open the streams, and read each to its end."""
    crowd = Crowd()
    message = {"role": "user", "content": "Where does the water go?"}
    body = json.dumps({"model": model, "messages": [message], "stream": True}).encode()
    parts = urlsplit(url)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {parts.netloc}\r\n"
        f"authorization: Bearer {key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    ).encode()
    sampling = asyncio.create_task(_sample(crowd, worker))
    streams = []
    for _ in range(count):
        assert parts.hostname is not None
        streams.append(asyncio.create_task(_hold(crowd, parts.hostname, parts.port, head + body)))
        await asyncio.sleep(OPENED_OVER_S / count)
    await asyncio.gather(*streams)
    sampling.cancel()
    return crowd


async def _hold(crowd: Crowd, host: str, port: int | None, request: bytes) -> None:
    """Read one stream by its bytes alone: a client library would cost more than the gateway."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(request)
        tail, last = b"", None
        while piece := await reader.read(65_536):
            now = time.perf_counter()
            if last is None:
                crowd.open += 1
                crowd.most_open = max(crowd.most_open, crowd.open)
            else:
                crowd.gaps_ms.append((now - last) * 1_000)
            last, tail = now, (tail + piece)[-64:]
        writer.close()
    except OSError:
        crowd.broken += 1
        return
    crowd.open -= last is not None
    if b"[DONE]" in tail:
        crowd.whole += 1
    else:
        crowd.broken += 1


async def _sample(crowd: Crowd, worker: int | None) -> None:
    while worker is not None:
        memory_mib = psutil.Process(worker).memory_info().rss / 2**20
        crowd.memory_mib = max(crowd.memory_mib, memory_mib)
        await asyncio.sleep(SAMPLE_S)


if __name__ == "__main__":
    main("hold", 1_000, measure)
