"""Limits on callers (GW-10): requests and tokens a minute and calls at a time, over all workers.

By default there is none, and a call then costs one look at an empty index. Workers tell each other
once a second what they let through, by way of the outbox and a compacted topic (`gateway.pace` says
how exact that is). When the reports stop, each worker keeps to its part of the limit, counts alone,
and says so in an alert.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from gateway.admission import Admitted
from gateway.client import Client, Headers
from gateway.outbox import Outbox
from gateway.pace import SLOT_S, Caps, Pace, Pass
from gateway.state import GatewayState, Index
from schemas.access import Grant
from schemas.clock import now_us
from schemas.errors import RateLimited
from schemas.events.changes import LimitChanged
from schemas.events.limits import LimitUsage
from schemas.events.operations import AlertChanged
from schemas.identity import uuid7

BEAT_S = 1.0
HURRY_S = 0.1
"""A worker that has used its share up tells at once, but not more often than this."""
SILENT_S = 5.0
WHOLE_BEATS = 10
"""Every so many beats tell everything, for workers that began in between."""
FORGET_S = 70.0
PATIENCE_S = 1.0
"""How long a call may wait for a share when the limit itself is not used up."""
LOOK_S = 0.05
GLOBAL = "global"

Owners = tuple[str, str | None]


class Limits:
    """The limits of this worker; belongs to the event loop's thread."""

    def __init__(self, state: GatewayState, outbox: Outbox) -> None:
        self._state = state
        self._outbox = outbox
        self._index = Index(self._build, state.limits)
        self._paces: dict[str, Pace] = {}
        self._heard_s: dict[str, float] = {}
        self._workers_seen = 1
        self._loop = asyncio.get_running_loop()
        self._beat: asyncio.TimerHandle | None = None
        self._beats = 0
        self._told_s = self._began_s = 0.0
        self._alert_id: str | None = None
        state.usage.listen(self._hear)
        state.limits.listen(self._limits_changed)

    @property
    def any(self) -> bool:
        """Whether there is any limit; from the first one on, this worker tells what it does."""
        found = bool(self._index())
        if found and self._beat is None:
            self._began_s = self._loop.time()
            self._tick()
        return found

    async def admit(self, client: Client, admitted: Admitted) -> None:
        """Count a call under its limits, its tokens as estimated. Raises RateLimited.

        Waits shortly where the limit has room and only this worker's share of it is used up.
        """
        owners = (*_owners(client, admitted.grant), ("user", admitted.user_id))
        paces = list(self._applying(client, (*owners, ("model", admitted.opening.model))))
        if paces:
            tokens = admitted.input_tokens_estimate + (admitted.opening.max_tokens or 0)
            await self._count(client, paces, tokens, admitted.front.name)

    async def admit_request(self, client: Client, grant: Grant | None, *, works: bool) -> None:
        """Count a request that is no call of a model. Raises RateLimited as `admit`.

        What `works` (feedback, files, batches) counts under every limit; all else only under those
        that name its path: who looks at his figures uses up nothing of what he may call.
        """
        paces = list(self._applying(client, _owners(client, grant), named=not works))
        if paces:
            await self._count(client, paces, 0, "")

    async def _count(self, client: Client, paces: list[Pace], tokens: int, dialect: str) -> None:
        for pace in paces:
            pace.demand += 1
            pace.changed = True
            pace.used_s = self._loop.time()
        until_s = self._loop.time() + PATIENCE_S
        while (short := self._short(paces, tokens)) is not None:
            pace, kind, used_up = short
            if used_up or self._loop.time() >= until_s:
                client.limit_headers = self._headers(dialect, paces)
                raise self._refusal(pace, kind, used_up)
            self._hurry()
            await asyncio.sleep(LOOK_S)
        slot = _slot()
        for pace in paces:
            pace.take(slot, tokens)
        client.passed = Pass(paces, slot, tokens)
        client.limit_headers = self._headers(dialect, paces)

    def ended(self, client: Client) -> None:
        """Note the end of what a caller asked for, and count its tokens as they were."""
        passed, client.passed = client.passed, None
        if passed is None:
            return
        used = passed.tokens if passed.tokens_used is None else passed.tokens_used
        for pace in passed.paces:
            pace.running -= 1
            pace.tokens.add(passed.slot, used - pace.counted(passed.tokens))
            pace.changed = True

    # --- room --------------------------------------------------------------------------------

    def _short(self, paces: list[Pace], tokens: int) -> tuple[Pace, str, bool] | None:
        """Return the first pace without room, of what, and whether the limit itself is used up."""
        slot = _slot()
        for pace in paces:
            for kind, amount in (
                ("running", 1),
                ("requests", 1),
                ("tokens", pace.counted(tokens)),
            ):
                if not pace.lacks(kind, amount):
                    continue
                self._share_out(pace)  # something may have become free since
                if pace.lacks(kind, amount):
                    return pace, kind, (pace.left(kind, slot) or 0) < amount
        return None

    def _refusal(self, pace: Pace, kind: str, used_up: bool) -> RateLimited:
        limit_id, _, owner = pace.name.partition("|")
        what = {
            "requests": f"{pace.caps.requests} requests a minute",
            "tokens": f"{pace.caps.tokens} tokens a minute",
            "running": f"{pace.caps.running} calls at a time",
        }[kind]
        wait_s = pace.reset_s(kind, time.time()) if used_up else BEAT_S
        return RateLimited(
            f"the limit '{limit_id}' of {what} for {owner} is reached", retry_after_seconds=wait_s
        )

    # --- which limits ------------------------------------------------------------------------

    def _applying(
        self, client: Client, owners: Iterable[Owners], *, named: bool = False
    ) -> Iterator[Pace]:
        """Yield what holds for a request; `named`: only limits that name an endpoint."""
        index = self._index()
        for scope, owner in owners:
            if owner is None:
                continue
            limits = (*index.get((scope, owner), ()), *index.get((scope, None), ()))
            for limit in limits:
                if limit.endpoint is None and named:
                    continue
                if limit.endpoint is not None and not fnmatchcase(client.path, limit.endpoint):
                    continue
                yield self._pace(limit, f"{scope} {owner}" if owner != GLOBAL else "all")

    def _pace(self, limit: LimitChanged, owner: str) -> Pace:
        name = f"{limit.limit_id}|{owner}"
        caps = Caps(limit.requests_per_minute, limit.tokens_per_minute, limit.concurrency)
        pace = self._paces.get(name)
        if pace is None:
            pace = self._paces[name] = Pace(name, caps)
            pace.used_s = self._loop.time()
            for told in self._state.usage.entries.values():
                self._take(told)
            self._share_out(pace)
        elif pace.caps != caps:
            pace.caps = caps
            self._share_out(pace)
        return pace

    def _heard_of(self, name: str) -> Pace | None:
        """Return the pace that another worker tells of: it may need what is spare here."""
        limit = self._state.limits.get(f"limit:{name.partition('|')[0]}")
        if limit is None or not limit.enabled:
            return None
        return self._pace(limit, name.partition("|")[2])

    def _build(self) -> dict[Owners, list[LimitChanged]]:
        found: dict[Owners, list[LimitChanged]] = {}
        for limit in self._state.limits.entries.values():
            if limit.enabled:
                found.setdefault((limit.scope, limit.scope_id), []).append(limit)
        return found

    # --- telling and hearing -----------------------------------------------------------------

    def _limits_changed(self, key: str, limit: LimitChanged | None) -> None:
        del key
        # Told from the first limit on, so that the others are known before the first call.
        if limit is not None and self._beat is None:
            self._loop.call_soon(lambda: self.any)

    def _tick(self) -> None:
        """Tell the others, share out anew, and forget whom nobody heard of for a minute."""
        self._beat = self._loop.call_later(BEAT_S, self._tick)
        if not self._index():
            self._beat.cancel()
            self._beat = None
            return
        now_s = self._loop.time()
        self._watch(now_s)
        self._heard_s = {
            node: at_s for node, at_s in self._heard_s.items() if now_s - at_s <= FORGET_S
        }
        if self._beats % WHOLE_BEATS == 0 or not self._silent(now_s):
            self._tell(whole=self._beats % WHOLE_BEATS == 0)
        self._beats += 1
        for name, pace in list(self._paces.items()):
            if now_s - pace.used_s > FORGET_S and not pace.running:
                del self._paces[name]
            else:
                self._share_out(pace)

    def _tell(self, *, whole: bool) -> None:
        self._told_s = self._loop.time()
        paces = [pace.report() for pace in self._paces.values() if whole or pace.changed]
        for pace in self._paces.values():
            pace.changed = False
        event = LimitUsage(
            event_id=uuid7(), occurred_at_us=now_us(), node=self._outbox.id, paces=paces
        )
        self._outbox.append(event, settles=True)

    def _hurry(self) -> None:
        if self._loop.time() - self._told_s > HURRY_S:
            self._tell(whole=False)
            self._outbox.hurry()

    def _hear(self, node: str, told: LimitUsage | None) -> None:
        if told is None:
            return
        if now_us() - told.occurred_at_us < SILENT_S * 1e6:
            self._heard_s[node] = self._loop.time()
        if told.node == self._outbox.id:
            return
        for usage in told.paces:
            if usage.pace not in self._paces and usage.demand:
                self._heard_of(usage.pace)
        released = [self._share_out(pace) for pace in self._take(told)]
        if any(released):
            self._hurry()

    def _take(self, told: LimitUsage) -> list[Pace]:
        if told.node == self._outbox.id:
            return []
        touched = []
        for usage in told.paces:
            pace = self._paces.get(usage.pace)
            if pace is not None:
                pace.hear(told.node, usage)
                touched.append(pace)
        return touched

    def _share_out(self, pace: Pace) -> bool:
        now_s = self._loop.time()
        alive = self._alive(now_s)
        silent = self._silent(now_s)
        pace.forget(set(alive), _slot())
        alone = self._workers_seen if silent else 1
        released = pace.share_out(_slot(), alive, self._outbox.id, alone)
        pace.changed = pace.changed or released
        return released

    def _alive(self, now_s: float) -> list[str]:
        found = {node for node, at_s in self._heard_s.items() if now_s - at_s <= SILENT_S}
        return sorted(found | {self._outbox.id})

    def _silent(self, now_s: float) -> bool:
        """Whether even our own reports do not come back."""
        return now_s - max(self._heard_s.get(self._outbox.id, 0.0), self._began_s) > SILENT_S

    def _watch(self, now_s: float) -> None:
        silent = self._silent(now_s)
        if not silent:
            self._workers_seen = len(self._alive(now_s))
        if silent == (self._alert_id is not None):
            return
        alert_id = f"limits_local:{self._outbox.id}"
        self._alert_id = alert_id if silent else None
        alert = AlertChanged(
            event_id=uuid7(),
            occurred_at_us=now_us(),
            alert_id=alert_id,
            alert_type="limits_local",
            severity="warning",
            scope=f"limits:{self._outbox.id}",
            status="open" if silent else "resolved",
            message="workers do not hear of each other: each counts its part of the limits alone",
            value=float(self._workers_seen),
            details={"outbox_id": self._outbox.id},
        )
        self._outbox.append(alert, settles=True)

    # --- what the caller is told ---------------------------------------------------------------

    def _headers(self, dialect: str, paces: list[Pace]) -> Headers:
        """Return the tightest limit of each kind, in the words of the caller's dialect."""
        slot, now_s = _slot(), time.time()
        headers: Headers = []
        policies, states = [], []
        for kind in ("requests", "tokens"):
            found = [
                (left, getattr(pace.caps, kind), pace.reset_s(kind, now_s))
                for pace in paces
                if (left := pace.left(kind, slot)) is not None
            ]
            if not found:
                continue
            left, cap, reset_s = min(found)
            policies.append(f'"{kind}";q={cap};w=60')
            states.append(f'"{kind}";r={left};t={round(reset_s)}')
            headers += _words(dialect, kind, cap, left, reset_s, now_s)
        if policies:
            headers.append((b"ratelimit-policy", ", ".join(policies).encode()))
            headers.append((b"ratelimit", ", ".join(states).encode()))
        return headers


