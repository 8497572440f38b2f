"""Requests in Gemini's generateContent, read from clients.

Clients may write members in camelCase or in snake_case, as protobuf's JSON form allows.
Sources: ai.google.dev/api/generate-content, ai.google.dev/api/caching (Content, Part, Tool,
FunctionDeclaration, Schema, ToolConfig).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from gateway.dialects.gemini_wire import JSON_TYPE, VENDOR, signed_thought
from gateway.dialects.neutral import (
    Audio,
    Chat,
    Document,
    Effort,
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
)
from gateway.dialects.reading import member, shown, unread
from schemas.errors import InvalidRequest

_ANY: Any = Any
_KNOWN = frozenset(
    [
        "model",
        "stream",
        "contents",
        "labels",
        "systemInstruction",
        "system_instruction",
        "tools",
        "toolConfig",
        "tool_config",
        "generationConfig",
        "generation_config",
    ]
)
_SAME_VENDOR = "Leave it out, or name a target of the same vendor."
_EFFORT: dict[str, Effort] = {"MINIMAL": "minimal", "LOW": "low", "MEDIUM": "medium"}


class ThinkingConfig(msgspec.Struct, rename="camel"):
    thinking_budget: int | None = None
    thinking_level: str | None = None
    include_thoughts: bool = False


class Config(msgspec.Struct, rename="camel"):
    """The members of generationConfig that have a place in the neutral form."""

    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: float | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    stop_sequences: list[str] = []
    candidate_count: int = 1
    response_mime_type: str = "text/plain"
    response_schema: dict[str, Any] | None = None
    response_json_schema: dict[str, Any] | None = None
    response_modalities: list[str] = []
    thinking_config: ThinkingConfig | None = None


_CONFIG_KNOWN = frozenset(Config.__struct_encode_fields__)


def take(value: Json, name: str) -> Any:
    """Return a member by its camelCase name, however it was written; None when absent."""
    found = value.get(name)
    return value.get(_snake(name)) if found is None else found


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", lambda match: "_" + match[1].lower(), name)


def config_of(fields: Fields) -> Json:
    """Return the request's generationConfig. Raises InvalidRequest."""
    config = member(fields, "generationConfig", dict) or member(fields, "generation_config", dict)
    return config or {}


# --- read from a client ------------------------------------------------------------------------


def read(fields: Fields) -> Chat:
    """Read a request in full. Raises InvalidRequest."""
    for name in ("cachedContent", "cached_content"):
        if member(fields, name, _ANY):
            raise InvalidRequest(f"'{name}' is known to one vendor alone", action=_SAME_VENDOR)
    given = {_camel(name): value for name, value in config_of(fields).items() if value is not None}
    config = _config(given)
    tools = [tool for entry in _entries(fields, "tools") for tool in _tools(entry)]
    choice, allowed = _tool_choice(fields)
    thinking = config.thinking_config
    schema = config.response_json_schema
    if schema is None and config.response_schema is not None:
        schema = json_schema(config.response_schema)
    return Chat(
        messages=_messages(fields),
        stream=bool(member(fields, "stream", bool)),
        max_tokens=config.max_output_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=None if config.top_k is None else int(config.top_k),
        seed=config.seed,
        frequency_penalty=config.frequency_penalty,
        presence_penalty=config.presence_penalty,
        stop=config.stop_sequences,
        tools=[tool for tool in tools if not allowed or tool.name in allowed],
        tool_choice=choice,
        reasoning=None if thinking is None else _reasoning(thinking),
        schema=schema,
        json_mode=config.response_mime_type == JSON_TYPE and schema is None,
        unread=[
            *unread(fields, _KNOWN),
            *(f"generationConfig.{name}" for name in given if name not in _CONFIG_KNOWN),
        ],
    )


def _config(given: Json) -> Config:
    if isinstance(given.get("thinkingConfig"), dict):
        thinking = {_camel(name): value for name, value in given["thinkingConfig"].items()}
        given = {**given, "thinkingConfig": thinking}
    try:
        config = msgspec.convert(given, Config)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"'generationConfig' is wrong: {error}") from error
    if config.candidate_count > 1:
        raise InvalidRequest(
            "'candidateCount' must be 1: this target's provider gives one answer to a request",
            action="Send the request several times, or name a target of the same vendor.",
        )
    if set(config.response_modalities) - {"TEXT", "text"}:
        raise InvalidRequest("'responseModalities' must be TEXT", action=_SAME_VENDOR)
    return config


