"""Requests in OpenAI's chat dialect: read from clients, written for providers."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from gateway.dialects.json_schema import is_closed
from gateway.dialects.neutral import (
    Audio,
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
from gateway.dialects.openai_wire import DETAIL_VENDORS
from gateway.dialects.reading import (
    contents,
    effort_of,
    further,
    keeps,
    kept,
    lowered,
    member,
    read_calls,
    read_effort,
    read_result,
    required,
    split_data_url,
    strangers,
)
from gateway.dialects.turns import function_call, split_turns
from schemas.errors import InvalidRequest

_STOP: Any = list[str] | str
_ANY: Any = Any
_PART = {
    **dict.fromkeys(["type", "text", "refusal", "cache_control"]),
    "image_url": {"url": None},
    "input_audio": {"data": None, "format": None},
    "file": {"file_data": None, "filename": None},
}
_MESSAGE = {
    **dict.fromkeys(["role", "tool_call_id", "refusal", "cache_control"]),
    **dict.fromkeys(["reasoning", "reasoning_content", "reasoning_details", "tool_calls"]),
    "content": _PART,
}
_FUNCTION = dict.fromkeys(["name", "description", "parameters", "strict", "cache_control"])
_TOOL = {"type": None, "function": _FUNCTION, "cache_control": None}
_FORM = {"type": None, "json_schema": dict.fromkeys(["name", "schema", "strict"])}
_ELSEWHERE = {"audio": "its transcript as text", "function_call": "'tool_calls'"}
"""What an assistant's message may hold that the vendor keeps, or has long replaced."""
_REPLACED = {"functions": "tools", "function_call": "tool_choice"}
_KNOWN = frozenset(
    [
        "model",
        "messages",
        "stream",
        "stream_options",
        "metadata",
        "max_completion_tokens",
        "max_tokens",
        "temperature",
        "top_p",
        "stop",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "user",
        "response_format",
        "n",
        "seed",
        "frequency_penalty",
        "presence_penalty",
        "reasoning_effort",
    ]
)
PARAMS = frozenset(
    [
        "logit_bias",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "verbosity",
        "web_search_options",
    ]
)
"""Further parameters of this dialect: `Chat.params` has them under these names. Those that ask for
what no other dialect has in its answers (logprobs, audio) are no part of them."""
_PLAIN = ("temperature", "top_p", "seed", "frequency_penalty", "presence_penalty", "user")
"""What has one name in this dialect and in the neutral form."""
_REASONING_MODEL = re.compile(r"(^|/)(o\d|gpt-5|gpt-oss)")


def read(fields: Fields) -> Chat:
    """Read a request in full. Raises InvalidRequest."""
    stop: str | list[str] | None = member(fields, "stop", _STOP)
    more = further(fields, _KNOWN)
    effort: str | None = member(fields, "reasoning_effort", str)
    if (member(fields, "n", int) or 1) > 1:
        raise InvalidRequest(
            "'n' must be 1: this target's provider gives one answer to a request",
            action="Send the request n times, or name a target of the same vendor.",
        )
    for name, successor in _REPLACED.items():
        if name in more:
            raise InvalidRequest(
                f"'{name}' is an old word that this target's provider does not know",
                action=f"Say '{successor}' instead, or name a target of the same vendor.",
            )
    form = member(fields, "response_format", dict) or {}
    schema = form.get("json_schema") if form.get("type") == "json_schema" else None
    wires = required(fields, "messages", list[dict[str, Any]])
    tools = member(fields, "tools", list[dict[str, Any]]) or []
    return Chat(
        messages=read_messages(wires),
        stream=bool(member(fields, "stream", bool)),
        max_tokens=member(fields, "max_completion_tokens", int)
        or member(fields, "max_tokens", int),
        temperature=member(fields, "temperature", float),
        top_p=member(fields, "top_p", float),
        seed=member(fields, "seed", int),
        frequency_penalty=member(fields, "frequency_penalty", float),
        presence_penalty=member(fields, "presence_penalty", float),
        reasoning=_reasoning(effort),
        stop=[stop] if isinstance(stop, str) else stop or [],
        tools=[_tool(tool) for tool in tools],
        tool_choice=tool_choice_of(fields),
        user=member(fields, "user", str),
        schema=schema.get("schema") if isinstance(schema, dict) else None,
        schema_name=str(schema.get("name") or "answer") if isinstance(schema, dict) else "answer",
        schema_strict=not isinstance(schema, dict) or schema.get("strict") is True,
        json_mode=form.get("type") == "json_object",
        params={name: value for name, value in more.items() if name in PARAMS},
        unread=[
            *(name for name in more if name not in PARAMS),
            *lowered(effort, "reasoning_effort"),
            *strangers(wires, _MESSAGE, "messages"),
            *strangers(tools, _TOOL, "tools"),
            *strangers(form, _FORM, "response_format"),
        ],
    )


