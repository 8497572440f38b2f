"""OpenAI's chat completions: the request as documented, the answer whole and as a stream."""

import time
from typing import Any, Literal

import msgspec

from infra.sandbox import calls, generation
from infra.sandbox.behaviour import Lane
from infra.sandbox.calls import Bill, Frame
from infra.sandbox.errors import ApiError, invalid
from infra.sandbox.exchange import Exchange
from infra.sandbox.generation import Answer, Ask, Block, Tool
from infra.sandbox.models import Model
from infra.sandbox.openai_wire import error_body, rate_headers
from infra.sandbox.prompts import PromptCache
from infra.sandbox.requests import read
from infra.sandbox.tokens import TOKENS_PER_IMAGE, TOKENS_PER_MESSAGE, TOKENS_PER_REPLY, pieces

_encode = msgspec.json.encode

CHOICES_MAX = 8
STOPS_MAX = 4
FINGERPRINT = "fp_5a4d6e0b1c"
_OBFUSCATION = "mZ3kQx8TfLw2VbNd"
_FINISH = {
    "stop": "stop",
    "length": "length",
    "tool": "tool_calls",
    "filter": "content_filter",
    "stop_sequence": "stop",
}
# Tokens that reasoning may take, by effort.
_EFFORT = {"none": 0, "minimal": 16, "low": 48, "medium": 128, "high": 192, "xhigh": 256}


class Function(msgspec.Struct, forbid_unknown_fields=True):
    """A called function."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, forbid_unknown_fields=True):
    """A tool call in the history."""

    id: str
    function: Function
    type: Literal["function"] = "function"
    index: int | None = None


class Message(msgspec.Struct, forbid_unknown_fields=True):
    """One message of the history."""

    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: dict[str, Any] | None = None
    function_call: Function | None = None


class FunctionOffer(msgspec.Struct):
    """A function on offer."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolOffer(msgspec.Struct, forbid_unknown_fields=True):
    """A tool on offer."""

    function: FunctionOffer
    type: Literal["function"]


class ToolChoiceName(msgspec.Struct):
    """Name of the function that must be called."""

    name: str


