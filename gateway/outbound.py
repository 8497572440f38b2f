"""Calls to providers at the pace that their vendors allow (PROV-06).

A lane is a model at a provider. What it allows is learned from the vendor's answers, or stated by the
operator beforehand (`ProviderChanged`); until either is known nothing is held back. Calls beyond it
wait in a bounded queue that serves the callers' keys in turn, as long as their deadline allows; the
others go to the next target, or hear how long to wait. A 429 of the vendor closes its lane for as long
as it says.

Vendors count per account, and workers share accounts: each takes its part of what is said to be left,
and hears anew with every answer.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gateway.outbox import Outbox
from gateway.upstream import Failed
from schemas.clock import now_us
from schemas.errors import UpstreamError, UpstreamRateLimited
from schemas.events.changes import ProviderChanged
from schemas.events.operations import AlertChanged
from schemas.identity import uuid7
from schemas.routing import Target

if TYPE_CHECKING:
    from gateway.call import Call

WAIT_S_MAX = 10.0
HASTE_S = 0.05
"""How long a call waits for a lane while another target of its route is still untried."""
WAITING_MAX = 512
"""Calls that may wait for one lane."""
LANES_MAX = 2_000
BACKOFF_S = 1.0
"""How long a lane rests after a 429 that names no time."""
SATURATED_S = 2.0
"""A longer wait than this is told in an alert."""
CALM_S = 30.0
PLENTY_DIGITS = 5
"""Ten thousand calls and more that are left say nothing worth reading."""
_OPENAI_LEFT = b"x-ratelimit-remaining-requests"
_ANTHROPIC_LEFT = b"anthropic-ratelimit-requests-remaining"
_SPAN = re.compile(r"([\d.]+)(ms|s|m|h|d)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


class Bucket:
    """A limit per minute: `level` is what was left when the vendor last told; refills all the time.

    `flying` is what was sent and is not heard of yet. Which of it the vendor had counted when it told
    what was left nobody knows, since answers and requests overtake each other: all of it counts.
    """

    __slots__ = ("flying", "level", "limit", "rate", "seen_s")

    def __init__(self) -> None:
        self.limit: int | None = None
        self.level = self.rate = self.seen_s = self.flying = 0.0

    def allow(self, limit: int, level: float, rate: float, now_s: float) -> None:
        """Take what is known now."""
        self.limit, self.level, self.rate, self.seen_s = limit, level, rate, now_s

    def refill(self, now_s: float) -> float:
        """Return the level by now."""
        if self.limit is not None:
            self.level = min(float(self.limit), self.level + (now_s - self.seen_s) * self.rate)
            self.seen_s = now_s
        return self.level

    def wait_s(self, amount: float, now_s: float) -> float:
        """Return how long until so much is there; a demand above the limit waits for a full one."""
        if self.limit is None:
            return 0.0
        missing = min(amount, float(self.limit)) - (self.refill(now_s) - self.flying)
        return 0.0 if missing <= 0 else missing / self.rate

    def use(self, amount: float) -> None:
        """Count what is no longer on its way, and of which the vendor told nothing."""
        self.flying -= amount
        self.level -= amount


class Lane:
    """A model at a provider."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.requests = Bucket()
        self.tokens = Bucket()
        self.concurrency: int | None = None
        self.running = 0
        self.closed_until_s = 0.0
        self.sent = 0
        self.trusted = 0
        """How many had been sent when a vendor's word was last taken as it was."""
        self.stated: ProviderChanged | None = None
        self.queues: OrderedDict[str, deque[Turn]] = OrderedDict()
        self.waiting = 0
        self.alert_id: str | None = None
        self.late_s = 0.0
        self.timer: asyncio.TimerHandle | None = None

    def wait_s(self, tokens: int, now_s: float) -> float:
        """Return how long the next call has to wait; for a free place the caller must be woken."""
        if self.unlimited:
            return max(self.closed_until_s - now_s, 0.0)
        return max(
            self.closed_until_s - now_s,
            self.requests.wait_s(1, now_s),
            self.tokens.wait_s(tokens, now_s),
            0.0,
        )

    @property
    def unlimited(self) -> bool:
        """Whether nothing is known of what the vendor allows a minute."""
        return self.requests.limit is None and self.tokens.limit is None

    @property
    def crowded(self) -> bool:
        """Whether as many calls run as may."""
        return self.concurrency is not None and self.running >= self.concurrency


