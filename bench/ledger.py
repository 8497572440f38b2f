"""Claim: every call is in the ledger once, and its sum is what the vendors' books and a price list come to.

`--size` mixed requests in both clients' dialects to six vendors' wires: whole and streamed, clients that
leave in mid-stream, faults with retries and fallbacks, cached and reasoning tokens, embeddings, rerank,
images, speech, answers from the cache, repeats under idempotency keys, lines of a batch, models without a
price, with a price that comes later, with one that changes for the past, with tiers for longer inputs; hard budgets hold for some, and a
worker is killed with -9 in the middle. Compared are the raw log, the sandbox's books with prices written
by hand, DuckDB, the spend table and the escrow.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from bench.checks import CALL_TOPICS, COST
from bench.claim import Arguments, Limit, Verdict, main
from bench.ledger_count import ESCROW, RESERVED, Bought, Count, gather, recount
from bench.ledger_mix import (
    LATE,
    MODEL_LATER,
    PRICED_LATER,
    RETRO,
    Wish,
    batch_lines,
    behaviours,
    config,
    wishes,
)
from bench.rawlog import Raw, audit, dump, read_topics, spoil_one, unique
from bench.recount import Book, Price, price_list, spend_total
from bench.stack import SANDBOX_KEY_VARIABLE, Stack, base_port
from infra.kafka import KafkaLog
from schemas.events.changes import PriceChanged, PriceTier
from schemas.log import Connection

SIZE = 100_000
CLIENTS = 64
BATCH_SHARE = 200
"""One line of a batch for so many requests."""
SETTLED_S = 120.0
PAUSE_S = 2.0
DEADLINE_S = 60.0
ESCROW_TOPIC = "weir.budgets.escrow.v1"
SPEND_TOPIC = "weir.spend.tables.v1"
PAGES = "0123456789abcdef"
MUST_BE_ZERO = (
    "drift_nano_usd",
    "lost",
    "doubled",
    "findings",
    "unpriced_in_the_end",
    "spend_drift_nano_usd",
    "duckdb_drift_nano_usd",
    "duckdb_calls_apart",
    "escrow_drift_nano_usd",
)


class Row(msgspec.Struct):
    """One request as its client saw it."""

    number: int
    kind: str
    path: str
    stream: bool
    status: int = 0
    """0 when no answer came."""
    request_id: str | None = None
    repeated: bool = False
    """Whether it is the answer of an earlier call under the same idempotency key."""
    cached: bool = False
    left: bool = False
    complete: bool = False
    error: str | None = None


def measure(arguments: Arguments) -> Verdict:
    """Send, kill, change prices, wait, recount."""
    sandbox_url = f"http://127.0.0.1:{base_port() + 6}"
    environment = {"WEIR_WORKERS": "2", "WEIR_LOG_LEVEL": "error"}
    with Stack(
        arguments.out,
        seed=arguments.seed,
        config=config(sandbox_url, SANDBOX_KEY_VARIABLE),
        environment=environment,
        models=("gpt-4.1-nano", "gpt-4o-mini"),
        keep=arguments.keep,
    ) as stack:
        for base, model, behaviour in behaviours():
            stack.sandbox.behave(base, model, **behaviour)
        begun = time.monotonic()
        rows = asyncio.run(_send(stack, arguments))
        sent_s = time.monotonic() - begun
        asyncio.run(_change_prices(stack))
        figures = _settle(stack, rows, arguments)
    answers = Counter(row.kind for row in rows if row.complete)
    figures |= {
        "requests": len(rows),
        "answered": sum(row.complete for row in rows),
        "left": sum(row.left for row in rows),
        "statuses": {str(k): n for k, n in sorted(Counter(row.status for row in rows).items())},
        "answered_by_kind": dict(sorted(answers.items())),
        "requests_per_s": round(len(rows) / sent_s, 1),
    }
    return Verdict(
        figures,
        [
            Limit("requests", arguments.size, "min"),
            *(Limit(name, 0) for name in MUST_BE_ZERO),
            Limit("estimate_error_share", 0.25),
            Limit("corrected", 1, "min"),
            Limit("abandoned", 1, "min"),
        ],
    )


# --- the client ----------------------------------------------------------------------------------


async def _send(stack: Stack, arguments: Arguments) -> list[Row]:
    """Send everything with `CLIENTS` at a time; half way a worker is killed."""
    rows: list[Row] = []
    todo = wishes(arguments.seed, arguments.size)
    timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"authorization": f"Bearer {stack.key}", "anthropic-version": "2023-06-01"}
    with (arguments.out / "client.jsonl").open("wb") as file:
        async with aiohttp.ClientSession(
            stack.url, headers=headers, timeout=timeout, connector=connector
        ) as session:
            await _warm(session)
            batch = asyncio.create_task(_batch(session, arguments))

            async def client() -> None:
                for wish in todo:
                    row = await _call(session, wish)
                    rows.append(row)
                    file.write(msgspec.json.encode(row) + b"\n")
                    if len(rows) == arguments.size // 2:
                        os.kill(stack.pids()["gateway-0"], signal.SIGKILL)

            await asyncio.gather(*(client() for _ in range(CLIENTS)))
            await batch
    return rows


async def _warm(session: aiohttp.ClientSession) -> None:
    """Wait until hard budgets grant: the part that does so may start after the workers."""
    in_a_row, until_s = 0, time.monotonic() + DEADLINE_S
    while in_a_row < 2 * CLIENTS and time.monotonic() < until_s:
        body = {
            "model": ("a/gpt-4.1-nano", "anthropic/claude-haiku-4-5")[in_a_row % 2],
            "max_tokens": 20,
            "messages": [{"role": "user", "content": f"Ready {in_a_row}?"}],
        }
        async with session.post("/v1/chat/completions", json=body) as response:
            await response.read()
            in_a_row = in_a_row + 1 if response.status == 200 else 0
        if not in_a_row:
            await asyncio.sleep(0.2)


async def _call(session: aiohttp.ClientSession, wish: Wish) -> Row:
    row = Row(wish.number, wish.kind, wish.path, wish.stream)
    try:
        async with session.post(wish.path, data=wish.body, headers=wish.headers) as response:
            row.status = response.status
            row.request_id = response.headers.get("x-weir-request-id")
            row.repeated = "idempotency-replayed" in response.headers
            row.cached = response.headers.get("x-weir-cache") == "hit"
            if wish.leave_after is not None and response.status == 200:
                await _leave(response, wish.leave_after, row)
            else:
                body = await response.read()
                row.complete = response.status == 200 and (not wish.stream or _ended(body))
                if response.status != 200:
                    row.error = body[:300].decode("utf-8", "replace")
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        row.error = repr(error)
    return row


async def _leave(response: aiohttp.ClientResponse, after_bytes: int, row: Row) -> None:
    """Read so much of a stream and hang up; it may end before."""
    last = b""
    async for piece in response.content.iter_any():
        after_bytes -= len(piece)
        last = (last + piece)[-256:]
        if after_bytes <= 0 and not _ended(last):
            row.left = True
            response.close()
            return
    row.complete = _ended(last)


def _ended(body: bytes) -> bool:
    return b"[DONE]" in body[-64:] or b"message_stop" in body[-256:]


async def _batch(session: aiohttp.ClientSession, arguments: Arguments) -> None:
    """Send a batch and wait for its end. Raises RuntimeError when it does not come."""
    lines = batch_lines(arguments.seed, max(10, arguments.size // BATCH_SHARE))
    form = aiohttp.FormData()
    form.add_field("purpose", "batch")
    form.add_field("file", lines, filename="batch.jsonl")
    async with session.post("/v1/files", data=form) as response:
        file = await response.json()
    body = {
        "input_file_id": file["id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    async with session.post("/v1/batches", json=body) as response:
        batch = await response.json()
    until_s = time.monotonic() + 10 * DEADLINE_S
    while batch["status"] not in ("completed", "failed", "expired"):
        if time.monotonic() > until_s:
            raise RuntimeError(f"the batch is still {batch['status']}")
        await asyncio.sleep(1.0)
        try:
            async with session.get(f"/v1/batches/{batch['id']}") as response:
                batch = await response.json() if response.status == 200 else batch
        except (aiohttp.ClientError, OSError, TimeoutError):
            continue
    if batch["status"] != "completed":
        raise RuntimeError(f"the batch {batch['status']}: {batch}")


async def _change_prices(stack: Stack) -> None:
    """Tell the price of a model that had none, and another one for calls that were made already."""
    async with KafkaLog(Connection(stack.bootstrap), "/bench") as log:
        for number, (provider, price) in enumerate(PRICED_LATER.items()):
            await log.publish(
                PriceChanged(
                    event_id=f"ledger-price-{number}",
                    occurred_at_us=time.time_ns() // 1_000,
                    entity_version=1,
                    actor="bench",
                    provider=provider,
                    model=MODEL_LATER,
                    valid_from_us=1_780_000_000_000_000,
                    **_rates(price),
                    tiers=[
                        PriceTier(above_input_tokens=tokens, **_rates(tier))
                        for tokens, tier in sorted(price.above.items())
                    ],
                    price_version="in the end",
                    source="bench",
                )
            )


def _rates(price: Price) -> dict[str, Any]:
    return {
        "input_price": int(price.input * 10**9),
        "cached_input_price": int(price.cached_input * 10**9),
        "output_price": int(price.output * 10**9),
    }


# --- the comparison ------------------------------------------------------------------------------


class Sides(msgspec.Struct):
    """All sides of the run as they are now. `projected`: {request: [cost, rows]} of DuckDB."""

    records: list[Raw]
    books: list[Book]
    projected: dict[str, tuple[int, int]]
    spend_nano_usd: int


def look(stack: Stack) -> Sides:
    """Read all sides."""
    records = read_topics(stack.bootstrap, [*CALL_TOPICS, ESCROW_TOPIC])
    projected = {
        str(row["request_id"]): (int(row["cost"] or 0), int(row["n"]))
        for page in PAGES
        for row in stack.sql(
            "SELECT request_id, sum(cost_nano_usd) AS cost, count(*) AS n FROM calls "
            f"WHERE request_id LIKE '%{page}' GROUP BY request_id"
        )
    }
    spend = spend_total(read_topics(stack.bootstrap, [SPEND_TOPIC]))
    return Sides(records, list(read_books(stack.sandbox.books)), projected, spend)


def read_books(path: Path) -> Iterator[Book]:
    """Yield the rows of calls that a provider bills or refused; listings and files are none."""
    for line in path.read_bytes().splitlines():
        row = json.loads(line)
        if row["model"]:
            yield row


def judge(rows: Sequence[Row], sides: Sides) -> tuple[dict[str, Any], Count]:
    """Return the figures."""
    bought = gather(sides.records, sides.books)
    count = recount(bought, price_list())
    rule = audit(sides.records)
    settled = Counter(
        str((record.body or {})["request_id"])
        for record in unique(sides.records)
        if record.type == COST
        and (record.body or {})["entry"] not in ("wasted", "corrected", RESERVED)
    )
    own = [row for row in rows if row.complete and row.request_id and not row.repeated]
    lost = sum(settled[str(row.request_id)] == 0 for row in own)
    lost += sum(not one.lines for one in bought.values() if one.admitted)
    found = {name: one.sum_nano_usd for name, one in bought.items() if one.admitted}
    shown = sides.projected
    error = abs(count.estimated_nano_usd - count.produced_nano_usd)
    return {
        "ledger_usd": count.ledger_nano_usd / 1e9,
        "recount_usd": count.recount_nano_usd / 1e9,
        "drift_nano_usd": count.drift_nano_usd,
        "lost": lost + rule.lost,
        "doubled": rule.doubled + sum(n > 1 for n in settled.values()),
        "findings": len(count.findings),
        "unpriced_in_the_end": _unpriced(bought),
        "spend_drift_nano_usd": abs(sides.spend_nano_usd - count.ledger_nano_usd),
        "duckdb_drift_nano_usd": sum(
            abs(cost - shown.get(name, (0, 0))[0]) for name, cost in found.items()
        ),
        "duckdb_calls_apart": len(found.keys() ^ shown.keys())
        + sum(n > 1 for _, n in shown.values()),
        "escrow_usd": count.escrow_nano_usd / 1e9,
        "escrow_drift_nano_usd": count.escrow_drift_nano_usd,
        "calls": len(found),
        "vendor_calls": count.vendor_calls,
        "entries": count.entries,
        "explained": count.explained,
        "corrected": count.entries.get("corrected", 0),
        "abandoned": count.entries.get("abandoned", 0),
        "estimated_lines": count.estimated_lines,
        "estimated_usd": count.estimated_nano_usd / 1e9,
        "estimate_error_share": round(error / max(1, count.produced_nano_usd), 4),
        "repeats_in_log": rule.repeats,
    }, count


def _unpriced(bought: dict[str, Bought]) -> int:
    """How many calls of models whose price is known in the end have no cost."""
    return sum(
        not any(line["entry"] == "corrected" for line in one.lines)
        for one in bought.values()
        for line in one.lines
        if line["entry"] == "unpriced" and line["provider"] in (LATE, RETRO)
    )


def _settle(stack: Stack, rows: Sequence[Row], arguments: Arguments) -> dict[str, Any]:
    """Look until all sides agree, at most `SETTLED_S`; keep the last look under `out`."""
    begun = time.monotonic()
    while True:
        sides = look(stack)
        figures, count = judge(rows, sides)
        if not any(figures[name] for name in MUST_BE_ZERO):
            break
        if time.monotonic() - begun > SETTLED_S:
            break
        time.sleep(PAUSE_S)
    settled_s = round(time.monotonic() - begun, 1)
    dump(sides.records, arguments.out / "log.jsonl")
    if arguments.sabotage:
        what = spoil(sides.records, arguments.seed)
        figures, count = judge(rows, sides)
        figures = {"sabotaged": what, **figures}
    (arguments.out / "findings.txt").write_text("\n".join(count.findings) + "\n", "utf-8")
    return figures | {"settled_s": settled_s}


def spoil(records: list[Raw], seed: int) -> str:
    """Drop or double one record of the ledger or of the escrow; return what was done."""
    lines = [
        number
        for number, record in enumerate(records)
        if record.type in (COST, ESCROW)
        and ((record.body or {}).get("cost_nano_usd") or (record.body or {}).get("kind") == "spent")
        and (record.body or {}).get("entry") != RESERVED
    ]
    return spoil_one(records, lines, seed)


if __name__ == "__main__":
    main("ledger", SIZE, measure)
