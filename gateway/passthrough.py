"""Calls that a provider answers as it likes: any method and path, bytes as they are, under our key.

``/passthrough/{provider}/…`` goes below the provider's base URL; the vendor resources of OpenAI's
clients (files, fine-tuning…) go to the provider that serves OpenAI's dialect. The key needs the scope
`passthrough`: whoever has it works with the operator's own account. Every call is an admission, a
response with its bytes, and a ledger line, priced where the answer says its usage.

Under budgets a call has to be read: what a dialect of the provider knows is served as its clients' own
call is, reserved beforehand and settled by its usage; what nobody can bound is refused by a hard one.
"""

from __future__ import annotations

import asyncio
import re
import time

import msgspec

from gateway.admission import (
    BYTES_PER_TOKEN,
    KEY_HEADERS,
    PASS_SCOPES,
    Admitted,
    secret_of,
)
from gateway.client import JSON, Client, Headers
from gateway.control_link import HOP_BY_HOP
from gateway.dialects.neutral import Answer, Dialect, Fields, Opening, Usage
from gateway.dialects.reading import member
from gateway.dialects.registry import dialect
from gateway.http1 import Connection
from gateway.ledger import Recorder, cost_entry
from gateway.places import Place, calls_of, may_cost, model_of, why_unbounded
from gateway.pouring import recorded
from gateway.providers.signer import Unsigned
from gateway.proxy import Proxy
from gateway.settings import GatewaySettings
from gateway.state import GatewayState
from gateway.upstream import Endpoint, Failed, Upstream, lines_of
from schemas.access import Grant
from schemas.clock import now_us
from schemas.errors import (
    InvalidRequest,
    NotFound,
    PermissionDenied,
    UpstreamError,
    UpstreamNetwork,
    UpstreamTimeout,
    WeirError,
)
from schemas.events.changes import ProviderChanged
from schemas.events.llm import Attempt, RequestAdmitted, ResponseCompleted
from schemas.identity import uuid7

SURFACE = "passthrough"
CONNECT_S = 5.0
ANSWER_S = 600.0
SILENCE_S = 120.0
KEPT_BYTES_MAX = 1024 * 1024
"""Of an answer so much is kept to read its usage and to record it; a larger one is not read."""
_OWN = re.compile(rb"x-weir-.*|cookie|accept-encoding|host|content-length|authorization")
_encode = msgspec.json.encode
_UP = re.compile(rb"(?i)(?:^|/)(?:\.|%2e){1,2}(?:/|$)")


class Exchange(msgspec.Struct, kw_only=True):
    """One call on its way."""

    admitted: Admitted
    provider: ProviderChanged
    model: str | None
    rest: bytes
    status: int = 0
    answer_type: bytes = JSON[1]
    size: int = 0
    kept: bytearray = msgspec.field(default_factory=bytearray)
    first_byte_us: int | None = None
    settled: bool = False


