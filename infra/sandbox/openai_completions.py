"""OpenAI's legacy `/v1/completions`, as its API reference gives them."""

import time
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from infra.sandbox import calls, generation
from infra.sandbox.calls import Bill, Frame
from infra.sandbox.compatible_vendors import VENDORS
from infra.sandbox.errors import ApiError, invalid
from infra.sandbox.exchange import Exchange
from infra.sandbox.generation import Ask
from infra.sandbox.openai_request import StreamOptions
from infra.sandbox.openai_wire import error_body, rate_headers
from infra.sandbox.requests import read
from infra.sandbox.tokens import count
from infra.sandbox.wire import Desk

_encode = msgspec.json.encode
_FINISH = {"stop": "stop", "stop_sequence": "stop", "length": "length", "filter": "content_filter"}


class CompletionRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The documented parameters; anything else is refused as the vendor refuses it."""

    model: str
    prompt: str | list[str | int | list[int]]
    best_of: Annotated[int, Meta(ge=1, le=20)] | None = None
    echo: bool | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, int] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    suffix: str | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    user: str | None = None


_REQUEST = msgspec.json.Decoder(CompletionRequest)
_BROKEN = Frame(b"data: " + error_body("server", "The server had an error.", None, None) + b"\n\n")


async def serve(exchange: Exchange, desk: Desk) -> None:
    """Serve one call.

    Raises:
        ApiError: the vendor would refuse it, or a fault says so.
        BadBody: the body is not what the vendor documents.
        Disconnected: the client left.
    """
    request = read(_REQUEST, await exchange.body(desk.settings.body_bytes_max))
    model = desk.model(exchange, request.model, "openai")
    row, lane = exchange.row, desk.behaviours.lane(exchange.row.base, model)
    row.stream = bool(request.stream)
    plan = lane.plan()
    if await calls.before(exchange, plan, anthropic=False):
        return
    vendor = VENDORS.get(exchange.row.base.partition("/")[2])
    if model.kind != "completion" and not (vendor is not None and vendor.completes_chats):
        raise ApiError(
            404,
            "not_found",
            "This is a chat model and not supported in the v1/completions endpoint. "
            "Did you mean to use v1/chat/completions?",
            param="model",
        )
    prompts = _prompts(request)
    tokens = sum(count(prompt) for prompt in prompts)
    if tokens > model.context_tokens:
        raise invalid(
            "This model's maximum context length is exceeded.", code="context_length_exceeded"
        )
    calls.admit(lane, tokens)
    frames, choices = _answers(request, prompts, model.name)
    row.finish_reason = choices[0]["finish_reason"]
    head = {
        "id": f"cmpl-{row.id.removeprefix('req_')}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model.reported,
    }
    made = sum(frame.tokens for frame in frames)
    usage = {"prompt_tokens": tokens, "completion_tokens": made, "total_tokens": tokens + made}
    bill = Bill(tokens)
    if not request.stream:
        body = _encode({**head, "choices": choices, "usage": usage})
        await calls.serve_whole(
            exchange, plan, bill, frames, lambda: body, lambda: rate_headers(exchange, lane)
        )
        return
    headers = [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        *rate_headers(exchange, lane),
    ]
    options = request.stream_options
    events = [
        frame._replace(data=_event({**head, **msgspec.json.decode(frame.data)})) for frame in frames
    ]
    if options is not None and options.include_usage:
        events.append(Frame(_event({**head, "choices": [], "usage": usage}), kind="usage"))
    events.append(Frame(b"data: [DONE]\n\n", kind="end"))
    await calls.serve_stream(exchange, plan, bill, events, _BROKEN, headers)


def _prompts(request: CompletionRequest) -> list[str]:
    given = request.prompt
    if isinstance(given, str):
        return [given]
    if not given:
        raise invalid("Invalid 'prompt': empty array.", param="prompt", code="empty_array")
    if isinstance(given[0], int):
        return [" ".join(map(str, given))]
    return [text if isinstance(text, str) else str(text) for text in given]


def _answers(
    request: CompletionRequest, prompts: list[str], name: str
) -> tuple[list[Frame], list[dict[str, Any]]]:
    """The pieces of all choices, as members of their events, and the choices as a whole."""
    frames: list[Frame] = []
    choices: list[dict[str, Any]] = []
    for prompt in prompts:
        for variant in range(request.n or 1):
            limit = 16 if request.max_tokens is None else request.max_tokens
            ask = Ask(prompt=f"{name}\n{prompt}{request.suffix or ''}", limit=limit)
            ask.variant = variant
            if request.stop:
                ask.stops = (
                    (request.stop,) if isinstance(request.stop, str) else tuple(request.stop)
                )
            answer = generation.compose(ask)
            said = answer.blocks[-1].pieces
            text = (prompt if request.echo else "") + "".join(said)
            finish, place = _FINISH[answer.finish], len(choices)
            choices.append(_choice(place, text, _logprobs(request, said), finish))
            for piece in said:
                data = _encode(
                    {"choices": [_choice(place, piece, _logprobs(request, [piece]), None)]}
                )
                frames.append(Frame(data, 1, piece))
            frames.append(Frame(_encode({"choices": [_choice(place, "", None, finish)]})))
    return frames, choices


def _choice(index: int, text: str, logprobs: Any, finish: str | None) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish}


def _logprobs(request: CompletionRequest, said: list[str]) -> dict[str, Any] | None:
    if request.logprobs is None:
        return None
    values = [-round((sum(piece.encode()) % 97) / 100, 4) for piece in said]
    offsets = [len("".join(said[:at])) for at in range(len(said))]
    top = [{piece: value} for piece, value in zip(said, values, strict=True)]
    return {"tokens": said, "token_logprobs": values, "top_logprobs": top, "text_offset": offsets}


def _event(body: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % _encode(body)
