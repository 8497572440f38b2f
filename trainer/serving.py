"""The model server: local bases and their tuned versions behind OpenAI's dialect.

It runs in the trainer's environment and follows the deployments: a version is loaded when it is
deployed and forgotten when it is not any more, without a restart. All of one base's adapters share
its weights, and one batch may mix them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any

import msgspec
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from schemas.errors import InvalidRequest, ModelLoadingError, ModelNotFound, WeirError
from schemas.events.changes import DeploymentChanged, ModelVersionChanged
from schemas.identity import uuid7
from schemas.log import Log
from schemas.table_view import TableView
from trainer import registry
from trainer.batcher import Batcher
from trainer.inference import BASE, Engine, Row
from trainer.settings import TrainerSettings

_log = logging.getLogger(__name__)
SERVED = frozenset({"observing", "analyzing", "promoting", "promoted"})
BASE_PREFIX = "base:"
MAX_TOKENS = 1024
"""What an answer may take when the request does not say."""


class Part(msgspec.Struct):
    """A piece of a message's content; only text is understood."""

    type: str
    text: str = ""


class Message(msgspec.Struct):
    role: str
    content: str | list[Part] | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class ChatRequest(msgspec.Struct):
    """The fields of a chat completion that a small model can honour; others are ignored."""

    model: str
    messages: list[Message]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    stop: str | list[str] | None = None
    seed: int | None = None
    n: int | None = 1
    stream: bool = False
    stream_options: StreamOptions | None = None


class ServedModel(msgspec.Struct, frozen=True):
    """A name, the base whose engine answers it, and the adapter used (none for the base itself)."""

    name: str
    base: str
    adapter: str
    loaded_at_s: int


class ModelHouse:
    """Every engine, and which name is answered by which of them."""

    def __init__(self, settings: TrainerSettings) -> None:
        self.settings = settings
        self.models: dict[str, ServedModel] = {}
        self._batchers: dict[str, Batcher] = {}

    def batcher(self, base: str) -> Batcher:
        """The engine of a base, started at its first use."""
        if base not in self._batchers:
            folder, threads = self.settings.bases_dir / base, self.settings.threads
            self._batchers[base] = Batcher(
                lambda: Engine(folder, threads), self.settings.batch_max, self.settings.queue_max
            )
        return self._batchers[base]

    async def load(self, name: str, base: str, version: str | None) -> None:
        """Serve `name`. Raises ModelLoadingError for damaged or missing files."""
        folder = self.settings.models_dir / (version or "")
        if version is not None:
            await asyncio.to_thread(registry.verify, folder)

        def prepare(engine: Engine) -> None:
            if version is not None and version not in engine.adapters:
                engine.load(version, folder)

        batcher = self.batcher(base)
        try:
            await batcher.with_engine(prepare)
        except Exception:
            if batcher.engine is None:  # the base may lie there whole at the next try
                del self._batchers[base]
                batcher.close()
            raise
        self.models[name] = ServedModel(name, base, version or BASE, int(time.time()))
        _log.info("serving %s", name)

    async def unload(self, name: str) -> None:
        """Stop serving `name`."""
        model = self.models.pop(name)
        if not any(m.adapter == model.adapter for m in self.models.values()):
            await self.batcher(model.base).with_engine(lambda engine: engine.unload(model.adapter))
        _log.info("no longer serving %s", name)

    def close(self) -> None:
        """End every engine's thread."""
        for batcher in self._batchers.values():
            batcher.close()


async def follow_deployments(
    house: ModelHouse,
    deployments: TableView[DeploymentChanged],
    versions: TableView[ModelVersionChanged],
    stop: asyncio.Event,
) -> None:
    """Load and unload so that what is served is what is deployed."""
    changed = asyncio.Event()
    for view in (deployments, versions):
        view.listen(lambda _key, _event: changed.set())
    failed: dict[str, str] = {}
    while not stop.is_set():
        changed.clear()
        wanted = {
            d.model: d
            for d in deployments.entries.values()
            if d.provider == house.settings.local_provider and d.state in SERVED
        }
        for name in set(house.models) - set(wanted):
            await house.unload(name)
        for name, deployment in wanted.items():
            if name in house.models:
                continue
            try:
                await _load(house, deployment, versions)
            except ModelLoadingError as error:
                if failed.get(name) != error.message:
                    failed[name] = error.message
                    _log.error("%s cannot be served: %s", name, error.message)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(changed.wait(), 2.0)


async def _load(
    house: ModelHouse, deployment: DeploymentChanged, versions: TableView[ModelVersionChanged]
) -> None:
    version_id = deployment.model_version_id
    if version_id.startswith(BASE_PREFIX):
        await house.load(deployment.model, version_id.removeprefix(BASE_PREFIX), None)
        return
    version = versions.get(version_id)
    if version is None:
        raise ModelLoadingError(f"the registry does not know {version_id} (yet)")
    await house.load(deployment.model, version.base_model, version_id)


# --- OpenAI's dialect ------------------------------------------------------------------------