def _reasoning(effort: str | None) -> Reasoning | None:
    if effort is None:
        return None
    # Clients of this dialect show thoughts where they get some: nobody has to ask for them.
    return Reasoning(read_effort(effort), shown=effort != "none")


def read_messages(wires: list[Json]) -> list[Message]:
    """Read a list of messages. Raises InvalidRequest."""
    messages: list[Message] = []
    for number, wire in enumerate(wires):
        message = _message(wire, f"messages[{number}]")
        if "cache_control" in wire and message.parts:
            *parts, last = message.parts
            kept_last = last if isinstance(last, Audio | Thinking) else kept(last, wire)
            message = Message(message.role, [*parts, kept_last])
        messages.append(message)
    return messages


def _message(wire: Json, where: str) -> Message:
    match wire.get("role"):
        case "system" | "developer":
            return Message("system", contents(wire.get("content"), f"{where}.content", _part))
        case "user":
            return Message("user", contents(wire.get("content"), f"{where}.content", _part))
        case "assistant":
            return Message("assistant", _assistant(wire, where))
        case "tool":
            return Message("user", [read_result(wire, where, _part)])
        case role:
            raise InvalidRequest(f"{where}.role is unknown: {role!r}")


def _assistant(wire: Json, where: str) -> list[Part]:
    for name, instead in _ELSEWHERE.items():
        if wire.get(name):
            raise InvalidRequest(
                f"{where}.{name} means nothing to this target's provider",
                action=f"Send {instead}, or name a target of the same vendor.",
            )
    parts: list[Part] = []
    reasoning = wire.get("reasoning_content") or wire.get("reasoning")
    details = wire.get("reasoning_details")
    if isinstance(details, list) and details:
        parts += thoughts(details)
    elif isinstance(reasoning, str) and reasoning:
        parts.append(Thinking(reasoning, vendor=""))
    if wire.get("content") is not None:
        parts += contents(wire["content"], f"{where}.content", _part)
    if isinstance(refusal := wire.get("refusal"), str) and refusal:
        parts.append(Text(refusal))
    return parts + read_calls(wire.get("tool_calls"), where)


def thoughts(details: list[Any]) -> list[Part]:
    """Read `reasoning_details`. A stream's pieces of one block, text then signature, are joined."""
    blocks: list[Thinking] = []
    for detail in details:
        if not isinstance(detail, dict):
            continue
        vendor = DETAIL_VENDORS.get(str(detail.get("format")), "")
        text = str(detail.get("text") or detail.get("summary") or "")
        signature = detail.get("signature")
        match detail.get("type"):
            case "reasoning.encrypted":
                blocks.append(Thinking(str(detail.get("data") or ""), None, True, vendor))
            case "reasoning.text" if (
                blocks and not blocks[-1].signature and not blocks[-1].redacted
            ):
                last = blocks[-1]
                blocks[-1] = Thinking(last.text + text, signature or None, False, vendor)
            case "reasoning.text" | "reasoning.summary":
                blocks.append(Thinking(text, signature or None, False, vendor))
    return list(blocks)


def _part(part: Any, where: str) -> Part:
    match part:
        case {"type": "text", "text": str(text)} | {"type": "refusal", "refusal": str(text)}:
            return kept(Text(text), part)
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            inline = split_data_url(url)
            image = Image(media_type=inline[0], data=inline[1]) if inline else Image(url=url)
            return kept(image, part)
        case {"type": "input_audio", "input_audio": {"data": str(data), "format": str(form)}}:
            return Audio(f"audio/{form}", data)
        case {"type": "file", "file": {"file_data": str(data), **rest}}:
            inline = split_data_url(data) or ("application/pdf", data)
            name = rest.get("filename")
            file = Document(inline[0], inline[1], name if isinstance(name, str) else None)
            return kept(file, part)
    kind = part.get("type") if isinstance(part, dict) else None
    raise InvalidRequest(
        f"{where} has type {kind!r}, which this target's provider does not take",
        action="Send text, image_url or file parts, or name a target of the same vendor.",
    )


def _tool(tool: Json) -> Tool:
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, dict):
        raise InvalidRequest("'tools' holds something that is no function")
    name = function.get("name")
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    if not isinstance(name, str) or not isinstance(parameters, dict):
        raise InvalidRequest(
            "'tools' holds a function without a name, or whose schema is no object"
        )
    read = Tool(name, function.get("description"), parameters, function.get("strict"))
    return kept(kept(read, function), tool)


def tool_choice_of(fields: Fields) -> ToolChoice | None:
    """Read who is to choose a tool, as both of the vendor's dialects say it. Raises InvalidRequest."""
    choice: object = member(fields, "tool_choice", _ANY)
    parallel = member(fields, "parallel_tool_calls", bool)
    match choice:
        case None:
            return ToolChoice("auto", parallel=parallel) if parallel is not None else None
        case "auto" | "none" | "required":
            return ToolChoice(choice, parallel=parallel)
        case {"type": "function", "function": {"name": str(name)}} | {
            "type": "function",
            "name": str(name),
        }:
            return ToolChoice("tool", name, parallel)
    raise InvalidRequest("'tool_choice' is neither auto, none, required nor a function")


