"""Serving one model call: latency, faults, pacing of the stream, and the entry in the books.

Both dialects come through here. A dialect turns an answer into frames (the bytes of each, and the
tokens and text that it carries) or into a whole body; what happens on the way is decided here.
"""

import asyncio
import hashlib
from collections.abc import Callable
from typing import NamedTuple

from infra.sandbox.behaviour import Fault, Lane, Plan
from infra.sandbox.errors import ApiError
from infra.sandbox.exchange import Disconnected, Exchange, Header

# Frames due within this time are written together: finer timers cost more than they show.
_TOGETHER_S = 0.000_5


class Frame(NamedTuple):
    """One event of a stream."""

    data: bytes
    tokens: int = 0
    text: str = ""
    kind: str = ""
    """`end` for the end marker, `usage` for a frame with the final usage, `usage+end` for both."""
    reasoning: int = 0


class Bill(NamedTuple):
    """Input side of the bill, known before the first token."""

    input_tokens: int
    cached: int = 0
    cache_write: int = 0


async def before(exchange: Exchange, plan: Plan, *, anthropic: bool) -> bool:
    """Apply the faults that come instead of an answer; True when the call is over.

    Raises:
        ApiError: the fault is an error answer.
        Disconnected: the client left a silent call.

    """
    fault = plan.fault
    if fault is None:
        return False
    exchange.row.fault = fault.kind
    match fault.kind:
        case "rate_limited":
            raise ApiError(
                429,
                "rate_limit",
                "Rate limit reached for requests. Please try again later.",
                code="rate_limit_exceeded",
                retry_after_s=fault.retry_after_s,
            )
        case "server_error":
            message = "The server had an error while processing your request. Sorry about that!"
            raise ApiError(500, "server", message)
        case "unavailable":
            message = "The engine is currently overloaded, please try again later."
            raise ApiError(503, "server", message, retry_after_s=fault.retry_after_s)
        case "overloaded":
            status = 529 if anthropic else 503
            raise ApiError(status, "overloaded", "Overloaded", retry_after_s=fault.retry_after_s)
        case "reset":
            await exchange.reset()
            return True
        case "silence":
            await exchange.wait(None)
    return False


