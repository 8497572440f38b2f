"""The front of a gateway worker: hot paths from memory, every other path to control."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec

from gateway import feedback, generate_batch, models_api, routing_api
from gateway.admission import authenticate, new_request_id, own_headers, secret_of
from gateway.attempts import refuse
from gateway.batches.desk import BatchDesk
from gateway.batches.openai_api import VendorsFile
from gateway.client import Client, Headers
from gateway.control_link import LIVE_SOCKETS, ControlLink
from gateway.dialects.anthropic_messages import ANTHROPIC
from gateway.dialects.gemini_chat import GEMINI
from gateway.dialects.neutral import ClientDialect, Fields
from gateway.dialects.openai_chat import OPENAI
from gateway.dialects.reading import readable
from gateway.dialects.registry import Paths, dialects
from gateway.durability import Durability
from gateway.edge import Edge
from gateway.figures import is_compiled, publish
from gateway.freshness import Freshness
from gateway.generate import GENERATE
from gateway.http1 import Pool
from gateway.idempotency import Idempotency
from gateway.inner import InnerCall
from gateway.load import Load
from gateway.memory import give_back_peaks, spare_the_collector
from gateway.outbox import OutboxSettings
from gateway.passthrough import Passthrough
from gateway.places import Place, place_of
from gateway.proxy import Proxy
from gateway.server import Server, bound
from gateway.settings import GatewaySettings
from gateway.state import GatewayState
from gateway.upstream import Upstream
from gateway.websocket import (
    CLOSE_CODES,
    GENERATE_SOCKET,
    TRY_AGAIN_LATER,
    Socket,
    Sockets,
)
from schemas.errors import AuthenticationFailed, NotFound, Unavailable, WeirError
from schemas.log import Log
from schemas.privacy import MasterKey

CALLS = Paths[ClientDialect]([*dialects(), GENERATE])
MODEL_LISTS = ("/v1/models", "/api/v1/models", "/models", "/v1beta/models")
MODELS_BELOW = tuple(f"{place}/" for place in MODEL_LISTS)
SOCKETS = CALLS.of(GENERATE)
FEEDBACK_BYTES_MAX = 1024 * 1024
UNCOUNTED = frozenset({"/health", "/ready", *generate_batch.PATHS})
PREFIXED = {f"/api/v1{path}": path for path in ("/health", "/ready", "/status", "/metrics")}
"""Whatever has a path of its own answers under the common prefix too (GEN-03)."""
START_S = 10.0
"""How long a starting worker waits for the log before it listens with what it has."""
START_FROM_CACHE_S = 1.0
"""The same for a worker that knows its keys from its cache: a suspended broker must not keep it
from serving, since the other workers may be gone too."""


class App:
    """Routes requests by path."""

    def __init__(
        self,
        settings: GatewaySettings,
        state: GatewayState,
        durability: Durability,
        pool: Pool,
        log: Log,
    ) -> None:
        self._settings = settings
        self._state = state
        self._durability = durability
        self._control = ControlLink(pool, settings.control_url)
        idempotency = Idempotency(
            state.runs,
            state.outbox_closed,
            durability.recorder,
            log,
            MasterKey(settings.master_key),
        )
        upstream, recorder = Upstream(pool), durability.recorder
        self.proxy = Proxy(settings, state, recorder, upstream, idempotency)
        self._passthrough = Passthrough(settings, state, recorder, upstream, self.proxy)
        self._own = {
            **{("POST", path): self._batch for path in generate_batch.PATHS},
            **{("POST", path): self._preview for path in routing_api.PREVIEW_PATHS},
            **{("GET", path): self._routing for path in routing_api.STATUS_PATHS},
        }
        self._edge = Edge(settings.cors_origins, settings.hsts_s)
        self.batches = BatchDesk(
            state,
            recorder,
            log,
            MasterKey(settings.master_key),
            self.serve,
            actor=settings.name,
            bytes_max=settings.body_bytes_max,
        )
        self.load = Load(settings.calls_max, settings.lag_s_max)

    async def serve(self, client: Client) -> None:
        """Serve one request."""
        try:
            if self._edge.any and await self._preflight(client):
                return
            found = CALLS.find(client.path) if client.method == "POST" else None
            if found is not None:
                await self._call(client, found[0], found[1])
            else:
                await self._beside_calls(client)
        except RecursionError as error:
            if client.started:
                raise
            front = self._dialect_of(client)
            await refuse(client, front, readable(error), new_request_id())

    async def _beside_calls(self, client: Client) -> None:
        if self.batches.serves(client.path) and await self._files_and_batches(client):
            return
        place = place_of(client)
        if place is not None:
            await self._pass(client, place)
            return
        await self._other(client)

    async def _preflight(self, client: Client) -> bool:
        """Answer a browser's question whether a page may call; False for every other request."""
        try:
            allowed = self._edge.prepare(client)
        except WeirError as error:
            await refuse(client, self._dialect_of(client), error, new_request_id())
            return True
        if allowed is not None:
            await client.whole(204, allowed, b"")
        return allowed is not None

    async def _call(self, client: Client, front: ClientDialect, said: Fields | None = None) -> None:
        refusal = self.load.refusal() if self._state.ready else _starting()
        if refusal is not None:
            await refuse(client, front, refusal, new_request_id())
            return
        self.load.calls += 1
        try:
            await self.proxy.serve(client, front, said)
        finally:
            self.load.calls -= 1

    async def _other(self, client: Client) -> None:
        if (path := PREFIXED.get(client.path)) is not None:
            client.path, client.raw_path = path, path.encode()
        request_id = new_request_id()
        front = self._dialect_of(client)
        try:
            await self._count(client)
            await self._own_answer(client, front, request_id)
        except WeirError as error:
            if client.left:
                return
            if client.path == "/status" and isinstance(error, Unavailable):
                await client.whole(200, own_headers(), self._status(control="away"))
                return
            await refuse(client, front, error, request_id)
        except asyncio.CancelledError:
            if not client.left:
                raise
        finally:
            self.proxy.limits.ended(client)

    async def _own_answer(self, client: Client, front: ClientDialect, request_id: str) -> None:
        """Answer what the worker itself knows; control answers the rest."""
        if client.method == "POST" and client.path in feedback.PATHS:
            await self._feedback(client, request_id)
        elif (own := self._own.get((client.method, client.path))) is not None:
            await own(client)
        elif client.method == "GET" and client.path == "/health":
            await client.whole(200, own_headers(), self._health())
        elif client.method == "GET" and _is_models(client.path):
            await self._models(client, front)
        elif client.method == "GET" and client.path == "/status/worker":
            authenticate(client, self._state)
            await client.whole(200, own_headers(), self._status(control="not asked"))
        elif client.path == "/ready" and (missing := self._missing()):
            raise Unavailable(missing, retry_after_seconds=1.0)
        else:
            body = await client.body(self._settings.body_bytes_max)
            await self._control.forward(client, body, request_id)

    async def _count(self, client: Client) -> None:
        """Count a request that is no call under the limits on callers. Raises RateLimited.

        Not what tells whether the gateway lives, nor what lifts a limit; a batch counts by its calls.
        """
        path, limits = client.path, self.proxy.limits
        if not limits.any or path in UNCOUNTED or "/admin/limits" in path:
            return
        try:
            grant = self._state.authenticate(secret_of(client))
        except WeirError:
            grant = None  # who may do this is asked further on; an address has limits all the same
        works = path in feedback.PATHS or self.batches.serves(path)
        await limits.admit_request(client, grant, works=works)

    async def _pass(self, client: Client, place: Place) -> None:
        request_id, front = new_request_id(), self._dialect_of(client)
        refusal = self.load.refusal() if self._state.ready else _starting()
        if refusal is not None:
            await refuse(client, front, refusal, request_id)
            return
        self.load.calls += 1
        try:
            await self._passthrough.serve(client, place, request_id)
        except WeirError as error:
            if not client.left:
                await refuse(client, front, error, request_id)
        except asyncio.CancelledError:
            if not client.left:
                raise
        finally:
            self.load.calls -= 1

    async def serve_socket(self, socket: Socket) -> None:
        """Serve one WebSocket."""
        request_id = new_request_id()
        if socket.scope["path"] in LIVE_SOCKETS:
            await self._live(socket, request_id)
            return
        if socket.scope["path"] not in SOCKETS:
            error = NotFound("no WebSocket is served here", action=f"Connect to {SOCKETS[0]}.")
            await socket.deny(404, GENERATE.write_error(error, 404, request_id))
            return
        await socket.accept()
        first = socket.exchange()
        try:
            if not self._state.ready:
                raise _starting()
            authenticate(first, self._state)
        except WeirError as error:
            await refuse(first, GENERATE_SOCKET, error, request_id)
            await socket.close(CLOSE_CODES.get(error.status, TRY_AGAIN_LATER), error.message)
            return
        await socket.serve(lambda client: self._call(client, GENERATE_SOCKET))

    async def _live(self, socket: Socket, request_id: str) -> None:
        """Pass on what control tells of right now, a message each time."""
        await socket.accept()
        try:
            await socket.pour(self._control.events(socket.exchange(), request_id))
        except WeirError as error:
            await socket.close(CLOSE_CODES.get(error.status, TRY_AGAIN_LATER), error.message)
            return
        await socket.close(TRY_AGAIN_LATER, "control has ended the stream: connect again")

    # --- own answers -------------------------------------------------------------------------

    async def _feedback(self, client: Client, request_id: str) -> None:
        if not self._state.ready:
            raise _starting()
        key = authenticate(client, self._state).key
        body = await client.body(FEEDBACK_BYTES_MAX)
        desk, knows = self._durability.feedback, self._state.knows
        status, headers, answer = await desk.handle(body, key, request_id, knows)
        await client.whole(status, [*headers, (b"x-weir-request-id", request_id.encode())], answer)

    async def _files_and_batches(self, client: Client) -> bool:
        """Answer a request; False for a file that belongs to a vendor."""
        try:
            if not self._state.ready:
                raise _starting()
            await self._count(client)
            await self.batches.serve(client, authenticate(client, self._state))
        except VendorsFile:
            return False
        except WeirError as error:
            if not client.left:
                await refuse(client, self._dialect_of(client), error, new_request_id())
        finally:
            self.proxy.limits.ended(client)
        return True

    async def _batch(self, client: Client) -> None:
        if not self._state.ready:
            raise _starting()
        authenticate(client, self._state)

        async def call(inner: InnerCall) -> None:
            await self._call(inner, GENERATE)

        await generate_batch.serve(client, call, self._settings.body_bytes_max)

    async def _models(self, client: Client, front: ClientDialect) -> None:
        if not self._state.ready:
            raise _starting()
        grant = authenticate(client, self._state)
        query = dict(parse_qsl(client.query.decode("latin-1")))
        _, _, name = client.path.partition("/models/")
        name = unquote(name)
        if front is GENERATE:
            body = (
                models_api.own_model(self._state, grant, name)
                if name
                else models_api.own_list(self._state, grant, query)
            )
        elif front is ANTHROPIC:
            limit = query.get("limit", "")
            count = int(limit) if limit.isdigit() else models_api.LIST_MAX
            body = (
                models_api.anthropic_model(self._state, grant, name)
                if name
                else models_api.anthropic_list(self._state, grant, max(1, count))
            )
        elif front is GEMINI:
            body = (
                models_api.gemini_model(self._state, grant, name)
                if name
                else models_api.gemini_list(self._state, grant)
            )
        else:
            body = (
                models_api.openai_model(self._state, grant, name)
                if name
                else models_api.openai_list(self._state, grant)
            )
        await client.whole(200, own_headers(), body)

    async def _preview(self, client: Client) -> None:
        if not self._state.ready:
            raise _starting()
        body = await routing_api.preview(client, self.proxy, self._state, self._settings)
        await client.whole(200, own_headers(), body)

    async def _routing(self, client: Client) -> None:
        if not self._state.ready:
            raise _starting()
        authenticate(client, self._state)
        body = routing_api.status(client, self.proxy, self._state, self._settings.name)
        await client.whole(200, own_headers(), body)

    def _health(self) -> bytes:
        return msgspec.json.encode({"status": "ok", "worker": self._settings.name})

    def _status(self, control: str) -> bytes:
        """What this worker knows by itself: the whole of `/status` while control is away."""
        return msgspec.json.encode(
            {
                "status": "degraded" if control == "away" else "ok",
                "control": control,
                **self.figures(),
                "targets": [self._state.health(target) for target in self._state.targets],
            }
        )

    def figures(self) -> dict[str, Any]:
        """Return what is this worker's own."""
        return {
            "worker": self._settings.name,
            "compiled": is_compiled(),
            "outbox": self._durability.status(),
            "refused_callers": self._state.refusals.counts,
            "providers": self.proxy.outbound.status(),
            "cache": self.proxy.cache.status(),
            "streams_alive": self._state.streams_alive,
            "state_age_seconds": round(self._state.freshness.age_s, 1),
            "calls": self.load.calls,
            "calls_refused": self.load.refused,
            "lag_seconds": round(self.load.lag_s, 3),
        }

    def _missing(self) -> str | None:
        """What this worker lacks to serve, None when it is ready."""
        if not self._state.ready:
            return "the gateway has not read its keys yet"
        if self._durability.status().broker_away:
            return "the broker is away; calls are served and recorded locally"
        if not any(
            target.provider in self._state.providers for target in self._state.targets.values()
        ):
            return "no target has an enabled provider"
        return None

    def _dialect_of(self, client: Client) -> ClientDialect:
        """The dialect for errors and lists: the vendors' paths, told apart by their headers."""
        if client.path.startswith("/v1beta/"):
            return GEMINI
        if not client.path.startswith("/v1/"):
            return GENERATE
        if b"x-goog-api-key" in client.headers:
            return GEMINI
        anthropic = b"anthropic-version" in client.headers or client.path.startswith("/v1/messages")
        return ANTHROPIC if anthropic else OPENAI


