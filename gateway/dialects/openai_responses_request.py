"""Requests in OpenAI's responses dialect: read from clients, written for providers."""

from __future__ import annotations

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
from gateway.dialects.openai_request import is_strict, not_carried, tool_choice_of
from gateway.dialects.openai_responses_wire import (
    VENDOR,
    WireItem,
    pack,
    thinking_of,
)
from gateway.dialects.reading import (
    contents,
    effort_of,
    further,
    lowered,
    member,
    read_effort,
    required,
    shown,
    split_data_url,
    strangers,
)
from schemas.errors import InvalidRequest

_ANY: Any = Any
_KNOWN = frozenset(
    [
        "model", "input", "instructions", "stream", "stream_options", "metadata",
        "max_output_tokens", "temperature", "top_p", "tools", "tool_choice",
        "parallel_tool_calls", "user", "text", "reasoning", "include", "truncation",
    ]
)  # fmt: skip
_PART = dict.fromkeys(
    ["type", "text", "refusal", "image_url", "file_data", "file_url", "filename", "input_audio"]
)
_ITEM = {
    **dict.fromkeys(["type", "id", "status", "role", "call_id", "name", "arguments", "phase"]),
    **dict.fromkeys(["summary", "encrypted_content"]),
    "content": _PART,
    "output": _PART,
}
_TOOL = dict.fromkeys(["type", "name", "description", "parameters", "strict"])
_TEXT = {
    "verbosity": None,
    "format": dict.fromkeys(["type", "name", "schema", "strict"]),
}
KEPT_BY_VENDOR = ("previous_response_id", "conversation", "prompt", "background")
"""Members that refer to what their vendor keeps."""
PARAMS = frozenset(
    [
        "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "safety_identifier",
        "service_tier", "verbosity", "max_tool_calls",
    ]
)  # fmt: skip
OUTPUT_MIN = 16
"""The smallest limit on the output that the vendor takes."""
ENCRYPTED = "reasoning.encrypted_content"
_read_item = msgspec.json.Decoder(WireItem).decode


def read(fields: Fields) -> Chat:
    """Read a request in full. Raises InvalidRequest."""
    more = further(fields, _KNOWN)
    for name in KEPT_BY_VENDOR:
        if more.get(name):
            raise InvalidRequest(
                f"'{name}' refers to what OpenAI keeps, and this target's provider is another",
                action="Send the whole conversation as input, or name a target of OpenAI's.",
            )
    text: Json = member(fields, "text", dict) or {}
    form = text.get("format") or {}
    reasoning: Json = member(fields, "reasoning", dict) or {}
    if text.get("verbosity"):
        more["verbosity"] = text["verbosity"]
    include = set(member(fields, "include", list[str]) or []) - {ENCRYPTED}
    is_schema = form.get("type") == "json_schema"
    items = required(fields, "input", _ANY)
    tools = member(fields, "tools", list[dict[str, Any]]) or []
    return Chat(
        messages=[*_instructions(fields), *read_input(items)],
        stream=bool(member(fields, "stream", bool)),
        max_tokens=member(fields, "max_output_tokens", int),
        temperature=member(fields, "temperature", float),
        top_p=member(fields, "top_p", float),
        reasoning=_reasoning(reasoning),
        tools=[_tool(tool) for tool in tools],
        tool_choice=tool_choice_of(fields),
        user=member(fields, "user", str),
        schema=form.get("schema") if is_schema else None,
        schema_name=str(form.get("name") or "answer") if is_schema else "answer",
        schema_strict=form.get("strict") is not False,
        json_mode=form.get("type") == "json_object",
        params={name: value for name, value in more.items() if name in PARAMS},
        unread=[
            *(name for name in more if name not in PARAMS),
            *lowered(reasoning.get("effort"), "reasoning.effort"),
            *(f"include.{name}" for name in sorted(include)),
            *strangers(items, _ITEM, "input"),
            *strangers(tools, _TOOL, "tools"),
            *strangers(text, _TEXT, "text"),
        ],
    )


def _instructions(fields: Fields) -> list[Message]:
    text = member(fields, "instructions", str)
    return [Message("system", [Text(text)])] if text else []


def _reasoning(wire: Json) -> Reasoning | None:
    effort, summary = wire.get("effort"), wire.get("summary") or wire.get("generate_summary")
    if not isinstance(effort, str):
        return Reasoning(shown=True) if summary else None
    return Reasoning(read_effort(effort), shown=bool(summary))