class Turn:
    """One attempt's place in a lane: an async context manager. Raises Failed when there is none."""

    __slots__ = (
        "_call",
        "lane",
        "number",
        "outbound",
        "patience_s",
        "ready",
        "tokens",
        "told",
    )

    def __init__(self, outbound: Outbound, lane: Lane, call: Call, patience_s: float) -> None:
        admitted = call.admitted
        self._call = call
        self.patience_s = patience_s
        self.outbound = outbound
        self.lane = lane
        self.tokens = admitted.input_tokens_estimate + (admitted.opening.max_tokens or 0)
        self.number = 0
        self.told = False
        """Whether the vendor has said what was left after this one."""
        self.ready: asyncio.Future[None] | None = None

    async def __aenter__(self) -> None:
        if not self.outbound.enter(self):
            await self.outbound.queue(self, self._call)
        self._call.turn = self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._call.turn = None
        if isinstance(error, Failed) and error.status == 429:
            self.outbound.refused(self.lane, error.error)
        self.outbound.leave(self)

    def hear(self, headers: Mapping[bytes, bytes]) -> None:
        """Learn from the head of the vendor's answer."""
        left = headers.get(_OPENAI_LEFT) or headers.get(_ANTHROPIC_LEFT)
        if left is not None and (len(left) < PLENTY_DIGITS or self.lane.requests.limit):
            self.told = True
            self.outbound.learn(self, headers)


