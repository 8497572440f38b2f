"""The cells of the fault table, and the verdict over each. Pure: no Weir is needed to test it.

A cell is one fault × the client's dialect × the provider's dialect × whole or streamed × with or
without a fallback. It has a provider of its own, so that no cell's circuit touches another's.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import msgspec

from bench.load import Row
from bench.recount import Book, Price
from bench.workload import Dialect, Request

Verdict = Literal["answered", "failed", "cancelled", "either"]
Setting = Literal["alone", "backed", "buffered"]

MODELS: dict[Dialect, str] = {"openai": "gpt-4.1-nano", "anthropic": "claude-haiku-4-5"}
PATHS: dict[Dialect, str] = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
ATTEMPTS = 3
FIRST_TOKEN_S = STALL_S = 1.0
TOKEN_S = 0.02
"""What the gateway adds to the limit of a whole answer per token asked for (docs/api.md)."""
MAX_TOKENS = 40
SLACK_S = 4.0
"""What a busy machine may add to a bound before it counts as broken."""
LONG_MS = 60_000.0
GONE_S = 0.6
"""When the client of the case `client_gone` leaves."""
PACE = {"first_token_ms": 20, "per_token_ms": 5, "answer_tokens_min": 40, "answer_tokens_max": 40}
SLOW_PACE = {**PACE, "per_token_ms": 100}
NOTICED_PACE = {**PACE, "per_token_ms": 20}
"""After a frame that is no JSON the provider goes on, and bills, until it notices that the gateway has
left: so slow that a busy machine does not make more tokens of it than were seen."""
CUT_COST_FACTOR = 2.0
"""A cut answer's tokens are estimated: at most so far from what the provider counted."""


class Case(msgspec.Struct, frozen=True):
    """A fault and what must come of a call that meets it.

    `alone` and `backed` are the verdicts without and with a second target. `mid_stream`: a stream
    breaks when part of it was shown already, so that nobody can take over unless it is buffered.
    """

    name: str
    fault: dict[str, Any] | None
    alone: Verdict
    backed: Verdict
    mid_stream: bool = False
    waits_s: float = 0.0
    """Seconds that the fault itself may add to a good answer."""
    pace: dict[str, Any] = msgspec.field(default_factory=lambda: PACE)
    calls: int = 1
    streams: tuple[bool, ...] = (False, True)
    leaves: bool = False
    error_status: int | None = None


def fault(kind: str, **fields: Any) -> dict[str, Any]:
    """Return a fault as the sandbox takes it."""
    return {"kind": kind, **fields}


def mid_stream(kind: str, pace: dict[str, Any] = PACE, **fields: Any) -> Case:
    """Return the case of a fault after five tokens."""
    spoiling = fault(kind, after_tokens=5, **fields)
    return Case(kind, spoiling, "failed", "answered", mid_stream=True, pace=pace)


CASES = (
    Case("rate_limited", fault("rate_limited", count=1), "answered", "answered"),
    Case(
        "rate_limited_hint",
        fault("rate_limited", count=1, retry_after_s=1),
        "answered",
        "answered",
        waits_s=1.0,
    ),
    Case(
        "rate_limited_long",
        fault("rate_limited", retry_after_s=8),
        "failed",
        "answered",
        error_status=429,
    ),
    Case("server_error_once", fault("server_error", count=1), "answered", "answered"),
    Case("unavailable", fault("unavailable"), "failed", "answered", error_status=503),
    Case("reset", fault("reset"), "failed", "answered"),
    Case("silence", fault("silence"), "failed", "answered", error_status=504),
    Case(
        "slow_first_token",
        fault("slow_first_token", delay_ms=500),
        "answered",
        "answered",
        waits_s=0.5,
    ),
    Case(
        "no_first_token",
        fault("slow_first_token", delay_ms=LONG_MS),
        "failed",
        "answered",
        error_status=504,
    ),
    mid_stream("cut"),
    mid_stream("stall", delay_ms=LONG_MS),
    mid_stream("malformed_frame", NOTICED_PACE),
    mid_stream("missing_end_marker"),
    mid_stream("error_event"),
    Case("context_too_long", fault("context_too_long"), "failed", "failed", error_status=400),
    Case("content_filtered", fault("content_filtered"), "answered", "answered"),
    Case("flapping", fault("server_error", rate=0.5), "either", "answered", calls=6),
    Case("client_gone", None, "cancelled", "cancelled", pace=SLOW_PACE, leaves=True),
)


