"""Anthropic's messages: the request as documented, the answer whole and as a stream, token counts."""

import base64
import hmac
from typing import Any, Literal

import msgspec

from infra.sandbox import calls, generation
from infra.sandbox.anthropic_wire import error_body, plain_headers, rate_headers
from infra.sandbox.behaviour import Lane
from infra.sandbox.calls import Bill, Frame
from infra.sandbox.errors import invalid
from infra.sandbox.exchange import Exchange
from infra.sandbox.generation import Answer, Ask, Block, Tool
from infra.sandbox.models import Model
from infra.sandbox.prompts import PromptCache
from infra.sandbox.requests import read
from infra.sandbox.tokens import TOKENS_PER_IMAGE, TOKENS_PER_MESSAGE, pieces

_encode = msgspec.json.encode

THINKING_BUDGET_MIN = 1_024
_SIGNING_KEY = b"the sandbox signs its own thinking"
_STOP = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool": "tool_use",
    "filter": "refusal",
    "stop_sequence": "stop_sequence",
}


class Message(msgspec.Struct, forbid_unknown_fields=True):
    """One message of the history."""

    role: Literal["user", "assistant"]
    content: str | list[dict[str, Any]]


class ToolOffer(msgspec.Struct):
    """A tool on offer; server tools have a type and no schema."""

    name: str
    input_schema: dict[str, Any] | None = None
    type: str | None = None
    description: str | None = None
    cache_control: dict[str, Any] | None = None


class ToolChoice(msgspec.Struct, forbid_unknown_fields=True):
    """Whether and which tool must be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Thinking(msgspec.Struct, forbid_unknown_fields=True):
    """How the model may think."""

    type: Literal["enabled", "adaptive", "disabled", "between_tools"]
    budget_tokens: int | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputConfig(msgspec.Struct):
    """Form of the answer, and effort."""

    effort: str | None = None
    format: dict[str, Any] | None = None


class CountRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The documented parameters of `count_tokens`; anything else is refused as the vendor refuses it."""

    model: str
    messages: list[Message]
    system: str | list[dict[str, Any]] | None = None
    thinking: Thinking | None = None
    tool_choice: ToolChoice | None = None
    tools: list[ToolOffer] | None = None
    cache_control: dict[str, Any] | None = None
    output_config: OutputConfig | None = None
    speed: str | None = None
    user_profile_id: str | None = None
    workspace_id: str | None = None


class MessagesRequest(CountRequest, forbid_unknown_fields=True, kw_only=True):
    """The documented parameters of `messages`."""

    max_tokens: int
    container: Any = None
    diagnostics: dict[str, Any] | None = None
    inference_geo: str | None = None
    metadata: dict[str, Any] | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None


_MESSAGES = msgspec.json.Decoder(MessagesRequest)
_COUNT = msgspec.json.Decoder(CountRequest)


def parse(body: bytes) -> MessagesRequest:
    """The request in a body.

    Raises:
        BadBody: it is not what the vendor documents.
    """
    return read(_MESSAGES, body)


def parse_count(body: bytes) -> CountRequest:
    """The same for `count_tokens`."""
    return read(_COUNT, body)


def signature(thinking: str) -> str:
    """The signature by which the sandbox knows its own thinking again."""
    return base64.b64encode(hmac.digest(_SIGNING_KEY, thinking.encode(), "sha256")).decode()


def check(request: MessagesRequest, model: Model) -> None:
    """Refuse what the vendor refuses beyond types.

    Raises:
        ApiError: 400.
    """
    if request.max_tokens < 1:
        raise invalid("max_tokens: Input should be greater than or equal to 1")
    if request.max_tokens > model.output_tokens_max:
        raise invalid(
            f"max_tokens: {request.max_tokens} > {model.output_tokens_max}, which is the maximum allowed "
            f"number of output tokens for {model.reported}"
        )
    for name, value in (("temperature", request.temperature), ("top_p", request.top_p)):
        if value is not None and not 0 <= value <= 1:
            raise invalid(f"{name}: range: 0..1")
    thinking = request.thinking
    if thinking is not None and thinking.type == "enabled":
        budget = thinking.budget_tokens
        if budget is None or budget < THINKING_BUDGET_MIN:
            raise invalid(
                "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024"
            )
        if budget >= request.max_tokens:
            raise invalid("`max_tokens` must be greater than `thinking.budget_tokens`.")
    choice = request.tool_choice
    if (
        choice is not None
        and choice.type == "tool"
        and all(t.name != choice.name for t in request.tools or ())
    ):
        raise invalid(f"Tool '{choice.name}' not found in provided tools")
    check_history(request)


