"""One run per idempotency key: the first claim in partition order runs, the others get its answer."""

from __future__ import annotations

from schemas.event import DAYS, Event, Topic

IDEMPOTENCY = Topic("weir.idempotency.v1", retention_ms=1 * DAYS)


class IdempotencyClaimed(Event, frozen=True, kw_only=True):
    """A worker wants to run a request; `fingerprint` tells another request under the same key."""

    topic = IDEMPOTENCY
    type = "weir.idempotency.claimed"

    idempotency_id: str
    request_id: str
    fingerprint: str
    outbox_id: str

    @property
    def key(self) -> str:
        return self.idempotency_id


class IdempotencySettled(Event, frozen=True, kw_only=True):
    """The run's answer as the client got it, sealed; None where it is too large to be repeated."""

    topic = IDEMPOTENCY
    type = "weir.idempotency.settled"

    idempotency_id: str
    request_id: str
    status: int
    content_type: str
    data_key_id: str | None = None
    nonce: bytes | None = None
    ciphertext: bytes | None = None

    @property
    def key(self) -> str:
        return self.idempotency_id
