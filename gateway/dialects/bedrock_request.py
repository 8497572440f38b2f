"""Requests in Bedrock's Converse: read from clients, written for providers."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from gateway.dialects.anthropic_request import (
    DEFAULT_MAX_TOKENS,
    reasoning_of,
    system_of,
    thinking_tokens,
)
from gateway.dialects.json_schema import closed
from gateway.dialects.neutral import (
    Audio,
    Cacheable,
    Chat,
    Document,
    Fields,
    Image,
    Json,
    Message,
    Part,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from gateway.dialects.reading import (
    CACHE_TTL,
    effort_of,
    keeps,
    lowered,
    member,
    parse_arguments,
    required,
    shown,
    unread,
)
from gateway.dialects.turns import alternating_turns
from schemas.errors import InvalidRequest

_KNOWN = frozenset(
    [
        "model",
        "stream",
        "messages",
        "system",
        "inferenceConfig",
        "toolConfig",
        "outputConfig",
        "requestMetadata",
        "additionalModelRequestFields",
    ]
)
_MODELS_OWN = frozenset(["top_k", "thinking"])
"""What Anthropic's models take as fields of their own."""
_CLAUDE = re.compile(r"(^|[./])anthropic\.")
_KEEPS_PROMPTS = re.compile(r"(^|[./])(anthropic\.|amazon\.nova)")
"""Models that take cache points; others refuse them (user guide, "Prompt caching")."""
TEMPERATURE_MAX = 1.0
_MEDIA_TYPES = {
    "pdf": "application/pdf",
    "csv": "text/csv",
    "doc": "application/msword",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "xls": "application/vnd.ms-excel",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "html": "text/html",
    "txt": "text/plain",
    "md": "text/markdown",
}
_DOCUMENT_FORMATS = {kind: form for form, kind in _MEDIA_TYPES.items()}
_IMAGE_FORMATS = {
    "image/png": "png",
    "image/jpeg": "jpeg",
    "image/jpg": "jpeg",
    "image/gif": "gif",
    "image/webp": "webp",
}
_NAME_FORBIDDEN = re.compile(r"[^0-9A-Za-z\s\-()\[\]]")
_SPACES = re.compile(r"\s+")
NAME_CHARS_MAX = 200
_encode = msgspec.json.encode


def read(fields: Fields) -> Chat:
    """Read a request in full. Raises InvalidRequest."""
    lost: list[str] = []
    messages: list[Message] = []
    system = _parts(member(fields, "system", list[dict[str, Any]]) or [], "system", lost)
    if system:
        messages.append(Message("system", system))
    for number, wire in enumerate(required(fields, "messages", list[dict[str, Any]])):
        where = f"messages[{number}]"
        role, content = wire.get("role"), wire.get("content")
        if role not in {"user", "assistant"}:
            raise InvalidRequest(f"{where}.role must be user or assistant")
        if not isinstance(content, list):
            raise InvalidRequest(f"{where}.content must be a list of blocks")
        messages.append(Message(role, _parts(content, f"{where}.content", lost)))
    limits = member(fields, "inferenceConfig", _Inference) or _Inference()
    tools = member(fields, "toolConfig", dict) or {}
    output = member(fields, "outputConfig", dict) or {}
    own = member(fields, "additionalModelRequestFields", dict) or {}
    top_k, thinking = own.get("top_k"), own.get("thinking")
    return Chat(
        messages=messages,
        stream=bool(member(fields, "stream", bool)),
        max_tokens=limits.max_tokens,
        temperature=limits.temperature,
        top_p=limits.top_p,
        top_k=top_k if isinstance(top_k, int) else None,
        reasoning=reasoning_of(
            thinking if isinstance(thinking, dict) else None, output.get("effort")
        ),
        stop=limits.stop_sequences or [],
        tools=_tools(tools.get("tools") or []),
        tool_choice=_tool_choice(tools.get("toolChoice")),
        schema=_schema(output.get("textFormat")),
        unread=[
            *unread(fields, _KNOWN),
            *dict.fromkeys(lost),
            *(f"outputConfig.{name}" for name in output if name not in {"textFormat", "effort"}),
            *lowered(output.get("effort"), "outputConfig.effort"),
            *(f"additionalModelRequestFields.{name}" for name in own if name not in _MODELS_OWN),
        ],
    )