def check_history(request: CountRequest) -> None:
    """Refuse a history that no conversation can have.

    Raises:
        ApiError: 400.
    """
    if not request.messages:
        raise invalid("messages: at least one message is required")
    if request.messages[0].role != "user":
        raise invalid('messages: first message must use the "user" role')
    open_ids: set[str] = set()
    for index, message in enumerate(request.messages):
        blocks = (
            message.content
            if isinstance(message.content, list)
            else [{"type": "text", "text": message.content}]
        )
        results = {
            block.get("tool_use_id") for block in blocks if block.get("type") == "tool_result"
        }
        if strangers := results - open_ids:
            raise invalid(
                f"messages.{index}.content: unexpected `tool_use_id` found in `tool_result` blocks: "
                f"{strangers.pop()}. Each `tool_result` block must have a corresponding `tool_use` block in "
                "the previous message."
            )
        if missing := open_ids - results:
            raise invalid(
                f"messages.{index}: `tool_use` ids were found without `tool_result` blocks immediately after: "
                f"{', '.join(sorted(missing))}."
            )
        open_ids = {str(block.get("id")) for block in blocks if block.get("type") == "tool_use"}
        for place, block in enumerate(blocks):
            _check_block(block, f"messages.{index}.content.{place}")


def _check_block(block: dict[str, Any], where: str) -> None:
    kind = block.get("type")
    if kind is None:
        raise invalid(f"{where}.type: Field required")
    if kind == "text" and not block.get("text"):
        raise invalid("messages: text content blocks must be non-empty")
    if kind == "tool_use" and not isinstance(block.get("input"), dict):
        raise invalid(f"{where}.tool_use.input: Input should be a valid dictionary")
    if kind == "thinking" and block.get("signature") != signature(str(block.get("thinking", ""))):
        raise invalid(f"{where}: Invalid `signature` in `thinking` block")


def prompt_of(request: CountRequest) -> tuple[str, int, int | None]:
    """The prompt's text, the tokens beyond that text, and the length of the part to be cached."""
    parts: list[str] = []
    marked: int | None = None
    extra = 0
    if request.tools:
        parts.append(_encode(request.tools).decode())
        if any(tool.cache_control for tool in request.tools):
            marked = len(parts)
    system = request.system or []
    for block in [{"text": system}] if isinstance(system, str) else system:
        parts.append(str(block.get("text", "")))
        marked = len(parts) if block.get("cache_control") else marked
    for message in request.messages:
        extra += TOKENS_PER_MESSAGE
        parts.append(message.role)
        if isinstance(message.content, str):
            parts.append(message.content)
            continue
        for block in message.content:
            if block.get("type") in ("image", "document"):
                extra += TOKENS_PER_IMAGE
            elif block.get("type") == "text":
                parts.append(str(block["text"]))
            else:
                parts.append(_encode(block).decode())
            marked = len(parts) if block.get("cache_control") else marked
    if request.cache_control:
        marked = len(parts)
    cached = None if marked is None else len("\n".join(parts[:marked]))
    return "\n".join(parts), extra, cached


def ask_of(request: MessagesRequest, model: Model, lane: Lane, prompt: str) -> Ask:
    """What the request asks of the generator."""
    ask = Ask(
        prompt=f"{model.name}\n{prompt}",
        limit=request.max_tokens,
        length_min=lane.behaviour.answer_tokens_min,
        length_max=lane.behaviour.answer_tokens_max,
        stops=tuple(request.stop_sequences or ()),
    )
    thinking = request.thinking
    if thinking is not None and thinking.type in ("enabled", "adaptive") and model.reasoning:
        ask.reasoning_max = thinking.budget_tokens or 192
    form = request.output_config.format if request.output_config is not None else None
    if form is not None and form.get("type") == "json_schema":
        ask.schema = form.get("schema", {})
    choice = request.tool_choice or ToolChoice("auto")
    offers = [tool for tool in request.tools or () if tool.input_schema is not None]
    last = request.messages[-1].content
    answered = isinstance(last, list) and any(block.get("type") == "tool_result" for block in last)
    if not offers or choice.type == "none" or (choice.type == "auto" and answered):
        return ask
    if choice.type == "tool":
        offers = [offer for offer in offers if offer.name == choice.name]
    ask.tools = tuple(Tool(offer.name, offer.input_schema or {}) for offer in offers)
    ask.call_tools = "one" if choice.disable_parallel_tool_use or choice.type == "tool" else "any"
    ask.preamble = choice.type == "auto"
    return ask


