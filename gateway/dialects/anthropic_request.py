"""Requests in Anthropic's messages dialect: read from clients, written for providers."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.dialects.anthropic_wire import VENDOR, unsealed
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
    Reasoning,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    text_of,
)
from gateway.dialects.reading import (
    CACHE_TTL,
    budget_of,
    contents,
    effort_of,
    kept,
    lowered,
    member,
    parse_arguments,
    read_effort,
    required,
    shown,
    strangers,
    unread,
)
from gateway.dialects.reasoning import takes_adaptive, takes_sampling, takes_strict
from gateway.dialects.turns import alternating_turns
from schemas.errors import InvalidRequest

_ANY: Any = Any
_SOURCE = dict.fromkeys(["type", "media_type", "data", "url"])
_BLOCK = {
    **dict.fromkeys(["type", "text", "title", "cache_control", "id", "name", "input", "caller"]),
    **dict.fromkeys(["tool_use_id", "is_error", "thinking", "signature", "data"]),
    "source": _SOURCE,
}
_MESSAGE = {"role": None, "content": {**_BLOCK, "content": _BLOCK}}
_TOOL = dict.fromkeys(["type", "name", "description", "input_schema", "strict", "cache_control"])
_KNOWN = frozenset(
    [
        "model",
        "messages",
        "system",
        "stream",
        "metadata",
        "max_tokens",
        "temperature",
        "top_p",
        "stop_sequences",
        "tools",
        "tool_choice",
        "output_config",
        "thinking",
        "top_k",
    ]
)
_JSON_ALONE = "Answer with one JSON object and nothing else."
TEMPERATURE_MAX = 1.0
"""The other dialect goes up to 2."""
THINKING_TOKENS_MIN = 1_024
"""The smallest budget of thinking that the vendor takes."""
DEFAULT_MAX_TOKENS = 4_096
"""This dialect must name a limit; this stands where neither client nor target gives one."""


def read(fields: Fields) -> Chat:
    """Read a request in full. Raises InvalidRequest."""
    messages: list[Message] = []
    system: object = member(fields, "system", _ANY)
    if system is not None:
        messages.append(Message("system", contents(system, "system", _part)))
    wires = required(fields, "messages", list[dict[str, Any]])
    tools = member(fields, "tools", list[dict[str, Any]]) or []
    for number, wire in enumerate(wires):
        where = f"messages[{number}]"
        role = wire.get("role")
        if role not in ("user", "assistant", "system"):
            raise InvalidRequest(f"{where}.role must be user or assistant")
        messages.append(Message(role, contents(wire.get("content"), f"{where}.content", _part)))
    metadata = member(fields, "metadata", dict) or {}
    output = member(fields, "output_config", dict) or {}
    form = output.get("format") or {}
    user = metadata.get("user_id")
    return Chat(
        messages=messages,
        stream=bool(member(fields, "stream", bool)),
        max_tokens=member(fields, "max_tokens", int),
        temperature=member(fields, "temperature", float),
        top_p=member(fields, "top_p", float),
        top_k=member(fields, "top_k", int),
        reasoning=reasoning_of(member(fields, "thinking", dict), output.get("effort")),
        stop=member(fields, "stop_sequences", list[str]) or [],
        tools=[_tool(tool) for tool in tools],
        tool_choice=_tool_choice(member(fields, "tool_choice", dict)),
        user=user if isinstance(user, str) else None,
        schema=form.get("schema") if form.get("type") == "json_schema" else None,
        unread=[
            *unread(fields, _KNOWN),
            *(f"output_config.{name}" for name in output if name not in {"format", "effort"}),
            *lowered(output.get("effort"), "output_config.effort"),
            *strangers(system, _BLOCK, "system"),
            *strangers(wires, _MESSAGE, "messages"),
            *strangers(tools, _TOOL, "tools"),
        ],
    )


def reasoning_of(thinking: Json | None, effort: object) -> Reasoning | None:
    """Return what a request's `thinking` and effort ask for."""
    known = read_effort(effort) if isinstance(effort, str) else None
    thinking = thinking or {}
    match thinking.get("type"), thinking.get("budget_tokens"):
        case "disabled", _:
            return Reasoning(budget_tokens=0)
        case "enabled", int(budget):
            return Reasoning(budget_tokens=budget, shown=thinking.get("display") != "omitted")
        case "adaptive", _:
            return Reasoning(known, shown=thinking.get("display") == "summarized")
    return Reasoning(known) if known else None


def _part(part: Any, where: str) -> Part:
    read = _read_part(part, where)
    return read if isinstance(read, Thinking | Audio) else kept(read, part)


