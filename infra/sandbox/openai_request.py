"""OpenAI's chat request as documented: what it accepts, what it refuses, what it asks for."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from infra.sandbox.behaviour import Lane
from infra.sandbox.errors import ApiError, invalid
from infra.sandbox.generation import Ask, Tool
from infra.sandbox.models import Model
from infra.sandbox.requests import read
from infra.sandbox.tokens import TOKENS_PER_IMAGE, TOKENS_PER_MESSAGE, TOKENS_PER_REPLY

_encode = msgspec.json.encode

CHOICES_MAX = 8
STOPS_MAX = 4
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
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    function_call: Any = None
    functions: list[Any] | None = None
    logit_bias: dict[str, int] | None = None
    logprobs: bool | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    metadata: dict[str, str] | None = None
    modalities: list[str] | None = None
    moderation: dict[str, Any] | None = None
    n: Annotated[int, Meta(ge=1, le=CHOICES_MAX)] | None = None
    parallel_tool_calls: bool | None = None
    prediction: dict[str, Any] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
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
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    tools: list[ToolOffer] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
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
    for name in ("max_tokens", "max_completion_tokens"):
        value = getattr(request, name)
        if value is not None and value > model.output_tokens_max:
            raise invalid(
                f"{name} is too large: {value}. This model supports at most "
                f"{model.output_tokens_max} completion tokens.",
                param=name,
                code="invalid_value",
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
