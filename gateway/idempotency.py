"""`Idempotency-Key`: the same key runs and is billed once, whichever worker it comes to (BEY-13).

A worker claims a key by an event; the first claim in partition order runs, on whatever host. All
others wait for its answer, which travels sealed beside the run's other events. A run under a key
goes on when its caller leaves, so that he can ask for the answer again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from gateway.admission import Admitted
from gateway.call import Call
from gateway.client import Client, Headers
from gateway.dialects.neutral import Answer
from gateway.dialects.replay import streamed
from gateway.ledger import Recorder
from gateway.log_reading import data_key, records_from
from gateway.runs import Run, Runs, Ticket
from schemas.clock import now_us
from schemas.codec import decode_as
from schemas.errors import (
    BrokerUnavailable,
    IdempotencyConflict,
    IdempotencyUnrepeatable,
    InvalidRequest,
    Unavailable,
    WeirError,
)
from schemas.event import Event
from schemas.events.idempotency import IDEMPOTENCY, IdempotencyClaimed, IdempotencySettled
from schemas.identity import uuid7
from schemas.log import Log
from schemas.privacy import MasterKey, Opener, Sealed

HEADER = b"idempotency-key"
KEY_CHARS_MAX = 255
CLAIM_S = 5.0
WAIT_S = 120.0
RUNS_WAITED_FOR = 3
"""Runs that may fail one after the other before whoever waits is told so."""
SETTLING_S = 2.0
"""A dead worker's last records may be read this much later than the news of its death."""
AGAIN = frozenset({408, 409, 425, 429})
"""Errors after which the same request may well succeed."""
GONE = 503
"""The status of a run that left no answer and may run again."""
ANSWER_BYTES_MAX = 512 * 1024


E = TypeVar("E", bound=Event)


@dataclass(frozen=True, slots=True)
class Replay:
    """An answer that was given before."""

    request_id: str
    status: int
    content_type: str
    body: bytes

    def headers(self) -> Headers:
        """Return the headers of the repeated answer."""
        request_id = self.request_id.encode()
        return [
            (b"content-type", self.content_type.encode("latin-1")),
            (b"x-weir-request-id", request_id),
            (b"x-request-id", request_id),
            (b"idempotency-replayed", b"true"),
        ]