def bill_of(
    request: CountRequest, model: Model, owner: str, cache: PromptCache
) -> tuple[str, Bill]:
    """The prompt and the input side of its bill."""
    prompt, extra, cached_chars = prompt_of(request)
    cut = pieces(prompt)
    tokens = len(cut) + extra
    if cached_chars is None:
        return prompt, Bill(tokens)
    prefix = len(pieces(prompt[:cached_chars]))
    known = cache.match(f"{owner}|{model.name}", cut, remember=prefix)
    # What the provider writes to its cache comes in whole steps as well.
    written = max(0, prefix // 128 * 128 - known) if prefix >= THINKING_BUDGET_MIN else 0
    return prompt, Bill(tokens, cached=known, cache_write=written)


async def serve(
    exchange: Exchange, request: MessagesRequest, model: Model, lane: Lane, cache: PromptCache
) -> None:
    """Serve one call.

    Raises:
        ApiError: the vendor would refuse it, or a fault says so.
        Disconnected: the client left.
    """
    row = exchange.row
    row.stream = bool(request.stream)
    plan = lane.plan()
    if await calls.before(exchange, plan, anthropic=True):
        return
    check(request, model)
    prompt, bill = bill_of(request, model, f"{row.base}|{row.key}", cache)
    too_long = plan.fault is not None and plan.fault.kind == "context_too_long"
    if too_long or bill.input_tokens > model.context_tokens:
        raise invalid(
            f"prompt is too long: {bill.input_tokens} tokens > {model.context_tokens} maximum"
        )
    calls.admit(lane, bill.input_tokens)
    ask = ask_of(request, model, lane, prompt)
    ask.filtered = plan.fault is not None and plan.fault.kind == "content_filtered"
    answer = generation.compose(ask)
    row.finish_reason = _STOP[answer.finish]
    row.tool_calls = sum(block.kind == "tool" for block in answer.blocks)
    writer = Writer(exchange, request, model, bill, answer)
    if request.stream:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            *rate_headers(exchange, lane),
        ]
        frames = writer.frames(lane.behaviour.tokens_per_frame)
        broken = Frame(
            b"event: error\ndata: " + error_body("overloaded", "Overloaded", row.id) + b"\n\n"
        )
        await calls.serve_stream(exchange, plan, bill, frames, broken, headers)
    else:
        await calls.serve_whole(
            exchange, plan, bill, writer.tally(), writer.whole, lambda: rate_headers(exchange, lane)
        )


async def serve_count(exchange: Exchange, request: CountRequest) -> None:
    """Serve `count_tokens`, which is free.

    Raises:
        ApiError: the history cannot be.
    """
    check_history(request)
    prompt, extra, _ = prompt_of(request)
    await exchange.answer_json(
        {"input_tokens": len(pieces(prompt)) + extra}, plain_headers(exchange)
    )


