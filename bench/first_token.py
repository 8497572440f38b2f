"""Claim: the first token of a stream comes at most a millisecond later than without the gateway.

Streams of a paced provider, one at a time: direct and through the gateway in turns, on kept-alive
connections. The clock runs from the request to the first piece that holds text.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import time

import aiohttp

from bench.checks import CALL_TOPICS, COMPLETED, calls
from bench.claim import Arguments, Limit, Verdict, main
from bench.rawlog import read_topics
from bench.stack import Stack, compile_first

MODEL = "gpt-4.1-nano"
PACE = {"first_token_ms": 5, "per_token_ms": 1, "jitter": 0}
TOKENS = {"answer_tokens_min": 8, "answer_tokens_max": 8}
TEXT = re.compile(rb'"content": ?"[^"]')
WARM_UP = 50
SETTLED_S = 15.0


class Side:
    """One way to the provider; `times_ms` are those to the first text, `ids` the calls' ids."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str, model: str) -> None:
        self._session = session
        self._url = f"{url}/v1/chat/completions"
        self._headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        message = {"role": "user", "content": "Where does the water go?"}
        body = {"model": model, "messages": [message], "stream": True}
        self._body = json.dumps(body).encode()
        self.times_ms: list[float] = []
        self.ids: list[str] = []

    async def stream(self) -> None:
        """Make one call. Raises RuntimeError when it brings no text or no end."""
        begun, first, heard = time.perf_counter(), None, b""
        async with self._session.post(self._url, data=self._body, headers=self._headers) as answer:
            async for piece in answer.content.iter_any():
                heard += piece
                if first is None and TEXT.search(heard):
                    first = time.perf_counter()
            self.ids.append(answer.headers.get("x-weir-request-id", ""))
        if first is None or not heard.rstrip().endswith(b"[DONE]"):
            raise RuntimeError(f"a stream without text or end: {heard[-300:]!r}")
        self.times_ms.append((first - begun) * 1_000)


def measure(arguments: Arguments) -> Verdict:
    """Make `--size` streams on each side."""
    compile_first()
    environment = {"WEIR_WORKERS": "1"}
    with Stack(
        arguments.out, seed=arguments.seed, environment=environment, keep=arguments.keep
    ) as stack:
        stack.sandbox.behave("", MODEL, **PACE, **TOKENS)
        compiled = stack.compiled()
        direct, gateway = asyncio.run(_run(stack, arguments.size))
        deadline = time.monotonic() + SETTLED_S
        while True:
            records = read_topics(stack.bootstrap, CALL_TOPICS)
            if len(calls(records).completed) >= len(gateway.ids) or time.monotonic() > deadline:
                break
            time.sleep(0.5)
    if arguments.sabotage:
        records.remove(next(record for record in records if record.type == COMPLETED))
    ledger = {"direct_ms": direct.times_ms, "gateway_ms": gateway.times_ms, "ids": gateway.ids}
    (arguments.out / "streams.json").write_text(json.dumps(ledger), "utf-8")
    medians = [statistics.median(side.times_ms[WARM_UP:]) for side in (direct, gateway)]
    tails = [statistics.quantiles(side.times_ms[WARM_UP:], n=100)[98] for side in (direct, gateway)]
    return Verdict(
        figures={
            "compiled": compiled,
            "streams": arguments.size,
            "direct_p50_ms": round(medians[0], 3),
            "gateway_p50_ms": round(medians[1], 3),
            "added_p50_ms": round(medians[1] - medians[0], 3),
            "direct_p99_ms": round(tails[0], 3),
            "gateway_p99_ms": round(tails[1], 3),
            "recorded": len(calls(records).completed),
        },
        limits=[
            Limit("added_p50_ms", 1.0),
            Limit("recorded", len(gateway.ids), "equal"),
        ],
    )


async def _run(stack: Stack, count: int) -> tuple[Side, Side]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        direct = Side(session, stack.sandbox.url, "direct", MODEL)
        gateway = Side(session, stack.url, stack.key, f"openai/{MODEL}")
        for _ in range(WARM_UP + count):
            await direct.stream()
            await gateway.stream()
    return direct, gateway


if __name__ == "__main__":
    main("first_token", 500, measure)
