"""The sandbox's books: one row for every API call that it served, the oracle for every recount."""

import asyncio
import os
import time
from collections import deque
from pathlib import Path
from typing import Any

import msgspec

# Rows kept in memory for the control endpoint; the file holds all of them.
ROWS_IN_MEMORY = 50_000
FLUSH_INTERVAL_S = 0.05
PAGE_ROWS_MAX = 10_000

_encode = msgspec.json.Encoder().encode


def now_us() -> int:
    """Wall clock in microseconds since the epoch."""
    return time.time_ns() // 1_000


class Row(msgspec.Struct):
    """One call. Tokens are as billed: what was produced before a cut or before the client left."""

    id: str
    """The sandbox's call id; the answer carries it as `x-request-id` or `request-id`."""
    dialect: str
    base: str
    method: str
    path: str
    started_at_us: int
    seq: int = 0
    model: str = ""
    """The name that was asked for."""
    key: str = ""
    """The key presented, masked to its first three and last four characters."""
    weir_request_id: str | None = None
    traceparent: str | None = None
    stream: bool = False
    status: int = 0
    """The HTTP status sent; 0 when no header left."""
    error_code: str | None = None
    fault: str | None = None
    input_tokens: int = 0
    """All input, cached part included."""
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    """All output, reasoning included."""
    reasoning_tokens: int = 0
    units: dict[str, int] = {}
    """What is billed beside tokens (image, character, audio_ms, search, call), and input tokens of another
    kind (input_audio_tokens, input_image_tokens)."""
    usage_sent: bool = False
    """Whether the final usage was written to the client."""
    complete: bool = False
    """Whether the answer was written to its proper end."""
    finish_reason: str | None = None
    text_sha256: str | None = None
    """Of the text that was written, without thinking and without tool calls."""
    tool_calls: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    first_byte_at_us: int | None = None
    ended_at_us: int = 0
    client_disconnected: bool = False


class Totals(msgspec.Struct):
    """Sums of the books by base path and model."""

    calls: int = 0
    calls_ok: int = 0
    calls_faulty: int = 0
    calls_disconnected: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    units: dict[str, int] = {}


class Books:
    """Appends rows to a JSONL file in batches, and keeps the last ones and the sums in memory."""

    def __init__(self, path: Path | None) -> None:
        self._file = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._pending: list[bytes] = []
        self._recent: deque[tuple[int, bytes]] = deque(maxlen=ROWS_IN_MEMORY)
        self._totals: dict[tuple[str, str], Totals] = {}
        self.rows = 0

    def append(self, row: Row) -> None:
        """Enter a row, which must not change any more."""
        self.rows += 1
        row.seq = self.rows
        encoded = _encode(row)
        self._recent.append((row.seq, encoded))
        if self._file is not None:
            self._pending.append(encoded)
        totals = self._totals.get((row.base, row.model))
        if totals is None:
            totals = self._totals[row.base, row.model] = Totals()
        totals.calls += 1
        totals.calls_ok += row.complete and row.status == 200
        totals.calls_faulty += row.fault is not None
        totals.calls_disconnected += row.client_disconnected
        totals.input_tokens += row.input_tokens
        totals.cached_input_tokens += row.cached_input_tokens
        totals.cache_write_tokens += row.cache_write_tokens
        totals.output_tokens += row.output_tokens
        totals.reasoning_tokens += row.reasoning_tokens
        for name, count in row.units.items():
            totals.units[name] = totals.units.get(name, 0) + count

    def flush(self) -> None:
        """Write what is pending to the file."""
        if self._file is None or not self._pending:
            return
        block = b"\n".join(self._pending) + b"\n"
        self._pending.clear()
        view = memoryview(block)
        while view:
            view = view[os.write(self._file, view) :]

    async def keep_flushed(self) -> None:
        """Flush every 50 ms until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_INTERVAL_S)
            self.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self.flush()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def page(self, since: int, limit: int) -> bytes:
        """Rows after sequence `since` as a JSON object; `oldest` says where memory begins."""
        rows: list[bytes] = []
        last = since
        # The deque is in order, so the first row wanted is a known distance from its end.
        skip = max(0, since - (self.rows - len(self._recent)))
        for index in range(skip, min(len(self._recent), skip + min(limit, PAGE_ROWS_MAX))):
            last, encoded = self._recent[index]
            rows.append(encoded)
        head = _encode(
            {
                "object": "list",
                "oldest": self._recent[0][0] if self._recent else 0,
                "next_since": last,
                "has_more": last < self.rows,
            }
        )
        return b'%b,"data":[%b]}' % (head[:-1], b",".join(rows))

    def summary(self) -> dict[str, Any]:
        """Sums by base path and model."""
        return {
            "rows": self.rows,
            "totals": [
                {"base": base, "model": model, **msgspec.structs.asdict(totals)}
                for (base, model), totals in sorted(self._totals.items())
            ],
        }
