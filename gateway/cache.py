"""The exact response cache of a worker (GW-12): same tenant, same request, same route, same answer.

Bounded by bytes, the least recently used goes first. Only complete answers are kept, and an answer
is found only under the route, the targets and the parameters that it was given for.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from gateway.dialects.neutral import Answer
from schemas.routing import Target

if TYPE_CHECKING:
    from gateway.call import Call

ENTRY_BYTES_MAX = 1024 * 1024
NO_CACHE = frozenset({"no-cache", "no-store"})
_LABELS = frozenset({"metadata", "stream", "stream_options", "user", "userId", "user_id", "tags"})
"""Members that label a request, or say how its answer travels, and do not change it."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer; `body` is what the provider said where the client's dialect was its own."""

    answer: Answer
    body: bytes | None
    target: Target
    cost_nano_usd: int | None
    until_s: float
    size_bytes: int


class AnswerCache:
    """Belongs to the event loop's thread."""

    def __init__(self, bytes_max: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._bytes_max = bytes_max
        self._clock = clock
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()
        self.size_bytes = 0
        self.hits = 0
        self.misses = 0

    def status(self) -> dict[str, int]:
        """Return the figures that `/status` shows."""
        return {"hits": self.hits, "misses": self.misses, "bytes": self.size_bytes}

    def look(self, call: Call) -> None:
        """Give a call the key of its answer and the answer, as far as there are any."""
        if call.refused is None:
            call.cache_key = self.key(call)
            call.hit = self.find(call.cache_key) if call.cache_key is not None else None

    def key(self, call: Call) -> bytes | None:
        """Return the key of a call, None when it may not be answered from the cache."""
        if not call.plan.route.cache_ttl_s or call.admitted.front.surface != "chat":
            return None
        if NO_CACHE & set((call.client.header(b"cache-control") or "").replace(" ", "").split(",")):
            return None
        return _digest(call)

    def find(self, key: bytes) -> Kept | None:
        """Return the answer under a key while it is fresh."""
        kept = self._kept.get(key)
        if kept is None or kept.until_s <= self._clock():
            self.misses += 1
            return None
        self._kept.move_to_end(key)
        self.hits += 1
        return kept

    def keep(self, key: bytes, call: Call, body: bytes | None) -> None:
        """Keep the answer of a settled call."""
        answer, response = call.answer, call.response
        if answer is None or response is None or answer.untold:
            return
        size = len(body or b"") + len(msgspec.json.encode(answer))
        if size > min(ENTRY_BYTES_MAX, self._bytes_max):
            return
        self._drop(key)
        until_s = self._clock() + call.plan.route.cache_ttl_s
        cost = response.cost_nano_usd
        self._kept[key] = Kept(answer, body, call.target, cost, until_s, size)
        self.size_bytes += size
        while self.size_bytes > self._bytes_max:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: bytes) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.size_bytes -= kept.size_bytes


def _digest(call: Call) -> bytes:
    """The tenant, the plan and its guardrails with their versions, the dialect, and the request in a
    canonical form.
    """
    admitted, plan = call.admitted, call.plan
    key = admitted.key
    # Each kind by its name: a team that is called like somebody's organization is another tenant.
    if key.organization:
        tenant = f"organization {key.organization}"
    else:
        tenant = f"team {key.team}" if key.team else f"key {key.key_id}"
    request = {
        name: msgspec.json.decode(value)
        for name, value in admitted.fields.items()
        if name not in _LABELS
    }
    canonical = msgspec.json.encode(request, order="deterministic")
    targets = ",".join(member.target.id for member in plan.members)
    rules = call.guard.versions if call.guard is not None else ""
    version = str(plan.route.entity_version)
    place = (tenant, plan.name, version, rules, targets, admitted.front.name)
    return hashlib.sha256("\0".join(place).encode() + b"\0" + canonical).digest()