class Writer:
    """Writes an answer in Anthropic's format."""

    def __init__(
        self, exchange: Exchange, request: MessagesRequest, model: Model, bill: Bill, answer: Answer
    ) -> None:
        self._bill = bill
        self._answer = answer
        self._model = model.reported
        self._id = f"msg_{exchange.row.id.removeprefix('req_')}"
        self._omitted = request.thinking is not None and request.thinking.display == "omitted"

    def _usage(self, output: int) -> dict[str, Any]:
        bill = self._bill
        return {
            "input_tokens": bill.input_tokens - bill.cached - bill.cache_write,
            "cache_creation_input_tokens": bill.cache_write,
            "cache_read_input_tokens": bill.cached,
            "output_tokens": output,
        }

    def _message(self, content: list[dict[str, Any]], *, done: bool) -> dict[str, Any]:
        output = self._answer.tokens if done else 1
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": _STOP[self._answer.finish] if done else None,
            "stop_sequence": self._answer.stop_sequence if done else None,
            "stop_details": self._stop_details() if done else None,
            "usage": {
                **self._usage(output),
                "cache_creation": {
                    "ephemeral_5m_input_tokens": self._bill.cache_write,
                    "ephemeral_1h_input_tokens": 0,
                },
                "service_tier": "standard",
                "inference_geo": "not_available",
            },
        }

    def _stop_details(self) -> dict[str, Any] | None:
        if self._answer.finish != "filter":
            return None
        return {"type": "refusal", "category": "general_harms", "explanation": None}

    def _thinking(self, block: Block) -> str:
        return "" if self._omitted else "".join(block.pieces)

    def tally(self) -> list[Frame]:
        """Tokens and text without the bytes of a stream: what a whole answer is billed by."""
        return [
            Frame(
                b"",
                len(block.pieces),
                "".join(block.pieces) if block.kind == "text" else "",
                reasoning=len(block.pieces) if block.kind == "thinking" else 0,
            )
            for block in self._answer.blocks
        ]

    def whole(self) -> bytes:
        """The answer in one piece."""
        content = [
            self._content(block)
            for block in self._answer.blocks
            if block.pieces or block.kind != "text"
        ]
        return _encode(self._message(content, done=True))

    def _content(self, block: Block) -> dict[str, Any]:
        text = "".join(block.pieces)
        if block.kind == "text":
            return {"type": "text", "text": text, "citations": None}
        if block.kind == "thinking":
            thinking = self._thinking(block)
            return {"type": "thinking", "thinking": thinking, "signature": signature(thinking)}
        cut_short = self._answer.finish == "length" and block is self._answer.blocks[-1]
        value = {} if cut_short else msgspec.json.decode(text)
        return {"type": "tool_use", "id": f"toolu_{block.id}", "name": block.name, "input": value}

    def frames(self, tokens_per_frame: int) -> list[Frame]:
        """The answer as the events of a stream."""
        message = self._message([], done=False)
        frames = [_event("message_start", {"message": message})]
        index = 0
        for block in self._answer.blocks:
            if block.pieces or block.kind != "text":
                self._stream_block(frames, index, block, tokens_per_frame)
                index += 1
        delta = {
            "stop_reason": _STOP[self._answer.finish],
            "stop_sequence": self._answer.stop_sequence,
            "stop_details": self._stop_details(),
        }
        usage = self._usage(self._answer.tokens)
        frames.append(_event("message_delta", {"delta": delta, "usage": usage}, kind="usage"))
        frames.append(_event("message_stop", {}, kind="end"))
        return frames

    def _stream_block(self, frames: list[Frame], index: int, block: Block, step: int) -> None:
        start: dict[str, Any]
        if block.kind == "text":
            start, name, field = {"type": "text", "text": ""}, b"text_delta", b"text"
        elif block.kind == "thinking":
            start, name, field = (
                {"type": "thinking", "thinking": "", "signature": ""},
                b"thinking_delta",
                b"thinking",
            )
        else:
            start = {"type": "tool_use", "id": f"toolu_{block.id}", "name": block.name, "input": {}}
            name, field = b"input_json_delta", b"partial_json"
        frames.append(_event("content_block_start", {"index": index, "content_block": start}))
        if index == 0:
            frames.append(Frame(b'event: ping\ndata: {"type":"ping"}\n\n'))
        head = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":'
            % (
                index,
                name,
                field,
            )
        )
        if block.kind == "tool":
            frames.append(Frame(head + b'""}}\n\n'))
        thinking = block.kind == "thinking"
        for at in range(0, len(block.pieces), step):
            part = block.pieces[at : at + step]
            text = part[0] if step == 1 else "".join(part)
            data = b"" if thinking and self._omitted else head + _encode(text) + b"}}\n\n"
            shown = text if block.kind == "text" else ""
            frames.append(Frame(data, len(part), shown, reasoning=len(part) if thinking else 0))
        if thinking:
            signed = {"type": "signature_delta", "signature": signature(self._thinking(block))}
            frames.append(_event("content_block_delta", {"index": index, "delta": signed}))
        frames.append(_event("content_block_stop", {"index": index}))


def _event(name: str, fields: dict[str, Any], *, kind: str = "") -> Frame:
    data = _encode({"type": name, **fields})
    return Frame(b"event: %b\ndata: %b\n\n" % (name.encode(), data), kind=kind)