class _InputSchema(msgspec.Struct):
    json: Json


class _ToolSpec(msgspec.Struct, rename="camel"):
    name: str
    input_schema: _InputSchema
    description: str | None = None
    strict: bool | None = None


class _Offer(msgspec.Struct, rename="camel"):
    tool_spec: _ToolSpec


class _Inference(msgspec.Struct, rename="camel"):
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop_sequences: list[str] | None = None


def max_tokens_of(fields: Fields) -> int | None:
    """Return the limit that a request names. Raises InvalidRequest."""
    limits = member(fields, "inferenceConfig", _Inference)
    return limits.max_tokens if limits else None


def _parts(blocks: list[Any], where: str, lost: list[str]) -> list[Part]:
    parts: list[Part] = []
    for index, block in enumerate(blocks):
        match block:
            case {"cachePoint": point} if parts and isinstance(parts[-1], Cacheable):
                parts[-1] = msgspec.structs.replace(parts[-1], cache_ttl=_ttl_of(point))
            case {"cachePoint": _}:
                lost.append("cachePoint")
            case {"toolResult": {"toolUseId": str(call_id), "content": list(content), **rest}}:
                seen = [_seen(item, f"{where}[{index}].toolResult") for item in content]
                parts.append(ToolResult(call_id, seen, rest.get("status") == "error"))
            case _:
                parts.append(_part(block, f"{where}[{index}]"))
    return parts


def _part(block: Any, where: str) -> Part:
    match block:
        case {"text": str(text)} | {"guardContent": {"text": {"text": str(text)}}}:
            return Text(text)
        case {"image": {"format": str(form), "source": {"bytes": str(data)}}}:
            return Image(media_type=f"image/{form}", data=_base64(data, where))
        case {"document": {"source": {"text": str(text)}}}:
            return Text(text)
        case {"document": {"source": {"bytes": str(data)}, "name": str(name), **rest}}:
            kind = _MEDIA_TYPES.get(str(rest.get("format") or "txt"))
            if kind is None:
                raise InvalidRequest(f"{where}.document.format is unknown: {rest['format']!r}")
            return Document(kind, _base64(data, where), name)
        case {"toolUse": {"toolUseId": str(call_id), "name": str(name), **rest}}:
            return ToolCall(call_id, name, _encode(rest.get("input") or {}).decode())
        case {"reasoningContent": {"reasoningText": {"text": str(text), **rest}}}:
            signature = rest.get("signature")
            return Thinking(text, signature if isinstance(signature, str) else None)
        case {"reasoningContent": {"redactedContent": str(data)}}:
            return Thinking(data, redacted=True)
    kinds = ", ".join(block) if isinstance(block, dict) else type(block).__name__
    raise InvalidRequest(
        f"{where} holds {kinds or 'nothing'}, which this target's provider does not take",
        action="Send text, image bytes, document bytes or tool blocks, or name a target of Bedrock.",
    )


def _ttl_of(point: object) -> str:
    ttl = point.get("ttl") if isinstance(point, dict) else None
    return ttl if isinstance(ttl, str) else CACHE_TTL


def _seen(item: Any, where: str) -> Text | Image | Document:
    if isinstance(item, dict) and "json" in item:
        return Text(_encode(item["json"]).decode())
    return shown([_part(item, where)], where)[0]


def _base64(data: str, where: str) -> str:
    try:
        base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise InvalidRequest(f"{where} holds bytes that are not base64") from error
    return data


def _tools(wires: list[Any]) -> list[Tool]:
    tools: list[Tool] = []
    for wire in wires:
        if isinstance(wire, dict) and "cachePoint" in wire:
            if tools:
                tools[-1] = msgspec.structs.replace(
                    tools[-1], cache_ttl=_ttl_of(wire["cachePoint"])
                )
            continue
        try:
            spec = msgspec.convert(wire, _Offer).tool_spec
        except msgspec.ValidationError as error:
            raise InvalidRequest(
                f"'toolConfig.tools' holds something that is no tool: {error}",
                action="System tools need a target of Bedrock.",
            ) from error
        tools.append(Tool(spec.name, spec.description, spec.input_schema.json, spec.strict))
    return tools