def _is_models(path: str) -> bool:
    return path in MODEL_LISTS or path.startswith(MODELS_BELOW)


def _starting() -> Unavailable:
    return Unavailable(
        "the gateway is starting and has not read its keys yet", retry_after_seconds=1.0
    )


async def run(settings: GatewaySettings, log: Log, stop: asyncio.Event) -> None:
    """Serve until `stop`, then let running requests end and hand the outbox to Kafka.

    Raises ConfigurationError when the address cannot be bound.
    """
    state = GatewayState(settings.data_dir / "views.cache", Freshness(settings.stale_s_max))
    start_s = START_FROM_CACHE_S if state.load() else START_S
    outbox = OutboxSettings(folder=settings.outbox_dir, max_bytes=settings.outbox_bytes_max)
    master = MasterKey(settings.master_key)
    done = asyncio.Event()

    def refused() -> int:
        return state.refusals.counts[AuthenticationFailed.code]

    async with Durability(
        outbox, log.connection, master, log.source, settings.name, refused
    ) as durability:
        pool = Pool(connections_max=settings.connections_max, ca_file=settings.ca_file)
        following = asyncio.create_task(state.follow(log, done))
        try:
            await _first_state(state, following, start_s)
            app = App(settings, state, durability, pool, log)
            spare_the_collector()
            await _serve(app, settings, following, stop)
        finally:
            done.set()
            pool.close()
            await following