def read_input(value: Any) -> list[Message]:
    """Read the input: a text, or items. Items of one speaker in a row are one message.

    Raises InvalidRequest.
    """
    if isinstance(value, str):
        return [Message("user", [Text(value)])]
    if not isinstance(value, list):
        raise InvalidRequest("'input' must be a text or a list of items")
    messages: list[Message] = []
    for number, item in enumerate(value):
        message = _item(item, f"input[{number}]")
        last = messages[-1] if messages else None
        if last is not None and last.role == message.role == "assistant":
            messages[-1] = Message("assistant", [*last.parts, *message.parts])
        else:
            messages.append(message)
    return messages


def _item(item: Any, where: str) -> Message:
    match item:
        case {"type": "function_call", "call_id": str(call_id), "name": str(name)}:
            arguments = item.get("arguments")
            call = ToolCall(call_id, name, arguments if isinstance(arguments, str) else "{}")
            return Message("assistant", [call])
        case {"type": "function_call_output", "call_id": str(call_id), "output": output}:
            parts = contents(output, f"{where}.output", _part)
            return Message("user", [ToolResult(call_id, shown(parts, f"{where}.output"))])
        case {"type": "reasoning"}:
            try:
                return Message("assistant", [thinking_of(_read_item(msgspec.json.encode(item)))])
            except msgspec.DecodeError as error:
                raise InvalidRequest(f"{where} is no reasoning item: {error}") from error
        case {"role": "system" | "developer", "content": content}:
            return Message("system", contents(content, f"{where}.content", _part))
        case {"role": "user" | "assistant" as role, "content": content}:
            return Message(role, contents(content, f"{where}.content", _part))
    kind = item.get("type") if isinstance(item, dict) else None
    raise InvalidRequest(
        f"{where} has type {kind!r}, which this target's provider does not take",
        action="Send messages, function calls, their outputs and reasoning, or name a target of "
        "OpenAI's.",
    )


def _part(part: Any, where: str) -> Part:
    match part:
        case {"type": "input_text" | "output_text" | "text", "text": str(text)}:
            return Text(text)
        case {"type": "refusal", "refusal": str(text)}:
            return Text(text)
        case {"type": "input_image", "image_url": str(url)}:
            inline = split_data_url(url)
            return Image(media_type=inline[0], data=inline[1]) if inline else Image(url=url)
        case {"type": "input_file", "file_data": str(data)}:
            inline = split_data_url(data) or ("application/pdf", data)
            name = part.get("filename")
            return Document(inline[0], inline[1], name if isinstance(name, str) else None)
        case {"type": "input_file", "file_url": str(url)}:
            return Document("", "", None, url)
        case {"type": "input_audio", "input_audio": {"data": str(data), "format": str(form)}}:
            return Audio(f"audio/{form}", data)
    kind = part.get("type") if isinstance(part, dict) else None
    raise InvalidRequest(
        f"{where} has type {kind!r}, which this target's provider does not take",
        action="Send text, images or files with their bytes, or name a target of OpenAI's.",
    )


def _tool(tool: Json) -> Tool:
    name = tool.get("name")
    if tool.get("type") != "function" or not isinstance(name, str):
        raise InvalidRequest(
            f"'tools' holds {tool.get('type')!r}, which OpenAI itself runs",
            action="Send functions, or name a target of OpenAI's.",
        )
    parameters = tool.get("parameters") or {"type": "object", "properties": {}}
    return Tool(name, tool.get("description"), parameters, tool.get("strict"))


# --- written for a provider --------------------------------------------------------------------


def write(chat: Chat, model: str) -> bytes:
    """Write a request for a provider. Nothing is kept there: the whole conversation is sent."""
    body: Json = {"model": model, "input": _wire_input(chat.messages), "store": False}
    plain = {
        "max_output_tokens": None if chat.max_tokens is None else max(chat.max_tokens, OUTPUT_MIN),
        "temperature": chat.temperature,
        "top_p": chat.top_p,
        "user": chat.user,
        "stream": chat.stream or None,
    }
    body |= {name: value for name, value in plain.items() if value is not None}
    if chat.reasoning is not None:
        shown = {"summary": "auto"} if chat.reasoning.shown else {}
        body["reasoning"] = {"effort": effort_of(chat.reasoning), **shown}
        body["include"] = [ENCRYPTED]
    if chat.tools:
        body["tools"] = [_wire_tool(tool) for tool in chat.tools]
        if chat.tool_choice is not None:
            body |= _wire_choice(chat.tool_choice)
    if text := _wire_text(chat):
        body["text"] = text
    named = PARAMS - {"verbosity"}
    body |= {name: value for name, value in chat.params.items() if name in named}
    return msgspec.json.encode(body)