def _tool_choice(choice: Any) -> ToolChoice | None:
    match choice:
        case None:
            return None
        case {"auto": _}:
            return ToolChoice("auto")
        case {"any": _}:
            return ToolChoice("required")
        case {"tool": {"name": str(name)}}:
            return ToolChoice("tool", name)
    raise InvalidRequest("'toolConfig.toolChoice' is neither auto, any nor a tool")


def _schema(form: Any) -> Json | None:
    match form:
        case None:
            return None
        case {"type": "json_schema", "structure": {"jsonSchema": {"schema": str(text)}}}:
            try:
                schema = msgspec.json.decode(text)
            except msgspec.DecodeError as error:
                raise InvalidRequest("the schema of 'outputConfig' is not valid JSON") from error
            if isinstance(schema, dict):
                return schema
    raise InvalidRequest("'outputConfig.textFormat' is no JSON schema")


# --- written for a provider --------------------------------------------------------------------


def write(chat: Chat, model: str, max_output_tokens: int | None) -> bytes:
    """Write a request for a provider. Raises InvalidRequest for what has no word here."""
    blocks = partial(_blocks, keeps_prompts=_KEEPS_PROMPTS.search(model) is not None)
    body: Json = {"messages": alternating_turns(chat.messages, blocks)}
    if system := [block for part in system_of(chat) for block in blocks(part)]:
        body["system"] = system
    limit = chat.max_tokens or max_output_tokens or DEFAULT_MAX_TOKENS
    budget = thinking_tokens(chat, limit) if _CLAUDE.search(model) else 0
    limits = _limits(chat)
    if budget:
        # The limit includes the thoughts, and how a token is drawn cannot be changed meanwhile.
        limits = {**limits, "maxTokens": limit}
        limits.pop("temperature", None)
        limits.pop("topP", None)
        thinking = {"type": "enabled", "budget_tokens": budget}
        body["additionalModelRequestFields"] = {"thinking": thinking}
    elif chat.top_k is not None and _CLAUDE.search(model):
        body["additionalModelRequestFields"] = {"top_k": chat.top_k}
    if limits:
        body["inferenceConfig"] = limits
    tools = _tool_config(chat, blocks)
    if tools:
        body["toolConfig"] = tools
    if chat.schema is not None:
        schema = {"name": "answer", "schema": _encode(closed(chat.schema)).decode()}
        form = {"type": "json_schema", "structure": {"jsonSchema": schema}}
        body["outputConfig"] = {"textFormat": form}
    return _encode(body)


_NO_WORD = ("seed", "frequency_penalty", "presence_penalty", "user")


def unsaid(chat: Chat, model: str, max_output_tokens: int | None = None) -> list[str]:
    """Return the names of what `write` leaves out or changes."""
    names = [name for name in _NO_WORD if getattr(chat, name) is not None]
    choice = chat.tool_choice
    limit = chat.max_tokens or max_output_tokens or DEFAULT_MAX_TOKENS
    claude = _CLAUDE.search(model) is not None
    thinks = claude and thinking_tokens(chat, limit) > 0
    if thinks:
        draws = ("temperature", "top_p", "top_k")
        names += [name for name in draws if getattr(chat, name) is not None]
    elif chat.temperature is not None and chat.temperature > TEMPERATURE_MAX:
        names.append("temperature")
    if chat.top_k is not None and not claude:
        names.append("top_k")
    if chat.reasoning is not None and not thinks and effort_of(chat.reasoning) != "none":
        names.append("reasoning")
    if any(not text.strip() for text in chat.stop):
        names.append("stop")
    if choice is not None and choice.kind == "none" and chat.tools and _has_calls(chat):
        names.append("tool_choice")
    if choice is not None and choice.parallel is False:
        names.append("parallel_tool_calls")
    if keeps(chat.tools, chat.messages) and not _KEEPS_PROMPTS.search(model):
        names.append("cache_control")
    return names


def _limits(chat: Chat) -> Json:
    limits: Json = {}
    if chat.max_tokens is not None:
        limits["maxTokens"] = chat.max_tokens
    if chat.temperature is not None:
        limits["temperature"] = min(chat.temperature, TEMPERATURE_MAX)
    if chat.top_p is not None:
        limits["topP"] = chat.top_p
    stop = [text for text in chat.stop if text.strip()]
    if stop:
        limits["stopSequences"] = stop
    return limits


