"""Requests in Gemini's generateContent, written for providers.

Sources: ai.google.dev/api/generate-content, ai.google.dev/api/caching (Content, Part, Tool,
ToolConfig), ai.google.dev/gemini-api/docs/thinking and …/docs/thought-signatures.
"""

from __future__ import annotations

import mimetypes
import re

import msgspec

from gateway.dialects.gemini_wire import JSON_TYPE, UNSIGNED
from gateway.dialects.neutral import (
    Audio,
    Chat,
    Document,
    Effort,
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
from gateway.dialects.reading import budget_of, effort_of, keeps, parse_arguments
from schemas.errors import InvalidRequest

_WITHOUT_THOUGHTS = re.compile(r"gemini-(1|2\.0)|gemma")
_WITH_BUDGET = re.compile(r"gemini-2\.")
_LEVEL: dict[Effort, str] = {
    "none": "MINIMAL",  # the newer models cannot be kept from thinking altogether
    "minimal": "MINIMAL",
    "low": "LOW",
    "medium": "MEDIUM",
    "high": "HIGH",
}


def write(chat: Chat, model: str) -> bytes:
    """Write a request for a provider."""
    system = [
        {"text": part.text}
        for message in chat.messages
        if message.role == "system"
        for part in message.parts
        if isinstance(part, Text)
    ]
    body: Json = {"contents": _wire_contents(chat.messages, model)}
    if system:
        body["systemInstruction"] = {"parts": system}
    if chat.tools:
        body["tools"] = [{"functionDeclarations": [_wire_tool(tool) for tool in chat.tools]}]
        if chat.tool_choice is not None:
            body["toolConfig"] = {"functionCallingConfig": _wire_choice(chat.tool_choice)}
    config = _wire_config(chat, model)
    if config:
        body["generationConfig"] = config
    return msgspec.json.encode(body)


def unsaid(chat: Chat, model: str) -> list[str]:
    """Return the names of what `write` leaves out."""
    names = ["user"] if chat.user is not None else []
    if chat.tool_choice is not None and chat.tool_choice.parallel is False:
        names.append("parallel_tool_calls")
    if chat.reasoning is not None and _WITHOUT_THOUGHTS.search(model):
        names.append("reasoning")
    if any(tool.strict for tool in chat.tools):
        names.append("tools.strict")
    if keeps(chat.tools, chat.messages):
        names.append("cache_control")
    return names


def _wire_config(chat: Chat, model: str) -> Json:
    config: Json = {
        "temperature": chat.temperature,
        "topP": chat.top_p,
        "topK": chat.top_k,
        "maxOutputTokens": chat.max_tokens,
        "stopSequences": chat.stop or None,
        "seed": chat.seed,
        "frequencyPenalty": chat.frequency_penalty,
        "presencePenalty": chat.presence_penalty,
        "responseMimeType": JSON_TYPE if chat.json_mode or chat.schema is not None else None,
        "responseJsonSchema": chat.schema,
    }
    if chat.reasoning is not None and not _WITHOUT_THOUGHTS.search(model):
        config["thinkingConfig"] = _wire_thinking(chat.reasoning, model)
    return {name: value for name, value in config.items() if value is not None}


def _wire_thinking(reasoning: Reasoning, model: str) -> Json:
    # One generation of models is told a number of tokens, the next ones a level.
    thinking: Json = (
        {"thinkingBudget": budget_of(reasoning)}
        if _WITH_BUDGET.search(model)
        else {"thinkingLevel": _LEVEL[effort_of(reasoning)]}
    )
    return {**thinking, "includeThoughts": True} if reasoning.shown else thinking


def _wire_contents(messages: list[Message], model: str) -> list[Json]:
    """Write messages, neighbours of one role in one content; a result names its function."""
    names = {
        part.id: part.name
        for message in messages
        for part in message.parts
        if isinstance(part, ToolCall)
    }
    contents: list[Json] = []
    for message in messages:
        if message.role == "system":
            continue
        role = "model" if message.role == "assistant" else "user"
        parts = _wire_parts(message.parts, names, model)
        if contents and contents[-1]["role"] == role:
            contents[-1]["parts"] += parts
        elif parts:
            contents.append({"role": role, "parts": parts})
    return contents


def _wire_parts(parts: list[Part], names: dict[str, str], model: str) -> list[Json]:
    wires: list[Json] = []
    # The newer models refuse the first call of a turn without a signature.
    signature = None if _WITHOUT_THOUGHTS.search(model) or _WITH_BUDGET.search(model) else UNSIGNED
    for part in parts:
        match part:
            case Thinking(signature=str(signed), vendor="gemini"):
                signature = signed
            case Thinking():
                continue  # thoughts of another vendor, or without the proof that they are its own
            case ToolCall():
                arguments = parse_arguments(part.arguments)
                wire: Json = {"functionCall": {"name": part.name, "args": arguments}}
                wires.append({**wire, "thoughtSignature": signature} if signature else wire)
                signature = None
            case ToolResult():
                wires += _wire_result(part, names)
            case Text(text=""):
                continue
            case _:
                wires.append(_wire_part(part))
    return wires


def _wire_part(part: Part) -> Json:
    match part:
        case Text():
            return {"text": part.text}
        case Image(url=str(url)):
            return {"fileData": {"fileUri": url, "mimeType": _kind_of(url, "image/jpeg")}}
        case Document(url=str(url)):
            kind = part.media_type or _kind_of(url, "application/pdf")
            return {"fileData": {"fileUri": url, "mimeType": kind}}
        case Image() | Document() | Audio():
            return {"inlineData": {"mimeType": part.media_type, "data": part.data}}
    raise TypeError(f"a message holds no {type(part).__name__}")


def _kind_of(url: str, usual: str) -> str:
    return mimetypes.guess_type(url.partition("?")[0])[0] or usual


def _wire_result(result: ToolResult, names: dict[str, str]) -> list[Json]:
    if result.call_id not in names:
        raise InvalidRequest(
            f"the result of the tool call '{result.call_id}' answers no call",
            action="Send the assistant's message with its tool calls before their results.",
        )
    text = text_of(result.parts)
    response = {"error": text} if result.is_error else parse_object(text)
    wire: Json = {"functionResponse": {"name": names[result.call_id], "response": response}}
    shown = [_wire_part(part) for part in result.parts if not isinstance(part, Text)]
    return [wire, *shown]


def parse_object(text: str) -> Json:
    """Return a tool's result as the object that this dialect asks for."""
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        value = None
    return value if isinstance(value, dict) else {"result": text}


def _wire_tool(tool: Tool) -> Json:
    wire: Json = {"name": tool.name, "parametersJsonSchema": tool.parameters}
    if tool.description is not None:
        wire["description"] = tool.description
    return wire


def _wire_choice(choice: ToolChoice) -> Json:
    mode = {"auto": "AUTO", "none": "NONE"}.get(choice.kind, "ANY")
    named = {"allowedFunctionNames": [choice.name]} if choice.name is not None else {}
    return {"mode": mode, **named}
