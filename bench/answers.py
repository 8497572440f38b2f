"""Reading answers off the wire by the dialects' own rules: what came, and whether it came whole.

Written for the load generator: one typed decode per frame, nothing kept but sums. It takes a stream
as complete by its dialect's end marker alone, never because the connection ended in order.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from bench.workload import Dialect


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Said(msgspec.Struct):
    """A message or a delta of OpenAI's."""

    content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    delta: _Said | None = None
    message: _Said | None = None
    finish_reason: str | None = None


class _OpenAI(msgspec.Struct):
    choices: list[_Choice] = []
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


class _Block(msgspec.Struct):
    """A content block or a delta of Anthropic's."""

    type: str = ""
    text: str | None = None
    stop_reason: str | None = None


class _Message(msgspec.Struct):
    usage: dict[str, Any] | None = None


class _Anthropic(msgspec.Struct):
    """An event of Anthropic's, or a whole message."""

    type: str = ""
    message: _Message | None = None
    content: list[_Block] = []
    content_block: _Block | None = None
    delta: _Block | None = None
    stop_reason: str | None = None
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


_openai = msgspec.json.Decoder(_OpenAI)
_anthropic = msgspec.json.Decoder(_Anthropic)


class Answer:
    """An answer as it comes in. Feed it bytes; `complete` and `error` tell how it ended."""

    def __init__(self, dialect: Dialect, *, stream: bool) -> None:
        self._stream = stream
        self._take = self._openai if dialect == "openai" else self._anthropic
        self._rest = b""
        self._text = hashlib.sha256()
        self.complete = False
        self.error: str | None = None
        self.finish_reason: str | None = None
        self.tool_calls = 0
        self.frames = 0
        self.usage: dict[str, Any] = {}
        self.text = ""
        """Text of a whole answer; of a stream only its hash is kept."""

    @property
    def text_sha256(self) -> str:
        """Hash of the text so far, without thinking and tool calls."""
        return self._text.hexdigest()

    def feed(self, data: bytes) -> None:
        """Take a part of a stream."""
        *frames, self._rest = (self._rest + data).split(b"\n\n")
        for frame in frames:
            self._frame(frame)

    def close(self, body: bytes = b"") -> None:
        """The body has ended in order; of a whole answer this is all of it."""
        if not self._stream:
            self._read(body)
            self.complete = self.error is None and self.finish_reason is not None
            return
        if self._rest.strip():
            self.error = self.error or "unfinished frame"
        if self.error is not None or self.finish_reason is None:
            self.complete = False
        if not self.complete and self.error is None:
            self.error = "no end marker"

    def _frame(self, frame: bytes) -> None:
        for line in frame.split(b"\n"):
            if not line.startswith(b"data:"):
                continue
            if self.complete:
                self.error = "data after the end marker"
            data = line[5:].strip()
            if data == b"[DONE]":
                self.complete = True
            else:
                self._read(data)

    def _read(self, data: bytes) -> None:
        self.frames += 1
        try:
            self._take(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self.error = self.error or f"malformed: {error}"

    def _openai(self, data: bytes) -> None:
        chunk = _openai.decode(data)
        if chunk.error is not None:
            self.error = str(chunk.error.get("type") or chunk.error.get("code") or "error")
        for choice in chunk.choices:
            said = choice.delta or choice.message
            if said is not None:
                self._say(said.content)
                calls = said.tool_calls or ()
                self.tool_calls += sum(call.id is not None for call in calls)
            self.finish_reason = choice.finish_reason or self.finish_reason
        self.usage = chunk.usage or self.usage

    def _anthropic(self, data: bytes) -> None:
        event = _anthropic.decode(data)
        match event.type:
            case "message_start" if event.message is not None:
                self.usage = event.message.usage or {}
            case "content_block_start" if event.content_block is not None:
                self.tool_calls += event.content_block.type == "tool_use"
                self._say(event.content_block.text)
            case "content_block_delta" if event.delta is not None:
                self._say(event.delta.text)
            case "message_delta":
                if event.delta is not None:
                    self.finish_reason = event.delta.stop_reason or self.finish_reason
                self.usage = {**self.usage, **(event.usage or {})}
            case "message_stop":
                self.complete = True
            case "error":
                self.error = str((event.error or {}).get("type") or "error")
            case "message":
                for block in event.content:
                    self._say(block.text)
                    self.tool_calls += block.type == "tool_use"
                self.finish_reason = event.stop_reason
                self.usage = event.usage or {}

    def _say(self, text: str | None) -> None:
        if text:
            self._text.update(text.encode("utf-8", "surrogatepass"))
            if not self._stream:
                self.text += text
