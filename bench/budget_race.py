"""Claim: a hard budget is spent to its end and never beyond, whoever races for it and dies.

Four gateway workers on two ports (two of `weir up`, two of another host that shares its Kafka) serve
`--size` (64) clients that spend one budget of 5 dollars until nothing fits any more. Each call reserves at
most half a percent of it. Meanwhile every worker is killed with -9, and so are the broker and the part that grants. Counted are the raw
ledger of the log, the escrow's own moves, and the sandbox's books with a price list written by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from bench.claim import Arguments, Limit, Verdict, main
from bench.rawlog import Raw, audit, dump, read_topics, spoil_one, unique
from bench.recount import price_list, read_books
from bench.stack import Child, Stack
from infra.kafka import KafkaLog
from schemas.events.changes import BudgetChanged
from schemas.log import Connection

BUDGET_ID = "race"
LIMIT_NANO_USD = 5_000_000_000
RESERVED_SHARE_MAX = 0.005
LONGEST_S = 240.0
SETTLED_S = 60.0
KILLS_FROM_S, KILLS_UNTIL_S = 8.0, 40.0
RETRY_S = 0.25
MUST_BE_ZERO = ("lost", "doubled", "unsettled", "drift_nano_usd", "escrow_drift_nano_usd")
TOPICS = (
    "weir.llm.requests.v1",
    "weir.llm.responses.v1",
    "weir.llm.costs.v1",
    "weir.budgets.escrow.v1",
)


class Kind(msgspec.Struct, frozen=True):
    """A kind of call; its price decides how much it reserves."""

    model: str
    max_tokens: int
    weight: int
    stream: bool


KINDS = (
    Kind("anthropic/claude-opus-4-5", 900, 1, True),
    Kind("openai/gpt-4.1", 300, 6, False),
    Kind("openai/gpt-4.1", 300, 6, True),
    Kind("openai/gpt-4.1-nano", 60, 2, False),
)
"""The dearest reserves 0.0245 dollars, within half a percent of the budget."""
PACE = {
    "first_token_ms": 30,
    "per_token_ms": 4,
    "tokens_per_frame": 8,
    "answer_tokens_min": 40,
    "answer_tokens_max": 900,
}


class Entry(msgspec.Struct):
    """One try of a client. Times are microseconds since the epoch."""

    client: int
    model: str
    url: str
    sent_at_us: int
    ended_at_us: int = 0
    status: int = 0
    request_id: str | None = None
    retry_after: bool = False
    error: str | None = None


def measure(arguments: Arguments) -> Verdict:
    """Race, kill, wait, recount."""
    environment = {"WEIR_WORKERS": "2", "WEIR_MASTER_KEY": "5a" * 32}
    with Stack(
        arguments.out, seed=arguments.seed, environment=environment, keep=arguments.keep
    ) as stack:
        for model in {kind.model.partition("/")[2] for kind in KINDS}:
            stack.sandbox.behave("", model, **PACE)
        asyncio.run(_set_budget(stack))
        with (
            tempfile.TemporaryDirectory(prefix="weir-race-") as home,
            Host(stack, Path(home)) as host,
        ):
            killer = Killer(stack, host, arguments.seed)
            killer.start()
            entries = asyncio.run(_race(stack, host, arguments))
            killer.join()
            figures = _settle(stack, arguments)
    figures |= {
        "killed": sorted(killer.killed),
        "workers_killed": sum(name.startswith("gateway") for name in killer.killed),
        "broker_killed": killer.killed.count("broker"),
        "streams_killed": killer.killed.count("streams"),
        "tries": len(entries),
        "statuses": dict(sorted(Counter(str(entry.status) for entry in entries).items())),
        "race_s": round((max(e.ended_at_us for e in entries) - entries[0].sent_at_us) / 1e6, 1),
    }
    return Verdict(
        figures,
        [
            Limit("overspent_nano_usd", 0),
            Limit("books_over_nano_usd", 0),
            Limit("spent_share", 0.99, "min"),
            Limit("reserved_share_max", RESERVED_SHARE_MAX),
            Limit("workers_killed", 4, "min"),
            Limit("broker_killed", 1, "min"),
            Limit("streams_killed", 1, "min"),
            Limit("lost", 0),
            Limit("doubled", 0),
            Limit("unsettled", 0),
            Limit("drift_nano_usd", 0),
            Limit("escrow_drift_nano_usd", 0),
        ],
    )


async def _set_budget(stack: Stack) -> None:
    async with KafkaLog(Connection(stack.bootstrap), "/bench") as log:
        await log.publish(
            BudgetChanged(
                event_id="budget-race",
                occurred_at_us=time.time_ns() // 1_000,
                entity_version=1,
                actor="bench",
                budget_id=BUDGET_ID,
                scope="global",
                total_limit_nano_usd=LIMIT_NANO_USD,
                on_exceeded="block",
                name="race",
            )
        )
    await asyncio.sleep(1.0)  # what is asked before the budget is known is not under it


# --- the second host ---------------------------------------------------------------------------


class Host:
    """Two more workers on another port with a data folder of their own; what dies is restarted."""

    def __init__(self, stack: Stack, home: Path) -> None:
        self.port = stack.port + 10
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = stack.environment() | {
            "WEIR_HOME": str(home),
            "WEIR_PORT": str(self.port),
            "WEIR_KAFKA__BOOTSTRAP": stack.bootstrap,
        }
        self._out = stack.out
        self._stop = threading.Event()
        self._children: dict[str, Child] = {}
        self._watcher = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        for name in ("gateway-2", "gateway-3"):
            self._start(name)
        for child in list(self._children.values()):
            child.wait_for(f"{self.url}/health", 60.0)
        self._watcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._watcher.join()
        for child in self._children.values():
            child.stop()

    def pids(self) -> dict[str, int]:
        """Return the workers that run now."""
        return {
            name: child.pid
            for name, child in list(self._children.items())
            if child.process.poll() is None
        }

    def _start(self, name: str) -> None:
        command = [sys.executable, "-m", "infra.start", name]
        self._children[name] = Child(command, self._out / f"{name}.log", self._environment)

    def _watch(self) -> None:
        while not self._stop.wait(0.3):
            for name, child in list(self._children.items()):
                if child.process.poll() is not None:
                    self._start(name)


class Killer(threading.Thread):
    """Kills every worker, the broker and the streams once, at times drawn from the seed."""

    def __init__(self, stack: Stack, host: Host, seed: int) -> None:
        super().__init__()
        self.killed: list[str] = []
        self._pids = lambda: {**stack.pids(), **host.pids()}
        draw = random.Random(f"race {seed}")
        parts = ["gateway-0", "gateway-1", "gateway-2", "gateway-3", "broker", "streams"]
        draw.shuffle(parts)
        step = (KILLS_UNTIL_S - KILLS_FROM_S) / len(parts)
        self._plan = [
            (KILLS_FROM_S + step * (number + draw.random() * 0.8), part)
            for number, part in enumerate(parts)
        ]

    def run(self) -> None:
        """Carry the plan out."""
        begun = time.monotonic()
        for at_s, part in self._plan:
            time.sleep(max(0.0, begun + at_s - time.monotonic()))
            pid = self._pids().get(part)
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.killed.append(part)


# --- the race ----------------------------------------------------------------------------------


async def _race(stack: Stack, host: Host, arguments: Arguments) -> list[Entry]:
    entries: list[Entry] = []
    until_s = time.monotonic() + LONGEST_S
    timeout = aiohttp.ClientTimeout(total=60.0)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        await asyncio.gather(
            *(
                _client(number, session, (stack.url, host.url), stack.key, until_s, entries)
                for number in range(arguments.size)
            )
        )
    with (arguments.out / "client.jsonl").open("wb") as file:
        for entry in entries:
            file.write(msgspec.json.encode(entry) + b"\n")
    return entries


async def _client(
    number: int,
    session: aiohttp.ClientSession,
    urls: tuple[str, str],
    key: str,
    until_s: float,
    entries: list[Entry],
) -> None:
    """Call until no kind of call fits into the budget any more."""
    draw = random.Random(f"client {number}")
    kinds = list(KINDS)
    while kinds and time.monotonic() < until_s:
        kind = draw.choices(kinds, [kind.weight for kind in kinds])[0]
        entry = await _call(session, urls[draw.randrange(2)], key, kind, number, draw)
        entries.append(entry)
        if entry.status == 402 and not entry.retry_after:
            kinds.remove(kind)
        elif entry.status != 200:
            await asyncio.sleep(RETRY_S * draw.uniform(0.5, 1.5))


async def _call(
    session: aiohttp.ClientSession,
    url: str,
    key: str,
    kind: Kind,
    number: int,
    draw: random.Random,
) -> Entry:
    entry = Entry(number, kind.model, url, time.time_ns() // 1_000)
    body = {
        "model": kind.model,
        "max_tokens": kind.max_tokens,
        "stream": kind.stream,
        "messages": [{"role": "user", "content": f"Tell of weir {draw.randrange(10**6)}."}],
    }
    try:
        async with session.post(
            f"{url}/v1/chat/completions",
            data=json.dumps(body),
            headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
        ) as response:
            entry.status = response.status
            entry.request_id = response.headers.get("x-weir-request-id")
            entry.retry_after = "retry-after" in response.headers
            text = await response.read()
            if response.status != 200:
                entry.error = text[:200].decode("utf-8", "replace")
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        entry.status, entry.error = 0, repr(error)
    entry.ended_at_us = time.time_ns() // 1_000
    return entry


# --- the recount -------------------------------------------------------------------------------


def _settle(stack: Stack, arguments: Arguments) -> dict[str, Any]:
    """Read all sides until they agree, at most `SETTLED_S`: a dead worker's outbox comes late."""
    begun = time.monotonic()
    while True:
        records = read_topics(stack.bootstrap, TOPICS)
        figures = _count(records, stack)
        agreed = not any(figures[name] for name in MUST_BE_ZERO)
        if agreed or time.monotonic() - begun > SETTLED_S:
            break
        time.sleep(1.0)
    dump(records, arguments.out / "log.jsonl")
    if arguments.sabotage:
        figures = {"sabotaged": _spoil(records, arguments.seed), **_count(records, stack)}
    return figures


