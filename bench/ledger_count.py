"""The recount of the ledger claim: the sandbox's books and hand-written prices against the raw log.

Pure. For every admitted request the rules below say which lines it must have and what they must come
to; whatever no rule explains is a finding. The rules:

- A call that its provider ended and counted (`usage_sent`) costs its books' tokens and units.
- A call that broke off, or whose client left, was never counted by its provider for anybody: its line
  says `estimated`, and must be the price times the very tokens that it names. How far these are from
  what the sandbox had produced is a figure of its own.
- An answer from our own cache, and one repeated under an idempotency key, called nobody: nothing.
- A failed call that gave nothing readable costs nothing.
- A call whose worker was killed is entered at its reservation: nobody can know more.
- A call without a price is `unpriced` with no cost; once its price is known, a correction adds all of
  it, and where a price changed for the past, the difference.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from bench.checks import ADMITTED, COMPLETED, COST
from bench.ledger_mix import NEVER, OWN_PRICES, PRICED_LATER
from bench.rawlog import Raw, unique
from bench.recount import Book, Price

ESCROW = "weir.budgets.escrow.moved"
RESERVED = "admitted"
BROKEN = ("malformed_frame", "missing_end_marker", "error_event", "cut")
"""Faults after which no client can take an answer for whole."""
Body = dict[str, Any]


class Bought(msgspec.Struct):
    """All sides of one request."""

    admitted: list[Body] = []
    completed: list[Body] = []
    lines: list[Body] = []
    books: list[Book] = []
    held: list[int] = []
    """What lines of the kind `admitted` set aside anew, in their order; such lines are no cost."""
    escrow_nano_usd: int = 0

    @property
    def sum_nano_usd(self) -> int:
        """What the ledger says that it cost."""
        return sum(int(line["cost_nano_usd"] or 0) for line in self.lines)

    @property
    def reserved_nano_usd(self) -> int:
        """What its worker held for it last."""
        held = self.held[-1] if self.held else self.admitted[0]["reserved_nano_usd"]
        return int(held or 0)


class Count(msgspec.Struct):
    """What the recount came to; sums are nano-USD."""

    requests: int = 0
    vendor_calls: int = 0
    ledger_nano_usd: int = 0
    recount_nano_usd: int = 0
    drift_nano_usd: int = 0
    escrow_nano_usd: int = 0
    escrow_drift_nano_usd: int = 0
    estimated_lines: int = 0
    estimated_nano_usd: int = 0
    produced_nano_usd: int = 0
    """What the calls behind the estimated lines had really produced, at the same prices."""
    findings: list[str] = []
    entries: dict[str, int] = {}
    explained: dict[str, int] = {}
    """Which rule explained how many calls of the books."""


def gather(records: Sequence[Raw], books: Iterable[Book]) -> dict[str, Bought]:
    """Return every request with all that is known of it, each event once."""
    found: defaultdict[str, Bought] = defaultdict(lambda: Bought([], [], [], [], []))
    for record in unique(records):
        body = record.body
        if body is None or not body.get("request_id"):
            continue
        request = found[str(body["request_id"])]
        if record.type == ADMITTED:
            request.admitted.append(body)
        elif record.type == COMPLETED:
            request.completed.append(body)
        elif record.type == COST and body["entry"] == RESERVED:
            request.held.append(int(body["cost_nano_usd"]))
        elif record.type == COST:
            request.lines.append(body)
        elif record.type == ESCROW and body["kind"] == "spent":
            request.escrow_nano_usd += int(body["amount_nano_usd"])
    for book in books:
        found[str(book["weir_request_id"] or "")].books.append(book)
    return dict(found)


def recount(bought: Mapping[str, Bought], prices: Mapping[str, Price]) -> Count:
    """Return the whole count."""
    count = Count()
    entries: Counter[str] = Counter()
    explained: Counter[str] = Counter()
    for name, one in bought.items():
        entries.update(str(line["entry"]) for line in one.lines)
        count.requests += 1
        count.vendor_calls += len(one.books)
        expected = _expected(name, one, prices, count, explained)
        count.ledger_nano_usd += one.sum_nano_usd
        count.recount_nano_usd += expected
        if expected != one.sum_nano_usd:
            count.drift_nano_usd += abs(expected - one.sum_nano_usd)
            count.findings.append(f"{name}: {one.sum_nano_usd} where {expected} is due")
        _check_escrow(name, one, count)
    count.entries, count.explained = dict(sorted(entries.items())), dict(sorted(explained.items()))
    return count


def price_of(book: Book, prices: Mapping[str, Price]) -> Price | None:
    """Return the price that holds for a call in the end, None for what never gets one."""
    base = str(book["base"]).strip("/")
    return None if base == NEVER else OWN_PRICES.get(base) or prices[str(book["model"])]


def _line_price(line: Body, prices: Mapping[str, Price]) -> Price | None:
    """The same by what a line of the ledger says: provider and model."""
    provider = str(line["provider"])
    return None if provider == NEVER else OWN_PRICES.get(provider) or prices[str(line["model"])]


def _expected(
    name: str,
    one: Bought,
    prices: Mapping[str, Price],
    count: Count,
    explained: Counter[str],
) -> int:
    """Return what a request must have cost; whatever is wrong with its lines becomes a finding."""
    wrong = count.findings.append
    if len(one.admitted) != 1 or len(one.completed) != 1:
        wrong(f"{name}: admitted {len(one.admitted)} times, ended {len(one.completed)} times")
        return 0
    ended = one.completed[0]
    final = [line for line in one.lines if line["entry"] not in ("wasted", "corrected")]
    if ended["outcome"] == "abandoned":
        explained["its worker was killed"] += len(one.books)
        if [line["entry"] for line in one.lines] != ["abandoned"]:
            wrong(f"{name}: an abandoned call has the lines {_names(one.lines)}")
        return one.reserved_nano_usd
    if len(final) != 1:
        wrong(f"{name}: its lines are {_names(one.lines)}")
        return 0
    _check_corrections(name, one, wrong)
    if ended["cache"] == "hit":
        if one.books or final[0]["cache_saved_nano_usd"] is None:
            wrong(f"{name}: a hit of the cache called somebody, or saved nothing")
        return 0
    counted, broken = _split(one.books)
    reported = [line for line in one.lines if line["basis"] in ("reported", "counted")]
    sources = [line for line in reported if line["entry"] != "corrected"]
    due = 0
    if ended["outcome"] == "success" or sources:
        due += _counted(name, sources, counted, prices, wrong)
        explained["counted by its provider"] += 1
    estimates = [
        line for line in one.lines if line["basis"] == "estimated" and line["entry"] != "corrected"
    ]
    spare = broken if sources else [*broken, *counted]
    due += _estimated(name, estimates, spare, prices, count)
    explained["estimated, as it broke off"] += len(estimates)
    left_over = len(one.books) - len(sources) - len(estimates)
    explained["failed, for nothing"] += left_over
    return due


def _counted(
    name: str,
    lines: Sequence[Body],
    counted: Sequence[Book],
    prices: Mapping[str, Price],
    wrong: Any,
) -> int:
    """The one line of the answer that came whole, against the one call that ended."""
    if len(lines) != 1 or not counted:
        wrong(f"{name}: {len(lines)} counted lines, {len(counted)} counted calls")
        return 0
    line, book = lines[0], counted[-1]
    same = {
        "input_tokens": book["input_tokens"],
        "output_tokens": book["output_tokens"],
        "cached_input_tokens": book["cached_input_tokens"],
    }
    for field, value in same.items():
        if line[field] is not None and int(line[field]) != int(value):
            wrong(f"{name}: {field} {line[field]} where the books have {value}")
    price = price_of(book, prices)
    if price is None:
        if line["entry"] != "unpriced" or line["cost_nano_usd"] is not None:
            wrong(f"{name}: a call without a price is {line['entry']} at {line['cost_nano_usd']}")
        return 0
    return price.nano_usd(book)


def _estimated(
    name: str,
    lines: Sequence[Body],
    books: Sequence[Book],
    prices: Mapping[str, Price],
    count: Count,
) -> int:
    """Lines of calls that nobody counted: the price times the tokens that they name."""
    if len(lines) > len(books):
        count.findings.append(f"{name}: {len(lines)} estimated lines for {len(books)} calls")
    due = 0
    for line in lines:
        price = _line_price(line, prices)
        if price is None:
            continue
        cost = price.nano_usd(
            {
                "input_tokens": line["input_tokens"] or 0,
                "cached_input_tokens": line["cached_input_tokens"] or 0,
                "cache_write_tokens": line["cache_write_input_tokens"] or 0,
                "output_tokens": line["output_tokens"] or 0,
            }
        )
        due += cost
        count.estimated_lines += 1
        count.estimated_nano_usd += cost
    for book in books[: len(lines)]:
        price = price_of(book, prices)
        count.produced_nano_usd += 0 if price is None else price.nano_usd(book)
    return due


def _check_corrections(name: str, one: Bought, wrong: Any) -> None:
    """A correction names a line of the same request, where a price changed, and has no tokens."""
    ids = {str(line["event_id"]) for line in one.lines}
    for line in one.lines:
        if line["entry"] == "corrected" and (
            line["corrects"] not in ids
            or line["input_tokens"] is not None
            or line["provider"] not in PRICED_LATER
        ):
            wrong(f"{name}: a correction of nothing, of a price that stands, or with tokens")


def _check_escrow(name: str, one: Bought, count: Count) -> None:
    """What a call spent of hard budgets is what its lines cost, once for each budget."""
    budgets = {budget for line in one.lines for budget in line["budgets"] or ()}
    cost = sum(
        int(line["cost_nano_usd"] or 0) for line in one.lines if line["entry"] != "corrected"
    )
    due = cost * len(budgets)
    count.escrow_nano_usd += one.escrow_nano_usd
    if due != one.escrow_nano_usd:
        count.escrow_drift_nano_usd += abs(due - one.escrow_nano_usd)
        count.findings.append(f"{name}: {one.escrow_nano_usd} of escrow where {due} is due")


def _split(books: Sequence[Book]) -> tuple[list[Book], list[Book]]:
    """Return the calls that were counted, and those that broke off after something was produced."""
    ordered = sorted(books, key=lambda book: int(book["started_at_us"]))
    paid = [book for book in ordered if book["status"] == 200]
    counted = [book for book in paid if _whole(book)]
    return counted, [book for book in paid if not _whole(book)]


def _whole(book: Book) -> bool:
    ended = bool(book["complete"]) and (bool(book["usage_sent"]) or not book["output_tokens"])
    return ended and book["fault"] not in BROKEN


def _names(lines: Iterable[Body]) -> str:
    return ", ".join(f"{line['entry']} ({line['basis']})" for line in lines)
