"""Streams of OpenAI's responses: typed events, each numbered.

Source: OpenAI API reference, "Streaming events"
(https://developers.openai.com/api/reference/resources/responses/streaming-events).
"""

from __future__ import annotations

import msgspec

from gateway.dialects import openai_responses_items as items
from gateway.dialects.neutral import END, Delta, FinishReason, Json, Thinking, Usage
from gateway.dialects.openai_responses_wire import (
    VENDOR,
    Event,
    WireError,
    WireItem,
    read_event,
    signed,
)
from gateway.dialects.reading import classify
from gateway.dialects.sse import Frame, write_frame
from schemas.errors import UpstreamError, UpstreamProtocol

_encode = msgspec.json.encode
_STATUS = {"rate_limit_exceeded": 429, "invalid_prompt": 400, "context_length_exceeded": 400}


def fault(error: WireError | None) -> UpstreamError:
    """Return the error of a response that failed."""
    code, message = (error.code or "", error.message) if error else ("", "")
    return classify(_STATUS.get(code, 500), code, message or "the response failed")


class Reader:
    """Reads events; items of the vendor's own tools say nothing here."""

    def __init__(self) -> None:
        self._calls: dict[int, int] = {}
        self._spoken: set[int] = set()

    def read(self, frame: Frame) -> list[Delta]:
        if frame.data == b"[DONE]":
            return []
        try:
            event = read_event(frame.data)
        except msgspec.DecodeError as error:
            raise UpstreamProtocol(f"a stream frame is no response event: {error}") from error
        match event.type:
            case "response.output_text.delta" | "response.refusal.delta":
                return [Delta("text", event.delta)]
            case "response.function_call_arguments.delta" if event.output_index in self._calls:
                self._spoken.add(event.output_index)
                number = self._calls[event.output_index]
                return [Delta("arguments", event.delta, index=number)]
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                return [Delta("thinking", event.delta)]
            case "response.reasoning_summary_part.added" if event.summary_index:
                return [Delta("thinking", "\n\n")]
            case "response.output_item.added" if event.item is not None:
                return self._begun(event.output_index, event.item)
            case "response.output_item.done" if event.item is not None:
                return self._done(event.output_index, event.item)
            case "error":
                raise fault(event.error or WireError(event.code, event.message or ""))
            case _ if event.response is not None:
                return self._turned(event)
        return []

    def _begun(self, place: int, item: WireItem) -> list[Delta]:
        if item.type != "function_call":
            return []
        number = self._calls[place] = len(self._calls)
        return [Delta("tool_call", index=number, id=item.call_id, name=item.name)]

    def _done(self, place: int, item: WireItem) -> list[Delta]:
        if item.type == "reasoning" and item.encrypted_content:
            seal = item.encrypted_content
            return [Delta("signature", signed(item.id, seal), name=VENDOR)]
        if place in self._calls and place not in self._spoken and item.arguments:
            return [Delta("arguments", item.arguments, index=self._calls[place])]
        return []

    def _turned(self, event: Event) -> list[Delta]:
        response = event.response
        assert response is not None, "the caller looked"
        match event.type:
            case "response.created":
                return [Delta("start", id=response.id, name=response.model)]
            case "response.failed":
                raise fault(response.error)
            case "response.completed" | "response.incomplete":
                deltas = [Delta("finish", response.finish)]
                if response.usage is not None:
                    usage = response.usage.neutral()
                    deltas.append(Delta("usage", usage=usage, units=response.units() or None))
                return [*deltas, END]
        return []


class _Open:
    """An item that is being written. `kind` is thinking, text or call."""

    def __init__(self, kind: str, item_id: str, place: int) -> None:
        self.kind = kind
        self.id = item_id
        self.place = place
        self.texts: list[str] = []
        self.call_id = self.name = ""
        self.seal: Thinking | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)