def _has_calls(chat: Chat) -> bool:
    kinds = (ToolCall, ToolResult)
    return any(isinstance(part, kinds) for message in chat.messages for part in message.parts)


def _tool_config(chat: Chat, blocks: Callable[[Tool], list[Json]]) -> Json:
    """There is no choice "none" here; a history with calls must name its tools all the same."""
    choice = chat.tool_choice
    refused = choice is not None and choice.kind == "none"
    if not chat.tools or (refused and not _has_calls(chat)):
        return {}
    config: Json = {"tools": [wire for tool in chat.tools for wire in blocks(tool)]}
    if choice is None or refused:
        return config
    if choice.kind == "tool":
        config["toolChoice"] = {"tool": {"name": choice.name}}
    else:
        config["toolChoice"] = {"any" if choice.kind == "required" else "auto": {}}
    return config


def _wire_tool(tool: Tool) -> Json:
    parameters = closed(tool.parameters) if tool.strict else tool.parameters
    wire: Json = {"name": tool.name, "inputSchema": {"json": parameters}}
    if tool.description:
        wire["description"] = tool.description
    if tool.strict is not None:
        wire["strict"] = tool.strict
    return wire


def _is_blank(part: Part) -> bool:
    # Blank text is refused here, and so is reasoning that its own vendor did not sign.
    if isinstance(part, Thinking):
        # Another vendor's seal means nothing here.
        return part.vendor != "anthropic" or not (part.redacted or part.signature)
    return isinstance(part, Text) and not part.text.strip()


def _blocks(part: Part | Tool, *, keeps_prompts: bool) -> list[Json]:
    if isinstance(part, Tool):
        wires: list[Json] = [{"toolSpec": _wire_tool(part)}]
    else:
        wires = [] if _is_blank(part) else [_block(part)]
    if keeps_prompts and isinstance(part, Cacheable) and part.cache_ttl and wires:
        ttl = {} if part.cache_ttl == CACHE_TTL else {"ttl": part.cache_ttl}
        wires.append({"cachePoint": {"type": "default", **ttl}})
    return wires


def _block(part: Part) -> Json:
    match part:
        case Text():
            return {"text": part.text}
        case Image():
            return {"image": _wire_image(part)}
        case Document():
            form = _DOCUMENT_FORMATS.get(part.media_type)
            if form is None:
                raise _no_word(f"a document of type {part.media_type}", *_DOCUMENT_FORMATS)
            source = {"bytes": part.data}
            return {"document": {"format": form, "name": _name(part.name), "source": source}}
        case Audio():
            raise _no_word("sound", "text", "images", "documents")
        case ToolCall():
            arguments = parse_arguments(part.arguments)
            return {"toolUse": {"toolUseId": part.id, "name": part.name, "input": arguments}}
        case ToolResult():
            content = [_block(item) for item in part.parts if not _is_blank(item)]
            result: Json = {"toolUseId": part.call_id, "content": content}
            if part.is_error:
                result["status"] = "error"
            return {"toolResult": result}
        case Thinking():
            return {"reasoningContent": wire_reasoning(part)}


def wire_reasoning(part: Thinking) -> Json:
    """Return a block's reasoning as whole messages hold it."""
    if part.redacted:
        return {"redactedContent": part.text}
    signed = {"signature": part.signature} if part.signature else {}
    return {"reasoningText": {"text": part.text, **signed}}


def _wire_image(image: Image) -> Json:
    if image.data is None:
        raise InvalidRequest(
            "Bedrock takes images as bytes only, not by address",
            action="Send the image inline as base64, or name a target of another vendor.",
        )
    form = _IMAGE_FORMATS.get(image.media_type or "")
    if form is None:
        raise _no_word(f"an image of type {image.media_type}", *_IMAGE_FORMATS)
    return {"format": form, "source": {"bytes": image.data}}


def _no_word(what: str, *known: str) -> InvalidRequest:
    action = f"Send one of {', '.join(known)}, or name a target of another vendor."
    return InvalidRequest(f"Bedrock does not take {what}", action=action)


def _name(name: str | None) -> str:
    """Return a document's name in the few characters that are allowed."""
    plain = _NAME_FORBIDDEN.sub("-", name or "")
    return _SPACES.sub(" ", plain).strip()[:NAME_CHARS_MAX] or "document"
