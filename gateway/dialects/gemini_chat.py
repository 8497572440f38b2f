"""Gemini's generateContent, as clients and as providers (Gemini API, Vertex AI) speak it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import ClassVar

import msgspec
from mypy_extensions import mypyc_attr

from gateway.dialects import gemini_request, gemini_written
from gateway.dialects.gemini_base import GeminiBase, model_place
from gateway.dialects.gemini_request import config_of, take
from gateway.dialects.gemini_wire import (
    FINISH_OUT,
    VENDOR,
    Candidate,
    FunctionCall,
    Response,
    fault_of,
    finish_of,
    foreign_signature,
    read_response,
)
from gateway.dialects.neutral import (
    Answer,
    Chat,
    Delta,
    Fields,
    FinishReason,
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
from gateway.dialects.reading import asks, member, parse_arguments, required, text_tags
from gateway.dialects.sse import Frame, write_frame
from schemas.errors import UpstreamProtocol

_SAID_BY_PATH = frozenset(["model", "stream"])
_encode = msgspec.json.encode


@mypyc_attr(allow_interpreted_subclasses=True)
class GeminiChat(GeminiBase):
    """The dialect ``gemini``. Its streams have no end marker: the last frame is the one with the
    finish reason, and a stream that ends before it was cut.
    """

    client_paths: ClassVar[Mapping[str, Json]] = {
        "/v1beta/models/{model}:generateContent": {},
        "/v1beta/models/{model}:streamGenerateContent": {"stream": True},
        "/v1/models/{model}:generateContent": {},
        "/v1/models/{model}:streamGenerateContent": {"stream": True},
    }
    words: ClassVar[Mapping[str, str]] = {
        "stop": "stopSequences",
        "max_tokens": "maxOutputTokens",
        "top_k": "topK",
        "top_p": "topP",
        "reasoning": "thinkingConfig",
    }
    ends_with_connection = True

    def path_of(self, model: str, stream: bool) -> str:
        verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
        return f"/{model_place(model)}:{verb}"

    # --- requests ----------------------------------------------------------------------------

    def open(self, fields: Fields) -> Opening:
        required(fields, "contents", msgspec.Raw)
        limit = take(config_of(fields), "maxOutputTokens")
        return Opening(
            model=required(fields, "model", str),
            stream=bool(member(fields, "stream", bool)),
            wants_usage=True,
            max_tokens=limit if isinstance(limit, int) else None,
            has_tools=asks(fields, "tools"),
            tags=text_tags(member(fields, "labels", dict)),
            user_id=None,
        )

    def limited(self, fields: Fields, model: str, max_tokens: int) -> Fields:
        del model
        config = {**config_of(fields), "maxOutputTokens": max_tokens}
        rest = {name: raw for name, raw in fields.items() if name != "generation_config"}
        return {**rest, "generationConfig": msgspec.Raw(_encode(config))}

    def read_request(self, fields: Fields) -> Chat:
        return gemini_request.read(fields)

    def write_request(self, chat: Chat, model: str, max_output_tokens: int | None) -> bytes:
        del max_output_tokens
        return gemini_written.write(chat, model)

    def unsaid(self, chat: Chat, model: str) -> list[str]:
        return gemini_written.unsaid(chat, model)

    def forward_request(self, fields: Fields, model: str, opening: Opening) -> bytes:
        del model, opening  # the path says both
        return _encode({name: fields[name] for name in fields if name not in _SAID_BY_PATH})

    # --- answers -----------------------------------------------------------------------------

    def read_answer(self, body: bytes) -> Answer:
        try:
            wire = read_response(body)
        except msgspec.DecodeError as error:
            raise UpstreamProtocol(f"the answer is no generated content: {error}") from error
        candidate = _first(wire)
        if candidate is None:
            raise UpstreamProtocol("the answer has neither candidates nor a reason for none")
        parts: list[Part] = []
        deltas = _deltas(candidate, 0)
        for delta in deltas:
            _gather(parts, delta)
        calls = any(isinstance(part, ToolCall) for part in parts)
        return Answer(
            id=wire.response_id,
            model=wire.model_version,
            parts=parts,
            finish=finish_of(candidate.finish_reason, calls=calls),
            usage=wire.usage_metadata.neutral() if wire.usage_metadata else None,
            untold=next((delta.name for delta in deltas if delta.kind == "untold"), None),
        )

    def write_answer(self, answer: Answer, receipt: Receipt | None) -> bytes:
        del receipt
        parts = [_wire_part(part) for part in answer.parts]
        body = _chunk(parts, answer.finish or "stop", answer.usage or Usage())
        return _encode({**body, "modelVersion": answer.model, "responseId": answer.id})

    # --- streams -----------------------------------------------------------------------------

    def stream_reader(self) -> StreamReader:
        return _Reader()

    def stream_writer(self, opening: Opening) -> StreamWriter:
        del opening
        return _Writer()


def _first(wire: Response) -> Candidate | None:
    """Return the answer that is followed; a refused prompt has none, which is an answer too."""
    for candidate in wire.candidates:
        if candidate.index == 0:
            return candidate
    feedback = wire.prompt_feedback
    if feedback is not None and feedback.block_reason:
        return Candidate(finish_reason="SAFETY")
    return None


def _deltas(candidate: Candidate, calls: int) -> list[Delta]:
    """Return what the parts of a candidate say; `calls` were made before."""
    deltas: list[Delta] = []
    for part in candidate.content.parts:
        call = part.function_call
        if call is not None:
            if part.thought_signature:
                # It belongs to the call, and has to stand before it when it comes back.
                deltas.append(Delta("signature", part.thought_signature, name=VENDOR))
            deltas += _call(call, calls)
            calls += 1
        elif part.inline_data is not None:
            deltas.append(Delta("untold", name="inlineData"))
        elif part.text:
            deltas.append(Delta("thinking" if part.thought else "text", part.text))
    return deltas


def _call(call: FunctionCall, index: int) -> list[Delta]:
    if not call.name:
        raise UpstreamProtocol("a function call of the answer has no name")
    # Older models number no calls, but every other dialect needs a name for each.
    call_id = call.id or f"call_{os.urandom(12).hex()}"
    arguments = bytes(call.args).decode()
    return [
        Delta("tool_call", index=index, id=call_id, name=call.name),
        Delta("arguments", "{}" if arguments == "null" else arguments, index=index),
    ]


def _gather(parts: list[Part], delta: Delta) -> None:
    """Add a step to the parts of a whole answer."""
    last = parts[-1] if parts else None
    match delta.kind, last:
        case "text", Text():
            parts[-1] = Text(last.text + delta.text)
        case "text", _:
            parts.append(Text(delta.text))
        case "thinking", Thinking(signature=None):
            parts[-1] = Thinking(last.text + delta.text, vendor=VENDOR)
        case "thinking", _:
            parts.append(Thinking(delta.text, vendor=VENDOR))
        case "signature", Thinking(signature=None):
            parts[-1] = Thinking(last.text, delta.text, vendor=VENDOR)
        case "signature", _:
            parts.append(Thinking("", delta.text, vendor=VENDOR))
        case "tool_call", _:
            parts.append(ToolCall(delta.id, delta.name, "{}"))
        case "arguments", ToolCall():
            parts[-1] = ToolCall(last.id, last.name, delta.text)


def _wire_part(part: Part) -> Json:
    match part:
        case Text():
            return {"text": part.text}
        case ToolCall():
            arguments = parse_arguments(part.arguments)
            return {"functionCall": {"id": part.id, "name": part.name, "args": arguments}}
        case Thinking():
            thought: Json = {"text": "" if part.redacted else part.text, "thought": True}
            signature = foreign_signature(part)
            return {**thought, "thoughtSignature": signature} if signature else thought
    raise TypeError(f"an answer holds no {type(part).__name__}")


def _chunk(parts: list[Json], finish: FinishReason | None, usage: Usage | None) -> Json:
    candidate: Json = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = FINISH_OUT[finish]
    body: Json = {"candidates": [candidate]}
    if usage is not None:
        body["usageMetadata"] = _usage(usage)
    return body


def _usage(usage: Usage) -> Json:
    prompt, output = usage.input_tokens or 0, usage.output_tokens or 0
    thoughts = usage.reasoning_tokens or 0
    body: Json = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": max(0, output - thoughts),
        "totalTokenCount": prompt + output,
    }
    if usage.cached_input_tokens is not None:
        body["cachedContentTokenCount"] = usage.cached_input_tokens
    if thoughts:
        body["thoughtsTokenCount"] = thoughts
    return body


class _Reader:
    """Reads steps; only the first of several candidates is followed."""

    def __init__(self) -> None:
        self._started = False
        self._calls = 0

    def read(self, frame: Frame) -> list[Delta]:
        try:
            wire = read_response(frame.data)
        except msgspec.DecodeError as error:
            raise UpstreamProtocol(f"a stream frame is no generated content: {error}") from error
        if wire.error is not None:
            raise fault_of(wire.error, wire.error.code or 500)
        deltas: list[Delta] = []
        if not self._started:
            self._started = True
            deltas.append(Delta("start", id=wire.response_id, name=wire.model_version))
        if (candidate := _first(wire)) is not None:
            said = _deltas(candidate, self._calls)
            self._calls += sum(delta.kind == "tool_call" for delta in said)
            deltas += said
            finish = finish_of(candidate.finish_reason, calls=self._calls > 0)
            if finish is not None:
                deltas.append(Delta("finish", finish))
        if wire.usage_metadata is not None:
            deltas.append(Delta("usage", usage=wire.usage_metadata.neutral()))
        return deltas


class _Writer:
    """Writes steps. A call goes out whole, since this dialect cuts no arguments; so does the end,
    with reason and usage in one frame.
    """

    def __init__(self) -> None:
        self._head: Json = {}
        self._finish: FinishReason = "stop"
        self._usage: Usage | None = None
        self._calls: dict[int, tuple[str, str, list[str]]] = {}

    def write(self, delta: Delta) -> bytes:
        match delta.kind:
            case "start":
                self._head = {"modelVersion": delta.name, "responseId": delta.id}
            case "text":
                return self._step([{"text": delta.text}])
            case "thinking":
                thought = Thinking(delta.text, redacted=delta.id == "redacted")
                return self._step([_wire_part(thought)])
            case "signature":
                thought = Thinking("", delta.text, vendor=delta.name or "anthropic")
                return self._step([_wire_part(thought)])
            case "tool_call":
                self._calls[delta.index] = (delta.id, delta.name, [])
            case "arguments":
                self._calls[delta.index][2].append(delta.text)
            case "finish":
                self._finish = delta.text  # type: ignore[assignment]
            case "usage":
                self._usage = delta.usage
            case "end":
                return self._end()
        return b""

    def _step(self, parts: list[Json]) -> bytes:
        return write_frame(_encode({**_chunk(parts, None, None), **self._head}))

    def _end(self) -> bytes:
        # Providers may interleave parallel calls: they are whole only now.
        calls = [
            _wire_part(ToolCall(call_id, name, "".join(pieces)))
            for call_id, name, pieces in self._calls.values()
        ]
        body = _chunk(calls or [{"text": ""}], self._finish, self._usage or Usage())
        return write_frame(_encode({**body, **self._head}))


GEMINI = GeminiChat()