class Passthrough:
    """Serves them; belongs to the event loop's thread."""

    def __init__(
        self,
        settings: GatewaySettings,
        state: GatewayState,
        recorder: Recorder,
        upstream: Upstream,
        proxy: Proxy,
    ) -> None:
        self._settings = settings
        self._state = state
        self._recorder = recorder
        self._upstream = upstream
        self._proxy = proxy
        self._limits = proxy.limits
        self._budgets = proxy.budgets

    async def serve(self, client: Client, place: Place, request_id: str) -> None:
        """Serve one call. Raises WeirError as long as nothing was sent."""
        if self._budgets.any and (known := await self._known(client, place)) is not None:
            await self._proxy.serve(client, *known)
            return
        call = await self._admit(client, place, request_id)
        client.watch()
        try:
            connection = await self._open(client, call)
            await self._carry(client, call, connection)
        except WeirError as error:
            self._settle(call, "failed", error)
            if client.started:  # headers have left: only a broken connection still tells the caller
                raise ConnectionAbortedError(error.message) from error
            raise
        except Exception:
            self._settle(call, "failed", WeirError("the gateway failed to serve this call"))
            raise
        except asyncio.CancelledError:
            self._settle(call, "cancelled")
            raise
        finally:
            client.unwatch()
            self._limits.ended(client)

    async def _known(self, client: Client, place: Place) -> tuple[Dialect, Fields] | None:
        """Return the call that a client of one of the provider's dialects makes so, and what is not
        in its body; None for everything else.
        """
        self._grant(client)
        provider = self._provider(place)
        found = calls_of(provider).find("/" + place.rest.decode("latin-1"))
        if client.method != "POST" or found is None:
            return None
        front, said = found
        fields = said
        if "model" not in said:
            body = await client.body(self._settings.body_bytes_max)
            fields = front.read_body(body, client.header(b"content-type"))
        model = member(fields, "model", str)
        if not model:
            return None  # the vendor would choose, at a price that nobody knows
        return front, {**said, "model": msgspec.Raw(_encode(f"{provider.name}/{model}"))}

    async def _admit(self, client: Client, place: Place, request_id: str) -> Exchange:
        received_us, started_ns = now_us(), time.perf_counter_ns()
        grant = self._grant(client)
        provider = self._provider(place)
        if _UP.search(place.rest):
            raise InvalidRequest("the path may not lead upwards")
        body = await client.body(self._settings.body_bytes_max)
        model = model_of(provider, place.rest, body)
        name = f"{provider.name}/{model or '*'}"
        if not grant.allows(name):
            raise grant.refusal(name)
        front = dialect(provider.dialect)
        if front is None:
            raise NotFound(f"the provider {provider.name} speaks no known dialect")
        call = Exchange(
            admitted=Admitted(
                request_id=request_id,
                received_us=received_us,
                started_ns=started_ns,
                front=front,
                endpoint=client.path,
                grant=grant,
                body=body,
                fields={},
                opening=Opening(name, False, True, 0, False, {}, None),
                tags=dict(grant.key.tags),
                user_id=grant.key.user_id,
                session_id=client.header(b"x-weir-session-id"),
                task_type=None,
                traceparent=client.header(b"traceparent"),
                input_tokens_estimate=len(body) // BYTES_PER_TOKEN,
            ),
            provider=provider,
            model=model,
            rest=place.rest,
        )
        if self._budgets.any and may_cost(client.method, place.rest, body):
            why = why_unbounded(provider, place.rest)
            self._budgets.refuse_unbounded(call.admitted, provider.name, why)
        if self._limits.any:
            await self._limits.admit(client, call.admitted)
        try:
            self._recorder.admitted(self._admission(call), len(body) + KEPT_BYTES_MAX)
        except BaseException:
            self._limits.ended(client)
            raise
        return call

    def _grant(self, client: Client) -> Grant:
        grant = self._state.authenticate(secret_of(client))
        if PASS_SCOPES.isdisjoint(grant.key.scopes):
            raise PermissionDenied(
                f"the key '{grant.key.name}' may not pass calls through",
                action="Use a key with the scope passthrough: it works with the vendor's account.",
            )
        return grant

    def _provider(self, place: Place) -> ProviderChanged:
        providers = self._state.providers
        if place.provider is not None:
            found = providers.get(place.provider)
        else:
            speaking = (row for row in providers.values() if row.dialect == "openai")
            found = providers.get("openai") or next(speaking, None)
        if found is None:
            wanted = place.provider or "that speaks OpenAI's dialect"
            raise NotFound(
                f"there is no enabled provider {wanted}",
                action=f"Name one of {', '.join(sorted(providers)) or 'the enabled providers'}.",
            )
        return found

    # --- there and back ------------------------------------------------------------------------

    async def _open(self, client: Client, call: Exchange) -> Connection:
        try:
            endpoint = self._upstream.endpoint(call.provider, call.admitted.front)
            head = await _head(client, call, endpoint)
        except Failed as failure:
            raise failure.error from failure
        connection = await self._upstream.pool.exchange(
            endpoint.origin, head, call.admitted.body, connect_s=CONNECT_S, first_byte_s=ANSWER_S
        )
        call.status = connection.status
        call.answer_type = connection.headers.get(JSON[0], JSON[1])
        call.first_byte_us = _elapsed_us(call)
        return connection

    async def _carry(self, client: Client, call: Exchange, connection: Connection) -> None:
        """Copy the answer; its last piece leaves after the settlement."""
        headers: Headers = [
            (name, value)
            for name, value in connection.headers.items()
            if name not in HOP_BY_HOP and name not in {b"content-encoding", b"set-cookie"}
        ]
        ids = [(b"x-weir-request-id", call.admitted.request_id.encode())]
        held: bytes | None = None
        try:
            while data := await _read(connection):
                call.size += len(data)
                if call.size <= KEPT_BYTES_MAX:
                    call.kept += data
                if not client.started:
                    await client.start(call.status, [*headers, *ids])
                if held is not None:
                    await client.write(held)
                held = data
        except BaseException:
            connection.abort()
            raise
        connection.done()
        client.unwatch()
        sequence = self._settle(call, "success" if call.status < 400 else "failed")
        await self._recorder.durable("written", sequence)
        if client.started:
            await client.end(held or b"")
        else:
            await client.whole(call.status, [*headers, *ids], b"")

    # --- events --------------------------------------------------------------------------------

    def _common(self, call: Exchange) -> dict[str, object]:
        key, provider = call.admitted.key, call.provider
        return {
            "request_id": call.admitted.request_id,
            "key_id": key.key_id,
            "team": key.team,
            "project": key.project,
            "user_id": key.user_id,
            "cost_center": key.cost_center,
            "organization": call.admitted.grant.organization,
            "route": SURFACE,
            "target": f"{provider.name}/{call.model or '*'}",
            "provider": provider.name,
            "model": call.model,
            "surface": SURFACE,
        }

    def _admission(self, call: Exchange) -> RequestAdmitted:
        admitted = call.admitted
        return RequestAdmitted(
            event_id=uuid7(),
            occurred_at_us=admitted.received_us,
            **self._common(call),  # type: ignore[arg-type]
            session_id=admitted.session_id,
            tags=admitted.tags,
            dialect=call.provider.dialect,
            endpoint=admitted.endpoint,
            model_requested=admitted.opening.model,
            strategy=SURFACE,
            stream=False,
            propensity=1.0,
            candidates=[],
            worker=self._settings.name,
            outbox_id=self._recorder.outbox.id,
            decision_us=_elapsed_us(call),
            reason="the caller named the provider",
            traceparent=admitted.traceparent,
        )

    def _settle(self, call: Exchange, outcome: str, error: WeirError | None = None) -> int | None:
        if call.settled:
            return None
        answer = self._answer(call) if outcome == "success" else None
        usage = (answer.usage if answer else None) or Usage()
        latency_us = _elapsed_us(call)
        status = call.status or None
        target = f"{call.provider.name}/{call.model or '*'}"
        fault = error.error_class if isinstance(error, UpstreamError) else None
        attempt = Attempt(target, outcome, fault, status, latency_us, call.first_byte_us)
        sizes = {"bytes_in": len(call.admitted.body), "bytes_out": call.size}
        response = ResponseCompleted(
            event_id=uuid7(),
            occurred_at_us=now_us(),
            **self._common(call),  # type: ignore[arg-type]
            outcome=outcome,
            status=status,
            error_code=error.code if error else None,
            attempts=[attempt],
            input_tokens=usage.input_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            output_tokens=usage.output_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            cache_write_input_tokens=usage.cache_write_input_tokens,
            usage_basis="reported" if usage.output_tokens is not None else "none",
            stream=False,
            latency_us=latency_us,
            first_token_us=call.first_byte_us,
            units={**sizes, **(answer.units if answer else {})},
        )
        model, at_us = call.model or "", call.admitted.received_us
        cost = cost_entry(response, self._state.price(call.provider.name, model, at_us), at_us)
        response = msgspec.structs.replace(response, cost_nano_usd=cost.cost_nano_usd)
        mode = call.admitted.key.content_mode or "full"
        sequence = self._recorder.completed(response, cost, _content(call), mode=mode)
        call.settled = True
        return sequence

    def _answer(self, call: Exchange) -> Answer | None:
        """What the answer says of itself, where it is one of a dialect that the provider speaks."""
        if call.size > KEPT_BYTES_MAX or not call.answer_type.startswith(b"application/json"):
            return None
        found = calls_of(call.provider).find("/" + call.rest.decode("latin-1"))
        if found is None:
            return None
        try:
            return found[0].read_answer(bytes(call.kept))
        except (UpstreamError, RecursionError):
            return None  # not as the dialect has it: its usage is not known


