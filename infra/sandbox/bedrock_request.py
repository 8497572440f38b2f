"""Bedrock's Converse request as documented: what it accepts, what it refuses, what it asks for."""

import base64
import binascii
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
from infra.sandbox.tokens import TOKENS_PER_IMAGE, TOKENS_PER_MESSAGE, TOKENS_PER_REPLY, pieces

_BLOCKS = frozenset(
    ["text", "image", "document", "toolUse", "toolResult", "reasoningContent", "cachePoint"]
)
_DOCUMENT_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 -()[]")


class Message(msgspec.Struct, forbid_unknown_fields=True):
    """One turn."""

    role: Literal["user", "assistant"]
    content: list[dict[str, Any]]


class InferenceConfig(msgspec.Struct, forbid_unknown_fields=True):
    """Limits and the way tokens are drawn."""

    maxTokens: Annotated[int, Meta(ge=1)] | None = None  # noqa: N815 - the vendor's name
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    topP: Annotated[float, Meta(ge=0, le=1)] | None = None  # noqa: N815
    stopSequences: list[Annotated[str, Meta(min_length=1)]] | None = None  # noqa: N815


class ToolConfig(msgspec.Struct, forbid_unknown_fields=True):
    """Tools on offer and which must be called."""

    tools: Annotated[list[dict[str, Any]], Meta(min_length=1)]
    toolChoice: dict[str, Any] | None = None  # noqa: N815


class ConverseRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The documented parameters; anything else is refused."""

    messages: list[Message] = []
    system: list[dict[str, Any]] | None = None
    inferenceConfig: InferenceConfig | None = None  # noqa: N815
    toolConfig: ToolConfig | None = None  # noqa: N815
    guardrailConfig: dict[str, Any] | None = None  # noqa: N815
    additionalModelRequestFields: dict[str, Any] | None = None  # noqa: N815
    additionalModelResponseFieldPaths: list[str] | None = None  # noqa: N815
    promptVariables: dict[str, Any] | None = None  # noqa: N815
    requestMetadata: dict[str, str] | None = None  # noqa: N815
    performanceConfig: dict[str, Any] | None = None  # noqa: N815
    serviceTier: dict[str, Any] | None = None  # noqa: N815
    outputConfig: dict[str, Any] | None = None  # noqa: N815


_DECODER = msgspec.json.Decoder(ConverseRequest)


def parse(body: bytes) -> ConverseRequest:
    """The request in a body.

    Raises:
        BadBody: it is not what the vendor documents.
    """
    return read(_DECODER, body)


def check(request: ConverseRequest, model: Model) -> None:
    """Refuse what the vendor refuses beyond types.

    Raises:
        ApiError: 400 with the vendor's words.
    """
    if not request.messages:
        raise invalid(
            "A conversation must start with a user message. Try again with a conversation that starts with a user message."
        )
    if request.messages[0].role != "user":
        raise invalid("A conversation must start with a user message.")
    limits = request.inferenceConfig
    if limits is not None and (limits.maxTokens or 0) > model.output_tokens_max:
        raise invalid(
            f"The maximum tokens you requested exceeds the model limit of {model.output_tokens_max}."
        )
    role = ""
    open_ids: list[str] = []
    has_calls = False
    for number, message in enumerate(request.messages):
        if message.role == role:
            raise invalid("A conversation must alternate between user and assistant roles.")
        role = message.role
        calls, results = _check_blocks(message, f"messages.{number}.content")
        if sorted(results) != sorted(open_ids):
            raise invalid(
                "The number of toolResult blocks at messages."
                f"{number}.content exceeds or lacks the toolUse blocks of the previous turn."
            )
        open_ids = calls
        has_calls = has_calls or bool(calls)
    if has_calls and request.toolConfig is None:
        raise invalid(
            "The toolConfig field must be defined when using toolUse and toolResult content blocks."
        )


def _check_blocks(message: Message, where: str) -> tuple[list[str], list[str]]:
    calls: list[str] = []
    results: list[str] = []
    for number, block in enumerate(message.content):
        place = f"{where}.{number}"
        if len(block) != 1 or not block.keys() <= _BLOCKS:
            raise invalid(f"The content block at {place} is not a valid member of the union.")
        ((kind, value),) = block.items()
        if kind == "text" and not str(value).strip():
            raise invalid(f"The text field in the ContentBlock object at {place} is blank.")
        if kind == "image":
            _check_bytes(value, place)
        elif kind == "document":
            _check_bytes(value, place)
            name = str(value.get("name") or "")
            if not name or not _DOCUMENT_NAME.issuperset(name) or "  " in name:
                raise invalid(
                    f"The document file name at {place} can only contain alphanumeric characters."
                )
        elif kind == "toolUse":
            calls.append(value["toolUseId"])
        elif kind == "toolResult":
            results.append(value["toolUseId"])
    return calls, results


def _check_bytes(value: dict[str, Any], place: str) -> None:
    data = value.get("source", {}).get("bytes")
    try:
        base64.b64decode(str(data), validate=True)
    except binascii.Error:
        data = None
    if data is None or "format" not in value:
        raise invalid(f"The source at {place} has no bytes.")


def bill_of(
    request: ConverseRequest, model: Model, owner: str, cache: PromptCache
) -> tuple[str, Bill]:
    """The prompt and the input side of its bill; what lies before the last cache point is cached."""
    parts: list[str] = []
    extra = TOKENS_PER_REPLY
    chars, cached_chars = 0, -1
    blocks = list(request.system or [])
    for message in request.messages:
        extra += TOKENS_PER_MESSAGE
        blocks += message.content
    for block in blocks:
        if "cachePoint" in block:
            cached_chars = chars
            continue
        if "image" in block or "document" in block:
            extra += TOKENS_PER_IMAGE
            continue
        text = block.get("text")
        part = text if isinstance(text, str) else msgspec.json.encode(block).decode()
        parts.append(part)
        chars += len(part) + 1
    if request.toolConfig is not None:
        parts.append(msgspec.json.encode(request.toolConfig.tools).decode())
    prompt = "\n".join(parts)
    cut = pieces(prompt)
    if cached_chars < 0:
        return prompt, Bill(len(cut) + extra)
    prefix = len(pieces(prompt[:cached_chars]))
    known = cache.match(f"{owner}|{model.name}", cut, remember=prefix)
    whole = prefix // CACHE_STEP_TOKENS * CACHE_STEP_TOKENS if prefix >= CACHE_TOKENS_MIN else 0
    return prompt, Bill(len(cut) + extra, cached=known, cache_write=max(0, whole - known))


def ask_of(request: ConverseRequest, model: Model, lane: Lane, prompt: str) -> Ask:
    """What the request asks of the generator."""
    limits = request.inferenceConfig or InferenceConfig()
    ask = Ask(
        prompt=f"{model.name}\n{prompt}",
        limit=limits.maxTokens or model.output_tokens_max,
        length_min=lane.behaviour.answer_tokens_min,
        length_max=lane.behaviour.answer_tokens_max,
        stops=tuple(limits.stopSequences or ()),
    )
    thinking = (request.additionalModelRequestFields or {}).get("thinking") or {}
    if thinking.get("type") == "enabled" and model.reasoning:
        ask.reasoning_max = thinking.get("budget_tokens", 192)
    form = (request.outputConfig or {}).get("textFormat")
    if form is not None:
        ask.schema = msgspec.json.decode(form["structure"]["jsonSchema"]["schema"])
    _ask_tools(request, ask)
    return ask


def _ask_tools(request: ConverseRequest, ask: Ask) -> None:
    config = request.toolConfig
    if config is None:
        return
    choice = config.toolChoice or {"auto": {}}
    answered = any("toolResult" in block for block in request.messages[-1].content)
    if "auto" in choice and answered:
        return
    offers = [tool["toolSpec"] for tool in config.tools if "toolSpec" in tool]
    if "tool" in choice:
        offers = [offer for offer in offers if offer["name"] == choice["tool"]["name"]]
        if not offers:
            raise invalid("The tool named by toolChoice is not in tools.")
    ask.tools = tuple(Tool(offer["name"], offer["inputSchema"]["json"]) for offer in offers)
    ask.call_tools = "one" if "tool" in choice else "any"
    ask.preamble = "auto" in choice