class ToolChoice(msgspec.Struct, forbid_unknown_fields=True):
    """The tool that must be called."""

    function: ToolChoiceName
    type: Literal["function"]


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """Options of a stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class JsonSchema(msgspec.Struct):
    """A named schema for the answer."""

    name: str
    schema: dict[str, Any] = {}
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, forbid_unknown_fields=True):
    """What the answer must look like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The documented parameters; anything else is refused as the vendor refuses it."""

    model: str
    messages: list[Message]
    audio: dict[str, Any] | None = None
    frequency_penalty: float | None = None
    function_call: Any = None
    functions: list[Any] | None = None
    logit_bias: dict[str, int] | None = None
    logprobs: bool | None = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    metadata: dict[str, str] | None = None
    modalities: list[str] | None = None
    moderation: dict[str, Any] | None = None
    n: int | None = None
    parallel_tool_calls: bool | None = None
    prediction: dict[str, Any] | None = None
    presence_penalty: float | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    reasoning_effort: str | None = None
    response_format: ResponseFormat | None = None
    safety_identifier: str | None = None
    seed: int | None = None
    service_tier: str | None = None
    stop: str | list[str] | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    tools: list[ToolOffer] | None = None
    top_logprobs: int | None = None
    top_p: float | None = None
    user: str | None = None
    verbosity: str | None = None
    web_search_options: dict[str, Any] | None = None


DECODER = msgspec.json.Decoder(ChatRequest)


def parse(body: bytes) -> ChatRequest:
    """The request in a body.

    Raises:
        BadBody: it is not what the vendor documents.
    """
    return read(DECODER, body)


def check(request: ChatRequest, model: Model) -> None:
    """Refuse what the vendor refuses beyond types.

    Raises:
        ApiError: 400 with the vendor's parameter and code.
    """
    if model.kind != "chat":
        raise ApiError(
            404,
            "not_found",
            "This is not a chat model and thus not supported in the v1/chat/completions endpoint.",
            param="model",
        )
    if not request.messages:
        raise invalid(
            "Invalid 'messages': empty array. Expected an array with minimum length 1.",
            param="messages",
            code="empty_array",
        )
    if request.stream_options is not None and not request.stream:
        raise invalid(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            param="stream_options",
        )
    if model.reasoning and request.max_tokens is not None:
        raise invalid(
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            param="max_tokens",
            code="unsupported_parameter",
        )
    for name, value, low, high in (
        ("temperature", request.temperature, 0, 2),
        ("top_p", request.top_p, 0, 1),
        ("presence_penalty", request.presence_penalty, -2, 2),
        ("frequency_penalty", request.frequency_penalty, -2, 2),
        ("n", request.n, 1, CHOICES_MAX),
        ("max_tokens", request.max_tokens, 1, model.output_tokens_max),
        ("max_completion_tokens", request.max_completion_tokens, 1, model.output_tokens_max),
        ("top_logprobs", request.top_logprobs, 0, 20),
    ):
        if value is not None and not low <= value <= high:
            raise invalid(
                f"Invalid '{name}': expected a value between {low} and {high}, but got {value} instead.",
                param=name,
                code="integer_above_max_value" if value > high else "integer_below_min_value",
            )
    if isinstance(request.stop, list) and len(request.stop) > STOPS_MAX:
        raise invalid(
            "Invalid 'stop': array too long.", param="stop", code="array_above_max_length"
        )
    if request.tool_choice is not None and request.tool_choice != "none" and not request.tools:
        raise invalid(
            "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified."
        )
    _check_tools(request)


def _check_tools(request: ChatRequest) -> None:
    if isinstance(request.tool_choice, ToolChoice):
        name = request.tool_choice.function.name
        if all(tool.function.name != name for tool in request.tools or ()):
            raise invalid(
                f"Tool choice '{name}' not found in 'tools' parameter.", param="tool_choice"
            )
    open_ids: list[str] = []
    for index, message in enumerate(request.messages):
        if message.role == "tool":
            if message.tool_call_id not in open_ids:
                raise invalid(
                    "Invalid parameter: messages with role 'tool' must be a response to a preceeding "
                    "message with 'tool_calls'.",
                    param=f"messages.[{index}].role",
                )
            open_ids.remove(message.tool_call_id)
            continue
        if open_ids:
            break
        if message.role == "assistant" and message.tool_calls:
            open_ids = [call.id for call in message.tool_calls]
        elif message.content is None and not (
            message.role == "assistant" and message.function_call
        ):
            raise invalid(
                f"Invalid value for 'content': expected a string, got null for message {index}.",
                param=f"messages.[{index}].content",
            )
    if open_ids:
        raise invalid(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            f"'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(open_ids)}",
            param="messages",
        )


def prompt_of(request: ChatRequest) -> tuple[str, int]:
    """The prompt's text, and the tokens that it costs beyond that text."""
    parts: list[str] = []
    extra = TOKENS_PER_REPLY
    for message in request.messages:
        extra += TOKENS_PER_MESSAGE
        parts.append(message.role)
        content = message.content
        if isinstance(content, str):
            parts.append(content)
        elif content:
            for part in content:
                if part.get("type") == "image_url":
                    extra += TOKENS_PER_IMAGE
                else:
                    parts.append(str(part.get("text", part.get("refusal", ""))))
        for call in message.tool_calls or ():
            parts += (call.function.name, call.function.arguments)
    if request.tools:
        parts.append(_encode(request.tools).decode())
    return "\n".join(parts), extra


def ask_of(request: ChatRequest, model: Model, lane: Lane, prompt: str) -> Ask:
    """What the request asks of the generator."""
    ask = Ask(
        prompt=f"{model.name}\n{prompt}",
        limit=request.max_completion_tokens or request.max_tokens or model.output_tokens_max,
        length_min=lane.behaviour.answer_tokens_min,
        length_max=lane.behaviour.answer_tokens_max,
    )
    if request.stop:
        ask.stops = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop)
    if model.reasoning:
        ask.reasoning_max = _EFFORT.get(request.reasoning_effort or "medium", 128)
    form = request.response_format
    if form is not None and form.type != "text":
        anything = {
            "type": "object",
            "properties": {"answer": {"type": "string"}, "score": {"type": "integer"}},
        }
        ask.schema = form.json_schema.schema if form.json_schema is not None else anything
    _ask_tools(request, ask)
    return ask


def _ask_tools(request: ChatRequest, ask: Ask) -> None:
    choice = request.tool_choice or "auto"
    if not request.tools or choice == "none":
        return
    offers = [tool.function for tool in request.tools]
    if isinstance(choice, ToolChoice):
        offers = [offer for offer in offers if offer.name == choice.function.name]
    elif choice == "auto" and request.messages[-1].role == "tool":
        return  # the results are there: now it answers
    ask.tools = tuple(Tool(offer.name, offer.parameters or {"type": "object"}) for offer in offers)
    ask.call_tools = (
        "one" if request.parallel_tool_calls is False or isinstance(choice, ToolChoice) else "any"
    )