async def _head(client: Client, call: Exchange, endpoint: Endpoint) -> bytes:
    """Return the request's head: the client's headers without its key, with the provider's."""
    target = endpoint.base.encode("ascii", "xmlcharrefreplace") + b"/" + call.rest
    query = b"&".join(
        [part for part in client.query.split(b"&") if part and not part.startswith(b"key=")]
        + ([endpoint.query.encode()] if endpoint.query else [])
    )
    target += b"?" + query if query else b""
    kept = [
        (name, value)
        for name, value in client.header_list
        if name not in HOP_BY_HOP and name not in KEY_HEADERS and not _OWN.fullmatch(name)
    ]
    given = {name.decode("latin-1") for name, _ in kept}
    own = {name: value for name, value in endpoint.headers.items() if name not in given}
    if "content-type" in own and not call.admitted.body:
        del own["content-type"]
    head = [b"%s %s HTTP/1.1\r\n" % (client.method.encode(), target)]
    head += [name + b": " + value + b"\r\n" for name, value in kept]
    head.append(lines_of(endpoint.provider, own))
    head.append(b"x-weir-request-id: %s\r\n" % call.admitted.request_id.encode())
    if endpoint.signer is not None:
        head.append(await _signature(client, call, endpoint, target))
    return b"".join(head) + b"content-length: %d\r\n\r\n" % len(call.admitted.body)


