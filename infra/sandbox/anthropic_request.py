"""Anthropic's messages request as documented: what it accepts, what it refuses, what it asks for."""

import base64
import hmac
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from infra.sandbox.behaviour import Lane
from infra.sandbox.calls import Bill
from infra.sandbox.errors import invalid
from infra.sandbox.generation import Ask, Tool
from infra.sandbox.models import Model
from infra.sandbox.prompts import CACHE_STEP_TOKENS, CACHE_TOKENS_MIN, PromptCache
from infra.sandbox.requests import read
from infra.sandbox.tokens import TOKENS_PER_IMAGE, TOKENS_PER_MESSAGE, pieces

_encode = msgspec.json.encode

THINKING_BUDGET_MIN = 1_024
_SIGNING_KEY = b"the sandbox signs its own thinking"


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

    max_tokens: Annotated[int, Meta(ge=1)]
    container: Any = None
    diagnostics: dict[str, Any] | None = None
    inference_geo: str | None = None
    metadata: dict[str, Any] | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None


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
    if request.max_tokens > model.output_tokens_max:
        raise invalid(
            f"max_tokens: {request.max_tokens} > {model.output_tokens_max}, which is the maximum allowed "
            f"number of output tokens for {model.reported}"
        )
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
    whole = prefix // CACHE_STEP_TOKENS * CACHE_STEP_TOKENS if prefix >= CACHE_TOKENS_MIN else 0
    written = max(0, whole - known)
    return prompt, Bill(tokens, cached=known, cache_write=written)