class Cell(msgspec.Struct, frozen=True):
    """One row of the table."""

    number: int
    case: Case
    front: Dialect
    back: Dialect
    stream: bool
    setting: Setting

    @property
    def name(self) -> str:
        """The route that its client asks for; its faulty provider is called the same."""
        return f"cell-{self.number}"

    @property
    def expected(self) -> Verdict:
        """What must come of it."""
        if self.stream and self.case.mid_stream and self.setting != "buffered":
            # Where all of it came in one piece, nothing had left yet and another may take over.
            return "failed" if self.setting == "alone" else "either"
        return self.case.alone if self.setting == "alone" else self.case.backed

    @property
    def within_s(self) -> float:
        """When it must be over: what every attempt may take, and the waits between them."""
        longest_s = FIRST_TOKEN_S + (STALL_S if self.stream else MAX_TOKENS * TOKEN_S)
        answer_s = MAX_TOKENS * float(self.case.pace["per_token_ms"]) / 1e3
        return 2 * longest_s + self.case.waits_s + answer_s + SLACK_S

    def request(self, call: int) -> Request:
        """Return a request of its client."""
        body: dict[str, Any] = {
            "model": self.name,
            "messages": [{"role": "user", "content": f"Tell me of {self.name}, please. {call}"}],
            "max_tokens": MAX_TOKENS,
        }
        if self.stream:
            body["stream"] = True
        client_id = f"{self.name}/{call}"
        return Request(
            client_id,
            call,
            self.front,
            PATHS[self.front],
            self.name,
            self.stream,
            json.dumps(body).encode(),
            "bench",
            {"client_id": client_id},
            "chat",
            "",
        )


def cells() -> list[Cell]:
    """Return the whole table."""
    return list(_cells())


def _cells() -> Iterator[Cell]:
    dialects: tuple[Dialect, ...] = ("openai", "anthropic")
    number = itertools.count()
    for case, front, back in itertools.product(CASES, dialects, dialects):
        for stream in case.streams:
            settings: list[Setting] = ["alone"] if case.leaves else ["alone", "backed"]
            if stream and case.mid_stream:
                settings.append("buffered")
            for setting in settings:
                yield Cell(next(number), case, front, back, stream, setting)


def config(table: Sequence[Cell], sandbox_url: str, key_variable: str) -> str:
    """Return the `weir.toml` of the table: a provider and a route per cell, two good providers."""
    lines = [_provider(f"good-{back}", back, sandbox_url, key_variable) for back in MODELS]
    for cell in table:
        lines.append(_provider(cell.name, cell.back, sandbox_url, key_variable))
        targets = [f'{{ target = "{cell.name}/{MODELS[cell.back]}", priority = 1 }}']
        if cell.setting != "alone":
            targets.append(f'{{ target = "good-{cell.back}/{MODELS[cell.back]}" }}')
        lines.append(
            f"[routes.{cell.name}]\ntargets = [{', '.join(targets)}]\n"
            f'strategy = "failover"\nattempts = {ATTEMPTS}\n'
            f"buffered = {str(cell.setting == 'buffered').lower()}\n"
            f"connect_timeout_ms = 1000\nfirst_token_timeout_ms = {FIRST_TOKEN_S * 1e3:.0f}\n"
            f"stall_timeout_ms = {STALL_S * 1e3:.0f}\ntotal_timeout_ms = 20000\n"
        )
    return "\n".join(lines)


def _provider(name: str, dialect: Dialect, sandbox_url: str, key_variable: str) -> str:
    suffix = "/v1" if dialect == "openai" else ""
    return (
        f'[providers.{name}]\ndialect = "{dialect}"\nbase_url = "{sandbox_url}/{name}{suffix}"\n'
        f'key_env = "{key_variable}"\nprice_provider = "{dialect}"\n'
        f'models = ["{MODELS[dialect]}"]\n'
    )


class Seen(msgspec.Struct):
    """All sides of one call: the client's row, the log's events, the rows of the sandbox's books."""

    row: Row
    admitted: list[dict[str, Any]]
    completed: list[dict[str, Any]]
    cost_nano_usd: int | None
    books: list[Book]

    def wasted(self, prices: dict[str, Price]) -> int:
        """Return what streams cost that broke before the last one, in nano-USD.

        Of a whole answer that broke nothing was seen, so nobody but its provider knows.
        """
        return sum(
            prices[str(book["model"])].nano_usd(book) for book in self.books[:-1] if _produced(book)
        )


class Line(msgspec.Struct):
    """A call of the table as it is published. `wrong` lists the promises that it breaks."""

    cell: str
    fault: str
    client: str
    provider: str
    stream: bool
    setting: str
    expected: str
    came: str
    status: int
    error: str | None
    finish_reason: str | None
    attempts: int
    served_by: str | None
    seconds: float
    outcome: str | None
    basis: str | None
    cost_nano_usd: int | None
    books_nano_usd: int
    wrong: list[str]


