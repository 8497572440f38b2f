"""The path of a request, top to bottom: admit, route, forward, stream back, settle.

A call that was admitted ends in exactly one settlement, whatever happens, and the last bytes of
its answer leave after that settlement is as durable as the route asks.
"""

from __future__ import annotations

import asyncio
import logging
import time

from gateway import choices
from gateway.admission import Admitted, admit, new_request_id
from gateway.asking import Asker
from gateway.attempts import (
    ESTIMATED,
    Relay,
    blame_caller,
    content_of,
    error_headers,
    failed_status,
    forwarded,
    is_final,
    is_named,
    note_headers,
    refuse,
    relay_of,
    request_body,
    stream_headers,
    vendors_words,
    whole_answer_s,
)
from gateway.budgets import Budgets
from gateway.cache import AnswerCache, Kept
from gateway.call import Call
from gateway.circuits import Circuits
from gateway.client import JSON, Client
from gateway.dialects.neutral import Answer, ClientDialect, Fields
from gateway.dialects.reading import readable
from gateway.dialects.replay import streamed
from gateway.failover import RETRY_HINT_S, Failover
from gateway.guardrails.calls import blocked, check_request, read_checked
from gateway.guardrails.guard import Guardrails
from gateway.health import HealthBook
from gateway.http1 import Connection
from gateway.idempotency import Idempotency, Replay
from gateway.ledger import Recorder
from gateway.limits import Limits
from gateway.outbound import Outbound
from gateway.routing import Router
from gateway.runs import Ticket
from gateway.settings import GatewaySettings
from gateway.state import GatewayState
from gateway.upstream import Endpoint, Failed, Upstream, read_whole
from schemas.circuits import verdict
from schemas.errors import (
    GuardrailBlocked,
    UpstreamError,
    UpstreamNetwork,
    UpstreamProtocol,
    UpstreamTimeout,
    WeirError,
)
from schemas.routing import Target

PATIENCE_S = 60.0
"""How long after its deadline a call may take to be recorded and taken by a slow client."""
HELD_BYTES_MAX = 16 * 1024 * 1024
_log = logging.getLogger(__name__)


