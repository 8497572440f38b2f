"""Cohere's chat (v2), as clients and as providers speak it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import msgspec
from mypy_extensions import mypyc_attr

from gateway.dialects import cohere_request
from gateway.dialects.cohere_base import CohereBase
from gateway.dialects.cohere_wire import (
    FINISH_OUT,
    VENDOR,
    Block,
    Event,
    WireDelta,
    WireToolCall,
    finish_of,
    read_answered,
    read_event,
    usage_json,
)
from gateway.dialects.neutral import (
    END,
    Answer,
    Chat,
    Delta,
    Fields,
    Json,
    Opening,
    Part,
    Receipt,
    StreamReader,
    StreamWriter,
    Text,
    Thinking,
    ToolCall,
    Usage,
    text_of,
)
from gateway.dialects.reading import asks, entries, member, required
from gateway.dialects.sse import Frame, write_frame
from gateway.dialects.turns import function_call
from schemas.errors import UpstreamProtocol

_DONE = b"[DONE]"
_encode = msgspec.json.encode


@mypyc_attr(allow_interpreted_subclasses=True)
class CohereChat(CohereBase):
    """The dialect ``cohere``."""

    path = "/v2/chat"
    client_paths: ClassVar[Mapping[str, Json]] = {"/v2/chat": {}}
    words: ClassVar[Mapping[str, str]] = {
        "stop": "stop_sequences",
        "top_k": "k",
        "top_p": "p",
        "reasoning": "thinking",
    }
    params = frozenset(["logprobs"])

    # --- requests ----------------------------------------------------------------------------

    def open(self, fields: Fields) -> Opening:
        entries(fields, "messages")
        return Opening(
            model=required(fields, "model", str),
            stream=bool(member(fields, "stream", bool)),
            wants_usage=True,
            max_tokens=member(fields, "max_tokens", int),
            has_tools=asks(fields, "tools"),
            tags={},
            user_id=None,
        )

    def read_request(self, fields: Fields) -> Chat:
        return cohere_request.read(fields)

    def write_request(self, chat: Chat, model: str, max_output_tokens: int | None) -> bytes:
        del max_output_tokens
        return cohere_request.write(chat, model)

    def unsaid(self, chat: Chat, model: str) -> list[str]:
        return cohere_request.unsaid(chat, model)

    # --- answers -----------------------------------------------------------------------------

    def read_answer(self, body: bytes) -> Answer:
        try:
            wire = read_answered(body)
        except msgspec.DecodeError as error:
            raise UpstreamProtocol(f"the answer is no chat response: {error}") from error
        message = wire.message
        parts: list[Part] = [part for block in message.content or [] if (part := _part(block))]
        if message.tool_plan:
            parts.append(Text(message.tool_plan))
        for call in message.tool_calls or []:
            call_id, name, arguments = _called(call)
            parts.append(ToolCall(call_id, name, arguments or "{}"))
        return Answer(
            id=wire.id,
            model="",
            parts=parts,
            finish=finish_of(wire.finish_reason),
            usage=wire.usage.neutral() if wire.usage else None,
            units=wire.usage.units() if wire.usage else {},
        )

    def write_answer(self, answer: Answer, receipt: Receipt | None) -> bytes:
        del receipt
        calls = [function_call(part) for part in answer.parts if isinstance(part, ToolCall)]
        text = text_of(answer.parts)
        content: list[Json] = [
            {"type": "thinking", "thinking": part.text}
            for part in answer.parts
            if isinstance(part, Thinking) and part.text and not part.redacted
        ]
        message: Json = {"role": "assistant"}
        if calls:
            message["tool_calls"] = calls
            if text:
                message["tool_plan"] = text
        else:
            content.append({"type": "text", "text": text})
        if content:
            message["content"] = content
        return _encode(
            {
                "id": answer.id,
                "finish_reason": FINISH_OUT[answer.finish or "stop"],
                "message": message,
                "usage": usage_json(answer.usage or Usage()),
            }
        )

    # --- streams -----------------------------------------------------------------------------

    def stream_reader(self) -> StreamReader:
        return _Reader()

    def stream_writer(self, opening: Opening) -> StreamWriter:
        del opening
        return _Writer()


def _part(block: Block) -> Part | None:
    if block.thinking:
        return Thinking(block.thinking, vendor=VENDOR)
    return Text(block.text) if block.text else None


def _called(call: WireToolCall) -> tuple[str, str, str]:
    function = call.function
    if function is None or not function.name:
        raise UpstreamProtocol("a tool call of the answer has no name")
    return call.id or "", function.name, function.arguments or ""


class _Reader:
    """Reads events; calls are numbered in the order in which they begin."""

    def __init__(self) -> None:
        self._calls: dict[int, int] = {}

    def read(self, frame: Frame) -> list[Delta]:
        if frame.data == _DONE:
            return []
        try:
            event = read_event(frame.data)
        except msgspec.DecodeError as error:
            raise UpstreamProtocol(f"a stream frame is no chat event: {error}") from error
        delta = event.delta or WireDelta()
        match event.type:
            case "message-start":
                return [Delta("start", id=event.id)]
            case "content-start" | "content-delta" | "tool-plan-delta":
                return _said(delta)
            case "tool-call-start" | "tool-call-delta":
                return self._call(event, delta)
            case "message-end":
                return _ended(delta)
        return []  # ends of blocks, and citations, which have no counterpart elsewhere

    def _call(self, event: Event, delta: WireDelta) -> list[Delta]:
        given = delta.message.tool_calls if delta.message else None
        call = given[0] if isinstance(given, list) and given else given
        if not isinstance(call, WireToolCall):
            raise UpstreamProtocol(f"{event.type} has no tool call")
        if event.type == "tool-call-delta":
            number = self._calls.get(event.index)
            pieces = call.function.arguments if call.function else None
            if number is None:
                raise UpstreamProtocol("arguments came before their tool call")
            return [Delta("arguments", pieces, index=number)] if pieces else []
        call_id, name, arguments = _called(call)
        number = self._calls[event.index] = len(self._calls)
        begun = Delta("tool_call", index=number, id=call_id, name=name)
        return [begun, Delta("arguments", arguments, index=number)] if arguments else [begun]


def _said(delta: WireDelta) -> list[Delta]:
    message = delta.message
    if message is None:
        return []
    if message.tool_plan:
        return [Delta("text", message.tool_plan)]
    content = message.content
    blocks = content if isinstance(content, list) else [content] if content else []
    deltas = []
    for block in blocks:
        if block.thinking:
            deltas.append(Delta("thinking", block.thinking))
        elif block.text:
            deltas.append(Delta("text", block.text))
    return deltas


def _ended(delta: WireDelta) -> list[Delta]:
    finish = finish_of(delta.finish_reason, delta.error)
    if finish is None:
        raise UpstreamProtocol("the stream's end has no reason")
    deltas = [Delta("finish", finish)]
    if delta.usage is not None:
        usage, units = delta.usage.neutral(), delta.usage.units()
        deltas.append(Delta("usage", usage=usage, units=units))
    return [*deltas, END]


class _Writer:
    """Writes events; a block is open until a delta of another kind comes. Text before a call is
    content here, not its plan: nobody knows yet that a call will follow.
    """

    def __init__(self) -> None:
        self._id = ""
        self._index = -1
        self._open = ""
        self._tools: dict[int, int] = {}
        self._finish = "COMPLETE"
        self._usage = Usage()

    def write(self, delta: Delta) -> bytes:
        match delta.kind:
            case "start":
                self._id = delta.id
                message = {"role": "assistant"}
                return _event("message-start", {"id": delta.id, "delta": {"message": message}})
            case "text":
                return self._block("text", delta.text)
            case "thinking" if delta.id != "redacted":
                return self._block("thinking", delta.text)
            case "tool_call":
                return self._call(delta)
            case "arguments":
                function = {"arguments": delta.text}
                calls = {"tool_calls": {"function": function}}
                return self._event("tool-call-delta", calls, self._tools[delta.index])
            case "finish":
                self._finish = FINISH_OUT.get(delta.text, "COMPLETE")  # type: ignore[call-overload]
            case "usage":
                self._usage = delta.usage or self._usage
            case "end":
                return self._end()
        return b""

    def _event(self, name: str, message: Json | None, index: int | None = None) -> bytes:
        body: Json = {"index": self._index if index is None else index}
        return _event(name, body if message is None else {**body, "delta": {"message": message}})

    def _block(self, kind: str, text: str) -> bytes:
        begun = b""
        if self._open != kind:
            begun = self._close()
            self._open = kind
            self._index += 1
            begun += self._event("content-start", {"content": {"type": kind, kind: ""}})
        return begun + self._event("content-delta", {"content": {kind: text}})

    def _call(self, delta: Delta) -> bytes:
        closed = self._close()
        self._open = "tool"
        self._index += 1
        self._tools[delta.index] = self._index
        call = function_call(ToolCall(delta.id, delta.name, ""))
        return closed + self._event("tool-call-start", {"tool_calls": call})

    def _close(self) -> bytes:
        if not self._open:
            return b""
        name = "tool-call-end" if self._open == "tool" else "content-end"
        self._open = ""
        return self._event(name, None)

    def _end(self) -> bytes:
        delta = {"finish_reason": self._finish, "usage": usage_json(self._usage)}
        end = _event("message-end", {"id": self._id, "delta": delta})
        return self._close() + end + write_frame(_DONE)


def _event(name: str, body: Json) -> bytes:
    return write_frame(_encode({"type": name, **body}), name)


COHERE = CohereChat()
