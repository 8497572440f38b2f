"""An open-loop client: sends a workload at its own pace, whatever the server does, and keeps a ledger.

``python -m bench.load --url http://127.0.0.1:8080 --key KEY --rate 50 --seconds 10 --ledger FILE``

It never retries: an error that a client would have seen is an error in the ledger. Latency counts from
the time a request was due, so a server that stalls the client is not excused.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from bench.answers import Answer
from bench.workload import Request, Shape, Share, arrivals, workload

FEEDBACK_PATH = "/api/model-training/feedback"
READ_BYTES = 65_536
DEADLINE_S = 60.0


class Row(msgspec.Struct):
    """One request in the client's ledger. Times are microseconds since the epoch."""

    client_id: str
    number: int
    dialect: str
    path: str
    model: str
    stream: bool
    due_at_us: int
    """When the open loop wanted it sent; later than this is waiting for a free place."""
    sent_at_us: int = 0
    first_byte_at_us: int | None = None
    ended_at_us: int = 0
    status: int = 0
    """0 when no answer came."""
    request_id: str | None = None
    """From `x-weir-request-id`."""
    upstream_id: str | None = None
    """From `x-request-id` or `request-id`."""
    complete: bool = False
    """Whether the answer came whole, by its dialect's own end marker."""
    error: str | None = None
    finish_reason: str | None = None
    text_sha256: str | None = None
    tool_calls: int = 0
    frames: int = 0
    bytes: int = 0
    usage: dict[str, Any] = {}
    """As reported to the client, in its dialect's words."""
    headers: dict[str, str] = {}
    """The `x-weir-*` headers."""
    feedback_status: int | None = None
    feedback_id: str | None = None


class Ledger:
    """Rows in memory and, where a path is given, in a JSONL file that a killed client leaves whole."""

    def __init__(self, path: Path | None = None) -> None:
        self.rows: list[Row] = []
        self._file = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb", buffering=0)

    def enter(self, row: Row) -> None:
        """Enter a row that has ended."""
        self.rows.append(row)
        if self._file is not None:
            self._file.write(msgspec.json.encode(row) + b"\n")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


class Settings(msgspec.Struct, frozen=True):
    """Where the load goes and how hard it may push."""

    url: str
    key: str
    concurrency_max: int = 512
    deadline_s: float = DEADLINE_S
    """Longest life of a call, seconds."""
    feedback: bool = False


async def drive(
    settings: Settings,
    requests: Iterator[Request],
    times_s: Iterable[float],
    ledger: Ledger,
) -> None:
    """Send one request at each of the times (seconds from now), and wait for all answers."""
    places = asyncio.Semaphore(settings.concurrency_max)
    timeout = aiohttp.ClientTimeout(total=settings.deadline_s)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, read_bufsize=READ_BYTES
    ) as session:
        client = _Client(settings, session, ledger)
        begun_s, begun_us = time.monotonic(), _now_us()
        tasks: set[asyncio.Task[None]] = set()
        for at_s, request in zip(times_s, requests, strict=False):
            ahead_s = begun_s + at_s - time.monotonic()
            if ahead_s > 0:
                await asyncio.sleep(ahead_s)
            await places.acquire()
            due_us = begun_us + int(at_s * 1e6)
            task = asyncio.create_task(client.call(request, due_us))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            task.add_done_callback(lambda _: places.release())
        if tasks:
            await asyncio.gather(*tasks)


class _Client:
    """Makes single calls."""

    def __init__(self, settings: Settings, session: aiohttp.ClientSession, ledger: Ledger) -> None:
        self._settings = settings
        self._session = session
        self._ledger = ledger
        bearer = {"authorization": f"Bearer {settings.key}"}
        keyed = {"x-api-key": settings.key, "anthropic-version": "2023-06-01"}
        self._headers = {"openai": bearer, "anthropic": keyed}

    async def call(self, request: Request, due_us: int) -> None:
        """Send a request, read its answer to the end, enter its row."""
        row = Row(
            client_id=request.client_id,
            number=request.number,
            dialect=request.dialect,
            path=request.path,
            model=request.model,
            stream=request.stream,
            due_at_us=due_us,
        )
        answer = Answer(request.dialect, stream=request.stream)
        headers = {
            **self._headers[request.dialect],
            "content-type": "application/json",
            "x-weir-metadata": json.dumps(request.tags),
        }
        row.sent_at_us = _now_us()
        try:
            async with self._session.post(
                self._settings.url + request.path, data=request.body, headers=headers
            ) as response:
                _head(row, response)
                await _body(row, answer, response)
        except TimeoutError:
            row.error = "deadline"
        except (aiohttp.ClientError, OSError) as error:
            row.error = type(error).__name__
        row.ended_at_us = _now_us()
        _enter(row, answer)
        if self._settings.feedback and row.complete and request.feedback is not None:
            await self._feedback(request, row, answer)
        self._ledger.enter(row)

    async def _feedback(self, request: Request, row: Row, answer: Answer) -> None:
        said = request.feedback
        assert said is not None
        body = {
            "user_id": request.user,
            "original_prompt": request.prompt,
            "model_response": answer.text or f"(streamed answer {row.text_sha256})",
            "feedback_type": said.feedback_type,
            "satisfaction_score": said.satisfaction_score,
            "corrected_response": said.corrected_response,
            "request_id": row.request_id,
            "model_id": row.headers.get("x-weir-model"),
            "task_type": request.task_type,
            "metadata": request.tags,
        }
        url = self._settings.url + FEEDBACK_PATH
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with self._session.post(
                url, json=body, headers=self._headers["openai"]
            ) as response:
                row.feedback_status = response.status
                if response.status < 300:
                    row.feedback_id = (await response.json()).get("id")