async def serve(
    exchange: Exchange, request: ChatRequest, model: Model, lane: Lane, cache: PromptCache
) -> None:
    """Serve one call.

    Raises:
        ApiError: the vendor would refuse it, or a fault says so.
        Disconnected: the client left.
    """
    row = exchange.row
    row.stream = bool(request.stream)
    plan = lane.plan()
    if await calls.before(exchange, plan, anthropic=False):
        return
    check(request, model)
    prompt, extra = prompt_of(request)
    cut = pieces(prompt)
    tokens = len(cut) + extra
    too_long = plan.fault is not None and plan.fault.kind == "context_too_long"
    if too_long or tokens > model.context_tokens:
        raise invalid(
            f"This model's maximum context length is {model.context_tokens} tokens. However, your messages "
            f"resulted in {tokens} tokens. Please reduce the length of the messages.",
            param="messages",
            code="context_length_exceeded",
        )
    calls.admit(lane, tokens)
    bill = Bill(tokens, cached=cache.match(f"{row.base}|{model.name}|{row.key}", cut))
    ask = ask_of(request, model, lane, prompt)
    ask.filtered = plan.fault is not None and plan.fault.kind == "content_filtered"
    answers = []
    for variant in range(request.n or 1):
        ask.variant = variant
        answers.append(generation.compose(ask))
    row.finish_reason = _FINISH[answers[0].finish]
    row.tool_calls = sum(block.kind == "tool" for answer in answers for block in answer.blocks)
    writer = Writer(exchange, request, model, bill, answers)
    if request.stream:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            *rate_headers(exchange, lane),
        ]
        frames = writer.frames(lane.behaviour.tokens_per_frame)
        await calls.serve_stream(exchange, plan, bill, frames, _BROKEN, headers)
    else:
        await calls.serve_whole(
            exchange, plan, bill, writer.tally(), writer.whole, lambda: rate_headers(exchange, lane)
        )


_BROKEN = Frame(
    b"data: "
    + error_body("server", "The server had an error while processing your request.", None, None)
    + b"\n\n"
)