class Writer:
    """Writes events. Thoughts and text end when something else begins; calls, whose pieces may come
    interleaved, at the end.
    """

    def __init__(self) -> None:
        self._sequence = 0
        self._head: Json = {}
        self._id = ""
        self._output: dict[int, Json] = {}
        self._current: _Open | None = None
        self._calls: dict[int, _Open] = {}
        self._places = 0
        self._finish: FinishReason = "stop"
        self._usage: Usage | None = None

    def write(self, delta: Delta) -> bytes:
        match delta.kind:
            case "start":
                self._id, self._head = delta.id, items.head_of(delta.id, delta.name)
                begun = {"response": self._head}
                return self._event("response.created", begun) + self._event(
                    "response.in_progress", begun
                )
            case "text":
                return self._ensure("text") + self._text(delta.text)
            case "thinking" if delta.id == "redacted":
                vendor = delta.name or "anthropic"
                return self._sealed(Thinking(delta.text, None, True, vendor))
            case "thinking":
                return self._ensure("thinking") + self._thought(delta.text)
            case "signature":
                return self._sealed(Thinking("", delta.text, False, delta.name or "anthropic"))
            case "tool_call":
                return self._close() + self._call(delta)
            case "arguments":
                call = self._calls[delta.index]
                call.texts.append(delta.text)
                return self._piece(
                    "response.function_call_arguments.delta", call, {"delta": delta.text}
                )
            case "finish":
                self._finish = delta.text  # type: ignore[assignment]
            case "usage":
                self._usage = delta.usage
            case "end":
                return self._end()
        return b""

    # --- items -------------------------------------------------------------------------------

    def _open(self, kind: str, prefix: str) -> _Open:
        item = _Open(kind, f"{prefix}_{self._id}_{self._places}", self._places)
        self._places += 1
        return item

    def _ensure(self, kind: str) -> bytes:
        if self._current is not None and self._current.kind == kind:
            return b""
        closed = self._close()
        item = self._current = self._open(kind, "msg" if kind == "text" else "rs")
        if kind == "thinking":
            empty: Json = {"id": item.id, "type": "reasoning", "summary": []}
            return closed + self._item("response.output_item.added", item, empty)
        message = items.message_item(item.id, "", "in_progress")
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        return (
            closed
            + self._item("response.output_item.added", item, message)
            + self._piece("response.content_part.added", item, {"content_index": 0, "part": part})
        )

    def _text(self, text: str) -> bytes:
        item = self._current
        assert item is not None, "it was opened"
        item.texts.append(text)
        piece = {"content_index": 0, "delta": text, "logprobs": []}
        return self._piece("response.output_text.delta", item, piece)

    def _thought(self, text: str) -> bytes:
        item = self._current
        assert item is not None, "it was opened"
        begun = b""
        if not item.texts:
            part = {"summary_index": 0, "part": {"type": "summary_text", "text": ""}}
            begun = self._piece("response.reasoning_summary_part.added", item, part)
        item.texts.append(text)
        piece = {"summary_index": 0, "delta": text}
        return begun + self._piece("response.reasoning_summary_text.delta", item, piece)

    def _sealed(self, seal: Thinking) -> bytes:
        begun = self._ensure("thinking")
        assert self._current is not None, "it was opened"
        self._current.seal = seal
        return begun + self._close()

    def _call(self, delta: Delta) -> bytes:
        call = self._calls[delta.index] = self._open("call", "fc")
        call.call_id, call.name = delta.id, delta.name
        item = items.call_item(call.id, call.call_id, call.name, "", "in_progress")
        return self._item("response.output_item.added", call, item)

    def _close(self) -> bytes:
        item, self._current = self._current, None
        if item is None:
            return b""
        return self._close_text(item) if item.kind == "text" else self._close_thought(item)

    def _close_text(self, item: _Open) -> bytes:
        text = item.text
        message = items.message_item(item.id, text)
        done = {"content_index": 0, "text": text, "logprobs": []}
        part = {"content_index": 0, "part": message["content"][0]}
        return (
            self._piece("response.output_text.done", item, done)
            + self._piece("response.content_part.done", item, part)
            + self._item("response.output_item.done", item, message)
        )

    def _close_thought(self, item: _Open) -> bytes:
        text, seal = item.text, item.seal or Thinking("", vendor="")
        out = b""
        if item.texts:
            part = {"summary_index": 0, "part": {"type": "summary_text", "text": text}}
            done = {"summary_index": 0, "text": text}
            out = self._piece("response.reasoning_summary_text.done", item, done)
            out += self._piece("response.reasoning_summary_part.done", item, part)
        whole = seal if seal.redacted else Thinking(text, seal.signature, False, seal.vendor)
        return out + self._item(
            "response.output_item.done", item, items.reasoning_item(item.id, whole)
        )

    def _end(self) -> bytes:
        out = [self._close()]
        for call in self._calls.values():
            arguments = call.text or "{}"
            item = items.call_item(call.id, call.call_id, call.name, arguments)
            done = {"arguments": arguments}
            out.append(self._piece("response.function_call_arguments.done", call, done))
            out.append(self._item("response.output_item.done", call, item))
        output = [self._output[place] for place in sorted(self._output)]
        response = items.ended(self._head, output, self._finish, self._usage)
        out.append(self._event(f"response.{response['status']}", {"response": response}))
        return b"".join(out)

    # --- events ------------------------------------------------------------------------------

    def _item(self, kind: str, item: _Open, wire: Json) -> bytes:
        if kind.endswith("done"):
            self._output[item.place] = wire
        return self._event(kind, {"output_index": item.place, "item": wire})

    def _piece(self, kind: str, item: _Open, fields: Json) -> bytes:
        return self._event(kind, {"item_id": item.id, "output_index": item.place, **fields})

    def _event(self, kind: str, fields: Json) -> bytes:
        body = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return write_frame(_encode(body), kind)