def _count(records: list[Raw], stack: Stack) -> dict[str, Any]:
    rule = audit(records)
    admitted: dict[str, dict[str, Any]] = {}
    outcomes: Counter[str] = Counter()
    ledger: Counter[str] = Counter()
    escrow: Counter[str] = Counter()
    abandoned = set()
    for record in unique(records):
        body = record.body or {}
        match record.type:
            case "weir.llm.request.admitted":
                admitted[body["request_id"]] = body
            case "weir.llm.response.completed":
                outcomes[body["request_id"]] += 1
                if body["outcome"] == "abandoned":
                    abandoned.add(body["request_id"])
            case "weir.llm.cost.entered" if body["entry"] != "admitted":
                ledger[body["request_id"]] += body["cost_nano_usd"] or 0
            case "weir.budgets.escrow.moved" if body["kind"] == "spent":
                escrow[body["request_id"]] += body["amount_nano_usd"]
    prices = price_list()
    books: Counter[str] = Counter()
    for row in read_books(stack.sandbox.books):
        if row["status"] == 200:
            books[str(row["weir_request_id"])] += prices[str(row["model"])].nano_usd(row)
    spent, billed = ledger.total(), books.total()
    drift = sum(
        abs(ledger[request] - books[request])
        for request in ledger.keys() | books.keys()
        if request not in abandoned
    )
    reserved = [body["reserved_nano_usd"] or 0 for body in admitted.values()]
    return {
        "spent_usd": spent / 1e9,
        "books_usd": billed / 1e9,
        "overspent_nano_usd": max(0, spent - LIMIT_NANO_USD),
        "books_over_nano_usd": max(0, billed - LIMIT_NANO_USD),
        "spent_share": round(spent / LIMIT_NANO_USD, 5),
        "reserved_share_max": max(reserved, default=0) / LIMIT_NANO_USD,
        "calls": len(admitted),
        "abandoned": len(abandoned),
        "unbudgeted": sum(not body["budgets"] for body in admitted.values()),
        "lost": rule.lost,
        "doubled": rule.doubled + sum(count > 1 for count in outcomes.values()),
        "unsettled": len(admitted.keys() - outcomes.keys()),
        "drift_nano_usd": drift,
        "escrow_drift_nano_usd": sum(
            abs(ledger[request] - escrow[request]) for request in ledger.keys() | escrow.keys()
        ),
    }


def _spoil(records: list[Raw], seed: int) -> str:
    """Drop or double one line of the ledger or of the escrow, as the seed says."""
    lines = [
        number
        for number, record in enumerate(records)
        if record.body is not None
        and (record.body.get("cost_nano_usd") or record.body.get("kind") == "spent")
        and record.type != "weir.llm.response.completed"
    ]
    return spoil_one(records, lines, seed)


if __name__ == "__main__":
    main("budget_race", 64, measure)
