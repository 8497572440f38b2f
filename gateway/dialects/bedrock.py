"""Amazon Bedrock's Converse and ConverseStream, as clients and as providers speak them.

A client of the vendor (`boto3`) needs the gateway's address as `endpoint_url` and a key of the
gateway as `AWS_BEARER_TOKEN_BEDROCK`, which it sends over https alone, or as `AWS_SESSION_TOKEN`
beside any access key: its signature says nothing here, the token is the key. The model stands in
the path, and so does whether to stream.

Source: Amazon Bedrock API reference, "Converse", "ConverseStream"; user guide, "Use an Amazon
Bedrock API key" (https://docs.aws.amazon.com/bedrock/latest/userguide/api-keys-use.html).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import quote

import msgspec
from mypy_extensions import mypyc_attr

from gateway.dialects import bedrock_request
from gateway.dialects.bedrock_base import BedrockBase, fault_of
from gateway.dialects.bedrock_wire import (
    FINISH_IN,
    FINISH_OUT,
    MALFORMED,
    Block,
    Event,
    WireReasoning,
    WireUsage,
    read_converse,
    read_error_body,
    read_event,
    read_text,
)
from gateway.dialects.eventstream import CONTENT_TYPE, MessageSplitter, write_event
from gateway.dialects.neutral import (
    END,
    Answer,
    Chat,
    Delta,
    Fields,
    FinishReason,
    Json,
    Opening,
    Part,
    Receipt,
    Splitter,
    StreamReader,
    StreamWriter,
    Text,
    Thinking,
    ToolCall,
    Usage,
)
from gateway.dialects.reading import (
    asks,
    classify,
    entries,
    member,
    parse_arguments,
    required,
    text_tags,
)
from gateway.dialects.sse import Frame
from schemas.errors import UpstreamError, UpstreamProtocol
from schemas.identity import uuid7

_encode = msgspec.json.encode
_IN_THE_PATH = frozenset({"model", "stream"})


@mypyc_attr(allow_interpreted_subclasses=True)
class BedrockConverse(BedrockBase):
    """The dialect ``bedrock``."""

    client_paths: ClassVar[Mapping[str, Json]] = {
        "/model/{model}/converse": {"stream": False},
        "/model/{model}/converse-stream": {"stream": True},
    }
    words: ClassVar[Mapping[str, str]] = {"cache_control": "cachePoint"}
    stream_type = CONTENT_TYPE

    def path_of(self, model: str, stream: bool) -> str:
        return f"/model/{quote(model, safe='')}/{'converse-stream' if stream else 'converse'}"

    # --- requests ----------------------------------------------------------------------------

    def open(self, fields: Fields) -> Opening:
        entries(fields, "messages")
        return Opening(
            model=required(fields, "model", str),
            stream=bool(member(fields, "stream", bool)),
            wants_usage=True,
            max_tokens=bedrock_request.max_tokens_of(fields),
            has_tools=asks(fields, "toolConfig"),
            tags=text_tags(member(fields, "requestMetadata", dict)),
            user_id=None,
        )

    def limited(self, fields: Fields, model: str, max_tokens: int) -> Fields:
        del model
        config = {**(member(fields, "inferenceConfig", dict) or {}), "maxTokens": max_tokens}
        return {**fields, "inferenceConfig": msgspec.Raw(msgspec.json.encode(config))}

    def read_request(self, fields: Fields) -> Chat:
        return bedrock_request.read(fields)

    def write_request(self, chat: Chat, model: str, max_output_tokens: int | None) -> bytes:
        return bedrock_request.write(chat, model, max_output_tokens)

    def unsaid(self, chat: Chat, model: str) -> list[str]:
        return bedrock_request.unsaid(chat, model)

    def forward_request(self, fields: Fields, model: str, opening: Opening) -> bytes:
        del model, opening
        return _encode({name: fields[name] for name in fields if name not in _IN_THE_PATH})

    # --- answers -----------------------------------------------------------------------------

    def read_answer(self, body: bytes) -> Answer:
        try:
            wire = read_converse(body)
        except msgspec.DecodeError as error:
            raise UpstreamProtocol(f"the answer is no Converse answer: {error}") from error
        blocks = wire.output.message.content
        return Answer(
            id=_new_id(),
            model="",
            parts=[part for block in blocks if (part := _part(block)) is not None],
            finish=_finish(wire.stop_reason),
            usage=wire.usage.neutral() if wire.usage else None,
        )

    def write_answer(self, answer: Answer, receipt: Receipt | None) -> bytes:
        message = {"role": "assistant", "content": [_block(part) for part in answer.parts]}
        body: Json = {
            "output": {"message": message},
            "stopReason": FINISH_OUT[answer.finish or "stop"],
            "usage": _usage(answer.usage or Usage()),
        }
        if receipt is not None:
            body["metrics"] = {"latencyMs": round(receipt.latency_ms)}
        return _encode(body)

    # --- streams -----------------------------------------------------------------------------

    def splitter(self) -> Splitter:
        return MessageSplitter()

    def stream_reader(self) -> StreamReader:
        return _Reader()

    def stream_writer(self, opening: Opening) -> StreamWriter:
        del opening
        return _Writer()


def _new_id() -> str:
    """Return an id for an answer: the vendor gives none, and other dialects need one."""
    return f"msg_{uuid7()}"


def _finish(reason: str) -> FinishReason:
    if reason in MALFORMED:
        raise UpstreamProtocol(f"the model gave no usable answer: {reason}")
    return FINISH_IN.get(reason, "stop")


def _part(block: Block) -> Part | None:
    if block.text is not None:
        return Text(block.text)
    if block.tool_use is not None:
        call = block.tool_use
        return ToolCall(call.tool_use_id, call.name, bytes(call.input).decode())
    if block.reasoning_content is not None:
        return _reasoning(block.reasoning_content)
    if block.citations_content is not None:
        return Text("".join(part.text for part in block.citations_content.content))
    return None  # blocks of vendor tools have no counterpart in the other dialects


def _reasoning(wire: WireReasoning) -> Thinking:
    if wire.redacted_content is not None:
        return Thinking(wire.redacted_content, redacted=True)
    whole = wire.reasoning_text
    return Thinking(whole.text, whole.signature) if whole else Thinking("")


def _block(part: Part) -> Json:
    match part:
        case Text():
            return {"text": part.text}
        case ToolCall():
            arguments = parse_arguments(part.arguments)
            return {"toolUse": {"toolUseId": part.id, "name": part.name, "input": arguments}}
        case Thinking():
            return {"reasoningContent": bedrock_request.wire_reasoning(part)}
    raise TypeError(f"an answer holds no {type(part).__name__}")


def _usage(usage: Usage) -> Json:
    cached, written = usage.cached_input_tokens or 0, usage.cache_write_input_tokens or 0
    total, output = usage.input_tokens or 0, usage.output_tokens or 0
    body = {
        "inputTokens": max(0, total - cached - written),
        "outputTokens": output,
        "totalTokens": total + output,
    }
    if cached or written:
        body |= {"cacheReadInputTokens": cached, "cacheWriteInputTokens": written}
    return body


class _Reader:
    """Reads messages; the usage comes last, after the message has stopped."""

    def __init__(self) -> None:
        self._calls: dict[int, int] = {}
        self._stopped = False

    def read(self, frame: Frame) -> list[Delta]:
        kind, _, exception = frame.event.partition(":")
        if exception or kind in {"exception", "error"}:
            raise _stream_fault(kind, exception, frame.data)
        try:
            event = read_event(frame.data)
        except msgspec.DecodeError as error:
            raise UpstreamProtocol(f"a stream message is no Converse event: {error}") from error
        match kind:
            case "contentBlockDelta":
                return self._piece(event)
            case "contentBlockStart":
                return self._block(event)
            case "messageStart":
                return [Delta("start", id=_new_id())]
            case "messageStop":
                self._stopped = True
                return [Delta("finish", _finish(event.stop_reason))]
            case "metadata":
                return self._end(event.usage)
        return []

    def _block(self, event: Event) -> list[Delta]:
        call = event.start.tool_use if event.start else None
        if call is None:
            return []
        number = self._calls[event.content_block_index] = len(self._calls)
        return [Delta("tool_call", index=number, id=call.tool_use_id, name=call.name)]

    def _piece(self, event: Event) -> list[Delta]:
        piece = event.delta
        if piece is None:
            raise UpstreamProtocol("contentBlockDelta has no delta")
        if piece.text is not None:
            return [Delta("text", piece.text)]
        if piece.tool_use is not None and event.content_block_index in self._calls:
            return self._arguments(event.content_block_index, piece.tool_use.input)
        if piece.reasoning_content is not None:
            return _thought(piece.reasoning_content)
        return []

    def _arguments(self, index: int, raw: msgspec.Raw) -> list[Delta]:
        try:
            text = read_text(raw)
        except msgspec.DecodeError as error:
            raise UpstreamProtocol("the input of a tool is no text") from error
        return [Delta("arguments", text, index=self._calls[index])] if text else []

    def _end(self, usage: WireUsage | None) -> list[Delta]:
        if not self._stopped:
            raise UpstreamProtocol("the stream's metadata came before its message had stopped")
        known = [Delta("usage", usage=usage.neutral())] if usage else []
        return [*known, END]


def _thought(wire: WireReasoning) -> list[Delta]:
    if wire.redacted_content is not None:
        return [Delta("thinking", wire.redacted_content, id="redacted")]
    if wire.signature is not None:
        return [Delta("signature", wire.signature)]
    return [Delta("thinking", wire.text)] if wire.text else []


def _stream_fault(kind: str, name: str, data: bytes) -> UpstreamError:
    if kind == "error":
        return classify(500, name, data.decode("utf-8", "replace"))
    try:
        message = read_error_body(data).message
    except msgspec.DecodeError:
        message = ""
    return fault_of(500, name[:1].upper() + name[1:], message)


class _Writer:
    """Writes messages; a block is open until a delta of another kind comes."""

    def __init__(self) -> None:
        self._started_s = time.monotonic()
        self._index = -1
        self._open = ""
        self._tools: dict[int, int] = {}
        self._finish = "end_turn"
        self._usage = Usage()

    def write(self, delta: Delta) -> bytes:
        match delta.kind:
            case "start":
                return _event("messageStart", {"role": "assistant"})
            case "text":
                return self._ensure("text") + self._delta({"text": delta.text})
            case "thinking" if delta.id == "redacted":
                piece = {"redactedContent": delta.text}
                return self._begin("redacted") + self._delta({"reasoningContent": piece})
            case "thinking":
                piece = {"text": delta.text}
                return self._ensure("thinking") + self._delta({"reasoningContent": piece})
            case "signature":
                piece = {"signature": delta.text}
                return self._ensure("thinking") + self._delta({"reasoningContent": piece})
            case "tool_call":
                return self._call(delta)
            case "arguments":
                # Providers may interleave parallel calls: each piece names its own block.
                index = self._tools.get(delta.index, self._index)
                return self._delta({"toolUse": {"input": delta.text}}, index)
            case "finish":
                self._finish = FINISH_OUT.get(delta.text, "end_turn")  # type: ignore[call-overload]
            case "usage":
                self._usage = delta.usage or self._usage
            case "end":
                return self._end()
        return b""

    def _call(self, delta: Delta) -> bytes:
        begun = self._begin(f"tool:{delta.index}")
        self._tools[delta.index] = self._index
        start = {"toolUse": {"toolUseId": delta.id, "name": delta.name}}
        return begun + _event(
            "contentBlockStart", {"start": start, "contentBlockIndex": self._index}
        )

    def _ensure(self, kind: str) -> bytes:
        return b"" if self._open == kind else self._begin(kind)

    def _begin(self, kind: str) -> bytes:
        closed = self._close()
        self._open = kind
        self._index += 1
        return closed

    def _close(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        return _event("contentBlockStop", {"contentBlockIndex": self._index})

    def _delta(self, delta: Json, index: int | None = None) -> bytes:
        place = self._index if index is None else index
        return _event("contentBlockDelta", {"delta": delta, "contentBlockIndex": place})

    def _end(self) -> bytes:
        latency_ms = round((time.monotonic() - self._started_s) * 1000)
        metadata = {"usage": _usage(self._usage), "metrics": {"latencyMs": latency_ms}}
        return (
            self._close()
            + _event("messageStop", {"stopReason": self._finish})
            + _event("metadata", metadata)
        )


def _event(name: str, body: Json) -> bytes:
    return write_event(_encode(body), name)


BEDROCK = BedrockConverse()
