"""Gathering all sides of one run from a living Weir, and waiting until they agree."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from bench.checks import CALL_TOPICS, Gathered, judge, spoil
from bench.claim import Arguments
from bench.load import Ledger, Row, Settings, drive
from bench.rawlog import dump, read_topics
from bench.recount import price_list, read_books, recount, spend_total
from bench.stack import Stack
from bench.workload import Shape, Share, arrivals, workload

SPEND_TOPIC = "weir.spend.tables.v1"
SETTLED_S = 60.0
"""Everything must agree this long after the load."""
PAUSE_S = 1.0
LONGEST_S = 3_600.0
BOTH_VENDORS = (
    Share("openai", "openai/gpt-4.1-nano", 2.0),
    Share("openai", "anthropic/claude-haiku-4-5"),
    Share("anthropic", "anthropic/claude-haiku-4-5", 2.0),
    Share("anthropic", "openai/gpt-4.1-nano"),
)
"""Either dialect in front of either vendor."""
SHAPE = Shape(
    BOTH_VENDORS, feedback=0.0, words_median=30, words_max=600, answer_tokens=(16, 48, 96)
)
"""Half streams, some tools; prompts below the size at which vendors begin to cache."""
PACE = {"first_token_ms": 20, "per_token_ms": 1, "tokens_per_frame": 4}
"""How the sandbox answers under load: frames of a few tokens, as vendors send them when busy."""
MUST_BE_ZERO = (
    "lost",
    "doubled",
    "not_projected",
    "repeat_rule_broken",
    "unsettled",
    "drift_nano_usd",
    "spend_drift_nano_usd",
)


def gather(stack: Stack) -> Gathered:
    """Return the log, the books, the rows of DuckDB and the spend as they are now."""
    projected = stack.sql("SELECT request_id, count(*) AS n FROM responses GROUP BY request_id")
    return Gathered(
        records=read_topics(stack.bootstrap, CALL_TOPICS),
        books=recount(read_books(stack.sandbox.books), price_list()),
        projected={str(row["request_id"]): int(row["n"]) for row in projected},
        spend_nano_usd=spend_total(read_topics(stack.bootstrap, [SPEND_TOPIC])),
    )


def settle(stack: Stack, rows: Sequence[Row], arguments: Arguments) -> dict[str, Any]:
    """Wait until all sides agree, at most `SETTLED_S` or two looks; return the last one's figures.

    The last look is kept under `out`; with `--sabotage` one of its records is spoilt and the
    figures are taken again.
    """
    begun = time.monotonic()
    for look in itertools.count(1):
        problem = None
        try:
            gathered = gather(stack)
        except OSError as error:  # a part is still coming back
            problem = repr(error)
        else:
            figures: dict[str, Any] = dict(judge(rows, gathered))
            if not any(figures[name] for name in MUST_BE_ZERO):
                break
        # One look at a long run takes longer than all of that, and its first part is as old.
        if look > 1 and time.monotonic() - begun > SETTLED_S:
            if problem is not None:
                raise TimeoutError(f"Weir does not answer after the load: {problem}")
            break
        time.sleep(PAUSE_S)
    settled_s = round(time.monotonic() - begun, 1)
    dump(gathered.records, arguments.out / "log.jsonl")
    if arguments.sabotage:
        figures = {"sabotaged": spoil(gathered, arguments.seed), **judge(rows, gathered)}
    return figures | {"settled_s": settled_s}


class Background:
    """A load that runs in a thread until the block ends; `rows` is then its whole ledger."""

    def __init__(
        self, stack: Stack, seed: int, rate_per_s: float, shape: Shape, *, feedback: bool = False
    ) -> None:
        self._ledger = Ledger(stack.out / "client.jsonl")
        self._stop = threading.Event()
        times_s = self._until_stopped(arrivals(seed, rate_per_s, LONGEST_S))
        settings = Settings(stack.url, stack.key, feedback=feedback)
        self._thread = threading.Thread(
            target=lambda: asyncio.run(
                drive(settings, workload(seed, shape), times_s, self._ledger)
            )
        )

    @property
    def rows(self) -> list[Row]:
        """The ledger so far."""
        return self._ledger.rows

    def _until_stopped(self, times_s: Iterator[float]) -> Iterator[float]:
        for at_s in times_s:
            if self._stop.is_set():
                return
            yield at_s

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._ledger.close()