def _camel(name: str) -> str:
    return re.sub(r"(?<=.)_(.)", lambda match: match[1].upper(), name)


def _reasoning(thinking: ThinkingConfig) -> Reasoning:
    level = thinking.thinking_level
    effort = None if level is None else _EFFORT.get(level.upper(), "high")
    return Reasoning(effort, thinking.thinking_budget, thinking.include_thoughts)


def _entries(fields: Fields, name: str) -> list[Json]:
    """Return a member that may be one object or a list of them. Raises InvalidRequest."""
    value: object = member(fields, name, _ANY)
    entries = value if isinstance(value, list) else [] if value is None else [value]
    # The vendor's clients put bare texts where a content is meant.
    found: list[Json] = []
    for entry in entries:
        if not isinstance(entry, str | dict):
            raise InvalidRequest(f"'{name}' holds something that is no object")
        found.append({"parts": [{"text": entry}]} if isinstance(entry, str) else entry)
    return found


def _messages(fields: Fields) -> list[Message]:
    messages = [
        Message("system", _Contents().parts(content, name))
        for name in ("systemInstruction", "system_instruction")
        for content in _entries(fields, name)
    ]
    contents = _Contents()
    wires: list[tuple[Literal["user", "assistant"], Json, str]] = []
    for number, content in enumerate(_entries(fields, "contents")):
        role = content.get("role") or "user"
        if role not in ("user", "model", "function"):
            raise InvalidRequest(f"contents[{number}].role must be user or model")
        wires.append(("assistant" if role == "model" else "user", content, f"contents[{number}]"))
    # The vendor's client keeps a streamed answer as one content for every frame.
    for kind, group in itertools.groupby(wires, key=lambda wire: wire[0]):
        parts = contents.turn((content, where) for _, content, where in group)
        messages.append(Message(kind, parts))
    return messages


class _Contents:
    """Reads contents in order; calls without an id get one, and so do their results."""

    def __init__(self) -> None:
        self._calls = 0
        self._open: list[tuple[str, str]] = []
        self._thought: str = ""

    def turn(self, contents: Iterable[tuple[Json, str]]) -> list[Part]:
        """Return the parts of neighbours of one role. Raises InvalidRequest."""
        self._thought = ""
        parts = [part for content, where in contents for part in self.parts(content, where)]
        if self._thought:
            parts.append(Thinking(self._thought, vendor=VENDOR))
        return parts

    def parts(self, content: Json, where: str) -> list[Part]:
        """Return the parts of one content. Raises InvalidRequest."""
        wires = content.get("parts")
        if isinstance(wires, dict):
            wires = [wires]
        if not isinstance(wires, list) or not all(isinstance(wire, dict) for wire in wires):
            raise InvalidRequest(f"{where}.parts must be a list of parts")
        parts: list[Part] = []
        for number, wire in enumerate(wires):
            parts += self._part(wire, f"{where}.parts[{number}]")
        return parts

    def _part(self, wire: Json, where: str) -> list[Part]:
        signature = take(wire, "thoughtSignature")
        text = wire.get("text")
        if wire.get("thought"):
            self._thought += text if isinstance(text, str) else ""
            return self._signed(signature)
        before = self._signed(signature)
        if isinstance(text, str):
            return [*before, Text(text)] if text else before
        call, response = take(wire, "functionCall"), take(wire, "functionResponse")
        if isinstance(call, dict) and isinstance(call.get("name"), str):
            return [*before, self._call(call["name"], call)]
        if isinstance(response, dict) and isinstance(response.get("name"), str):
            return [self._result(response["name"], response, where)]
        return [_media(wire, where)]

    def _signed(self, signature: object) -> list[Part]:
        """Return the thoughts so far with their signature; without one they are not over."""
        if not isinstance(signature, str) or not signature:
            return []
        text, self._thought = self._thought, ""
        return [signed_thought(text, signature)]

    def _call(self, name: str, wire: Json) -> ToolCall:
        given = wire.get("id")
        call_id = given if isinstance(given, str) and given else f"call_{self._calls}"
        self._calls += 1
        self._open.append((name, call_id))
        return ToolCall(call_id, name, msgspec.json.encode(wire.get("args") or {}).decode())

    def _result(self, name: str, wire: Json, where: str) -> ToolResult:
        call_id = wire.get("id")
        if not isinstance(call_id, str) or not call_id:
            fitting = [pair for pair in self._open if pair[0] == name]
            if not fitting:
                raise InvalidRequest(f"a functionResponse '{name}' answers no functionCall")
            self._open.remove(fitting[0])
            call_id = fitting[0][1]
        response = wire.get("response")
        is_error = isinstance(response, dict) and set(response) == {"error"}
        media = [_media(part, f"{where}.functionResponse") for part in wire.get("parts") or ()]
        return ToolResult(call_id, shown([Text(_plain(response)), *media], where), is_error)


