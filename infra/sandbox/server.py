"""The sandbox's front: finds base path and route, checks the key, turns failures into rows and bodies."""

import asyncio
import contextlib
import functools
import os
import tomllib
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import uvicorn
from uvicorn.server import ServerState

from infra.sandbox import (
    anthropic_messages,
    anthropic_request,
    anthropic_wire,
    listings,
    openai_chat,
    openai_completions,
    openai_media,
    openai_request,
    openai_responses,
    openai_wire,
)
from infra.sandbox.bedrock import BedrockWire
from infra.sandbox.behaviour import BehaviourFile, Behaviours, Lane
from infra.sandbox.books import Books, Row, now_us
from infra.sandbox.cohere import CohereWire
from infra.sandbox.compatible import CompatibleWire
from infra.sandbox.compatible_vendors import MODELS as COMPATIBLE
from infra.sandbox.compatible_vendors import VENDORS
from infra.sandbox.control import Control
from infra.sandbox.errors import ApiError, invalid
from infra.sandbox.exchange import Disconnected, Exchange, Protocol, Receive, Scope, Send
from infra.sandbox.files import Files
from infra.sandbox.gemini import GeminiWire
from infra.sandbox.google_tokens import GOOGLE_TOKENS
from infra.sandbox.models import MODELS, Catalogue, Dialect, Model
from infra.sandbox.prompts import PromptCache
from infra.sandbox.requests import BadBody
from infra.sandbox.settings import SandboxSettings
from infra.sandbox.tuning import Tuning
from infra.sandbox.wire import Wire

ROUTES = {
    **openai_media.ROUTES,
    ("POST", "responses"): openai_responses.serve,
    ("POST", "responses/input_tokens"): openai_responses.count,
    ("POST", "completions"): openai_completions.serve,
}
WIRES: tuple[Wire, ...] = (
    BedrockWire(),
    GeminiWire(),
    GOOGLE_TOKENS,
    CohereWire(),
    CompatibleWire(),
)
STOP_WAIT_S = 2.0
BACKLOG = 2_048
KEEP_ALIVE_S = 75
"""The vendors keep idle connections for a minute and more; uvicorn alone would close them after 5 s."""


