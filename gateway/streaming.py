"""Turns a provider's stream into the client's, and remembers what it said.

No input or output happens here: bytes in, bytes out. When both sides speak one dialect the frames
go through as they came; otherwise each is read into deltas and written anew.
"""

from __future__ import annotations

import msgspec

from gateway.dialects.neutral import (
    CONTENT_KINDS,
    END,
    Answer,
    ClientDialect,
    Delta,
    Dialect,
    FinishReason,
    Opening,
    Part,
    Text,
    Thinking,
    ToolCall,
    Usage,
)
from gateway.dialects.reading import untold
from gateway.guardrails.guard import GuardedStream
from schemas.errors import UpstreamProtocol

ANSWER_CHARS_MAX = 16 * 1024 * 1024


class StreamRelay:
    """One stream. `final` holds the end marker, if the client's dialect has one: it leaves only
    after the settlement. `model` is the one that was asked, for providers that do not name it.
    """

    def __init__(
        self,
        front: ClientDialect,
        back: Dialect,
        opening: Opening,
        model: str = "",
        guard: GuardedStream | None = None,
    ) -> None:
        self.ended = False
        self.has_content = False
        self.final = b""
        self.usage: Usage | None = None
        self.finish: FinishReason | None = None
        self._back = back
        self._opening = opening
        self._reader = back.stream_reader()
        self._guard = guard
        # What a guardrail may change cannot go through as it came.
        same = front is back and guard is None
        self._writer = None if same else front.stream_writer(opening)
        self._splitter = back.splitter()
        self._id, self._model = "", model
        self._started = False
        self._chars = 0
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._signature: str | None = None
        self._vendor = "anthropic"
        self._units: dict[str, int] = {}
        self._untold: str | None = None
        self._calls: dict[int, tuple[str, str, list[str]]] = {}

    def feed(self, chunk: bytes) -> bytes:
        """Return what the client may have now.

        Raises UpstreamError for an error frame, a broken one, an end before the beginning, or
        content that has no word in the client's dialect.
        """
        out: list[bytes] = []
        for frame in self._splitter.feed(chunk):
            over = self.ended
            try:
                deltas = self._guarded(self._reader.read(frame))
            except RecursionError as error:
                raise UpstreamProtocol("a stream frame is nested too deeply") from error
            if over and deltas:
                raise UpstreamProtocol("the stream went on after its end marker")
            for delta in deltas:
                self._note(delta)
            if self._writer is not None:
                if self._untold:
                    raise untold(self._untold, self._back.name)
                for delta in deltas:
                    if delta.kind == "start" and not delta.name:
                        delta = msgspec.structs.replace(delta, name=self._model)
                    data = self._writer.write(delta)
                    if delta.kind == "end":
                        self.final = data
                    else:
                        out.append(data)
            elif self.ended or (self.finish is not None and self._back.ends_with_connection):
                self.final += frame.raw
            else:
                out.append(self._back.forward_frame(frame, deltas, self._opening))
        return b"".join(out)

    def _guarded(self, deltas: list[Delta]) -> list[Delta]:
        """Return what the guardrails let pass now. Raises GuardrailBlocked."""
        if self._guard is None:
            return deltas
        # What is held back has come nonetheless: the provider is not silent.
        self.has_content |= any(delta.kind in CONTENT_KINDS for delta in deltas)
        return [passed for delta in deltas for passed in self._guard.passing(delta)]

    def check_end(self) -> None:
        """Take note that the connection ended.

        Raises UpstreamProtocol unless the stream came to its proper end.
        """
        if not self.ended and self._back.ends_with_connection and self.finish is not None:
            for delta in self._guarded([END]):
                self._note(delta)
                if self._writer is not None:
                    self.final += self._writer.write(delta)
        if not self.ended:
            raise UpstreamProtocol("the stream ended without its end marker")

    def record(self, content_type: bytes) -> None:
        """Return what to keep in place of the answer: nothing, it is kept itself."""

    def answer(self) -> Answer:
        """Return what was said so far as a whole answer."""
        parts: list[Part] = []
        if self._thoughts:
            parts.append(Thinking("".join(self._thoughts), self._signature, vendor=self._vendor))
        if self._texts:
            parts.append(Text("".join(self._texts)))
        parts += [
            ToolCall(call_id, name, "".join(pieces) or "{}")
            for call_id, name, pieces in self._calls.values()
        ]
        return Answer(
            id=self._id,
            model=self._model,
            parts=parts,
            finish=self.finish,
            usage=self.usage,
            units=self._units,
            untold=self._untold,
        )

    def _note(self, delta: Delta) -> None:
        kind = delta.kind
        if kind in CONTENT_KINDS:
            self.has_content = True
            self._chars += len(delta.text)
            if self._chars > ANSWER_CHARS_MAX:
                raise UpstreamProtocol(f"the stream exceeds {ANSWER_CHARS_MAX} characters")
            self._note_content(delta)
        match kind:
            case "start":
                self._id, self._model = delta.id, delta.name or self._model
                self._started = True
            case "finish":
                self.finish = delta.text  # type: ignore[assignment]
            case "usage":
                self.usage = delta.usage
                self._units = delta.units or self._units
            case "end":
                if not self._started:
                    raise UpstreamProtocol("the stream ended before it began")
                self.ended = True

    def _note_content(self, delta: Delta) -> None:
        match delta.kind:
            case "text":
                self._texts.append(delta.text)
            case "thinking":
                self._thoughts.append(delta.text)
            case "signature":
                self._signature, self._vendor = delta.text, delta.name or self._vendor
            case "tool_call":
                self._calls[delta.index] = (delta.id, delta.name, [])
            case "untold":
                self._untold = delta.name
            case "arguments":
                if delta.index not in self._calls:
                    raise UpstreamProtocol("arguments came before their tool call")
                self._calls[delta.index][2].append(delta.text)