def _plain(response: object) -> str:
    """Return a tool's result as text: the vendor wraps what is no object into one."""
    if isinstance(response, dict) and len(response) == 1:
        name, value = next(iter(response.items()))
        if name in {"result", "output", "error"} and isinstance(value, str):
            return value
    return msgspec.json.encode(response).decode()


def _media(wire: Json, where: str) -> Part:
    inline, file = take(wire, "inlineData"), take(wire, "fileData")
    if isinstance(inline, dict):
        kind, data = take(inline, "mimeType"), inline.get("data")
        if isinstance(kind, str) and isinstance(data, str):
            if kind.startswith("image/"):
                return Image(media_type=kind, data=data)
            if kind.startswith("audio/"):
                return Audio(kind, data)
            if kind.startswith(("application/", "text/")):
                name = take(inline, "displayName")
                return Document(kind, data, name if isinstance(name, str) else None)
    if isinstance(file, dict):
        kind, url = str(take(file, "mimeType") or "image/"), take(file, "fileUri")
        # An address at the vendor's own store means nothing to others.
        known = isinstance(url, str) and url.startswith(("https://", "http://"))
        if known and "googleapis.com" not in str(url):
            if kind.startswith("image/"):
                return Image(url=url)
            return Document(kind, "", url=str(url))
    raise InvalidRequest(
        f"{where} holds {', '.join(sorted(wire)) or 'nothing'}, which this target's provider "
        "does not take",
        action="Send text, images, documents or functions, or name a target of the same vendor.",
    )


def _tools(entry: Json) -> list[Tool]:
    declared = take(entry, "functionDeclarations")
    if not isinstance(declared, list) or set(map(_camel, entry)) != {"functionDeclarations"}:
        raise InvalidRequest("'tools' holds something that is no function", action=_SAME_VENDOR)
    return [_tool(wire) for wire in declared]


def _tool(wire: Any) -> Tool:
    if not isinstance(wire, dict) or not isinstance(wire.get("name"), str):
        raise InvalidRequest("'tools' holds a function without a name")
    schema = take(wire, "parametersJsonSchema")
    if not isinstance(schema, dict):
        parameters = wire.get("parameters")
        empty: Json = {"type": "object", "properties": {}}
        schema = json_schema(parameters) if isinstance(parameters, dict) else empty
    return Tool(wire["name"], wire.get("description"), schema)


def _tool_choice(fields: Fields) -> tuple[ToolChoice | None, list[str]]:
    """Return the choice, and the functions that it is limited to (none: all)."""
    config = member(fields, "toolConfig", dict) or member(fields, "tool_config", dict) or {}
    calling = take(config, "functionCallingConfig") or {}
    if not isinstance(calling, dict):
        raise InvalidRequest("'toolConfig.functionCallingConfig' is no object")
    names = take(calling, "allowedFunctionNames") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InvalidRequest("'allowedFunctionNames' is no list of names")
    allowed: list[str] = names
    match calling.get("mode"), allowed:
        case "NONE", _:
            return ToolChoice("none"), []
        case "ANY", [str(name)]:
            return ToolChoice("tool", name), []
        case "ANY", _:
            return ToolChoice("required"), allowed
        case "AUTO" | "VALIDATED", _:
            return ToolChoice("auto"), allowed
    return None, []


def json_schema(schema: Json) -> Json:
    """Return the vendor's subset of OpenAPI's schema as JSON schema: types in small letters, what
    may be null by its type, counts as numbers (protobuf writes 64-bit ones as text).
    """
    out: Json = {}
    for name, value in schema.items():
        match _camel(name), value:
            case "type", str():
                out["type"] = value.lower()
            case "nullable", _:
                continue
            case ("items" | "additionalProperties") as key, dict():
                out[key] = json_schema(value)
            case "properties", dict():
                out["properties"] = {key: json_schema(entry) for key, entry in value.items()}
            case "anyOf", list():
                out["anyOf"] = [json_schema(entry) for entry in value]
            case "propertyOrdering", _:
                continue
            case key, str() if key.startswith(("min", "max")) and value.isdigit():
                out[key] = int(value)
            case key, _:
                out[key] = value
    if schema.get("nullable") and "type" in out:
        out["type"] = [out["type"], "null"]
    return out
