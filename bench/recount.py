"""What the calls must have cost: the sandbox's books times a price list written by hand.

Nothing here shares code with the gateway's pricing or the folds: prices are decimals in USD per
million tokens, copied from the vendors' public lists into ``prices.json``.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import msgspec

from bench.rawlog import Raw

PRICE_LIST = Path(__file__).parent / "prices.json"
CALL_PATHS = ("/v1/chat/completions", "/v1/messages")
NANO_PER_USD = Decimal(1_000_000_000)
TOKENS_PER_PRICE = Decimal(1_000_000)

Book = dict[str, Any]
"""A row of the sandbox's books, as `infra/sandbox/books.py` documents it."""


class Price(msgspec.Struct, frozen=True):
    """USD per million tokens."""

    input: Decimal
    cached_input: Decimal
    output: Decimal
    cache_write: Decimal | None = None
    """None: what is written to the cache costs as any input."""
    units: dict[str, Decimal] = {}
    """USD per million of what is billed beside tokens (search, character, audio_ms), and of input
    tokens of another kind, whose names end in `_tokens`."""
    above: dict[int, Price] = {}
    """What a row costs whose input has more tokens than so many: all of it."""

    def nano_usd(self, row: Book) -> int:
        """Return what the tokens and units of a row cost, rounded once, half to even."""
        passed = [tokens for tokens in self.above if int(row["input_tokens"]) > tokens]
        if passed:
            return self.above[max(passed)].nano_usd(row)
        cached = int(row["cached_input_tokens"])
        written = int(row.get("cache_write_tokens", 0))
        counted = {name: int(row.get("units", {}).get(name, 0)) for name in self.units}
        other = sum(count for name, count in counted.items() if name.endswith("_tokens"))
        usd = (
            sum(count * self.units[name] for name, count in counted.items())
            + (int(row["input_tokens"]) - cached - written - other) * self.input
            + written * (self.input if self.cache_write is None else self.cache_write)
            + cached * self.cached_input
            + int(row["output_tokens"]) * self.output
        ) / TOKENS_PER_PRICE
        return int((usd * NANO_PER_USD).to_integral_value(rounding=ROUND_HALF_EVEN))


class Call(msgspec.Struct):
    """What the books say of one client request."""

    calls: int = 0
    answered: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nano_usd: int = 0


def price_list(path: Path = PRICE_LIST) -> dict[str, Price]:
    """Return the prices by model name and by dated name."""
    prices = {}
    for name, row in json.loads(path.read_text("utf-8"))["models"].items():
        tokens = [Decimal(row[part]) for part in ("input", "cached_input", "output")]
        price = Price(
            *tokens,
            cache_write=Decimal(row["cache_write"]) if "cache_write" in row else None,
            units={unit: Decimal(usd) for unit, usd in row.get("units", {}).items()},
        )
        prices[name] = price
        if row["snapshot"]:
            prices[row["snapshot"]] = price
    return prices


def read_books(path: Path) -> list[Book]:
    """Return the model calls in the books; listings and control calls are left out."""
    rows = [json.loads(line) for line in path.read_bytes().splitlines() if line.strip()]
    return [row for row in rows if str(row["path"]).endswith(CALL_PATHS)]


def recount(rows: Iterable[Book], prices: dict[str, Price]) -> dict[str, Call]:
    """Return what each client request used and must cost, by the gateway's request id.

    A call of the books without a request id is a probe that nobody asked for; it appears under "".
    """
    found: defaultdict[str, Call] = defaultdict(Call)
    for row in rows:
        call = found[str(row["weir_request_id"] or "")]
        call.calls += 1
        if row["status"] != 200 or not row["usage_sent"]:
            continue
        call.answered += 1
        call.input_tokens += int(row["input_tokens"])
        call.output_tokens += int(row["output_tokens"])
        call.cost_nano_usd += prices[str(row["model"])].nano_usd(row)
    return dict(found)


def ledger(costs: Iterable[Raw]) -> dict[str, int]:
    """Return the sum of the cost lines per request, from unique records of the ledger topic."""
    sums: defaultdict[str, int] = defaultdict(int)
    for record in costs:
        if record.body is not None and record.type == "weir.llm.cost.entered":
            sums[str(record.body["request_id"])] += int(record.body["cost_nano_usd"] or 0)
    return dict(sums)


def drift_nano_usd(expected: dict[str, int], found: dict[str, int]) -> int:
    """Return the sum of the absolute differences over all requests of either side."""
    return sum(
        abs(expected.get(request, 0) - found.get(request, 0)) for request in expected | found
    )


def spend_total(rows: Iterable[Raw], entity: str = "total:", window: str = "day") -> int:
    """Return the spend of an entity: the last row per partition, its windows of one kind summed."""
    last: dict[str, Raw] = {}
    for record in rows:
        if record.body is not None and record.type == "weir.spend.row":
            last[record.key or ""] = record
    return sum(
        int(part["cost_nano_usd"])
        for record in last.values()
        if record.body is not None and record.body["entity"] == entity
        for part in record.body["windows"]
        if part["window"] == window
    )
