"""Requests in Cohere's chat (v2): read from clients, written for providers.

Sources: docs.cohere.com/reference/chat; docs.cohere.com/reference/errors for the ranges.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from gateway.dialects.cohere_wire import VENDOR
from gateway.dialects.neutral import (
    Chat,
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
    asks,
    budget_of,
    contents,
    effort_of,
    keeps,
    member,
    read_calls,
    read_result,
    required,
    split_data_url,
    strangers,
    unread,
)
from gateway.dialects.turns import function_call, split_turns
from schemas.errors import InvalidRequest

_ANY: Any = Any
_PART = {
    **dict.fromkeys(["type", "text", "thinking", "document"]),
    "image_url": {"url": None},
}
_MESSAGE = {
    **dict.fromkeys(["role", "tool_call_id", "tool_calls", "tool_plan"]),
    "content": _PART,
}
_TOOL = {"type": None, "function": dict.fromkeys(["name", "description", "parameters"])}
_KNOWN = frozenset(
    [
        "model",
        "messages",
        "stream",
        "tools",
        "strict_tools",
        "tool_choice",
        "documents",
        "response_format",
        "max_tokens",
        "stop_sequences",
        "temperature",
        "seed",
        "frequency_penalty",
        "presence_penalty",
        "k",
        "p",
        "logprobs",
        "thinking",
    ]
)
TEMPERATURE_MAX = 1.0
P_RANGE = (0.01, 0.99)
K_MAX = 500
STOPS_MAX = 5
_REASONING_MODEL = re.compile(r"reasoning|command-a-plus")
_DOCUMENTS = "Documents to answer from:"


def read(fields: Fields) -> Chat:
    """Read a request in full. Raises InvalidRequest."""
    messages: list[Message] = []
    documents = member(fields, "documents", list[Any])
    if documents:
        # Only the vendor's own models cite: the others are given the texts to read.
        texts = [_DOCUMENTS, *(_document(entry) for entry in documents)]
        messages.append(Message("system", [Text("\n\n".join(texts))]))
    wires = required(fields, "messages", list[dict[str, Any]])
    for number, wire in enumerate(wires):
        messages.append(_message(wire, f"messages[{number}]"))
    form = member(fields, "response_format", dict) or {}
    schema = form.get("json_schema") or form.get("schema")
    strict = member(fields, "strict_tools", bool)
    tools = member(fields, "tools", list[dict[str, Any]]) or []
    return Chat(
        messages=messages,
        stream=bool(member(fields, "stream", bool)),
        max_tokens=member(fields, "max_tokens", int),
        temperature=member(fields, "temperature", float),
        top_p=member(fields, "p", float),
        top_k=member(fields, "k", int) or None,
        seed=member(fields, "seed", int),
        frequency_penalty=member(fields, "frequency_penalty", float),
        presence_penalty=member(fields, "presence_penalty", float),
        reasoning=_reasoning(member(fields, "thinking", dict)),
        stop=member(fields, "stop_sequences", list[str]) or [],
        tools=[_tool(tool, strict) for tool in tools],
        tool_choice=_tool_choice(member(fields, "tool_choice", str)),
        schema=schema if isinstance(schema, dict) else None,
        json_mode=form.get("type") == "json_object" and not isinstance(schema, dict),
        params={"logprobs": True} if asks(fields, "logprobs") else {},
        unread=[
            *unread(fields, _KNOWN),
            *strangers(wires, _MESSAGE, "messages"),
            *strangers(tools, _TOOL, "tools"),
        ],
    )


def _document(entry: Any) -> str:
    if isinstance(entry, str):
        return entry
    if isinstance(entry, dict) and isinstance(entry.get("data"), dict):
        name = f"{entry['id']}: " if isinstance(entry.get("id"), str) else ""
        return name + msgspec.json.encode(entry["data"]).decode()
    raise InvalidRequest("'documents' holds something that is neither a text nor has data")


def _message(wire: Json, where: str) -> Message:
    content = wire.get("content")
    match wire.get("role"):
        case "system":
            return Message("system", contents(content, f"{where}.content", _part))
        case "user":
            return Message("user", contents(content, f"{where}.content", _part))
        case "assistant":
            return Message("assistant", _assistant(wire, where))
        case "tool":
            return Message("user", [read_result(wire, where, _part)])
        case role:
            raise InvalidRequest(f"{where}.role is unknown: {role!r}")


def _assistant(wire: Json, where: str) -> list[Part]:
    parts: list[Part] = []
    if wire.get("content") is not None:
        parts += contents(wire["content"], f"{where}.content", _part)
    if isinstance(plan := wire.get("tool_plan"), str) and plan:
        parts.append(Text(plan))
    return parts + read_calls(wire.get("tool_calls"), where)


def _part(part: object, where: str) -> Part:
    match part:
        case {"type": "text", "text": str(text)}:
            return Text(text)
        case {"type": "thinking", "thinking": str(text)}:
            return Thinking(text, vendor=VENDOR)
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            inline = split_data_url(url)
            return Image(media_type=inline[0], data=inline[1]) if inline else Image(url=url)
        case {"type": "document", "document": dict(document)}:
            return Text(_document(document))
    kind = part.get("type") if isinstance(part, dict) else None
    raise InvalidRequest(
        f"{where} has type {kind!r}, which this target's provider does not take",
        action="Send text, image_url or document blocks, or name a target of the same vendor.",
    )


def _tool(tool: Json, strict: bool | None) -> Tool:
    function = tool.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequest("'tools' holds something that is no function")
    empty: Json = {"type": "object", "properties": {}}
    parameters = function.get("parameters")
    schema = parameters if isinstance(parameters, dict) else empty
    return Tool(function["name"], function.get("description"), schema, strict)


def _tool_choice(choice: str | None) -> ToolChoice | None:
    match choice:
        case None:
            return None
        case "REQUIRED":
            return ToolChoice("required")
        case "NONE":
            return ToolChoice("none")
    raise InvalidRequest("'tool_choice' is neither REQUIRED nor NONE")


def _reasoning(thinking: Json | None) -> Reasoning | None:
    if thinking is None:
        return None
    if thinking.get("type") == "disabled":
        return Reasoning("none", 0)
    budget = thinking.get("token_budget")
    return Reasoning(None, budget if isinstance(budget, int) else None, shown=True)


# --- written for a provider --------------------------------------------------------------------


def write(chat: Chat, model: str) -> bytes:
    """Write a request for a provider. Raises InvalidRequest for content without a word here."""
    body: Json = {
        "model": model,
        "messages": split_turns(chat.messages, _wire_result, _wire_assistant, _wire_content),
    }
    body |= {name: value for name, value in _settings(chat).items() if value is not None}
    if chat.tools:
        body |= _wire_tools(chat)
    if chat.schema is not None:
        body["response_format"] = {"type": "json_object", "json_schema": chat.schema}
    elif chat.json_mode:
        body["response_format"] = {"type": "json_object"}
    if chat.reasoning is not None and _REASONING_MODEL.search(model):
        body["thinking"] = _wire_thinking(chat.reasoning)
    if chat.params.get("logprobs"):
        body["logprobs"] = True
    if chat.stream:
        body["stream"] = True
    return msgspec.json.encode(body)


def _settings(chat: Chat) -> Json:
    low, high = P_RANGE
    frequency, presence = _penalty(chat.frequency_penalty), _penalty(chat.presence_penalty)
    return {
        "max_tokens": chat.max_tokens,
        "temperature": None if chat.temperature is None else min(chat.temperature, TEMPERATURE_MAX),
        "p": None if chat.top_p is None else min(max(chat.top_p, low), high),
        "k": None if chat.top_k is None else min(chat.top_k, K_MAX),
        "seed": chat.seed,
        "stop_sequences": chat.stop[:STOPS_MAX] or None,
        "frequency_penalty": frequency,
        # The vendor takes one of the two.
        "presence_penalty": None if frequency else presence,
    }


def _penalty(given: float | None) -> float | None:
    return None if given is None else min(max(given, 0.0), 1.0)


def unsaid(chat: Chat, model: str) -> list[str]:
    """Return the names of what `write` leaves out or changes."""
    frequency, presence = chat.frequency_penalty or 0.0, chat.presence_penalty or 0.0
    choice = chat.tool_choice
    told = {
        "temperature": (chat.temperature or 0.0) > TEMPERATURE_MAX,
        "top_k": (chat.top_k or 0) > K_MAX,
        "stop": len(chat.stop) > STOPS_MAX,
        "frequency_penalty": not 0.0 <= frequency <= 1.0,
        "presence_penalty": not 0.0 <= presence <= 1.0 or bool(presence and frequency > 0),
        "user": chat.user is not None,
        "parallel_tool_calls": choice is not None and choice.parallel is False,
        "reasoning": chat.reasoning is not None
        and not _REASONING_MODEL.search(model)
        and effort_of(chat.reasoning) != "none",
        "tool_result.is_error": any(
            isinstance(part, ToolResult) and part.is_error
            for message in chat.messages
            for part in message.parts
        ),
        "cache_control": keeps(chat.tools, chat.messages),
    }
    return [name for name, left_out in told.items() if left_out]


def _wire_thinking(reasoning: Reasoning) -> Json:
    budget = budget_of(reasoning)
    if budget == 0:
        return {"type": "disabled"}
    return {"type": "enabled", "token_budget": budget}


def _wire_tools(chat: Chat) -> Json:
    choice = chat.tool_choice or ToolChoice("auto")
    # One tool is forced by offering it alone.
    offered = [tool for tool in chat.tools if choice.name in {None, tool.name}]
    wire: Json = {"tools": [_wire_tool(tool) for tool in offered]}
    if any(tool.strict for tool in offered):
        wire["strict_tools"] = True
    if choice.kind != "auto":
        wire["tool_choice"] = "NONE" if choice.kind == "none" else "REQUIRED"
    return wire


def _wire_tool(tool: Tool) -> Json:
    function: Json = {"name": tool.name, "parameters": tool.parameters}
    if tool.description is not None:
        function["description"] = tool.description
    return {"type": "function", "function": function}


def _wire_result(result: ToolResult) -> Json:
    text = text_of(result.parts)
    return {"role": "tool", "tool_call_id": result.call_id, "content": text}


def _wire_assistant(parts: list[Part]) -> Json:
    wire: Json = {"role": "assistant"}
    text = text_of(parts)
    calls = [function_call(part) for part in parts if isinstance(part, ToolCall)]
    thoughts: list[Json] = [
        {"type": "thinking", "thinking": part.text}
        for part in parts
        if isinstance(part, Thinking) and part.vendor == VENDOR
    ]
    if calls:
        # What is said before a call is the plan for it.
        wire["tool_calls"] = calls
        if text:
            wire["tool_plan"] = text
        if thoughts:
            wire["content"] = thoughts
    else:
        wire["content"] = [*thoughts, {"type": "text", "text": text}] if thoughts else text
    return wire


def _wire_content(parts: list[Part]) -> str | list[Json]:
    if all(isinstance(part, Text) for part in parts):
        return text_of(parts, "\n")
    return [_wire_part(part) for part in parts]


def _wire_part(part: Part) -> Json:
    match part:
        case Text():
            return {"type": "text", "text": part.text}
        case Image():
            return {"type": "image_url", "image_url": {"url": part.address}}
    raise InvalidRequest(
        f"this target's provider takes no {type(part).__name__.lower()} in a message",
        action="Send texts and images, or name a target of another vendor.",
    )
