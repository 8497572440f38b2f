"""Anthropic's messages, as clients and as providers speak them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import msgspec
from mypy_extensions import mypyc_attr

from gateway.dialects import anthropic_request
from gateway.dialects.anthropic_wire import (
    ERROR_STATUS,
    ERROR_TYPE,
    FINISH_IN,
    FINISH_OUT,
    Block,
    Event,
    WireError,
    WireUsage,
    own_thoughts,
    read_error_body,
    read_event,
    read_message,
    sealed,
)
from gateway.dialects.base import BaseDialect
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
)
from gateway.dialects.reading import (
    advice_of,
    asks,
    classify,
    entries,
    member,
    parse_arguments,
    required,
    text_tags,
)
from gateway.dialects.receipts import receipt_event
from gateway.dialects.sse import Frame, write_frame
from schemas.errors import UpstreamError, UpstreamProtocol, WeirError

_encode: Final = msgspec.json.encode


@mypyc_attr(allow_interpreted_subclasses=True)
class AnthropicMessages(BaseDialect):
    """The dialect ``anthropic``."""

    name = "anthropic"
    client_paths: ClassVar[Mapping[str, Json]] = {"/v1/messages": {}}
    words: ClassVar[Mapping[str, str]] = {"stop": "stop_sequences", "reasoning": "thinking"}
    default_headers: ClassVar[Mapping[str, str]] = {"anthropic-version": "2023-06-01"}
    models_path = "/v1/models"

    def authorization(self, secret: str) -> dict[str, str]:
        return {"x-api-key": secret}

    def path_of(self, model: str, stream: bool) -> str:
        del model, stream
        return "/v1/messages"

    # --- requests ----------------------------------------------------------------------------

    def open(self, fields: Fields) -> Opening:
        metadata = member(fields, "metadata", dict) or {}
        entries(fields, "messages")
        user = metadata.get("user_id")
        return Opening(
            model=required(fields, "model", str),
            stream=bool(member(fields, "stream", bool)),
            wants_usage=True,
            max_tokens=required(fields, "max_tokens", int),
            has_tools=asks(fields, "tools"),
            tags=text_tags({key: metadata[key] for key in metadata if key != "user_id"}),
            user_id=user if isinstance(user, str) else None,
        )

    def read_request(self, fields: Fields) -> Chat:
        return anthropic_request.read(fields)

    def write_request(self, chat: Chat, model: str, max_output_tokens: int | None) -> bytes:
        return anthropic_request.write(chat, model, max_output_tokens)

    def unsaid(self, chat: Chat, model: str) -> list[str]:
        return anthropic_request.unsaid(chat, model)

    def forward_request(self, fields: Fields, model: str, opening: Opening) -> bytes:
        del opening
        return _encode({**fields, "messages": own_thoughts(fields["messages"]), "model": model})

    # --- answers -----------------------------------------------------------------------------

    def read_answer(self, body: bytes) -> Answer:
        try:
            wire = read_message(body)
        except msgspec.DecodeError as error:
            raise UpstreamProtocol(f"the answer is no message: {error}") from error
        return Answer(
            id=wire.id,
            model=wire.model,
            parts=[part for block in wire.content if (part := _part(block)) is not None],
            finish=FINISH_IN.get(wire.stop_reason or ""),
            usage=wire.usage.neutral() if wire.usage else None,
            units=wire.usage.units() if wire.usage else {},
        )

    def write_answer(self, answer: Answer, receipt: Receipt | None) -> bytes:
        del receipt
        body = _message(answer.id, answer.model, answer.usage or Usage())
        body["content"] = [_block(part) for part in answer.parts]
        body["stop_reason"] = FINISH_OUT[answer.finish or "stop"]
        return _encode(body)

    # --- streams -----------------------------------------------------------------------------

    def stream_reader(self) -> StreamReader:
        return _Reader()

    def stream_writer(self, opening: Opening) -> StreamWriter:
        del opening
        return _Writer()

    def end_of_stream(self, receipt: Receipt) -> bytes:
        return receipt_event(receipt)

    # --- errors ------------------------------------------------------------------------------

    def read_error(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> UpstreamError:
        try:
            error = read_error_body(body).error
        except msgspec.DecodeError:
            return classify(status, "", "", headers)
        return classify(status, error.type, error.message, headers)

    def write_error(self, error: WeirError, status: int, request_id: str) -> bytes:
        kind = ERROR_TYPE.get(status, "api_error" if status >= 500 else "invalid_request_error")
        body = {"type": kind, "message": error.message, **advice_of(error)}
        return _encode({"type": "error", "error": body, "request_id": request_id})

    def write_error_frame(self, error: WeirError, status: int, request_id: str) -> bytes:
        return write_frame(self.write_error(error, status, request_id), "error")


def _part(block: Block) -> Part | None:
    match block.type:
        case "text":
            return Text(block.text)
        case "tool_use":
            return ToolCall(block.id, block.name, bytes(block.input).decode())
        case "thinking":
            return Thinking(block.thinking, block.signature)
        case "redacted_thinking":
            return Thinking(block.data, redacted=True)
    return None  # blocks of vendor tools have no counterpart in the other dialect


def _block(part: Part) -> Json:
    match part:
        case Text():
            return {"type": "text", "text": part.text}
        case ToolCall():
            arguments = parse_arguments(part.arguments)
            return {"type": "tool_use", "id": part.id, "name": part.name, "input": arguments}
        case Thinking(redacted=True):
            return {"type": "redacted_thinking", "data": part.text}
        case Thinking():
            signature = sealed(part.signature, part.vendor)
            return {"type": "thinking", "thinking": part.text, "signature": signature}
    raise TypeError(f"an answer holds no {type(part).__name__}")


def _message(message_id: str, model: str, usage: Usage) -> Json:
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage(usage),
    }


def _usage(usage: Usage) -> Json:
    cached, written = usage.cached_input_tokens or 0, usage.cache_write_input_tokens or 0
    body: Json = {
        "input_tokens": max(0, (usage.input_tokens or 0) - cached - written),
        "cache_read_input_tokens": cached,
        "output_tokens": usage.output_tokens or 0,
    }
    if usage.cache_write_input_tokens is not None:
        body["cache_creation_input_tokens"] = written
    if usage.reasoning_tokens is not None:
        body["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return body


class _Reader:
    def __init__(self) -> None:
        self._calls: dict[int, int] = {}
        self._usage = WireUsage()

    def read(self, frame: Frame) -> list[Delta]:
        try:
            event = read_event(frame.data)
        except msgspec.DecodeError as error:
            raise UpstreamProtocol(f"a stream frame is no message event: {error}") from error
        match event.type:
            case "content_block_delta":
                return self._piece(event)
            case "content_block_start":
                return self._block(event)
            case "message_start" if event.message is not None:
                self._usage = event.message.usage or WireUsage()
                start = Delta("start", id=event.message.id, name=event.message.model)
                return [start, self._counted(self._usage)]
            case "message_delta":
                return self._end(event)
            case "message_stop":
                return [END]
            case "error":
                fault = event.error or WireError(message="the provider reported an error")
                raise classify(ERROR_STATUS.get(fault.type, 500), fault.type, fault.message)
        return []

    def _block(self, event: Event) -> list[Delta]:
        block = event.content_block
        if block is None:
            raise UpstreamProtocol("content_block_start has no content_block")
        match block.type:
            case "tool_use":
                number = self._calls[event.index] = len(self._calls)
                return [Delta("tool_call", index=number, id=block.id, name=block.name)]
            case "redacted_thinking":
                return [Delta("thinking", block.data, id="redacted")]
            case "text" if block.text:
                return [Delta("text", block.text)]
        return []

    def _piece(self, event: Event) -> list[Delta]:
        delta = event.delta
        if delta is None:
            raise UpstreamProtocol("content_block_delta has no delta")
        match delta.type:
            case "text_delta":
                return [Delta("text", delta.text)]
            case "input_json_delta" if event.index in self._calls:
                if not delta.partial_json:
                    return []
                return [Delta("arguments", delta.partial_json, index=self._calls[event.index])]
            case "thinking_delta":
                return [Delta("thinking", delta.thinking)]
            case "signature_delta":
                return [Delta("signature", delta.signature, name="anthropic")]
        return []

    def _end(self, event: Event) -> list[Delta]:
        deltas: list[Delta] = []
        if event.delta is not None and event.delta.stop_reason:
            deltas.append(Delta("finish", FINISH_IN.get(event.delta.stop_reason, "stop")))
        if event.usage is not None:
            # The last figures are totals; what they leave out was said at the start.
            first, last = self._usage, event.usage
            merged = WireUsage(
                *(
                    getattr(last, name) if getattr(last, name) is not None else getattr(first, name)
                    for name in WireUsage.__struct_fields__
                )
            )
            deltas.append(self._counted(merged))
        return deltas

    @staticmethod
    def _counted(usage: WireUsage) -> Delta:
        return Delta("usage", usage=usage.neutral(), units=usage.units() or None)


TOOL = "tool:"
"""Begins the name of an open block that is a call; the call's number follows."""


