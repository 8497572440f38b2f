"""What all of OpenAI's endpoints share: errors, and calls that only their own vendor can answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import msgspec
from mypy_extensions import mypyc_attr

from gateway.dialects.base import BaseDialect
from gateway.dialects.neutral import (
    END,
    Answer,
    Delta,
    Fields,
    Json,
    Opening,
    Question,
    Receipt,
    StreamReader,
    StreamWriter,
)
from gateway.dialects.openai_media_wire import read_event
from gateway.dialects.openai_wire import WireError, read_error_body
from gateway.dialects.reading import advice_of, classify, member, required
from gateway.dialects.sse import Frame, write_frame
from schemas.errors import InvalidRequest, UpstreamError, UpstreamProtocol, WeirError

_encode: Final = msgspec.json.encode


@mypyc_attr(allow_interpreted_subclasses=True)
class OpenAIBase(BaseDialect):
    """Errors as OpenAI's API reference ("Error codes") gives them."""

    name = "openai"

    def read_error(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> UpstreamError:
        try:
            error = read_error_body(body).told()
        except msgspec.DecodeError:
            return classify(status, "", "", headers)
        return classify(status, error.kind, error.message, headers)

    def is_error(self, body: bytes) -> bool:
        try:
            return isinstance(read_error_body(body).error, WireError)
        except msgspec.DecodeError:
            return False

    def write_error(self, error: WeirError, status: int, request_id: str) -> bytes:
        del request_id  # the header carries it
        kind = "invalid_request_error" if 400 <= status < 500 and status != 429 else error.type
        body: Json = {"message": error.message, "type": kind, "param": None, "code": error.code}
        body |= advice_of(error)
        return _encode({"error": body})

    def write_error_frame(self, error: WeirError, status: int, request_id: str) -> bytes:
        return write_frame(self.write_error(error, status, request_id))


def forwarded(fields: Fields, model: str, opening: Opening) -> bytes:
    """Return a client's own request for another model. A stream's usage is asked for, so that it can
    be counted.
    """
    changed: Json = {**fields, "model": model}
    if opening.stream and not opening.wants_usage:
        options = member(fields, "stream_options", dict) or {}
        changed["stream_options"] = {**options, "include_usage": True}
    return _encode(changed)


@mypyc_attr(allow_interpreted_subclasses=True)
class OneShot(OpenAIBase):
    """An endpoint that only providers of this dialect have: its bytes go through as they are.

    `path` lies below the provider's base URL, `ends` are the events that end its stream.
    """

    path: ClassVar[str]
    model_default: ClassVar[str | None] = None
    ends: ClassVar[frozenset[str]] = frozenset()

    def path_of(self, model: str, stream: bool) -> str:
        del model, stream
        return self.path

    def units(self, fields: Fields) -> dict[str, int]:
        """Return what the request itself says will be billed."""
        del fields
        return {}

    def streams(self, fields: Fields) -> bool:
        """Whether the answer comes in pieces."""
        return bool(self.ends) and member(fields, "stream", bool) is True

    def open(self, fields: Fields) -> Opening:
        model = member(fields, "model", str) or self.model_default
        return Opening(
            model=model or required(fields, "model", str),
            stream=self.streams(fields),
            wants_usage=True,
            max_tokens=0,
            has_tools=False,
            tags={},
            user_id=member(fields, "user", str),
            units=self.units(fields),
        )

    def forward_request(self, fields: Fields, model: str, opening: Opening) -> bytes:
        del opening
        return _encode({**fields, "model": model})

    def read_request(self, fields: Fields) -> Question:
        del fields
        raise InvalidRequest(f"a call for {self.surface} cannot be put into another dialect")

    def write_request(self, chat: Question, model: str, max_output_tokens: int | None) -> bytes:
        del chat, model, max_output_tokens
        raise InvalidRequest(f"a call for {self.surface} cannot come from another dialect")

    def write_answer(self, answer: Answer, receipt: Receipt | None) -> bytes:
        del receipt  # only for the record: clients get the provider's bytes
        return _encode({"model": answer.model, "usage": answer.usage, "units": answer.units})

    def stream_reader(self) -> StreamReader:
        return _Reader(self.ends)

    def stream_writer(self, opening: Opening) -> StreamWriter:
        del opening
        raise InvalidRequest(f"a stream of {self.surface} cannot be put into another dialect")


class _Reader:
    """Reads typed events; what they hold passes unread, but for usage and the end."""

    def __init__(self, ends: frozenset[str]) -> None:
        self._ends = ends
        self._started = False

    def read(self, frame: Frame) -> list[Delta]:
        if frame.data == b"[DONE]":
            return []
        try:
            event = read_event(frame.data)
        except msgspec.DecodeError as error:
            raise UpstreamProtocol(f"a stream frame is no event: {error}") from error
        if event.error is not None or event.type == "error":
            fault = event.error or {}
            raise classify(500, str(fault.get("code") or ""), str(fault.get("message") or ""))
        deltas = [] if self._started else [Delta("start")]
        self._started = True
        deltas.append(Delta("text"))
        if event.type in self._ends:
            if event.usage is not None:
                usage, units = event.usage.neutral(), event.usage.units()
                deltas.append(Delta("usage", usage=usage, units=units))
            deltas += [Delta("finish", "stop"), END]
        return deltas
