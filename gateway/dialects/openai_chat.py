"""OpenAI's chat completions, as clients and as providers speak them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import ClassVar, Final

import msgspec
from mypy_extensions import mypyc_attr

from gateway.dialects import openai_request
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
from gateway.dialects.openai_base import OpenAIBase, forwarded
from gateway.dialects.openai_wire import (
    DETAIL_FORMATS,
    DETAIL_VENDORS,
    FAILED,
    FINISH_IN,
    FINISH_OUT,
    Chunk,
    WireMessage,
    read_chunk,
    read_completion,
)
from gateway.dialects.reading import asks, classify, entries, member, required, text_tags
from gateway.dialects.receipts import receipt_chunk
from gateway.dialects.sse import Frame, write_frame
from gateway.dialects.turns import function_call
from schemas.errors import UpstreamError, UpstreamProtocol

_DONE: Final = b"[DONE]"
_encode: Final = msgspec.json.encode


@mypyc_attr(allow_interpreted_subclasses=True)
class OpenAIChat(OpenAIBase):
    """The dialect ``openai``."""

    name = "openai"
    words: ClassVar[Mapping[str, str]] = {"reasoning": "reasoning_effort"}
    params = openai_request.PARAMS
    client_paths: ClassVar[Mapping[str, Json]] = {
        "/v1/chat/completions": {},
        # As Azure's clients call it: by deployment, or by the v1 API below its own path.
        "/openai/deployments/{model}/chat/completions": {},
        "/openai/v1/chat/completions": {},
    }
    models_path = "/models"

    def path_of(self, model: str, stream: bool) -> str:
        del model, stream
        return "/chat/completions"

    # --- requests ----------------------------------------------------------------------------

    def open(self, fields: Fields) -> Opening:
        metadata = member(fields, "metadata", dict)
        options = member(fields, "stream_options", dict) or {}
        entries(fields, "messages")
        return Opening(
            model=required(fields, "model", str),
            stream=bool(member(fields, "stream", bool)),
            wants_usage=options.get("include_usage") is True,
            max_tokens=member(fields, "max_completion_tokens", int)
            or member(fields, "max_tokens", int),
            has_tools=asks(fields, "tools"),
            tags=text_tags(metadata),
            user_id=member(fields, "user", str),
            choices=member(fields, "n", int) or 1,
        )

    def limited(self, fields: Fields, model: str, max_tokens: int) -> Fields:
        return {**fields, openai_request.limit_of(model): msgspec.Raw(b"%d" % max_tokens)}

    def read_request(self, fields: Fields) -> Chat:
        return openai_request.read(fields)

    def write_request(self, chat: Chat, model: str, max_output_tokens: int | None) -> bytes:
        del max_output_tokens  # only Anthropic's dialect must name a limit
        return openai_request.write(chat, model)

    def unsaid(self, chat: Chat, model: str) -> list[str]:
        return openai_request.unsaid(chat, model)

    def forward_request(self, fields: Fields, model: str, opening: Opening) -> bytes:
        return forwarded(fields, model, opening)

    # --- answers -----------------------------------------------------------------------------

    def read_answer(self, body: bytes) -> Answer:
        try:
            wire = read_completion(body)
        except msgspec.DecodeError as error:
            raise UpstreamProtocol(f"the answer is no chat completion: {error}") from error
        if not wire.choices:
            raise UpstreamProtocol("the answer has no choices")
        choice = wire.choices[0]
        if choice.finish_reason == FAILED:
            raise UpstreamError("the model broke down in the middle of its answer")
        return Answer(
            id=wire.id,
            model=wire.model,
            parts=_parts(choice.message),
            finish=FINISH_IN.get(choice.finish_reason or ""),
            usage=wire.usage.neutral() if wire.usage else None,
            units=wire.usage.units() if wire.usage else {},
        )

    def write_answer(self, answer: Answer, receipt: Receipt | None) -> bytes:
        del receipt
        message: Json = {"role": "assistant", "content": text_of(answer.parts) or None}
        thoughts = [part for part in answer.parts if isinstance(part, Thinking)]
        reasoning = "".join(part.text for part in thoughts if not part.redacted)
        if reasoning:
            message["reasoning_content"] = reasoning
        details = [_detail(part, number) for number, part in enumerate(thoughts)]
        if any(part.signature or part.redacted for part in thoughts):
            message["reasoning_details"] = details
        calls = [function_call(part) for part in answer.parts if isinstance(part, ToolCall)]
        if calls:
            message["tool_calls"] = calls
        message["refusal"] = None
        finish = FINISH_OUT[answer.finish or "stop"]
        body: Json = {
            "id": answer.id,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": answer.model,
            "choices": [
                {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
            ],
        }
        if answer.usage is not None:
            body["usage"] = usage_of(answer.usage)
        return _encode(body)

    # --- streams -----------------------------------------------------------------------------

    def stream_reader(self) -> StreamReader:
        return _Reader()

    def stream_writer(self, opening: Opening) -> StreamWriter:
        return _Writer(opening.wants_usage)

    def end_of_stream(self, receipt: Receipt) -> bytes:
        return receipt_chunk(receipt, "chat.completion.chunk")

    def forward_frame(self, frame: Frame, deltas: list[Delta], opening: Opening) -> bytes:
        if not deltas or deltas[-1].kind != "usage":
            return frame.raw
        if len(deltas) == 1:  # the usage chunk has no choices: it reads as usage alone
            return frame.raw if opening.wants_usage else b""
        if not any(delta.kind == "finish" for delta in deltas):
            return frame.raw
        return _apart(frame, opening.wants_usage)


def _apart(frame: Frame, wants_usage: bool) -> bytes:
    """Return a last chunk and its usage as OpenAI sends them: one after the other, usage when asked.

    Mistral and others put both into one chunk, unasked; OpenAI's client for Java takes a chunk with
    usage for one that comes after the end, and breaks.
    """
    chunk = msgspec.json.decode(frame.data, type=dict[str, msgspec.Raw])
    usage = chunk.pop("usage")
    last = write_frame(_encode(chunk))
    if not wants_usage:
        return last
    return last + write_frame(_encode({**chunk, "choices": [], "usage": usage}))


def _said(message: WireMessage) -> str:
    """Return the text, or the words of a refusal."""
    content = message.content
    if isinstance(content, list):
        content = "".join([part.text for part in content])
    return content or message.refusal or ""


def _thought(message: WireMessage) -> str:
    """Return the thoughts, by whichever name they go."""
    thoughts = message.reasoning_content or message.reasoning
    if not thoughts and isinstance(message.content, list):
        thoughts = "".join([piece.text for part in message.content for piece in part.thinking])
    return thoughts or ""


def _parts(message: WireMessage) -> list[Part]:
    parts: list[Part] = []
    reasoning = _thought(message)
    if message.reasoning_details:
        details = [msgspec.structs.asdict(detail) for detail in message.reasoning_details]
        parts += openai_request.thoughts(details)
    elif reasoning:
        parts.append(Thinking(reasoning, vendor=""))
    if text := _said(message):
        parts.append(Text(text))
    for call in message.tool_calls or []:
        function = call.function
        if function is None or not function.name:
            raise UpstreamProtocol("a tool call of the answer has no name")
        parts.append(ToolCall(call.id or "", function.name, function.arguments or "{}"))
    return parts


def _detail(part: Thinking, number: int) -> Json:
    detail: Json = {"type": "reasoning.text", "text": part.text, "index": number}
    if part.redacted:
        detail = {"type": "reasoning.encrypted", "data": part.text, "index": number}
    elif part.signature:
        detail["signature"] = part.signature
    if part.vendor in DETAIL_FORMATS:
        detail["format"] = DETAIL_FORMATS[part.vendor]
    return detail


def usage_of(usage: Usage) -> Json:
    """Return the tokens as this vendor writes them."""
    prompt, completion = usage.input_tokens or 0, usage.output_tokens or 0
    body: Json = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    read = {
        "cached_tokens": usage.cached_input_tokens,
        "cache_write_tokens": usage.cache_write_input_tokens,
    }
    if known := {name: count for name, count in read.items() if count is not None}:
        body["prompt_tokens_details"] = known
    if usage.reasoning_tokens is not None:
        body["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return body


class _Reader:
    """Reads chunks; only the first of several choices is followed."""

    def __init__(self) -> None:
        self._started = False
        self._calls: set[int] = set()

    def read(self, frame: Frame) -> list[Delta]:
        if frame.data == _DONE:
            return [END]
        try:
            chunk = read_chunk(frame.data)
        except msgspec.DecodeError as error:
            raise UpstreamProtocol(
                f"a stream frame is no chat completion chunk: {error}"
            ) from error
        if chunk.error is not None:
            raise classify(500, chunk.error.kind, chunk.error.message)
        return self._deltas(chunk)

    def _deltas(self, chunk: Chunk) -> list[Delta]:
        deltas: list[Delta] = []
        if not self._started and chunk.choices:
            self._started = True
            deltas.append(Delta("start", id=chunk.id, name=chunk.model))
        for choice in chunk.choices:
            if choice.index:
                continue
            if choice.delta is not None:
                self._message(choice.delta, deltas)
            if choice.finish_reason == FAILED:
                raise UpstreamError("the model broke down in the middle of its answer")
            if choice.finish_reason:
                deltas.append(Delta("finish", FINISH_IN.get(choice.finish_reason, "stop")))
        if chunk.usage is not None:
            usage = chunk.usage
            deltas.append(Delta("usage", usage=usage.neutral(), units=usage.units() or None))
        return deltas

    def _message(self, message: WireMessage, deltas: list[Delta]) -> None:
        reasoning = _thought(message)
        if reasoning:
            deltas.append(Delta("thinking", reasoning))
        for detail in message.reasoning_details or ():
            vendor = DETAIL_VENDORS.get(detail.format or "", "")
            if detail.type == "reasoning.encrypted":
                deltas.append(Delta("thinking", detail.data or "", id="redacted", name=vendor))
            elif detail.text and not reasoning:
                deltas.append(Delta("thinking", detail.text))
            if detail.signature:
                deltas.append(Delta("signature", detail.signature, name=vendor))
        if text := _said(message):
            deltas.append(Delta("text", text))
        for call in message.tool_calls or ():
            function = call.function
            if call.index not in self._calls:
                self._calls.add(call.index)
                name = (function.name if function else None) or ""
                deltas.append(Delta("tool_call", index=call.index, id=call.id or "", name=name))
            if function is not None and function.arguments:
                deltas.append(Delta("arguments", function.arguments, index=call.index))


class _Writer:
    def __init__(self, wants_usage: bool) -> None:
        self._wants_usage = wants_usage
        self._head: Json = {}
        self._usage: Usage | None = None
        self._thoughts = 0
        self._thought: list[str] = []

    def write(self, delta: Delta) -> bytes:
        match delta.kind:
            case "start":
                self._head = {
                    "id": delta.id,
                    "object": "chat.completion.chunk",
                    "created": int(time.time()),
                    "model": delta.name,
                }
                return self._chunk({"role": "assistant", "content": ""})
            case "text":
                return self._chunk({"content": delta.text})
            case "thinking" if delta.id == "redacted":
                vendor = delta.name or "anthropic"
                return self._detail(Thinking(delta.text, redacted=True, vendor=vendor))
            case "thinking":
                self._thought.append(delta.text)
                return self._chunk({"reasoning_content": delta.text})
            case "signature":
                # Whoever sends the details back sends the signed text whole.
                text = "".join(self._thought)
                self._thought.clear()
                return self._detail(Thinking(text, delta.text, vendor=delta.name or "anthropic"))
            case "tool_call":
                call = function_call(ToolCall(delta.id, delta.name, ""))
                return self._chunk({"tool_calls": [{"index": delta.index, **call}]})
            case "arguments":
                piece = {"index": delta.index, "function": {"arguments": delta.text}}
                return self._chunk({"tool_calls": [piece]})
            case "finish":
                return self._chunk({}, FINISH_OUT.get(delta.text, "stop"))  # type: ignore[call-overload]
            case "usage":
                self._usage = delta.usage
            case "end":
                return self._end()
        return b""

    def _detail(self, part: Thinking) -> bytes:
        detail = _detail(part, self._thoughts)
        self._thoughts += 1
        return self._chunk({"reasoning_details": [detail]})

    def _chunk(self, delta: Json, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return write_frame(_encode({**self._head, "choices": [choice]}))

    def _end(self) -> bytes:
        done = write_frame(_DONE)
        if not self._wants_usage or self._usage is None:
            return done
        return (
            write_frame(_encode({**self._head, "choices": [], "usage": usage_of(self._usage)}))
            + done
        )


OPENAI = OpenAIChat()