def build(house: ModelHouse) -> FastAPI:
    """The HTTP side."""
    app = FastAPI(title="Weir model server", docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(WeirError)
    async def refuse(_request: Request, error: WeirError) -> Response:
        return _json(_error(error), error.status, _retry_after(error))

    @app.get("/v1/models")
    async def models() -> Response:
        data = [
            {"id": m.name, "object": "model", "created": m.loaded_at_s, "owned_by": "weir"}
            for m in sorted(house.models.values(), key=lambda m: m.name)
        ]
        return _json({"object": "list", "data": data})

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await answer_chat(house, await request.body())

    return app


async def answer_chat(house: ModelHouse, body: bytes) -> Response:
    """A chat completion, whole or streamed. Raises WeirError before the first byte only."""
    try:
        asked = msgspec.json.decode(body, type=ChatRequest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is no chat completion request: {error}") from error
    model = house.models.get(asked.model)
    if model is None:
        raise ModelNotFound(f"the model {asked.model!r} is not served here")
    row = _row(asked, model, house.batcher(model.base).engine)
    growing = house.batcher(model.base).answer(row)
    # The first growth decides between an error answer and a stream.
    first = await anext(growing)
    head = {"id": f"chatcmpl-{uuid7()}", "created": int(time.time()), "model": model.name}
    if asked.stream:
        usage = bool(asked.stream_options and asked.stream_options.include_usage)
        frames = _frames(head, first, growing, include_usage=usage)
        return StreamingResponse(frames, media_type="text/event-stream")
    async with contextlib.aclosing(growing):
        async for _ in growing:
            pass
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": row.text, "refusal": None},
        "logprobs": None,
        "finish_reason": row.finish_reason,
    }
    answer = {**head, "object": "chat.completion", "choices": [choice], "usage": _usage(row)}
    return _json(answer)


def _row(asked: ChatRequest, model: ServedModel, engine: Engine | None) -> Row:
    if engine is None:
        raise ModelLoadingError(f"{model.name} is still being loaded", retry_after_seconds=2)
    if asked.n not in {None, 1}:
        raise InvalidRequest("only one choice (n=1) can be asked for")
    if not asked.messages:
        raise InvalidRequest("messages is empty")
    if not 0 <= asked.temperature <= 2 or not 0 < asked.top_p <= 1:
        raise InvalidRequest("temperature lies in 0..2, top_p in 0..1")
    prompt = engine.encode([{"role": m.role, "content": _text(m)} for m in asked.messages])
    room = engine.context_length - len(prompt)
    if room < 1:
        raise InvalidRequest(
            f"the prompt has {len(prompt)} tokens, the model's context {engine.context_length}"
        )
    limit = asked.max_completion_tokens or asked.max_tokens or MAX_TOKENS
    if limit < 1:
        raise InvalidRequest("max_tokens must be at least 1")
    stop = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())
    return Row(
        prompt=prompt,
        adapter=model.adapter,
        max_tokens=min(limit, room),
        temperature=asked.temperature,
        top_p=asked.top_p,
        stop=tuple(s for s in stop if s),
        seed=asked.seed,
    )


def _text(message: Message) -> str:
    if isinstance(message.content, list):
        if any(part.type != "text" for part in message.content):
            raise InvalidRequest("this model reads text alone")
        return "".join(part.text for part in message.content)
    return message.content or ""


async def _frames(
    head: dict[str, Any], row: Row, growing: AsyncGenerator[Row], *, include_usage: bool
) -> AsyncIterator[bytes]:
    """The answer's growth as server-sent events."""

    def frame(choices: list[dict[str, Any]], **extra: Any) -> bytes:
        chunk = {**head, "object": "chat.completion.chunk", "choices": choices, **extra}
        if include_usage and "usage" not in extra:
            chunk["usage"] = None
        return b"data: " + msgspec.json.encode(chunk) + b"\n\n"

    def choice(delta: dict[str, str], reason: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]

    yield frame(choice({"role": "assistant", "content": ""}))
    sent = 0
    try:
        while True:
            # A stop text may still begin at the end; what could belong to it waits.
            safe = len(row.text) - (0 if row.finish_reason else _held(row))
            if safe > sent:
                yield frame(choice({"content": row.text[sent:safe]}))
                sent = safe
            if row.finish_reason is not None:
                break
            await anext(growing)
    except WeirError as error:
        yield b"data: " + msgspec.json.encode(_error(error)) + b"\n\n"
        return
    finally:
        await growing.aclose()
    yield frame(choice({}, row.finish_reason))
    if include_usage:
        yield frame([], usage=_usage(row))
    yield b"data: [DONE]\n\n"


def _held(row: Row) -> int:
    """How many of the last characters could be the beginning of a stop text."""
    return max(
        (n for stop in row.stop for n in range(1, len(stop)) if row.text.endswith(stop[:n])),
        default=0,
    )


def _usage(row: Row) -> dict[str, int]:
    prompt, completion = len(row.prompt), len(row.tokens)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def _json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, "application/json")


def _error(error: WeirError) -> dict[str, Any]:
    body = {"message": error.message, "type": error.type, "param": None, "code": error.code}
    return {"error": body}


def _retry_after(error: WeirError) -> dict[str, str]:
    if error.retry_after_seconds is None:
        return {}
    return {"retry-after": str(max(1, round(error.retry_after_seconds)))}


class _Server(uvicorn.Server):
    """A server that leaves signals to the part."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take no signal."""
        yield


async def run(settings: TrainerSettings, log: Log, stop: asyncio.Event) -> None:
    """Serve what is deployed until `stop`."""
    house = ModelHouse(settings)
    deployments, versions = TableView(DeploymentChanged), TableView(ModelVersionChanged)
    server = _Server(
        uvicorn.Config(
            build(house),
            settings.host,
            settings.port,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=10,
        )
    )

    async def end() -> None:
        await stop.wait()
        server.should_exit = True

    views: list[TableView[Any]] = [deployments, versions]
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(log.follow(views, stop))
            group.create_task(follow_deployments(house, deployments, versions, stop))
            group.create_task(end())
            await server.serve()
            if not stop.is_set():
                raise RuntimeError("the HTTP server has ended by itself")
    finally:
        house.close()