def _read_part(part: Any, where: str) -> Part:
    match part:
        case {"type": "text", "text": str(text)}:
            return Text(text)
        case {
            "type": "image",
            "source": {"type": "base64", "media_type": str(kind), "data": str(data)},
        }:
            return Image(media_type=kind, data=data)
        case {"type": "image", "source": {"type": "url", "url": str(url)}}:
            return Image(url=url)
        case {
            "type": "document",
            "source": {"type": "base64", "media_type": str(kind), "data": str(data)},
        }:
            title = part.get("title")
            return Document(kind, data, title if isinstance(title, str) else None)
        case {"type": "document", "source": {"type": "url", "url": str(url)}}:
            title = part.get("title")
            return Document("", "", title if isinstance(title, str) else None, url)
        case {"type": "document", "source": {"type": "text", "data": str(text)}}:
            return Text(text)
        case {"type": "tool_use", "id": str(call_id), "name": str(name)}:
            arguments = msgspec.json.encode(part.get("input") or {}).decode()
            return ToolCall(call_id, name, arguments)
        case {"type": "tool_result", "tool_use_id": str(call_id)}:
            content = part.get("content")
            parts = [] if content is None else contents(content, f"{where}.content", _part)
            return ToolResult(call_id, shown(parts, f"{where}.content"), bool(part.get("is_error")))
        case {"type": "thinking", "thinking": str(text)}:
            signature, vendor = unsealed(str(part.get("signature") or ""))
            return Thinking(text, signature or None, vendor=vendor)
        case {"type": "redacted_thinking", "data": str(data)}:
            return Thinking(data, redacted=True)
    given = part.get("type") if isinstance(part, dict) else None
    raise InvalidRequest(
        f"{where} has type {given!r}, which this target's provider does not take",
        action="Send text, image, document or tool blocks, or name a target of the same vendor.",
    )


def _tool(tool: Json) -> Tool:
    name, schema = tool.get("name"), tool.get("input_schema")
    if not isinstance(name, str) or not isinstance(schema, dict):
        raise InvalidRequest(
            "'tools' holds something without name and input_schema",
            action="Vendor tools need a target of the same vendor.",
        )
    return kept(Tool(name, tool.get("description"), schema, tool.get("strict")), tool)


def _tool_choice(choice: Json | None) -> ToolChoice | None:
    if choice is None:
        return None
    parallel = False if choice.get("disable_parallel_tool_use") else None
    match choice:
        case {"type": "auto"}:
            return ToolChoice("auto", parallel=parallel)
        case {"type": "none"}:
            return ToolChoice("none")
        case {"type": "any"}:
            return ToolChoice("required", parallel=parallel)
        case {"type": "tool", "name": str(name)}:
            return ToolChoice("tool", name, parallel)
    raise InvalidRequest("'tool_choice' is neither auto, any, none nor a tool")


# --- written for a provider --------------------------------------------------------------------


def write(chat: Chat, model: str, max_output_tokens: int | None) -> bytes:
    """Write a request for a provider."""
    body: Json = {
        "model": model,
        "max_tokens": chat.max_tokens or max_output_tokens or DEFAULT_MAX_TOKENS,
        "messages": alternating_turns(chat.messages, _blocks),
    }
    thinking, effort = thinking_of(chat, model, body["max_tokens"])
    if thinking is not None:
        body["thinking"] = thinking
    if system := _system(chat):
        body["system"] = system
    if takes_sampling(model) and thinking is None:
        # How a token is drawn cannot be changed while the model thinks.
        body |= _draw(chat)
    stop = [text for text in chat.stop if text.strip()]
    if stop:
        body["stop_sequences"] = stop
    if chat.user is not None:
        body["metadata"] = {"user_id": chat.user}
    if chat.tools:
        body["tools"] = [_wire_tool(tool, model) for tool in chat.tools]
        if chat.tool_choice is not None:
            body["tool_choice"] = _wire_choice(chat.tool_choice)
    if output := _wire_output(chat, effort):
        body["output_config"] = output
    if chat.stream:
        body["stream"] = True
    return msgspec.json.encode(body)


def system_of(chat: Chat) -> list[Text]:
    """Return the instructions, as vendors take them that have no mode for JSON alone."""
    parts = [
        part
        for message in chat.messages
        if message.role == "system"
        for part in message.parts
        if isinstance(part, Text)
    ]
    return [*parts, Text(_JSON_ALONE)] if chat.json_mode else parts


def _system(chat: Chat) -> str | list[Json]:
    """Return the instructions as one text, or as blocks where some are to be kept."""
    parts = system_of(chat)
    if any(part.cache_ttl for part in parts):
        return [block for part in parts for block in _blocks(part)]
    return text_of(parts, "\n\n")


def _wire_output(chat: Chat, effort: str | None) -> Json:
    form = chat.schema and {"type": "json_schema", "schema": closed(chat.schema)}
    given = {"format": form, "effort": effort}
    return {name: value for name, value in given.items() if value is not None}


def _draw(chat: Chat) -> Json:
    draw: Json = {}
    if chat.temperature is not None:
        draw["temperature"] = min(chat.temperature, TEMPERATURE_MAX)
    if chat.top_p is not None:
        draw["top_p"] = chat.top_p
    if chat.top_k is not None:
        draw["top_k"] = chat.top_k
    return draw