def limit_of(model: str) -> str:
    """Return the member that limits a model's output.

    Reasoning models refuse the old name, many compatible servers do not know the new one.
    """
    return "max_completion_tokens" if _REASONING_MODEL.search(model) else "max_tokens"


# --- written for a provider --------------------------------------------------------------------


def write(chat: Chat, model: str) -> bytes:
    """Write a request for a provider."""
    body: Json = {
        "model": model,
        "messages": split_turns(chat.messages, _wire_result, _wire_assistant, _wire_content),
    }
    reasons = _REASONING_MODEL.search(model) is not None
    if chat.max_tokens is not None:
        body[limit_of(model)] = chat.max_tokens
    for name in _PLAIN:
        if (value := getattr(chat, name)) is not None:
            body[name] = value
    if chat.reasoning is not None and reasons:
        body["reasoning_effort"] = effort_of(chat.reasoning)
    if chat.stop:
        body["stop"] = chat.stop
    if chat.tools:
        body |= _wire_tools(chat)
    if chat.schema is not None:
        schema = {"name": chat.schema_name, "schema": chat.schema, "strict": is_strict(chat)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif chat.json_mode:
        body["response_format"] = {"type": "json_object"}
    body |= {name: value for name, value in chat.params.items() if name in PARAMS}
    if chat.stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return msgspec.json.encode(body)


def _wire_tools(chat: Chat) -> Json:
    wire: Json = {"tools": [_wire_tool(tool) for tool in chat.tools]}
    choice = chat.tool_choice
    if choice is None:
        return wire
    named = {"type": "function", "function": {"name": choice.name}}
    wire["tool_choice"] = named if choice.kind == "tool" else choice.kind
    if choice.parallel is not None:
        wire["parallel_tool_calls"] = choice.parallel
    return wire


def unsaid(chat: Chat, model: str) -> list[str]:
    """Return the names of what `write` leaves out."""
    names = ["top_k"] if chat.top_k is not None else []
    if chat.reasoning is not None and not _REASONING_MODEL.search(model):
        names.append("reasoning")
    return names + not_carried(chat)


def is_strict(chat: Chat) -> bool:
    """Whether the vendor can be held to a request's schema."""
    return chat.schema is not None and chat.schema_strict and is_closed(chat.schema)


def not_carried(chat: Chat) -> list[str]:
    """Return the names of what neither of the vendor's dialects has a word for, or follows as asked."""
    parts = [part for message in chat.messages for part in message.parts]
    told = {
        "schema.strict": chat.schema is not None and chat.schema_strict and not is_strict(chat),
        "tools.strict": any(tool.strict and not is_closed(tool.parameters) for tool in chat.tools),
        "tool_result.is_error": any(isinstance(it, ToolResult) and it.is_error for it in parts),
        "cache_control": keeps(chat.tools, chat.messages),
    }
    return [name for name, left_out in told.items() if left_out]


def _wire_result(result: ToolResult) -> Json:
    # This dialect's tool messages hold text alone.
    text = text_of(result.parts)
    return {"role": "tool", "tool_call_id": result.call_id, "content": text}


def _wire_assistant(parts: list[Part]) -> Json:
    text = text_of(parts)
    wire: Json = {"role": "assistant", "content": text or None}
    if calls := [function_call(part) for part in parts if isinstance(part, ToolCall)]:
        wire["tool_calls"] = calls
    elif not text:
        wire["content"] = ""
    return wire


def _wire_content(parts: list[Part]) -> str | list[Json]:
    if all(isinstance(part, Text) for part in parts):
        if len(parts) == 1:
            return parts[0].text  # type: ignore[union-attr]
        return [{"type": "text", "text": part.text} for part in parts]  # type: ignore[union-attr]
    wires: list[Json] = []
    for part in parts:
        match part:
            case Text():
                wires.append({"type": "text", "text": part.text})
            case Image():
                wires.append({"type": "image_url", "image_url": {"url": part.address}})
            case Audio():
                sound = {"data": part.data, "format": part.media_type.partition("/")[2]}
                wires.append({"type": "input_audio", "input_audio": sound})
            case Document(url=str(url)):
                raise InvalidRequest(
                    f"this target's provider takes no file by address ({url[:200]})",
                    action="Send the file's bytes, or name a target of another vendor.",
                )
            case Document():
                file = {"filename": part.name or "document", "file_data": part.address}
                wires.append({"type": "file", "file": file})
    return wires


def _wire_tool(tool: Tool) -> Json:
    function: Json = {"name": tool.name, "parameters": tool.parameters}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict and is_closed(tool.parameters)
    return {"type": "function", "function": function}
