"""Cohere's chat request (v2) as documented: what it accepts, refuses and asks for.

Written from docs.cohere.com/reference/chat and docs.cohere.com/reference/errors.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from infra.sandbox.behaviour import Lane
from infra.sandbox.errors import invalid
from infra.sandbox.generation import Ask, Tool
from infra.sandbox.models import Model
from infra.sandbox.requests import read
from infra.sandbox.tokens import TOKENS_PER_IMAGE, TOKENS_PER_MESSAGE, pieces

_encode = msgspec.json.encode

PREAMBLE_TOKENS = 64
"""What the vendor puts around a prompt: the model sees it, nobody is billed for it."""
THOUGHTS_MAX = 96


class Function(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    arguments: str = "{}"


class ToolCall(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    function: Function
    type: Literal["function"] = "function"


class Message(msgspec.Struct, forbid_unknown_fields=True):
    """One message of the history; which members belong to which role is checked later."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_plan: str | None = None
    tool_call_id: str | None = None
    citations: list[dict[str, Any]] | None = None


class FunctionOffer(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    parameters: dict[str, Any]
    description: str | None = None


class ToolOffer(msgspec.Struct, forbid_unknown_fields=True):
    function: FunctionOffer
    type: Literal["function"] = "function"


class ResponseFormat(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["text", "json_object"]
    json_schema: dict[str, Any] | None = None


class Thinking(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["enabled", "disabled"]
    token_budget: Annotated[int, Meta(ge=1)] | None = None


class ChatRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The documented parameters; anything else is refused."""

    model: str
    messages: list[Message]
    stream: bool = False
    tools: list[ToolOffer] = []
    strict_tools: bool | None = None
    documents: list[str | dict[str, Any]] = []
    citation_options: dict[str, Any] | None = None
    response_format: ResponseFormat | None = None
    safety_mode: Literal["CONTEXTUAL", "STRICT", "OFF"] | None = None
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    stop_sequences: Annotated[list[str], Meta(max_length=5)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=0)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=0, le=1)] | None = None
    k: Annotated[int, Meta(ge=0, le=500)] | None = None
    p: Annotated[float, Meta(ge=0.01, le=0.99)] | None = None
    logprobs: bool | None = None
    tool_choice: Literal["REQUIRED", "NONE"] | None = None
    thinking: Thinking | None = None
    priority: int | None = None


_CHAT = msgspec.json.Decoder(ChatRequest)


def parse(body: bytes) -> ChatRequest:
    """The request in a body.

    Raises:
        BadBody: it is not what the vendor documents.
    """
    return read(_CHAT, body)


def check(request: ChatRequest, model: Model) -> None:
    """Refuse what the vendor refuses beyond types.

    Raises:
        ApiError: 400.
    """
    if model.kind != "chat":
        raise invalid(f"invalid request: model '{model.name}' is not supported by the chat API")
    if not request.messages:
        raise invalid("invalid request: messages must not be empty.")
    if (request.max_tokens or 0) > model.output_tokens_max:
        raise invalid(
            f"too many tokens: max tokens must be less than or equal to {model.output_tokens_max}, the "
            f"maximum output for this model - received {request.max_tokens}."
        )
    if request.frequency_penalty and request.presence_penalty:
        raise invalid(
            "invalid request: cannot specify both frequency_penalty and presence_penalty."
        )
    if request.tool_choice and not request.tools:
        raise invalid("invalid request: tool_choice can only be specified with tools.")
    if request.thinking is not None and not model.reasoning:
        raise invalid(f"invalid request: thinking is not supported by model '{model.name}'")
    open_ids: set[str] = set()
    for message in request.messages:
        if message.role == "tool":
            if message.tool_call_id not in open_ids:
                raise invalid("invalid request: tool message without a matching tool call.")
            open_ids.discard(message.tool_call_id or "")
            continue
        if open_ids:
            raise invalid("invalid request: all tool calls must have a tool message after them.")
        open_ids = {call.id for call in message.tool_calls or ()}
        if not message.content and not open_ids:
            raise invalid("invalid request: all elements in history must have a message.")


def prompt_of(request: ChatRequest) -> tuple[str, int]:
    """The prompt's text, and the billed tokens beyond that text."""
    parts: list[str] = [
        _encode(value).decode() for value in (request.documents, request.tools) if value
    ]
    extra = 0
    for message in request.messages:
        extra += TOKENS_PER_MESSAGE
        parts.append(message.role)
        if isinstance(message.content, str):
            parts.append(message.content)
        for block in message.content if isinstance(message.content, list) else ():
            if block.get("type") == "image_url":
                extra += TOKENS_PER_IMAGE
            else:
                parts.append(_encode(block).decode())
        parts += [call.function.name + call.function.arguments for call in message.tool_calls or ()]
        parts.append(message.tool_plan or "")
    return "\n".join(parts), extra


def tokens_of(prompt: str, extra: int) -> int:
    """The billed tokens of a prompt."""
    return len(pieces(prompt)) + extra


def ask_of(request: ChatRequest, model: Model, lane: Lane, prompt: str) -> Ask:
    """What the request asks of the generator."""
    ask = Ask(
        prompt=f"{model.name}\n{prompt}",
        limit=request.max_tokens or model.output_tokens_max,
        length_min=lane.behaviour.answer_tokens_min,
        length_max=lane.behaviour.answer_tokens_max,
        stops=tuple(request.stop_sequences or ()),
    )
    if model.reasoning and (request.thinking is None or request.thinking.type == "enabled"):
        budget = request.thinking.token_budget if request.thinking is not None else None
        ask.reasoning_max = min(budget or THOUGHTS_MAX, 256)
    form = request.response_format
    if form is not None and form.type == "json_object":
        anything = {"type": "object", "properties": {"answer": {"type": "string"}}}
        ask.schema = form.json_schema or anything
    answered = request.messages[-1].role == "tool"
    if (
        request.tools
        and request.tool_choice != "NONE"
        and not (answered and not request.tool_choice)
    ):
        ask.tools = tuple(
            Tool(offer.function.name, offer.function.parameters) for offer in request.tools
        )
        ask.call_tools = "any"
        ask.preamble = True
    return ask
