"""The books of a call: what it cost, and the events that record it.

A request is admitted only when there is room for its settlement; an answer is complete only when
its response, cost and content are in the outbox, which they enter together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from gateway.content import ContentMasker
from gateway.dialects.neutral import Usage
from gateway.outbox import Outbox
from schemas.event import Event
from schemas.events.changes import PriceChanged
from schemas.events.escrow import EscrowMoved
from schemas.events.llm import (
    ContentCaptured,
    CostEntry,
    RequestAdmitted,
    ResponseCompleted,
)
from schemas.events.operations import DataKeyCreated
from schemas.identity import uuid7
from schemas.pricing import cost_of, price_for
from schemas.privacy import MasterKey, Sealer
from schemas.routing import Target

SETTLEMENT_BYTES = 16 * 1024
"""Room held for response and cost, beside that for the content: two slim events, many attempts."""


def cost_entry(
    response: ResponseCompleted, price: PriceChanged | None, received_us: int
) -> CostEntry:
    """Return the ledger line of a response to a request that came in at `received_us`.

    Settled when usage and price are known; a call that produced no usage and called nobody costs
    zero; everything else is `unpriced` with a null cost, for a correction to follow.
    """
    if response.usage_basis == "none" and not any(
        attempt.outcome != "failed" for attempt in response.attempts
    ):
        return _line(response, "settled", None, 0, received_us)
    if price is not None:
        price = price_for(price, response.input_tokens)
    cost = cost_of(price, response, response.units)
    entry = "unpriced" if cost is None else "settled"
    return _line(response, entry, price, cost, received_us)


def wasted_entry(
    response: ResponseCompleted,
    target: Target,
    usage: Usage,
    price: PriceChanged | None,
    received_us: int,
) -> CostEntry:
    """Return the ledger line of an attempt that produced something and was given up."""
    if price is not None:
        price = price_for(price, usage.input_tokens)
    cost = cost_of(price, usage, {})
    entry = "unpriced" if cost is None else "wasted"
    return msgspec.structs.replace(
        _line(response, entry, price, cost, received_us),
        target=target.id,
        provider=target.provider,
        model=target.model,
        deployment_id=target.deployment_id,
        input_tokens=usage.input_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        output_tokens=usage.output_tokens,
        cache_write_input_tokens=usage.cache_write_input_tokens,
        basis="estimated",
        units={},
    )


def total(costs: Sequence[CostEntry]) -> int | None:
    """Return what lines come to, None when one of them is not known."""
    known = 0
    for cost in costs:
        if cost.cost_nano_usd is None:
            return None
        known += cost.cost_nano_usd
    return known


def _line(
    response: ResponseCompleted,
    entry: str,
    price: PriceChanged | None,
    cost: int | None,
    received_us: int,
) -> CostEntry:
    return CostEntry(
        event_id=uuid7(),
        occurred_at_us=response.occurred_at_us,
        request_id=response.request_id,
        key_id=response.key_id,
        team=response.team,
        project=response.project,
        user_id=response.user_id,
        cost_center=response.cost_center,
        organization=response.organization,
        route=response.route,
        task_type=response.task_type,
        target=response.target,
        provider=response.provider,
        model=response.model,
        deployment_id=response.deployment_id,
        entry=entry,
        input_tokens=response.input_tokens,
        cached_input_tokens=response.cached_input_tokens,
        output_tokens=response.output_tokens,
        input_price=price.input_price if price else None,
        cached_input_price=price.cached_input_price if price else None,
        output_price=price.output_price if price else None,
        cost_nano_usd=cost,
        price_version=price.price_version if price else None,
        basis=response.usage_basis,
        surface=response.surface,
        cache_write_input_tokens=response.cache_write_input_tokens,
        cache_write_input_price=price.cache_write_input_price if price else None,
        units=response.units,
        price_list=price.provider if price else None,
        priced_at_us=received_us,
    )


class Recorder:
    """Records calls in the outbox; belongs to the event loop's thread."""

    def __init__(self, outbox: Outbox, master: MasterKey) -> None:
        self.outbox = outbox
        self.sealer = Sealer(master, self._new_data_key)
        self._masker = ContentMasker()
        self._admitted: dict[str, tuple[str, int]] = {}

    def admitted(self, event: RequestAdmitted, content_bytes: int = 0) -> None:
        """Record an admission and hold room for its settlement.

        `content_bytes` is the size of the request, plus what the answer may add. Raises OutboxFull
        with nothing recorded. Every admitted request must be completed.
        """
        room = SETTLEMENT_BYTES + content_bytes
        self.outbox.reserve(room)
        try:
            self.outbox.append(event, correlation_id=event.request_id)
        except BaseException:
            self.outbox.release(room)
            raise
        self._admitted[event.request_id] = (event.event_id, room)

    def completed(
        self,
        response: ResponseCompleted,
        cost: CostEntry,
        content: bytes | None = None,
        *,
        mode: str = "none",
        moves: Sequence[EscrowMoved] = (),
        also: Event | None = None,
        wasted: Sequence[CostEntry] = (),
        waited_for: bool = False,
    ) -> int:
        """Record the end of an admitted request, and `also`; return the sequence to wait for.

        `waited_for`: the caller waits for it at once. `wasted` are lines of attempts that were given up after they had produced something.
        `moves` are what the call spent of hard budgets. `content` is the JSON of {"request",
        "response"}; it is sealed for the call's user, or for its key where no user is known. Content too large for a record is kept by its hash.
        """
        events: list[Event] = [response, cost, *wasted, *moves]
        if also is not None:
            events.append(also)
        if content is not None and mode != "none":
            events.append(self._captured(response, content, mode))
        cause, room = self._admitted.pop(response.request_id, (None, 0))
        # The room is used up by this append, or given back: either way it is no longer held.
        self.outbox.release(room)
        return self.outbox.append(
            *events,
            settles=True,
            waited_for=waited_for,
            correlation_id=response.request_id,
            causation_id=cause,
        )

    async def durable(self, level: str = "written", sequence: int | None = None) -> None:
        """Wait for a durability level; see `Outbox.durable`."""
        await self.outbox.durable(level, sequence)

    def _captured(self, response: ResponseCompleted, content: bytes, mode: str) -> ContentCaptured:
        if mode == "masked":
            content = self._masked(content)
        if len(content) > self.outbox.settings.max_record_bytes - SETTLEMENT_BYTES:
            content = _only_hash(content)
        sealed = self.sealer.seal(
            response.user_id or response.key_id, content, bound_to=response.request_id
        )
        return ContentCaptured(
            event_id=uuid7(),
            occurred_at_us=response.occurred_at_us,
            request_id=response.request_id,
            mode=mode,
            data_key_id=sealed.data_key_id,
            nonce=sealed.nonce,
            ciphertext=sealed.ciphertext,
        )

    def _masked(self, content: bytes) -> bytes:
        try:
            return self._masker.mask_json(content)
        except (msgspec.DecodeError, RecursionError):
            # What cannot be read cannot be masked, and an answer must not fail for its copy.
            return _only_hash(content)

    def _new_data_key(self, event: DataKeyCreated) -> None:
        # A finished answer must be sealed even when the outbox refuses new work.
        self.outbox.append(event, settles=True)


def _only_hash(content: bytes) -> bytes:
    digest = hashlib.sha256(content).hexdigest()
    return msgspec.json.encode(
        {"request": None, "response": None, "bytes": len(content), "sha256": digest}
    )