class Writer:
    """Writes answers in OpenAI's format."""

    def __init__(
        self,
        exchange: Exchange,
        request: ChatRequest,
        model: Model,
        bill: Bill,
        answers: list[Answer],
    ) -> None:
        self._request = request
        self._bill = bill
        self._answers = answers
        self._model = model.reported
        self._id = f"chatcmpl-{exchange.row.id.removeprefix('req_')}"
        self._created = int(time.time())
        options = request.stream_options
        self._usage_asked = options is not None and bool(options.include_usage)
        self._obfuscated = options is None or options.include_obfuscation is not False

    def usage(self) -> dict[str, Any]:
        """The bill as the vendor writes it."""
        output = sum(answer.tokens for answer in self._answers)
        return {
            "prompt_tokens": self._bill.input_tokens,
            "completion_tokens": output,
            "total_tokens": self._bill.input_tokens + output,
            "prompt_tokens_details": {"cached_tokens": self._bill.cached, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": sum(answer.thinking_tokens for answer in self._answers),
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def tally(self) -> list[Frame]:
        """Tokens and text without the bytes of a stream: what a whole answer is billed by."""
        return [
            Frame(b"", len(block.pieces), reasoning=len(block.pieces))
            if block.kind == "thinking"
            else Frame(
                b"", len(block.pieces), "".join(block.pieces) if block.kind == "text" else ""
            )
            for answer in self._answers
            for block in answer.blocks
        ]

    def whole(self) -> bytes:
        """The answer in one piece."""
        return _encode(
            {
                "id": self._id,
                "object": "chat.completion",
                "created": self._created,
                "model": self._model,
                "choices": [
                    self._choice(index, answer) for index, answer in enumerate(self._answers)
                ],
                "usage": self.usage(),
                "service_tier": "default",
                "system_fingerprint": FINGERPRINT,
            }
        )

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        text = [block for block in answer.blocks if block.kind == "text"]
        tools = [block for block in answer.blocks if block.kind == "tool"]
        message: dict[str, Any] = {
            "role": "assistant",
            "content": "".join(text[0].pieces) if text else (None if tools else ""),
            "refusal": None,
            "annotations": [],
        }
        if tools:
            message["tool_calls"] = [
                {
                    "id": f"call_{block.id}",
                    "type": "function",
                    "function": {"name": block.name, "arguments": "".join(block.pieces)},
                }
                for block in tools
            ]
        logprobs = None
        if self._request.logprobs and text:
            content = [logprob(piece, self._request.top_logprobs or 0) for piece in text[0].pieces]
            logprobs = {"content": content, "refusal": None}
        return {
            "index": index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": _FINISH[answer.finish],
        }

    def frames(self, tokens_per_frame: int) -> list[Frame]:
        """The answer as the events of a stream."""
        frames: list[Frame] = []
        for index, answer in enumerate(self._answers):
            self._stream_choice(frames, index, answer, tokens_per_frame)
        if self._usage_asked:
            frames.append(Frame(self._event(b"[]", _encode(self.usage())), kind="usage"))
        frames.append(Frame(b"data: [DONE]\n\n", kind="end"))
        return frames

    def _stream_choice(self, frames: list[Frame], index: int, answer: Answer, step: int) -> None:
        has_tools = any(block.kind == "tool" for block in answer.blocks)
        first = {"role": "assistant", "content": None if has_tools else "", "refusal": None}
        frames.append(Frame(self._delta(index, _encode(first))))
        number = 0
        for block in answer.blocks:
            if block.kind == "thinking":
                frames.append(
                    Frame(b"", len(block.pieces), kind="wait", reasoning=len(block.pieces))
                )
            elif block.kind == "tool":
                self._stream_tool(frames, index, number, block, step)
                number += 1
            else:
                self._stream_text(frames, index, block, step)
        frames.append(Frame(self._delta(index, b"{}", finish=_FINISH[answer.finish])))

    def _stream_text(self, frames: list[Frame], index: int, block: Block, step: int) -> None:
        top = self._request.top_logprobs or 0
        head, middle, tail = self._parts(index)
        for start in range(0, len(block.pieces), step):
            part = block.pieces[start : start + step]
            text = part[0] if step == 1 else "".join(part)
            delta = b'{"content":%b}' % _encode(text)
            if self._request.logprobs:
                logprobs = _encode(
                    {"content": [logprob(piece, top) for piece in part], "refusal": None}
                )
                data = self._delta(index, delta, logprobs=logprobs, seed=len(text))
            else:
                data = head + delta + middle + self._padding(len(text)) + tail
            frames.append(Frame(data, len(part), text))

    def _stream_tool(
        self, frames: list[Frame], index: int, number: int, block: Block, step: int
    ) -> None:
        opening = {
            "tool_calls": [
                {
                    "index": number,
                    "id": f"call_{block.id}",
                    "type": "function",
                    "function": {"name": block.name, "arguments": ""},
                }
            ]
        }
        frames.append(Frame(self._delta(index, _encode(opening))))
        for start in range(0, len(block.pieces), step):
            part = block.pieces[start : start + step]
            delta = {"tool_calls": [{"index": number, "function": {"arguments": "".join(part)}}]}
            frames.append(Frame(self._delta(index, _encode(delta)), len(part)))

    def _padding(self, length: int) -> bytes:
        """Random-looking characters by which the vendor hides the length of tokens."""
        if not self._obfuscated:
            return b""
        return b',"obfuscation":"%b"' % _OBFUSCATION[: 1 + -length % 16].encode()

    def _parts(self, index: int) -> tuple[bytes, bytes, bytes]:
        """What surrounds the delta and the padding of a plain event, made once per stream."""
        marked = self._event(
            b'[{"index":%d,"delta":\x00,"logprobs":null,"finish_reason":null}]' % index,
            None,
            padding=b"\x00",
        )
        head, middle, tail = marked.split(b"\x00")
        return head, middle, tail

    def _delta(
        self,
        index: int,
        delta: bytes,
        *,
        finish: str | None = None,
        logprobs: bytes = b"null",
        seed: int = 0,
    ) -> bytes:
        choice = b'[{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":%b}]'
        return self._event(
            choice % (index, delta, logprobs, _encode(finish)), None, padding=self._padding(seed)
        )

    def _event(self, choices: bytes, usage: bytes | None, *, padding: bytes = b"") -> bytes:
        shown = b',"usage":%b' % (usage or b"null") if self._usage_asked else b""
        return (
            b'data: {"id":"%b","object":"chat.completion.chunk","created":%d,"model":%b,"service_tier":"default",'
            b'"system_fingerprint":"%b","choices":%b%b%b}\n\n'
            % (
                self._id.encode(),
                self._created,
                _encode(self._model),
                FINGERPRINT.encode(),
                choices,
                shown,
                padding,
            )
        )


def logprob(piece: str, top: int) -> dict[str, Any]:
    """A token's log-probability: made up, but the same for the same token."""
    value = -round((sum(piece.encode()) % 97) / 100, 4)
    entry = {"token": piece, "logprob": value, "bytes": list(piece.encode())}
    others = [
        {"token": f"{piece}{rank}"[-12:], "logprob": round(value - rank, 4), "bytes": None}
        for rank in range(1, top)
    ]
    return {**entry, "top_logprobs": [entry, *others] if top else []}