def _head(row: Row, response: aiohttp.ClientResponse) -> None:
    headers = response.headers
    row.status = response.status
    row.request_id = headers.get("x-weir-request-id")
    row.upstream_id = headers.get("x-request-id") or headers.get("request-id")
    row.headers = {
        name.lower(): value for name, value in headers.items() if name.lower().startswith("x-weir-")
    }


async def _body(row: Row, answer: Answer, response: aiohttp.ClientResponse) -> None:
    """Read the body to its end; an error answer is read whole."""
    whole: list[bytes] = []
    streamed = row.stream and response.status == 200
    async for part in response.content.iter_any():
        if row.first_byte_at_us is None:
            row.first_byte_at_us = _now_us()
        row.bytes += len(part)
        if streamed:
            answer.feed(part)
        else:
            whole.append(part)
    if streamed:
        answer.close()
    elif response.status == 200:
        answer.close(b"".join(whole))
    else:
        row.error = _error_of(b"".join(whole)) or f"status {response.status}"


def _error_of(body: bytes) -> str | None:
    """The type or code of an error body, whichever dialect it is in."""
    with contextlib.suppress(msgspec.DecodeError):
        found = msgspec.json.decode(body)
        error = found.get("error") if isinstance(found, dict) else None
        if isinstance(error, dict):
            return str(error.get("code") or error.get("type"))
    return None


def _enter(row: Row, answer: Answer) -> None:
    row.error = row.error or answer.error
    row.complete = row.status == 200 and answer.complete and row.error is None
    row.finish_reason = answer.finish_reason
    row.text_sha256 = answer.text_sha256 if row.status == 200 else None
    row.tool_calls = answer.tool_calls
    row.frames = answer.frames
    row.usage = answer.usage


def _now_us() -> int:
    return time.time_ns() // 1_000


def read_ledger(path: Path) -> list[Row]:
    """Return the rows of a ledger file."""
    decoder = msgspec.json.Decoder(Row)
    return [decoder.decode(line) for line in path.read_bytes().splitlines() if line.strip()]


def summary(rows: list[Row]) -> dict[str, Any]:
    """Return counts and latencies (milliseconds, from the time a request was due)."""
    done = sorted((row.ended_at_us - row.due_at_us) / 1e3 for row in rows if row.complete)
    first = sorted(
        (row.first_byte_at_us - row.due_at_us) / 1e3
        for row in rows
        if row.complete and row.first_byte_at_us is not None
    )
    return {
        "requests": len(rows),
        "complete": len(done),
        "streams": sum(row.stream for row in rows),
        "errors": dict(Counter(row.error for row in rows if row.error is not None)),
        "statuses": {str(status): n for status, n in Counter(row.status for row in rows).items()},
        "latency_ms": _quantiles(done),
        "first_byte_ms": _quantiles(first),
    }


def _quantiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    last = len(values) - 1
    return {
        name: round(values[round(last * share)], 2)
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))
    }


def load(
    settings: Settings,
    *,
    seed: int,
    rate_per_s: float,
    duration_s: float,
    shape: Shape | None = None,
    ledger: Path | None = None,
) -> list[Row]:
    """Drive a workload at a rate and return the ledger; blocks until every answer has ended."""
    book = Ledger(ledger)
    try:
        times_s = arrivals(seed, rate_per_s, duration_s)
        asyncio.run(drive(settings, workload(seed, shape), times_s, book))
    finally:
        book.close()
    return book.rows


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    parser.add_argument("--url", required=True, help="address of the gateway, without /v1")
    parser.add_argument("--key", default=os.environ.get("WEIR_KEY", ""), help="or WEIR_KEY")
    parser.add_argument("--rate", type=float, default=20.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--streams", type=float, default=0.5, help="share of streams")
    parser.add_argument("--tools", type=float, default=0.1, help="share that offers tools")
    parser.add_argument("--feedback", type=float, default=0.0, help="share that gets feedback")
    parser.add_argument("--concurrency", type=int, default=512, help="most calls at a time")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="DIALECT:MODEL[=WEIGHT]",
        help="what to ask for, in which dialect (repeatable)",
    )
    parser.add_argument("--ledger", type=Path, help="JSONL file of all requests")
    return parser.parse_args()


def share(text: str) -> Share:
    """Read `openai:gpt-4o=2`. Raises ValueError for an unknown dialect."""
    dialect, _, rest = text.partition(":")
    model, _, weight = rest.partition("=")
    if dialect not in ("openai", "anthropic") or not model:
        raise ValueError(f"{text!r} is not DIALECT:MODEL[=WEIGHT]")
    return Share("openai" if dialect == "openai" else "anthropic", model, float(weight or 1))


def main() -> None:
    """Run the load from the command line; exit with 1 when an answer was not complete."""
    given = _arguments()
    models = tuple(share(text) for text in given.model) or Shape().models
    shape = Shape(models=models, streams=given.streams, tools=given.tools, feedback=given.feedback)
    settings = Settings(
        given.url.rstrip("/"), given.key, given.concurrency, feedback=given.feedback > 0
    )
    rows = load(
        settings,
        seed=given.seed,
        rate_per_s=given.rate,
        duration_s=given.seconds,
        shape=shape,
        ledger=given.ledger,
    )
    found = summary(rows)
    print(json.dumps(found))
    sys.exit(0 if found["complete"] == found["requests"] > 0 else 1)


if __name__ == "__main__":
    main()