def unsaid(chat: Chat) -> list[str]:
    """Return the names of what `write` leaves out."""
    lacking = ["top_k", "seed", "frequency_penalty", "presence_penalty"]
    names = [name for name in lacking if getattr(chat, name) is not None]
    if chat.stop:
        names.append("stop")
    if chat.max_tokens is not None and chat.max_tokens < OUTPUT_MIN:
        names.append("max_tokens")
    return names + not_carried(chat)


def _wire_text(chat: Chat) -> Json:
    text: Json = {}
    if chat.schema is not None:
        named = {"name": chat.schema_name, "schema": chat.schema, "strict": is_strict(chat)}
        text["format"] = {"type": "json_schema", **named}
    elif chat.json_mode:
        text["format"] = {"type": "json_object"}
    if "verbosity" in chat.params:
        text["verbosity"] = chat.params["verbosity"]
    return text


def _wire_input(messages: list[Message]) -> list[Json]:
    items: list[Json] = []
    for message in messages:
        held: list[Json] = []
        for part in message.parts:
            match part:
                case ToolCall():
                    call = {"call_id": part.id, "name": part.name, "arguments": part.arguments}
                    items += [*_message(message.role, held), {"type": "function_call", **call}]
                    held = []
                case ToolResult():
                    output: str | list[Json] = [_wire_part(item, "user") for item in part.parts]
                    if all(isinstance(item, Text) for item in part.parts):
                        output = text_of(part.parts)
                    result = {"call_id": part.call_id, "output": output}
                    items.append({"type": "function_call_output", **result})
                case Thinking():
                    items += [*_message(message.role, held), *_wire_thinking(part)]
                    held = []
                case _:
                    held.append(_wire_part(part, message.role))
        items += _message(message.role, held)
    return items


def _message(role: str, content: list[Json]) -> list[Json]:
    if not content:
        return []
    wire_role = "developer" if role == "system" else role
    alone = content[0] if len(content) == 1 else {}
    if "text" in alone:
        return [{"role": wire_role, "content": alone["text"]}]
    return [{"role": wire_role, "content": content}]


def _wire_thinking(part: Thinking) -> list[Json]:
    # Only the vendor's own thoughts, sealed by it, mean anything to it.
    if part.vendor != VENDOR or not part.signature:
        return []
    item_id, _, content = part.signature.partition(":")
    summary = [{"type": "summary_text", "text": part.text}] if part.text else []
    sealed = {"summary": summary, "encrypted_content": content}
    return [{"type": "reasoning", "id": item_id, **sealed}]


def _wire_part(part: Part, role: str) -> Json:
    match part:
        case Text():
            return {
                "type": "output_text" if role == "assistant" else "input_text",
                "text": part.text,
            }
        case Image():
            return {"type": "input_image", "image_url": part.address, "detail": "auto"}
        case Document(url=str(url)):
            return {"type": "input_file", "file_url": url}
        case Document():
            name = part.name or "document"
            return {"type": "input_file", "filename": name, "file_data": part.address}
    raise InvalidRequest(
        f"OpenAI's responses take no {type(part).__name__.lower()} here",
        action="Send text, images or files, or name a target of another vendor.",
    )


def _wire_tool(tool: Tool) -> Json:
    wire: Json = {"type": "function", "name": tool.name, "parameters": tool.parameters}
    if tool.description is not None:
        wire["description"] = tool.description
    return {**wire, "strict": bool(tool.strict) and is_closed(tool.parameters)}


def _wire_choice(choice: ToolChoice) -> Json:
    named = {"type": "function", "name": choice.name}
    body: Json = {"tool_choice": named if choice.kind == "tool" else choice.kind}
    if choice.parallel is not None:
        body["parallel_tool_calls"] = choice.parallel
    return body


def packed(part: Thinking) -> str | None:
    """Return what a client of this dialect sends back with thoughts, so that they keep their proof."""
    if part.vendor == VENDOR and part.signature:
        return part.signature.partition(":")[2]
    return pack(part)
