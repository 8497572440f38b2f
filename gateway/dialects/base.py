"""What the dialects have in common unless they say otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import msgspec
from mypy_extensions import mypyc_attr

from gateway.dialects.neutral import (
    Answer,
    Delta,
    Fields,
    Json,
    Opening,
    Question,
    Receipt,
    Splitter,
    StreamReader,
    StreamWriter,
)
from gateway.dialects.reading import read_object
from gateway.dialects.sse import Frame, FrameSplitter
from schemas.errors import InvalidRequest


@mypyc_attr(allow_interpreted_subclasses=True)
class BaseDialect:
    """Every dialect inherits from this; discovery finds the instances, so a new file is enough.

    A provider that names this dialect can be called for its `surface`; a client reaches it under
    `client_paths`: {path: members that the path itself says}, where ``{model}`` in a path is one
    more member.
    """

    name: ClassVar[str]
    surface: ClassVar[str] = "chat"
    client_paths: ClassVar[Mapping[str, Json]] = {}
    words: ClassVar[Mapping[str, str]] = {}
    params: ClassVar[frozenset[str]] = frozenset()
    """Which of `Chat.params` it has a word for."""
    default_headers: ClassVar[Mapping[str, str]] = {}
    stream_type: ClassVar[bytes] = b"text/event-stream; charset=utf-8"
    ends_with_connection: ClassVar[bool] = False
    models_path: ClassVar[str | None] = None
    """Where a provider lists its models, below its base URL; None where it does not."""
    heartbeats: ClassVar[bool] = True
    """Whether a comment may be sent into a silent stream."""

    @property
    def capability(self) -> str:
        """What a target must be able to do: the surface, unless said otherwise."""
        return self.surface

    def read_body(self, body: bytes, content_type: str | None) -> Fields:
        """Return a request's members, their values unread. Raises InvalidRequest."""
        del content_type
        return read_object(body)

    def limited(self, fields: Fields, model: str, max_tokens: int) -> Fields:
        """Return a client's request with a limit on its output, where the client named none."""
        del model
        return {**fields, "max_tokens": msgspec.Raw(b"%d" % max_tokens)}

    def authorization(self, secret: str) -> dict[str, str]:
        """Return the headers that carry a provider's key."""
        return {"authorization": f"Bearer {secret}"}

    def splitter(self) -> Splitter:
        """Return what cuts a provider's stream into frames."""
        return FrameSplitter()

    def request_record(self, body: bytes, fields: Fields) -> bytes:
        """Return the request as JSON for the record: as it came."""
        del fields
        return body

    def counted(self, answer: Answer, headers: Mapping[bytes, bytes]) -> Answer:
        """Return an answer that tells no usage with what its headers tell: nothing."""
        del headers
        return answer

    def answer_here(self, fields: Fields) -> Answer | None:
        """Return the gateway's own answer where the provider offers none: there is none."""
        del fields
        return None

    def bare(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether the answer with these headers is a run of bytes: it is not."""
        del headers
        return False

    def unsaid(self, chat: Question, model: str) -> list[str]:
        """Return the names of what `write_request` leaves out or changes: nothing."""
        del chat, model
        return []

    def stream_reader(self) -> StreamReader:
        """Start to read a stream: there is none. Raises InvalidRequest."""
        raise InvalidRequest(f"{self.surface} come whole")

    def stream_writer(self, opening: Opening) -> StreamWriter:
        """Start to write a stream: there is none. Raises InvalidRequest."""
        del opening
        raise InvalidRequest(f"{self.surface} come whole")

    def forward_frame(self, frame: Frame, deltas: list[Delta], opening: Opening) -> bytes:
        """Return what a client of this very dialect gets of a frame: the frame as it came."""
        del deltas, opening
        return frame.raw

    def is_error(self, body: bytes) -> bool:
        """Whether a provider's error body is one that this dialect's clients can read."""
        return bool(body)

    def error_headers(self, status: int) -> list[tuple[bytes, bytes]]:
        """Return headers that an error of this dialect has beside its body: none."""
        del status
        return []

    def end_of_stream(self, receipt: Receipt) -> bytes:
        """Return a frame to send just before the end marker: none."""
        del receipt
        return b""