async def _first_state(
    state: GatewayState, following: asyncio.Task[None], timeout_s: float
) -> None:
    """Wait until keys and routes are known, or the log is plainly away."""
    caught_up = asyncio.create_task(_all_caught_up(state))
    await asyncio.wait(
        {following, caught_up}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
    )
    caught_up.cancel()
    if following.done():
        following.result()


async def _all_caught_up(state: GatewayState) -> None:
    for view in state.durable_views:
        await view.caught_up.wait()
    state.freshness.heard()


async def _serve(
    app: App, settings: GatewaySettings, following: asyncio.Task[None], stop: asyncio.Event
) -> None:
    server = server_of(app, settings)
    await server.listen(bound(settings.host, settings.port))
    stopping = asyncio.create_task(stop.wait())
    watching = asyncio.create_task(app.load.watch())
    batches = asyncio.create_task(app.batches.runner.run())
    telling = asyncio.create_task(publish(settings.data_dir, settings.name, app.figures))
    tidying = asyncio.create_task(give_back_peaks(lambda: app.load.calls > 0))
    try:
        await asyncio.wait({stopping, following}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        await server.close(settings.drain_s)
        watching.cancel()
        tidying.cancel()
        batches.cancel()
        telling.cancel()
        await asyncio.gather(batches, telling, return_exceptions=True)
    if following.done() and not stop.is_set():
        following.result()
        raise RuntimeError("the gateway lost its view of the log")


def server_of(app: App, settings: GatewaySettings) -> Server:
    """Return how the worker listens to its callers."""
    sockets = Sockets(app.serve_socket, settings.body_bytes_max, settings.heartbeat_s)
    return Server(app.serve, _refusal, sockets)


def _refusal(error: WeirError) -> tuple[int, Headers, bytes]:
    """What a caller hears whose bytes are no request, so that nothing is known of its dialect."""
    request_id = new_request_id()
    headers = own_headers(request_id)
    return error.status, headers, GENERATE.write_error(error, error.status, request_id)