class _Writer:
    """Writes events; a block is open until a delta of another kind comes.

    Blocks follow each other. Where a provider interleaves parallel calls, the later ones are held
    back until the arguments of the open one are whole.
    """

    def __init__(self) -> None:
        self._index = -1
        self._open = ""
        self._tools: dict[int, int] = {}
        self._arguments: list[str] = []
        self._held: dict[int, list[Delta]] = {}
        self._finish = "end_turn"
        self._usage = Usage()
        self._started = False

    def write(self, delta: Delta) -> bytes:
        match delta.kind:
            case "start":
                self._started = True
                message = _message(delta.id, delta.name, self._usage)
                return _event({"type": "message_start", "message": message})
            case "text":
                return self._ensure("text", {"type": "text", "text": ""}) + self._delta(
                    {"type": "text_delta", "text": delta.text}
                )
            case "thinking" if delta.id == "redacted":
                block: Json = {"type": "redacted_thinking", "data": delta.text}
                return self._release_all() + self._begin("redacted", block)
            case "thinking":
                empty = {"type": "thinking", "thinking": "", "signature": ""}
                return self._ensure("thinking", empty) + self._delta(
                    {"type": "thinking_delta", "thinking": delta.text}
                )
            case "signature":
                # A model whose thoughts are not shown signs a block that nothing else opened.
                empty = {"type": "thinking", "thinking": "", "signature": ""}
                signature = sealed(delta.text, delta.name)
                signed = {"type": "signature_delta", "signature": signature}
                return self._ensure("thinking", empty) + self._delta(signed)
            case "tool_call" | "arguments":
                return self._tool(delta)
            case "finish":
                self._finish = FINISH_OUT.get(delta.text, "end_turn")  # type: ignore[call-overload]
            case "usage":
                self._usage = delta.usage or self._usage
            case "end":
                return self._end()
        return b""

    def _tool(self, delta: Delta) -> bytes:
        if delta.index in self._held:
            self._held[delta.index].append(delta)
            return b""
        if delta.kind == "tool_call":
            if self._open.startswith(TOOL) and not self._is_whole():
                self._held[delta.index] = [delta]
                return b""
            return self._release_all() + self._call(delta)
        written = self._argue(delta)
        while self._held and self._is_whole():
            written += self._release()
        return written

    def _call(self, delta: Delta) -> bytes:
        block: Json = {"type": "tool_use", "id": delta.id, "name": delta.name, "input": {}}
        begun = self._begin(f"{TOOL}{delta.index}", block)
        self._tools[delta.index] = self._index
        self._arguments = []
        return begun

    def _argue(self, delta: Delta) -> bytes:
        if self._open == f"{TOOL}{delta.index}":
            self._arguments.append(delta.text)
        piece = {"type": "input_json_delta", "partial_json": delta.text}
        return self._delta(piece, self._tools.get(delta.index))

    def _is_whole(self) -> bool:
        """Whether the open call's arguments are complete JSON."""
        try:
            msgspec.json.decode("".join(self._arguments))
        except msgspec.DecodeError:
            return False
        return True

    def _release(self) -> bytes:
        """Write the call that was held back first."""
        call, *arguments = self._held.pop(next(iter(self._held)))
        return self._call(call) + b"".join(self._argue(delta) for delta in arguments)

    def _release_all(self) -> bytes:
        written = b""
        while self._held:
            written += self._release()
        return written

    def _ensure(self, kind: str, block: Json) -> bytes:
        return b"" if self._open == kind else self._release_all() + self._begin(kind, block)

    def _begin(self, kind: str, block: Json) -> bytes:
        closed = self._close()
        self._open = kind
        self._index += 1
        start = {"type": "content_block_start", "index": self._index, "content_block": block}
        return closed + _event(start)

    def _close(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        return _event({"type": "content_block_stop", "index": self._index})

    def _delta(self, delta: Json, index: int | None = None) -> bytes:
        place = self._index if index is None else index
        return _event({"type": "content_block_delta", "index": place, "delta": delta})

    def _end(self) -> bytes:
        delta = {"stop_reason": self._finish, "stop_sequence": None}
        return (
            self._release_all()
            + self._close()
            + _event({"type": "message_delta", "delta": delta, "usage": _usage(self._usage)})
            + _event({"type": "message_stop"})
        )


def _event(body: Json) -> bytes:
    return write_frame(_encode(body), body["type"])


ANTHROPIC = AnthropicMessages()