class Idempotency:
    """Claims keys and repeats answers."""

    def __init__(
        self,
        runs: Runs,
        closed: Callable[[str], bool],
        recorder: Recorder,
        log: Log,
        master: MasterKey,
    ) -> None:
        self._runs = runs
        self._closed = closed
        self._recorder = recorder
        self._log = log
        self._master = master

    async def enter(self, client: Client, admitted: Admitted) -> Ticket | Replay | None:
        """Return leave to run, or the answer of the run that had it; None without a key.

        Raises IdempotencyConflict for another request under the same key, a run that does not
        end, or one that left no answer; Unavailable while the log cannot decide who runs.
        """
        given = client.header(HEADER)
        if given is None:
            return None
        if not 1 <= len(given) <= KEY_CHARS_MAX:
            raise InvalidRequest(f"an Idempotency-Key has 1 to {KEY_CHARS_MAX} characters")
        key = idempotency_id(admitted.key.key_id, given)
        fingerprint = _digest(admitted.endpoint, admitted.body)
        for _ in range(RUNS_WAITED_FOR):
            run = self._runs.find(key)
            if run is None:
                try:
                    run = await self._claim(key, fingerprint, admitted.request_id)
                except BaseException:  # whoever asks is gone, or the log is: nobody will run it
                    self.give_back(Ticket(key), admitted.request_id)
                    raise
            if run.request_id == admitted.request_id:
                return Ticket(key)
            if run.fingerprint != fingerprint:
                raise IdempotencyConflict("another request was sent under this Idempotency-Key")
            replay = await self._answer_of(key, run)
            if replay is not None:
                return replay
        raise IdempotencyConflict("every run under this key has failed", retry_after_seconds=1.0)

    def _settlement(
        self,
        ticket: Ticket,
        request_id: str,
        subject: str,
        status: int,
        content_type: str,
        body: bytes | None,
    ) -> IdempotencySettled:
        """Return the event that gives the others the answer; `body` None lets the next one run."""
        sealed = None
        if body is not None and len(body) <= ANSWER_BYTES_MAX:
            sealed = self._recorder.sealer.seal(subject, body, bound_to=request_id)
        return IdempotencySettled(
            event_id=uuid7(),
            occurred_at_us=now_us(),
            idempotency_id=ticket.idempotency_id,
            request_id=request_id,
            status=status,
            content_type=content_type,
            data_key_id=sealed.data_key_id if sealed else None,
            nonce=sealed.nonce if sealed else None,
            ciphertext=sealed.ciphertext if sealed else None,
        )

    def of(
        self,
        call: Call,
        status: int | None,
        answer: Answer | None,
        error: WeirError | None,
        body: bytes | None,
    ) -> IdempotencySettled | None:
        """Return what a call that ends leaves for those who send its key again, if it has one.

        An answer, and an error that would come again, are repeated; after any other error the
        next one under the key runs.
        """
        if call.ticket is None:
            return None
        admitted = call.admitted
        front = admitted.front
        content_type = call.answer_type[1].decode("latin-1")
        told = GONE if error is not None or answer is None or status is None else status
        if error is not None:
            body = None
            if status is not None and 400 <= status < 500 and status not in AGAIN:
                body = front.write_error(error, status, admitted.request_id)
                content_type = "application/json"
                told = status
        elif answer is None or status is None or call.record is not None:
            body = None  # what is known by its hash alone cannot be told again, nor paid again
        elif admitted.opening.stream:
            body = streamed(front, answer, admitted.opening, call.receipt())
            content_type = front.stream_type.decode("latin-1")
        elif body is None:
            body = front.write_answer(answer, call.receipt())
        subject = admitted.user_id or admitted.key.key_id
        return self._settlement(call.ticket, admitted.request_id, subject, told, content_type, body)

    def give_back(self, ticket: Ticket | None, request_id: str) -> None:
        """Let the next one under a key run: this one was not admitted."""
        if ticket is not None:
            none = self._settlement(ticket, request_id, "", GONE, "", None)
            self._recorder.outbox.append(none)

    async def _claim(self, key: str, fingerprint: str, request_id: str) -> Run:
        outbox = self._recorder.outbox
        sequence = outbox.append(
            IdempotencyClaimed(
                event_id=uuid7(),
                occurred_at_us=now_us(),
                idempotency_id=key,
                request_id=request_id,
                fingerprint=fingerprint,
                outbox_id=outbox.id,
            )
        )
        try:
            async with asyncio.timeout(CLAIM_S):
                await outbox.durable("replicated", sequence)
                while (run := self._runs.find(key)) is None:
                    await self._runs.change(key, CLAIM_S)
        except (TimeoutError, BrokerUnavailable) as error:
            raise Unavailable(
                "the log is away, so nobody can tell whether this key has run already",
                action="Try again later, or send the request without Idempotency-Key.",
                retry_after_seconds=5.0,
            ) from error
        return run

    async def _answer_of(self, key: str, run: Run) -> Replay | None:
        """Wait for a run's answer; None when it failed and left none, so that the next may run."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + WAIT_S
        while run.settled_at is None:
            closed = self._closed(run.outbox_id)
            wait_s = SETTLING_S if closed else min(1.0, until_s - loop.time())
            try:
                await self._runs.change(key, max(0.01, wait_s))
            except TimeoutError:
                self._give_up(run, closed, loop.time() >= until_s)
            if self._runs.find(key) is not run:
                return None
        return await self._read(run.settled_at)

    def _give_up(self, run: Run, closed: bool, late: bool) -> None:
        if run.settled_at is not None:
            return
        if closed:
            raise IdempotencyConflict(
                "the worker that ran this key died: what its run came to is not known",
                action="Send another Idempotency-Key; the lost run is billed at most its estimate.",
            )
        if late:
            raise IdempotencyConflict(
                "the run under this key has not ended yet", retry_after_seconds=5.0
            )

    async def _read(self, place: tuple[int, int]) -> Replay:
        """Read a settled run's answer from the log. Raises ContentErased, IdempotencyConflict."""
        partition, offset = place
        settled = await self._record_at(partition, offset)
        if settled.ciphertext is None or settled.nonce is None or settled.data_key_id is None:
            raise IdempotencyUnrepeatable(
                "the answer under this key was given, and cannot be given again"
            )
        key = await data_key(self._log, settled.data_key_id)
        sealed = Sealed(settled.data_key_id, settled.nonce, settled.ciphertext)
        body = Opener(self._master, lambda _: key).open(sealed, settled.request_id)
        return Replay(settled.request_id, settled.status, settled.content_type, body)

    async def _record_at(self, partition: int, offset: int) -> IdempotencySettled:
        async for record in records_from(self._log, IDEMPOTENCY, partition, offset):
            if record.offset == offset and record.value is not None:
                found = decode_as(record.value, IdempotencySettled)
                if found is not None:
                    return found
        raise IdempotencyConflict("the answer under this key has expired")


def idempotency_id(key_id: str, given: str) -> str:
    """Return the id of the runs under a caller's `Idempotency-Key`: each API key has its own."""
    return _digest(key_id, given)


def _digest(name: str, value: str | bytes) -> str:
    data = value.encode("utf-8", "replace") if isinstance(value, str) else value
    return hashlib.sha256(name.encode() + b"\0" + data).hexdigest()[:32]