class Sandbox:
    """The ASGI application with its state."""

    def __init__(self, settings: SandboxSettings, books: Books, start: BehaviourFile) -> None:
        self.settings = settings
        self.books = books
        self.catalogue = Catalogue(MODELS + COMPATIBLE + start.models)
        self.behaviours = Behaviours(settings.seed, start.rules)
        self.cache = PromptCache()
        self._files = Files(settings.files_bytes_max)
        self._tuning = Tuning(self._files, self.catalogue, settings.tuning_s)
        self._control = Control(self.catalogue, self.behaviours, books)
        # A process's calls are numbered behind a mark of its own, so ids differ over restarts.
        self._mark = os.urandom(6).hex()
        self._calls = 0
        self._routes: dict[tuple[str, str], Callable[[Exchange], Awaitable[None]]] = {
            ("POST", "chat/completions"): self._chat,
            ("POST", "messages"): self._messages,
            ("POST", "messages/count_tokens"): self._count_tokens,
            ("POST", "embeddings"): self._embeddings,
            **{place: functools.partial(serve, desk=self) for place, serve in ROUTES.items()},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        path: str = scope["path"]
        for wire in WIRES:
            if (place := wire.find(path)) is not None:
                row = self._row(scope, wire.name, place)
                exchange = Exchange(scope, receive, send, row, path.removeprefix(place))
                await self._enter(exchange, self._serve_wire(exchange, wire))
                return
        base, found, rest = path.partition("/v1/")
        if not found:
            await self._control.serve(scope, receive, send)
            return
        anthropic = rest.startswith("messages") or any(
            name == b"anthropic-version" for name, _ in scope["headers"]
        )
        row = self._row(scope, "anthropic" if anthropic else "openai", base)
        exchange = Exchange(scope, receive, send, row, rest)
        await self._enter(exchange, self._serve(exchange))

    def _row(self, scope: Scope, dialect: Dialect, base: str) -> Row:
        """The next row of the books."""
        self._calls += 1
        return Row(
            id=f"req_{self._mark}{self._calls:012x}",
            dialect=dialect,
            base=base,
            method=scope["method"],
            path=scope["path"],
            started_at_us=now_us(),
        )

    async def _enter(self, exchange: Exchange, serving: Awaitable[None]) -> None:
        """Let a call be served, and enter its row."""
        row = exchange.row
        row.weir_request_id = exchange.header(b"x-weir-request-id")
        row.traceparent = exchange.header(b"traceparent")
        try:
            await serving
        except Disconnected:
            row.client_disconnected = True
        finally:
            row.ended_at_us = now_us()
            self.books.append(row)

    async def _serve_wire(self, exchange: Exchange, wire: Wire) -> None:
        row = exchange.row
        try:
            await wire.serve(exchange, self)
        except (BadBody, ApiError) as fault:
            error = wire.explain(fault) if isinstance(fault, BadBody) else fault
            model = self.catalogue.get(row.model, wire.name) if row.model else None
            lane = self.behaviours.lane(row.base, model) if model is not None else None
            await wire.refuse(exchange, error, lane)

    async def _serve(self, exchange: Exchange) -> None:
        row = exchange.row
        try:
            self._authenticate(exchange)
            route = self._routes.get((row.method, exchange.rest))
            await (self._resource(exchange) if route is None else route(exchange))
        except BadBody as bad:
            await self._refuse(exchange, _explain(bad, anthropic=row.dialect == "anthropic"))
        except ApiError as error:
            await self._refuse(exchange, error)

    async def _refuse(self, exchange: Exchange, error: ApiError) -> None:
        row = exchange.row
        lane: Lane | None = None
        dialect: Dialect = "anthropic" if row.dialect == "anthropic" else "openai"
        if row.model and (model := self.catalogue.get(row.model, dialect)) is not None:
            lane = self.behaviours.lane(row.base, model)
        wire = anthropic_wire if dialect == "anthropic" else openai_wire
        await wire.answer_error(exchange, error, lane)

    def _authenticate(self, exchange: Exchange) -> None:
        """Check the key that the call presents.

        Raises:
            ApiError: 401 without a key or with a wrong one.
        """
        anthropic = exchange.row.dialect == "anthropic"
        bearer = exchange.header(b"authorization") or ""
        key = bearer.removeprefix("Bearer ").strip() if bearer.startswith("Bearer ") else ""
        key = (anthropic and exchange.header(b"x-api-key")) or exchange.header(b"api-key") or key
        vendor = VENDORS.get(exchange.row.base.partition("/")[2])
        if not key and vendor is not None and vendor.keyless:
            return
        if not key:
            message = (
                "x-api-key header is required" if anthropic else "You didn't provide an API key."
            )
            raise ApiError(401, "authentication", message)
        exchange.row.key = f"{key[:3]}…{key[-4:]}" if len(key) > 8 else "…"
        if self.settings.keys and key not in self.settings.keys:
            message = "invalid x-api-key" if anthropic else "Incorrect API key provided."
            raise ApiError(
                401, "authentication", message, code=None if anthropic else "invalid_api_key"
            )
        if anthropic and b"anthropic-version" not in exchange.headers:
            raise invalid("anthropic-version: header is required")

    def model(self, exchange: Exchange, name: str, dialect: Dialect) -> Model:
        """The model that a call names.

        Raises:
            ApiError: 404 when there is none.
        """
        exchange.row.model = name
        model = self.catalogue.get(name, dialect)
        if model is None and name.startswith("ft:"):
            self._tuning.settle()
            model = self.catalogue.get(name, dialect)
        if model is None:
            message = (
                f"model: {name}"
                if dialect == "anthropic"
                else f"The model `{name}` does not exist or you do not have access to it."
            )
            raise ApiError(404, "not_found", message, code="model_not_found")
        return model

    async def _chat(self, exchange: Exchange) -> None:
        request = openai_request.parse(await exchange.body(self.settings.body_bytes_max))
        model = self.model(exchange, request.model, "openai")
        lane = self.behaviours.lane(exchange.row.base, model)
        await openai_chat.serve(exchange, request, model, lane, self.cache)

    async def _messages(self, exchange: Exchange) -> None:
        request = anthropic_request.parse(await exchange.body(self.settings.body_bytes_max))
        model = self.model(exchange, request.model, "anthropic")
        lane = self.behaviours.lane(exchange.row.base, model)
        await anthropic_messages.serve(exchange, request, model, lane, self.cache)

    async def _count_tokens(self, exchange: Exchange) -> None:
        request = anthropic_request.parse_count(await exchange.body(self.settings.body_bytes_max))
        self.model(exchange, request.model, "anthropic")
        await anthropic_messages.serve_count(exchange, request)

    async def _embeddings(self, exchange: Exchange) -> None:
        body = await exchange.body(self.settings.body_bytes_max)
        request = listings.parse_embedding(body)
        model = self.model(exchange, request.model, "openai")
        lane = self.behaviours.lane(exchange.row.base, model)
        await listings.serve_embeddings(exchange, request, model, lane)

    async def _resource(self, exchange: Exchange) -> None:
        """Serve what is not a model call: lists, files, jobs."""
        row = exchange.row
        body = await exchange.body(self.settings.body_bytes_max)
        match exchange.rest.split("/"):
            case ["models", *name] if row.method == "GET":
                self._tuning.settle()
                lists = (
                    listings.anthropic_models
                    if row.dialect == "anthropic"
                    else listings.openai_models
                )
                await lists(exchange, self.catalogue, "/".join(name) if name else None)
            case ["responses", *parts] if row.dialect == "openai":
                await openai_responses.resource(exchange, parts)
            case ["files", *parts] if row.dialect == "openai":
                await self._files.serve(exchange, parts, body)
            case ["fine_tuning", "jobs", *parts] if row.dialect == "openai":
                await self._tuning.serve(exchange, parts, body)
            case _:
                message = f"Invalid URL ({row.method} {row.path})"
                raise ApiError(404, "not_found", message, code="unknown_url")


def _explain(bad: BadBody, *, anthropic: bool) -> ApiError:
    """A body's fault in the words of the vendor."""
    path = bad.path
    if anthropic:
        words = {"missing": "Field required", "unknown": "Extra inputs are not permitted"}
        message = f"{path}: {words.get(bad.problem, bad.message)}" if path else bad.message
        return invalid(message if bad.problem != "json" else "The request body is not valid JSON.")
    if bad.problem == "json":
        return invalid("We could not parse the JSON body of your request.")
    if bad.problem == "missing":
        return invalid(
            f"Missing required parameter: '{path}'.", param=path, code="missing_required_parameter"
        )
    if bad.problem == "unknown":
        return invalid(f"Unknown parameter: '{path}'.", param=path, code="unknown_parameter")
    if bad.problem == "range":
        number = "integer" if "`int`" in bad.message else "decimal"
        side = "below_min" if ">=" in bad.message else "above_max"
        message = f"Invalid '{path}': {bad.message}."
        return invalid(message, param=path, code=f"{number}_{side}_value")
    return invalid(f"Invalid type for '{path}': {bad.message}.", param=path, code="invalid_type")


def read_behaviour(path: Path | None) -> BehaviourFile:
    """The behaviour file, TOML or JSON by its ending.

    Raises:
        msgspec.ValidationError: the file says what no behaviour can be.
        OSError: it cannot be read.
    """
    if path is None:
        return BehaviourFile()
    if path.suffix == ".json":
        return msgspec.json.decode(path.read_bytes(), type=BehaviourFile)
    return msgspec.convert(tomllib.loads(path.read_text()), BehaviourFile)


async def run(settings: SandboxSettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set; the books are complete when this returns.

    Raises:
        OSError: the port is taken, or the books or the behaviour file cannot be opened.
    """
    books = Books(settings.books)
    app = Sandbox(settings, books, read_behaviour(settings.behaviour))
    config = uvicorn.Config(
        app,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    config.load()
    state = ServerState()
    state.default_headers = [(b"server", b"weir-sandbox")]
    loop = asyncio.get_running_loop()
    make = functools.partial(Protocol, config=config, server_state=state, app_state={})
    server = await loop.create_server(make, settings.host, settings.port, backlog=BACKLOG)
    flushing = asyncio.create_task(books.keep_flushed())
    try:
        await stop.wait()
    finally:
        server.close()
        for connection in list(state.connections):
            connection.shutdown()
        if state.tasks:
            await asyncio.wait(list(state.tasks), timeout=STOP_WAIT_S)
        for connection in list(state.connections):
            connection.transport.abort()
        # Calls still open notice the abort, and enter their rows.
        if state.tasks:
            await asyncio.wait(list(state.tasks), timeout=STOP_WAIT_S)
        flushing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await flushing
        books.close()