def judge(cell: Cell, seen: Seen, prices: dict[str, Price]) -> Line:
    """Return the line of one call."""
    row, ended = seen.row, seen.completed[0] if len(seen.completed) == 1 else {}
    came = "answered" if row.complete else "cancelled" if cell.case.leaves else "failed"
    served = row.headers.get("x-weir-model", "").partition("/")[0] or None
    last = seen.books[-1] if seen.books else None
    counted = prices[str(last["model"])].nano_usd(last) if last is not None else 0
    line = Line(
        cell=cell.name,
        fault=cell.case.name,
        client=cell.front,
        provider=cell.back,
        stream=cell.stream,
        setting=cell.setting,
        expected=cell.expected,
        came=came,
        status=row.status,
        error=row.error,
        finish_reason=row.finish_reason,
        attempts=len(ended.get("attempts", [])),
        served_by=served,
        seconds=round((row.ended_at_us - row.sent_at_us) / 1e6, 3),
        outcome=ended.get("outcome"),
        basis=ended.get("usage_basis"),
        cost_nano_usd=seen.cost_nano_usd,
        books_nano_usd=counted,
        wrong=[],
    )
    line.wrong = [name for name, broken in _promises(cell, seen, line, last, prices) if broken]
    return line


def _promises(
    cell: Cell, seen: Seen, line: Line, last: Book | None, prices: dict[str, Price]
) -> Iterable[tuple[str, bool]]:
    """Yield each promise and whether the call breaks it."""
    row = seen.row
    answered = line.came == "answered"
    yield "came otherwise", line.expected not in ("either", line.came)
    yield "took too long", line.seconds > cell.within_s
    yield "too many attempts", not 1 <= line.attempts <= ATTEMPTS
    # A kept connection that breaks under a request may have been closed before: it is sent again.
    again = line.attempts if cell.case.name == "reset" else 0
    known = range(line.attempts, line.attempts + again + 1)
    yield "attempts that the books do not know", len(seen.books) not in known
    yield "not once in the log", len(seen.admitted) != 1 or len(seen.completed) != 1
    outcome = {"answered": "success", "failed": "failed", "cancelled": "cancelled"}[line.came]
    yield "the log says otherwise", line.outcome != outcome
    if answered:
        whole = last is not None and bool(last["complete"]) and last["status"] == 200
        yield "truncated, shown as success", not whole or row.text_sha256 != last["text_sha256"]
        yield "the wrong model named", line.served_by != str((last or {})["base"]).strip("/")
        low, high = _billed(line, seen.wasted(prices))
        yield "the books cost otherwise", not low <= (line.cost_nano_usd or 0) <= high
    status = cell.case.error_status
    if line.came == "failed" and row.status != 200 and status is not None:
        yield "another status", row.status != status
    if line.came == "failed" and row.status == 200:
        yield "no error in the stream", row.error in (None, "no end marker", "unfinished frame")
    if not answered:
        # What broke before anything of it had left was produced all the same.
        produced = seen.wasted(prices) + (line.books_nano_usd if _produced(last) else 0)
        least = line.books_nano_usd / CUT_COST_FACTOR if _said_something(row) else 0
        yield "what was produced is not billed", (line.cost_nano_usd or 0) < least
        yield "a failure is billed", (line.cost_nano_usd or 0) > produced * CUT_COST_FACTOR


def _billed(line: Line, wasted: int) -> tuple[float, float]:
    """Return the bounds of a good answer's cost: exact, but for what broken attempts produced."""
    exact = line.books_nano_usd
    return exact + wasted / CUT_COST_FACTOR, exact + wasted * CUT_COST_FACTOR


def _produced(book: Book | None) -> bool:
    return book is not None and bool(book["stream"] and book["output_tokens"])


def _said_something(row: Row) -> bool:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    return row.stream and row.text_sha256 not in (None, empty)


def markdown(lines: Sequence[Line]) -> str:
    """Return the table as a page: one row per fault and setting, its cells' worst first."""
    out = [
        "| Fault | Client → provider | | Setting | Came | Attempts | Served by | Seconds | Log | Billed | Wrong |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for line in sorted(lines, key=lambda one: (not one.wrong, one.fault, one.setting, one.cell)):
        served = "the fallback" if (line.served_by or "").startswith("good") else "itself"
        billed = f"{line.cost_nano_usd or 0} of {line.books_nano_usd}"
        out.append(
            f"| {line.fault} | {line.client} → {line.provider} "
            f"| {'stream' if line.stream else 'whole'} | {line.setting} "
            f"| {line.came}{f' ({line.status} {line.error})' if line.error else ''} "
            f"| {line.attempts} | {served if line.came == 'answered' else '–'} | {line.seconds:.2f} "
            f"| {line.outcome}, {line.basis} | {billed} nano-USD | {'; '.join(line.wrong) or '–'} |"
        )
    return "\n".join(out) + "\n"