async def serve_whole(
    exchange: Exchange,
    plan: Plan,
    bill: Bill,
    frames: list[Frame],
    body: Callable[[], bytes],
    headers: Callable[[], list[Header]],
) -> None:
    """Serve an answer in one piece after the time that its tokens take.

    Raises:
        Disconnected: the client left; what was produced until then is in the row.

    """
    fault = plan.fault
    tokens = sum(frame.tokens for frame in frames)
    delay_s = plan.first_token_s + plan.per_token_s * max(0, tokens - 1)
    if fault is not None and fault.kind in ("slow_first_token", "stall"):
        delay_s += fault.delay_ms / 1_000
    begun_s = asyncio.get_running_loop().time()
    try:
        if delay_s > 0:
            await exchange.wait(delay_s)
    except Disconnected:
        passed_s = asyncio.get_running_loop().time() - begun_s - plan.first_token_s
        made = (
            0
            if passed_s < 0
            else 1 + int(passed_s / plan.per_token_s)
            if plan.per_token_s
            else tokens
        )
        _enter(exchange, bill, _up_to(frames, made), written=False)
        raise
    _enter(exchange, bill, frames, written=True)
    data = body()
    kind = fault.kind if fault is not None else ""
    if kind == "malformed_frame":
        data = data[: len(data) // 2] + b"\x00" + data[len(data) // 2 + 1 :]
    if kind in ("cut", "missing_end_marker", "error_event"):
        # Nothing but the length of the body marks the end of a whole answer.
        lines = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(data)),
            *headers(),
        ]
        await exchange.start(200, lines)
        await exchange.write(data[: len(data) // 2])
        await exchange.cut()
        return
    exchange.row.usage_sent = kind != "malformed_frame"
    await exchange.answer(200, data, headers())


def _up_to(frames: list[Frame], tokens: int) -> list[Frame]:
    """The frames of the first so many tokens, the last one cut to measure."""
    made: list[Frame] = []
    for frame in frames:
        part = min(frame.tokens, tokens)
        if part <= 0:
            break
        tokens -= part
        made.append(frame._replace(tokens=part, reasoning=min(frame.reasoning, part)))
    return made


def _enter(exchange: Exchange, bill: Bill, frames: list[Frame], *, written: bool) -> None:
    """Enter the bill for these frames into the row."""
    row = exchange.row
    row.input_tokens = bill.input_tokens
    row.cached_input_tokens = bill.cached
    row.cache_write_tokens = bill.cache_write
    row.output_tokens = sum([frame.tokens for frame in frames])
    row.reasoning_tokens = sum([frame.reasoning for frame in frames])
    if written:
        text = "".join([frame.text for frame in frames])
        row.text_sha256 = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


async def serve_stream(
    exchange: Exchange,
    plan: Plan,
    bill: Bill,
    frames: list[Frame],
    broken: Frame,
    headers: list[Header],
) -> None:
    """Serve an answer as a stream, frame by frame at its pace. `broken` is the dialect's error frame.

    Raises:
        Disconnected: the client left; what was produced until then is in the row.

    """
    fault = plan.fault
    if fault is not None and fault.kind in ("malformed_frame", "missing_end_marker", "error_event"):
        frames = _spoil(frames, fault, broken)
    stop_at = len(frames)
    if fault is not None and fault.kind in ("stall", "cut"):
        stop_at = _middle(frames, fault)
    pacing = _Pacing(exchange, plan, headers)
    try:
        if fault is not None and fault.kind == "slow_first_token":
            await pacing.open()
            pacing.due_s += fault.delay_ms / 1_000
        await pacing.play(frames[:stop_at])
        if fault is not None and fault.kind == "cut":
            await exchange.cut()
        elif fault is not None and fault.kind == "stall":
            await exchange.wait(fault.delay_ms / 1_000)
            pacing.due_s += fault.delay_ms / 1_000
            await pacing.play(frames[stop_at:])
    finally:
        _enter(exchange, bill, frames[: pacing.played], written=True)
    if fault is None or fault.kind != "cut":
        last = frames[: pacing.played]
        exchange.row.usage_sent = any("usage" in frame.kind for frame in last)
        exchange.row.complete = any("end" in frame.kind for frame in last)
        await exchange.write(b"", more=False)


def _middle(frames: list[Frame], fault: Fault) -> int:
    """Index of the frame before which a fault in the middle of the answer comes."""
    total = sum(frame.tokens for frame in frames)
    wanted = total // 2 if fault.after_tokens is None else fault.after_tokens
    for index, frame in enumerate(frames):
        # At least the first token goes out: a fault before it is another fault.
        if frame.tokens and wanted <= 0:
            return max(index, 1)
        wanted -= frame.tokens
    return len(frames) - 1


def _spoil(frames: list[Frame], fault: Fault, broken: Frame) -> list[Frame]:
    if fault.kind == "missing_end_marker":
        return [frame for frame in frames if "end" not in frame.kind]
    at = _middle(frames, fault)
    if fault.kind == "error_event":
        return [*frames[:at], broken]
    spoilt = frames[at]
    data = spoilt.data.rstrip(b"\n")
    return [
        *frames[:at],
        spoilt._replace(data=data[: len(data) * 2 // 3] + b"\n\n", text=""),
        *frames[at + 1 :],
    ]


class _Pacing:
    """Writes frames when they are due: the first token after `first_token_s`, then one per `per_token_s`."""

    def __init__(self, exchange: Exchange, plan: Plan, headers: list[Header]) -> None:
        self._exchange = exchange
        self._plan = plan
        self._headers = headers
        self._opened = False
        self._clock = asyncio.get_running_loop().time
        self.due_s = self._clock() + plan.first_token_s
        self.played = 0
        """Frames produced so far."""
        self._produced = 0
        self._visible = False

    async def open(self) -> None:
        """Send the headers, once."""
        if not self._opened:
            self._opened = True
            await self._exchange.start(200, self._headers)

    async def play(self, frames: list[Frame]) -> None:
        """Write frames, those due at the same time together."""
        per_token_s = self._plan.per_token_s
        paced = per_token_s > 0 or self.due_s > self._clock()
        pending: list[bytes] = []
        for frame in frames:
            if paced and frame.tokens:
                if self._produced:
                    self.due_s += per_token_s * frame.tokens
                ahead_s = self.due_s - self._clock()
                if ahead_s > _TOGETHER_S:
                    # What opens the stream travels with the first token.
                    if self._visible:
                        await self._flush(pending)
                    await self._exchange.wait(ahead_s)
            if frame.data:
                pending.append(frame.data)
                self._visible = self._visible or frame.tokens > 0
            self._produced += frame.tokens
            self.played += 1
        await self._flush(pending)

    async def _flush(self, pending: list[bytes]) -> None:
        if pending:
            await self.open()
            await self._exchange.write(b"".join(pending))
            pending.clear()


def admit(lane: Lane, tokens: int) -> None:
    """Count a call against the lane's limits per minute.

    Raises:
        ApiError: 429 with the time after which it would pass.

    """
    for bucket, amount, what in ((lane.requests, 1, "requests"), (lane.tokens, tokens, "tokens")):
        if not bucket.take(amount):
            raise ApiError(
                429,
                "rate_limit",
                f"Rate limit reached on {what} per min: Limit {bucket.limit}.",
                code="rate_limit_exceeded",
                param=what,
                retry_after_s=bucket.wait_s(amount),
            )
