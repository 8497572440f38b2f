"""The product's own endpoint (GW-01, GW-02) as one more dialect that clients speak."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

import msgspec

from gateway.dialects import openai_request
from gateway.dialects.base import BaseDialect
from gateway.dialects.neutral import (
    Answer,
    Chat,
    Delta,
    Fields,
    Json,
    Message,
    Opening,
    Receipt,
    StreamWriter,
    Text,
    text_of,
)
from gateway.dialects.receipts import facts_of
from gateway.dialects.sse import write_frame
from schemas.clock import seconds_of
from schemas.errors import ValidationFailed, WeirError

DEFAULT_MAX_TOKENS = 1024
TIMEOUT_S_MIN = 0.001
"""No answer comes in less: whoever asks for that is told so, not that a vendor was slow."""
_encode = msgspec.json.encode


class Generate(msgspec.Struct, frozen=True, rename="camel"):
    """The body of POST /generate, names in camelCase; snake_case is folded into it first."""

    prompt: str | None = None
    model_id: str | None = None
    max_tokens: int = DEFAULT_MAX_TOKENS
    temperature: float = 0.7
    top_p: float = 1.0
    stop: list[str] | str | None = None
    messages: list[Json] | None = None
    system_prompt: str | None = None
    task_type: str | None = None
    stream: bool = False
    user_id: str | None = None
    session_id: str | None = None
    tags: dict[str, str] = {}
    timeout_seconds: float | str | None = None
    """A number, ``hh:mm:ss``, or an ISO 8601 duration."""

    @property
    def timeout_s(self) -> float | None:
        """The limit in seconds. Raises ValueError for what is no duration."""
        return None if self.timeout_seconds is None else seconds_of(self.timeout_seconds)


_CONTROL = re.compile(rb"(?<!\\)(?:\\\\)*(\\b|\\u00(?:0[0-8bBeEfF]|1[0-9a-fA-F]|7[fF])|\x7f)")
"""An escape in JSON of what no text holds: only tab, line feed, form feed and carriage return mean
anything in a prompt.
"""
NAMES = {wire: wire for wire in Generate.__struct_encode_fields__} | dict(
    zip(Generate.__struct_fields__, Generate.__struct_encode_fields__, strict=True)
)


def read_generate(fields: Fields) -> Generate:
    """Return the request, its ranges checked. Raises ValidationFailed naming every fault."""
    unknown = [name for name in fields if name not in NAMES]
    faults = [f"{name}: unknown field" for name in unknown]
    faults += [
        f"{name}: holds the control character {found[1].decode()}"
        for name, value in fields.items()
        if (found := _CONTROL.search(value)) is not None
    ]
    body = {NAMES[name]: value for name, value in fields.items() if name in NAMES}
    try:
        request = msgspec.json.decode(_encode(body), type=Generate)
    except msgspec.ValidationError as error:
        raise ValidationFailed(f"the request is wrong: {error}", details=[str(error)]) from error
    if not request.prompt and not request.messages:
        faults.append("prompt: a prompt or messages must be given")
    if not 1 <= request.max_tokens <= 10_000_000:
        faults.append("max_tokens: must be at least 1")
    if not 0 <= request.temperature <= 2:
        faults.append("temperature: must lie between 0 and 2")
    if not 0 <= request.top_p <= 1:
        faults.append("top_p: must lie between 0 and 1")
    try:
        if request.timeout_s is not None and request.timeout_s < TIMEOUT_S_MIN:
            faults.append(f"timeout_seconds: must be at least {TIMEOUT_S_MIN}")
    except ValueError as error:
        faults.append(f"timeout_seconds: {error}")
    if faults:
        raise ValidationFailed(f"{len(faults)} fields are wrong", details=faults)
    return request


class GenerateDialect(BaseDialect):
    """The dialect ``weir``: clients speak it, no provider does."""

    name = "weir"
    client_paths: ClassVar[Mapping[str, Json]] = {"/api/v1/generate": {}, "/generate": {}}

    def open(self, fields: Fields) -> Opening:
        request = read_generate(fields)
        return Opening(
            model=request.model_id or "auto",
            stream=request.stream,
            wants_usage=True,
            max_tokens=request.max_tokens,
            has_tools=False,
            tags=request.tags,
            user_id=request.user_id,
            session_id=request.session_id,
            task_type=request.task_type,
            timeout_s=request.timeout_s,
        )

    def read_request(self, fields: Fields) -> Chat:
        request = read_generate(fields)
        messages = openai_request.read_messages(request.messages or [])
        if request.system_prompt:
            messages.insert(0, Message("system", [Text(request.system_prompt)]))
        if request.prompt:
            messages.append(Message("user", [Text(request.prompt)]))
        stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
        return Chat(
            messages=messages,
            stream=request.stream,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p if "topP" in fields or "top_p" in fields else None,
            stop=stop,
            user=request.user_id,
        )

    def write_answer(self, answer: Answer, receipt: Receipt | None) -> bytes:
        text = text_of(answer.parts)
        if receipt is None:  # recorded content, written before the costs are known
            return _encode({"text": text, "model_id": answer.model})
        return _encode({"text": text, **facts_of(receipt)})

    def stream_writer(self, opening: Opening) -> StreamWriter:
        del opening
        return _Writer()

    def end_of_stream(self, receipt: Receipt) -> bytes:
        return write_frame(_encode(completed(receipt)), "completed")

    def write_error(self, error: WeirError, status: int, request_id: str) -> bytes:
        del status
        return _encode({"error": error.told(request_id)})

    def write_error_frame(self, error: WeirError, status: int, request_id: str) -> bytes:
        return write_frame(self.write_error(error, status, request_id), "error")


def completed(receipt: Receipt) -> Json:
    """Return the last event of a stream."""
    return {"type": "completed", **facts_of(receipt)}


class _Writer:
    def write(self, delta: Delta) -> bytes:
        if delta.kind == "text":
            return write_frame(_encode({"type": "text", "text": delta.text}), "text")
        if delta.kind == "end":
            return write_frame(b"[DONE]")
        return b""


GENERATE = GenerateDialect()