def thinking_of(chat: Chat, model: str, max_tokens: int) -> tuple[Json | None, str | None]:
    """Return ``thinking`` and the effort for a model: (None, None) where it is not to think, or
    cannot be made to.
    """
    reasoning = chat.reasoning
    if reasoning is None or effort_of(reasoning) == "none":
        return None, None
    if not takes_adaptive(model):
        budget = thinking_tokens(chat, max_tokens)
        return {"type": "enabled", "budget_tokens": budget} if budget else None, None
    effort = effort_of(reasoning)
    word = "low" if effort == "minimal" else effort
    if _forced(chat):
        return None, word
    return {"type": "adaptive", **({"display": "summarized"} if reasoning.shown else {})}, word


def _forced(chat: Chat) -> bool:
    return chat.tool_choice is not None and chat.tool_choice.kind in {"required", "tool"}


def thinking_tokens(chat: Chat, max_tokens: int) -> int:
    """Return the budget of thinking that this dialect can grant, 0 for none.

    The limit on the answer includes it; a forced tool leaves no room for it; and the turn of a
    tool call must begin with the thoughts that led to it, which other dialects do not keep.
    """
    if chat.reasoning is None or _forced(chat):
        return 0
    for message in chat.messages:
        thought = any(isinstance(part, Thinking) and not _is_blank(part) for part in message.parts)
        if not thought and any(isinstance(part, ToolCall) for part in message.parts):
            return 0
    budget = min(budget_of(chat.reasoning), max_tokens - 1)
    return budget if budget >= THINKING_TOKENS_MIN else 0


def unsaid(chat: Chat, model: str) -> list[str]:
    """Return the names of what `write` leaves out or changes."""
    names = ["seed"] if chat.seed is not None else []
    names += [name for name in ("frequency_penalty", "presence_penalty") if getattr(chat, name)]
    thinking, effort = thinking_of(chat, model, chat.max_tokens or DEFAULT_MAX_TOKENS)
    if thinking is not None or not takes_sampling(model):
        names += [n for n in ("temperature", "top_p", "top_k") if getattr(chat, n) is not None]
    asked = chat.reasoning is not None and effort_of(chat.reasoning) != "none"
    if asked and thinking is None and effort is None:
        names.append("reasoning")
    drawn = thinking is None and takes_sampling(model)
    if drawn and chat.temperature is not None and chat.temperature > TEMPERATURE_MAX:
        names.append("temperature")
    if any(not text.strip() for text in chat.stop):
        names.append("stop")
    if any(tool.strict for tool in chat.tools) and not takes_strict(model):
        names.append("tools.strict")
    return list(dict.fromkeys(names))


def _is_blank(part: Part) -> bool:
    # Empty text is refused here, and so is thinking that its own vendor did not sign.
    if isinstance(part, Thinking):
        return part.vendor != VENDOR or not (part.redacted or part.signature)
    return isinstance(part, Text) and not part.text


def _blocks(part: Part) -> list[Json]:
    if _is_blank(part):
        return []
    wire = _block(part)
    if isinstance(part, Cacheable) and part.cache_ttl:
        wire["cache_control"] = _wire_cache(part.cache_ttl)
    return [wire]


def _wire_cache(ttl: str) -> Json:
    return {"type": "ephemeral", **({} if ttl == CACHE_TTL else {"ttl": ttl})}


def _block(part: Part) -> Json:
    match part:
        case Text():
            return {"type": "text", "text": part.text}
        case Image():
            source = (
                {"type": "url", "url": part.url}
                if part.url
                else {"type": "base64", "media_type": part.media_type, "data": part.data}
            )
            return {"type": "image", "source": source}
        case Document():
            source = (
                {"type": "url", "url": part.url}
                if part.url
                else {"type": "base64", "media_type": part.media_type, "data": part.data}
            )
            title = {"title": part.name} if part.name else {}
            return {"type": "document", "source": source, **title}
        case Audio():
            raise InvalidRequest(
                "this target's provider takes no sound",
                action="Send it as text, or name a target that takes audio.",
            )
        case ToolCall():
            arguments = parse_arguments(part.arguments)
            return {"type": "tool_use", "id": part.id, "name": part.name, "input": arguments}
        case ToolResult():
            content = [block for item in part.parts for block in _blocks(item)]
            wire: Json = {"type": "tool_result", "tool_use_id": part.call_id, "content": content}
            return {**wire, "is_error": True} if part.is_error else wire
        case Thinking():
            if part.redacted:
                return {"type": "redacted_thinking", "data": part.text}
            return {"type": "thinking", "thinking": part.text, "signature": part.signature}


def _wire_tool(tool: Tool, model: str) -> Json:
    wire: Json = {"name": tool.name, "input_schema": tool.parameters}
    if tool.strict and takes_strict(model):
        wire |= {"strict": True, "input_schema": closed(tool.parameters)}
    if tool.cache_ttl:
        wire["cache_control"] = _wire_cache(tool.cache_ttl)
    if tool.description is not None:
        wire["description"] = tool.description
    return wire


def _wire_choice(choice: ToolChoice) -> Json:
    wire: Json = {"type": {"required": "any"}.get(choice.kind, choice.kind)}
    if choice.name is not None:
        wire["name"] = choice.name
    if choice.parallel is False and choice.kind != "none":
        wire["disable_parallel_tool_use"] = True
    return wire