class Proxy:
    """Serves model calls of every dialect."""

    def __init__(
        self,
        settings: GatewaySettings,
        state: GatewayState,
        recorder: Recorder,
        upstream: Upstream,
        idempotency: Idempotency,
    ) -> None:
        self._settings = settings
        self._state = state
        self._recorder = recorder
        self._upstream = upstream
        self._idempotency = idempotency
        self._guardrails = Guardrails(state.guardrails)
        self.cache = AnswerCache(settings.cache_bytes_max)
        self.book = HealthBook(state.health, lambda: state.streams_alive)
        self.circuits = Circuits(state.circuit, lambda: state.streams_alive, settings.circuits)
        self.router = Router(state, self.book, circuits=self.circuits)
        self.asker = Asker()
        self.budgets = Budgets(state, recorder.outbox)
        self.limits = Limits(state, recorder.outbox)
        self.outbound = Outbound(lambda: state.providers, recorder.outbox, settings.workers)
        self._loop = asyncio.get_running_loop()

    async def serve(self, client: Client, front: ClientDialect, said: Fields | None = None) -> None:
        """Serve one call; `said` are members of the request that its path says."""
        try:
            await self._serve(client, front, said or {})
        finally:
            self.limits.ended(client)

    async def _serve(self, client: Client, front: ClientDialect, said: Fields) -> None:
        request_id = new_request_id()
        try:
            call = await self._admit(client, front, said, request_id)
        except (WeirError, RecursionError) as error:
            if not client.left:
                await refuse(client, front, readable(error), request_id)
            return
        if isinstance(call, Admitted):
            await choices.serve(client, call, lambda one: self.serve(one, front, said))
            return
        if isinstance(call, Replay):
            await client.whole(call.status, call.headers(), call.body)
            return
        if call.ticket is None:  # what runs under a key runs to its end, for the next who asks
            client.watch()
        client.give_up_after(call.deadline_s - self._loop.time() + PATIENCE_S)
        if call.streams and front.heartbeats:
            # A heartbeat makes later errors events, but another target can still answer.
            client.beat(self._settings.heartbeat_s, call.headers)
        try:
            await self._answer(call)
        except WeirError as error:  # the settlement did not become durable in time
            await self._broken(call, error)
        except asyncio.CancelledError:
            await self._cancelled(call)
            if not client.left:
                raise
        except Exception:  # noqa: BLE001 - a fault of ours must not leave the call unsettled
            _log.exception("a call broke down", extra={"request_id": request_id})
            await self._broken(call, WeirError("the gateway failed to serve this call"))
        finally:
            client.done()

    # --- admit and route -----------------------------------------------------------------------

    async def _admit(
        self, client: Client, front: ClientDialect, said: Fields, request_id: str
    ) -> Call | Replay | Admitted:
        """Admit a call; what asks for several of them comes back as it was read."""
        admitted = await admit(client, front, said, self._state, request_id, self._settings)
        if admitted.opening.choices > 1 and choices.are_calls(
            admitted, self.router, self._state.providers, self._upstream
        ):
            return admitted
        if self.limits.any:
            await self.limits.admit(client, admitted)
        ticket = await self._idempotency.enter(client, admitted)
        if isinstance(ticket, Replay):
            return ticket
        try:
            return await self._open(client, admitted, ticket)
        except BaseException:  # a caller who left, too: nobody will run what this key has claimed
            self._idempotency.give_back(ticket, request_id)
            raise

    async def _open(self, client: Client, admitted: Admitted, ticket: Ticket | None) -> Call:
        plan = self.router.plan(admitted.opening.model, admitted.grant, admitted.front.name)
        ask = await self.asker.ask(client, admitted, plan)
        decision = self.router.decide(plan, ask)
        longest_s = self._settings.call_timeout_s
        call = Call(admitted, client, plan, decision, ask, self._loop.time(), longest_s)
        call.estimate = self.router.cost
        call.ticket = ticket
        if plan.route.guardrails:
            call.guard = self._guardrails.of(plan.route.guardrails)
        check_request(call)
        self.cache.look(call)
        # What is refused or known already costs nothing, and a mask may have made the request longer:
        # only now is it known what there is to reserve.
        if self.budgets.any and call.refused is None and call.hit is None:
            await self.budgets.admit(call)
        try:
            event = call.admission(self._settings.name, self._recorder.outbox.id, self._state)
            self._recorder.admitted(event, 2 * len(call.admitted.body))
        except BaseException:
            self.budgets.release(call)
            raise
        return call

    async def _answer(self, call: Call) -> None:
        """Answer an admitted call, or say why nobody does."""
        try:
            if call.refused is not None:
                raise call.refused
            if call.hit is not None:
                await self._from_cache(call, call.hit)
            else:
                await self._forward(call)
        except Failed as failure:
            call.client.unwatch()
            await self._fail(call, failure)

    async def _from_cache(self, call: Call, hit: Kept) -> None:
        """Answer with what the cache holds."""
        call.target = hit.target
        client, front, opening = call.client, call.admitted.front, call.admitted.opening
        client.unwatch()
        await self._settle(
            call, outcome="success", status=200, answer=hit.answer, recorded=hit.body
        )
        if opening.stream:
            body = streamed(front, hit.answer, opening, call.receipt())
            headers = stream_headers(call)
        else:
            body = hit.body or front.write_answer(hit.answer, call.receipt())
            headers = [JSON]
        await client.whole(200, [*call.headers(), *headers], body)

    # --- forward -------------------------------------------------------------------------------

    async def _forward(self, call: Call) -> None:
        """Try targets until one answers. Raises the last Failed when none did."""
        last: Failed | None = None
        failover = Failover(
            call.decision, call.plan.route.attempts, call.deadline_s, self._loop.time
        )
        while (step := failover.next()) is not None:
            target, wait_s = step
            if last is not None:
                call.waste()
            if wait_s:
                await asyncio.sleep(wait_s)
            answer = call.admitted.front.answer_here(call.admitted.fields)
            if answer is not None and await self._answered_here(call, target, answer):
                return
            try:
                if self.budgets.any:
                    await self.budgets.cover(call, target)
                async with self.outbound.turn(call, target, hasty=failover.has_more):
                    await self._attempt(call, target)
                return
            except Failed as failure:
                failover.failed(target, failure.error)
                last = failure
            if call.content_sent or is_final(last):
                break
        if last is None:
            last = Failed(UpstreamTimeout("the time for this call was over before it began"))
        last.told = last.told or failover.told(call.plan.name, last.error)
        raise last

    async def _attempt(self, call: Call, target: Target) -> None:
        """Make one upstream call and note how it went. Raises Failed."""
        call.target = target
        call.tries += 1
        trial = self.circuits.begin(target.id)
        call.circuit, call.first_token_us = trial.state, None
        started_ns = time.perf_counter_ns()
        outcome = "cancelled"
        failed: Failed | None = None
        self.book.begun(target.id)
        try:
            await self._exchange(call, target, started_ns)
            outcome = "success"
        except Failed as failure:
            if is_named(call, target):
                blame_caller(failure)
            outcome, failed = "failed", failure
            self.book.failed(target.id, failure.error)
            raise
        finally:
            self.book.ended(target.id)
            if outcome != "success":
                error, status = (failed.error, failed.status) if failed else (None, None)
                call.note_attempt(started_ns, outcome, error, status)
            self.circuits.end(trial, verdict(call.attempts[-1]))

    async def _exchange(self, call: Call, target: Target, started_ns: int) -> None:
        provider = self._state.providers.get(target.provider)
        if provider is None:
            raise Failed(UpstreamNetwork(f"the provider {target.provider} was removed"))
        admitted, limits = call.admitted, call.plan.limits
        endpoint = self._upstream.endpoint(provider, admitted.front)
        body = request_body(call, endpoint, target)
        left_s = self._left_s(call)
        first_byte_s = limits.first_token_s if call.streams else whole_answer_s(call, target)
        connection = await self._upstream.open(
            endpoint,
            endpoint.target(target.model, stream=call.streams),
            body,
            forwarded(call, endpoint),
            connect_s=min(limits.connect_s, left_s),
            first_byte_s=min(first_byte_s, left_s),
        )
        note_headers(call, endpoint, connection.headers)
        if call.streams:
            await self._stream(call, endpoint, connection, started_ns)
        else:
            await self._whole(call, endpoint, connection, started_ns)

    # --- a whole answer ------------------------------------------------------------------------

    async def _whole(
        self, call: Call, endpoint: Endpoint, connection: Connection, started_ns: int
    ) -> None:
        stall_s = min(call.plan.limits.stall_s, self._left_s(call))
        body = await read_whole(connection, stall_s, self._settings.answer_bytes_max)
        body, answer = read_checked(call, endpoint.dialect, body, connection)
        self._note_success(call, started_ns)
        call.answer = answer
        front, client = call.admitted.front, call.client
        client.unwatch()
        same = front is endpoint.dialect
        recorded = body if same else None
        await self._settle(call, outcome="success", status=200, answer=answer, recorded=recorded)
        if call.cache_key is not None:
            self.cache.keep(call.cache_key, call, recorded)
        if not same:
            body = front.write_answer(answer, call.receipt())
        await client.whole(200, [*call.headers(), call.answer_type], body)

    async def _answered_here(self, call: Call, target: Target, answer: Answer) -> bool:
        """Answer what the provider has no endpoint for and the gateway can tell by itself.

        Nobody was called, so it is no attempt: it says nothing of the target's health.
        """
        front, provider = call.admitted.front, self._state.providers.get(target.provider)
        if provider is None or self._upstream.offers(provider, front):
            return False
        call.target = target
        call.client.unwatch()
        body = front.write_answer(answer, None)
        await self._settle(call, outcome="success", status=200, answer=answer, recorded=body)
        await call.client.whole(200, [*call.headers(), ESTIMATED, JSON], body)
        return True

    # --- a stream ------------------------------------------------------------------------------

    async def _stream(
        self, call: Call, endpoint: Endpoint, connection: Connection, started_ns: int
    ) -> None:
        relay = relay_of(call, endpoint, connection.headers)
        try:
            await self._pump(call, relay, connection, started_ns)
        except GuardrailBlocked as error:
            connection.abort()
            call.answer = relay.answer()
            raise blocked(error) from error
        except UpstreamError as error:
            connection.abort()
            call.answer = relay.answer()
            raise Failed(error, connection.status) from error
        except BaseException:
            connection.abort()
            call.answer = relay.answer()
            raise
        connection.drain()
        self._note_success(call, started_ns)
        await self._finish_stream(call, relay)

    async def _pump(
        self, call: Call, relay: Relay, connection: Connection, started_ns: int
    ) -> None:
        """Carry bytes until the end marker, which stays here. Raises UpstreamError."""
        client, limits = call.client, call.plan.limits
        buffered = call.plan.route.buffered
        spent_s = (time.perf_counter_ns() - started_ns) / 1e9
        silent_until_s = self._loop.time() + limits.first_token_s - spent_s
        held: list[bytes] = []
        held_bytes = 0
        ended = False
        while not ended:
            chunk = await self._next_chunk(call, connection, silent_until_s)
            if not chunk:
                relay.check_end()
            data = relay.feed(chunk)
            ended = relay.ended
            if relay.has_content:
                silent_until_s = self._loop.time() + limits.stall_s
                if call.first_token_us is None:
                    call.first_token_us = (time.perf_counter_ns() - started_ns) // 1000
            if data:
                held.append(data)
                held_bytes += len(data)
            # Nothing leaves before the first content: until then another target can take over.
            if ended or (relay.has_content and not buffered):
                if not client.started and (held or ended):
                    await client.start(200, [*call.headers(), *stream_headers(call)])
                if held:
                    call.content_sent = True
                    await client.write(b"".join(held))
                    held.clear()
            elif held_bytes > HELD_BYTES_MAX:
                raise UpstreamProtocol(f"more than {HELD_BYTES_MAX} bytes had to be held back")

    async def _next_chunk(self, call: Call, connection: Connection, silent_until_s: float) -> bytes:
        until_s = min(silent_until_s, call.deadline_s)
        try:
            return await connection.read(until_s - self._loop.time())
        except TimeoutError:
            what = "sent no token" if call.first_token_us is None else "fell silent"
            raise UpstreamTimeout(f"{call.target.id} {what} in time") from None

    async def _finish_stream(self, call: Call, relay: Relay) -> None:
        client, front = call.client, call.admitted.front
        client.unwatch()
        call.answer = relay.answer()
        call.record = relay.record(call.answer_type[1])
        await self._settle(call, outcome="success", status=200, answer=call.answer)
        if call.cache_key is not None:
            self.cache.keep(call.cache_key, call, None)
        await client.end(front.end_of_stream(call.receipt()) + relay.final)

    # --- ends ----------------------------------------------------------------------------------

    def _note_success(self, call: Call, started_ns: int) -> None:
        call.note_attempt(started_ns, "success", None, 200)
        attempt = call.attempts[-1]
        self.book.succeeded(call.target.id, attempt.first_token_us or attempt.latency_us)

    async def _fail(self, call: Call, failure: Failed) -> None:
        """Settle a call that no target answered, and say so in the client's dialect."""
        error = failure.told or failure.error
        if error.status == 503 and error.retry_after_seconds is None:
            error.retry_after_seconds = RETRY_HINT_S  # its vendor has named no time
        words = vendors_words(call.admitted.front, failure)
        status = failed_status(failure, words)
        _log.warning(
            "call failed",
            extra={
                "request_id": call.admitted.request_id,
                "target": call.target.id,
                "error_code": error.code,
                "attempts": len(call.attempts),
            },
        )
        await self._settle(call, outcome="failed", status=status, answer=call.answer, error=error)
        await self._tell(call, error, status, words)

    async def _tell(self, call: Call, error: WeirError, status: int, words: bytes = b"") -> None:
        client, front = call.client, call.admitted.front
        request_id = call.admitted.request_id
        if client.started:
            await client.end(front.write_error_frame(error, status, request_id))
            return
        body = words or front.write_error(error, status, request_id)
        headers = [*call.headers(), *error_headers(front, error, status)]
        await client.whole(status, headers, body)

    async def _broken(self, call: Call, error: WeirError) -> None:
        call.client.unwatch()
        if not call.settled:
            call.record = b"null"  # what broke may well be the answer: it is billed, not written
            status, answer = error.status, call.answer
            await self._settle(call, outcome="failed", status=status, answer=answer, error=error)
        await self._tell(call, error, error.status)

    async def _cancelled(self, call: Call) -> None:
        """Settle what was produced for a caller who left, or whom a shutdown cut off."""
        call.client.unwatch()
        if call.settled:
            return
        await self._settle(call, outcome="cancelled", status=None, answer=call.answer)

    async def _settle(
        self,
        call: Call,
        *,
        outcome: str,
        status: int | None,
        answer: Answer | None,
        error: WeirError | None = None,
        recorded: bytes | None = None,
    ) -> None:
        """Record the end and wait until it is durable. Raises when that takes too long."""
        response, cost = call.completion(
            self._state, outcome=outcome, status=status, answer=answer, error=error
        )
        also = self._idempotency.of(call, status, answer, error, recorded)
        mode = call.admitted.key.content_mode or call.plan.route.content_mode
        content = None
        if mode != "none":
            content = content_of(call, answer, recorded)
        wasted = call.wasted_costs
        moves = self.budgets.settle(call.hold, cost, wasted) if call.hold is not None else ()
        sequence = self._recorder.completed(
            response,
            cost,
            content,
            mode=mode,
            moves=moves,
            also=also,
            wasted=wasted,
            waited_for=True,
        )
        call.settled = True  # only now: a fault before this point leaves the call to `_broken`
        if response.usage_basis == "reported" and response.output_tokens is not None:
            self.book.produced(call.target.id, response.output_tokens)
        await self._recorder.durable(call.plan.route.durability, sequence)

    def _left_s(self, call: Call) -> float:
        return max(0.001, call.deadline_s - self._loop.time())