class Outbound:
    """The lanes of this worker; belongs to the event loop's thread."""

    def __init__(
        self, providers: Callable[[], dict[str, ProviderChanged]], outbox: Outbox, workers: int = 1
    ) -> None:
        self._providers = providers
        self._outbox = outbox
        self._workers = max(1, workers)
        self._lanes: OrderedDict[str, Lane] = OrderedDict()
        self._loop = asyncio.get_running_loop()

    def turn(self, call: Call, target: Target, *, hasty: bool = False) -> Turn:
        """Return a place for one attempt at a target's provider.

        A hasty one hardly waits: another target may answer at once.
        """
        provider = self._providers().get(target.provider)
        patience_s = HASTE_S if hasty else WAIT_S_MAX
        return Turn(self, self._lane(target, provider), call, patience_s)

    def enter(self, turn: Turn) -> bool:
        """Take a place; False where one has to be waited for."""
        lane = turn.lane
        if lane.waiting or lane.crowded or lane.wait_s(turn.tokens, self._loop.time()) > 0:
            return False
        self._send(turn)
        return True

    def refused(self, lane: Lane, error: UpstreamError) -> None:
        """Close a lane for as long as its vendor says, after a 429."""
        if error.retryable:
            rest_s = error.retry_after_seconds or BACKOFF_S
            lane.closed_until_s = max(lane.closed_until_s, self._loop.time() + rest_s)

    def leave(self, turn: Turn) -> None:
        """Give a place back; a call of which the vendor told nothing counts as used."""
        lane = turn.lane
        lane.running -= 1
        if not turn.told:
            lane.requests.use(1)
            lane.tokens.use(turn.tokens)
        if lane.waiting or lane.alert_id:
            self._serve(lane)

    def learn(self, turn: Turn, headers: Mapping[bytes, bytes]) -> None:
        """Take what a vendor's headers say of its limits."""
        lane, now_s = turn.lane, self._loop.time()
        # What was sent after the last word that was taken is younger than it. All others may be older:
        # then they name more than is left, and of two words at one time the smaller one is the later.
        is_newer = turn.number > lane.trusted
        for kind, bucket, amount in (
            ("requests", lane.requests, 1),
            ("tokens", lane.tokens, turn.tokens),
        ):
            said = read_quota(headers, kind)
            if said is None:
                bucket.use(amount)
                continue
            bucket.flying -= amount
            limit, remaining, reset_s = said
            rate = limit / 60 if not reset_s else max((limit - remaining) / reset_s, limit / 60)
            level = remaining / self._workers
            if not is_newer and bucket.limit == limit:
                level = min(level, bucket.refill(now_s))
            bucket.allow(limit, level, rate / self._workers, now_s)
        if is_newer:
            lane.trusted = lane.sent
        self._serve(lane)

    def status(self) -> list[dict[str, Any]]:
        """Return queue and quota of every lane that anything is known of."""
        now_s = self._loop.time()
        found = []
        for lane in self._lanes.values():
            lane.wait_s(0, now_s)  # brings the levels up to now
            if lane.waiting or lane.running or lane.requests.limit or lane.tokens.limit:
                found.append(
                    {
                        "target": lane.name,
                        "running": lane.running,
                        "waiting": lane.waiting,
                        "requests_per_minute": lane.requests.limit,
                        "requests_left": _left(lane.requests),
                        "tokens_per_minute": lane.tokens.limit,
                        "tokens_left": _left(lane.tokens),
                        "closed_s": round(max(0.0, lane.closed_until_s - now_s), 1),
                    }
                )
        return found

    # --- the queue ---------------------------------------------------------------------------

    async def queue(self, turn: Turn, call: Call) -> None:
        """Wait for a place. Raises Failed when none is to be had in time."""
        lane, caller = turn.lane, call.admitted.key.key_id
        patience_s = min(turn.patience_s, call.deadline_s - self._loop.time())
        wait_s = self._expected_s(lane, turn.tokens)
        if wait_s > SATURATED_S:
            self._saturated(lane, wait_s)
        if wait_s > patience_s or lane.waiting >= WAITING_MAX:
            raise _full(lane, wait_s)
        turn.ready = self._loop.create_future()
        lane.queues.setdefault(caller, deque()).append(turn)
        lane.waiting += 1
        self._serve(lane)
        try:
            await asyncio.wait_for(asyncio.shield(turn.ready), patience_s)
        except TimeoutError:
            if not turn.ready.done():
                self._leave(lane, caller, turn)
                raise _full(lane, self._expected_s(lane, turn.tokens)) from None
        except asyncio.CancelledError:
            if turn.ready.done():
                self.leave(turn)
            else:
                self._leave(lane, caller, turn)
            raise

    def _expected_s(self, lane: Lane, tokens: int) -> float:
        """Return about how long a newcomer waits behind the others."""
        now_s = self._loop.time()
        ahead_s = 0.0
        if lane.requests.limit is not None:
            ahead_s = lane.waiting / lane.requests.rate
        return lane.wait_s(tokens, now_s) + ahead_s

    def _leave(self, lane: Lane, caller: str, turn: Turn) -> None:
        queue = lane.queues.get(caller)
        if queue is not None and turn in queue:
            queue.remove(turn)
            lane.waiting -= 1
            if not queue:
                del lane.queues[caller]

    def _serve(self, lane: Lane) -> None:
        """Send whoever may go, the callers' keys in turn, and look again when the next one may."""
        if lane.timer is not None:
            lane.timer.cancel()
            lane.timer = None
        while lane.queues and not lane.crowded:
            caller, queue = next(iter(lane.queues.items()))
            turn = queue[0]
            wait_s = lane.wait_s(turn.tokens, self._loop.time())
            if wait_s > 0:
                lane.timer = self._loop.call_later(wait_s, self._serve, lane)
                return
            queue.popleft()
            lane.waiting -= 1
            lane.queues.move_to_end(caller)
            if not queue:
                del lane.queues[caller]
            self._send(turn)
            if turn.ready is not None and not turn.ready.done():
                turn.ready.set_result(None)
        self._calm(lane)

    def _send(self, turn: Turn) -> None:
        lane = turn.lane
        lane.running += 1
        lane.sent += 1
        turn.number = lane.sent
        lane.requests.flying += 1
        lane.tokens.flying += turn.tokens

    # --- lanes -------------------------------------------------------------------------------

    def _lane(self, target: Target, provider: ProviderChanged | None) -> Lane:
        lane = self._lanes.get(target.id)
        if lane is None:
            lane = self._lanes[target.id] = Lane(target.id)
            if len(self._lanes) > LANES_MAX:
                self._forget()
        if provider is not None and lane.stated is not provider:
            self._state(lane, provider)
        return lane

    def _state(self, lane: Lane, provider: ProviderChanged) -> None:
        """Take the limits that the operator knows beforehand; the vendor's own words replace them."""
        lane.stated = provider
        now_s, keys = self._loop.time(), 1 + len(provider.secrets)
        share = keys / self._workers
        for bucket, limit in (
            (lane.requests, provider.requests_per_minute),
            (lane.tokens, provider.tokens_per_minute),
        ):
            if limit is not None:
                bucket.allow(limit, limit * share, limit * share / 60, now_s)
        if provider.concurrency is not None:
            lane.concurrency = max(1, int(provider.concurrency * share))

    def _forget(self) -> None:
        for name, lane in list(self._lanes.items()):
            if not lane.running and not lane.waiting:
                del self._lanes[name]
                return

    # --- alerts ------------------------------------------------------------------------------

    def _saturated(self, lane: Lane, wait_s: float) -> None:
        lane.late_s = self._loop.time()
        if lane.alert_id is None:
            lane.alert_id = f"provider_saturated:{lane.name}:{self._outbox.id}"
            message = f"{lane.name} is at its vendor's limit: calls wait {wait_s:.0f} s"
            self._alert(lane, lane.alert_id, "open", message, wait_s)

    def _calm(self, lane: Lane) -> None:
        if lane.alert_id is not None and self._loop.time() - lane.late_s > CALM_S:
            self._alert(lane, lane.alert_id, "resolved", f"{lane.name} has room again", 0.0)
            lane.alert_id = None

    def _alert(self, lane: Lane, alert_id: str, status: str, message: str, wait_s: float) -> None:
        event = AlertChanged(
            event_id=uuid7(),
            occurred_at_us=now_us(),
            alert_id=alert_id,
            alert_type="provider_saturated",
            severity="warning",
            scope=f"target:{lane.name}",
            status=status,
            message=message,
            value=wait_s,
            threshold=SATURATED_S,
            details={"outbox_id": self._outbox.id},
        )
        self._outbox.append(event, settles=True)