async def _signature(client: Client, call: Exchange, endpoint: Endpoint, target: bytes) -> bytes:
    if client.method != "POST":
        raise InvalidRequest(
            f"calls to {call.provider.name} are signed, which this gateway does for POST alone"
        )
    assert endpoint.signer is not None, "the caller looked"
    unsigned = Unsigned(
        call.provider.name,
        endpoint.origin.host_header,
        target.decode("ascii"),
        endpoint.headers,
        call.admitted.body,
        endpoint.secret,
        call.provider.options,
    )
    return lines_of(call.provider, await endpoint.signer.sign(unsigned))


async def _read(connection: Connection) -> bytes:
    try:
        return await connection.read(SILENCE_S)
    except TimeoutError:
        raise UpstreamTimeout(f"the provider fell silent for {SILENCE_S:.0f} s") from None
    except ConnectionError as error:
        raise UpstreamNetwork("the provider broke off its answer") from error


def _content(call: Exchange) -> bytes:
    request = call.admitted.body
    try:
        msgspec.json.decode(request)
    except (msgspec.DecodeError, RecursionError):
        request = recorded(request, b"application/octet-stream") if request else b"null"
    if call.size > KEPT_BYTES_MAX:
        answer = msgspec.json.encode({"bytes": call.size})
    else:
        answer = recorded(bytes(call.kept), call.answer_type) or b"null"
    return b'{"request":' + request + b',"response":' + answer + b"}"


def _elapsed_us(call: Exchange) -> int:
    return (time.perf_counter_ns() - call.admitted.started_ns) // 1000