def _owners(client: Client, grant: Grant | None) -> tuple[Owners, ...]:
    """Return who a request is counted for; without a valid key it is its address alone."""
    if grant is None:
        return ((GLOBAL, GLOBAL), ("ip", client.peer))
    key = grant.key
    return (
        (GLOBAL, GLOBAL),
        ("key", key.key_id),
        ("team", key.team),
        ("project", key.project),
        ("organization", grant.organization or key.organization),
        ("ip", client.peer),
    )


def _words(dialect: str, kind: str, cap: int, left: int, reset_s: float, now_s: float) -> Headers:
    """Return a limit as a vendor's own clients read it.

    Sources: OpenAI, "Rate limits in headers"; Anthropic, "Rate limits, response headers";
    draft-ietf-httpapi-ratelimit-headers for the two without a vendor.
    """
    if dialect == "anthropic":
        when = datetime.fromtimestamp(now_s + reset_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        values = {"limit": str(cap), "remaining": str(left), "reset": when}
        return [
            (f"anthropic-ratelimit-{kind}-{name}".encode(), value.encode())
            for name, value in values.items()
        ]
    minutes, seconds = divmod(round(reset_s), 60)
    reset = f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
    values = {"limit": str(cap), "remaining": str(left), "reset": reset}
    return [
        (f"x-ratelimit-{name}-{kind}".encode(), value.encode()) for name, value in values.items()
    ]


def _slot() -> int:
    return int(time.time()) // SLOT_S