def read_quota(headers: Mapping[bytes, bytes], kind: str) -> tuple[int, int, float | None] | None:
    """Return limit, what remains, and seconds until it is full, as a vendor says; None for nothing.

    Sources: OpenAI, "Rate limits in headers" (``x-ratelimit-remaining-requests``, reset as ``6m0s``;
    Mistral, Groq, Azure and others use the same); Anthropic, "Rate limits, response headers"
    (``anthropic-ratelimit-requests-remaining``, reset as RFC 3339).
    """
    for names in (
        [f"x-ratelimit-{what}-{kind}" for what in ("limit", "remaining", "reset")],
        [f"anthropic-ratelimit-{kind}-{what}" for what in ("limit", "remaining", "reset")],
    ):
        limit, remaining, reset = (headers.get(name.encode()) for name in names)
        if limit is None or remaining is None:
            continue
        try:
            found = int(float(limit)), int(float(remaining))
        except ValueError:
            continue
        if found[0] > 0:
            return *found, _reset_s(reset)
    return None


def _reset_s(reset: bytes | None) -> float | None:
    text = (reset or b"").decode("latin-1").strip()
    if "T" in text:
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            return None
        return max(0.001, when.timestamp() - now_us() / 1e6)
    spans = _SPAN.findall(text)
    try:
        seconds = sum(float(number) * _UNIT_S[unit] for number, unit in spans)
        return seconds or (float(text) if text and not spans else None)
    except ValueError:
        return None


def _left(bucket: Bucket) -> int | None:
    return None if bucket.limit is None else max(0, int(bucket.level - bucket.flying))


def _full(lane: Lane, wait_s: float) -> Failed:
    error = UpstreamRateLimited(
        f"{lane.name} takes no more calls for now: {lane.waiting} wait for its vendor's limit",
        retry_after_seconds=max(1.0, wait_s),
    )
    return Failed(error)
