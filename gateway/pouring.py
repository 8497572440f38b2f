"""Answers that are neither JSON nor frames: sound, pictures, subtitles."""

from __future__ import annotations

import hashlib

import msgspec

from gateway.dialects.neutral import Answer


class ByteRelay:
    """A run of bytes, carried as it comes; its last piece stays back until the settlement.

    It has the face of `StreamRelay`. Only the end of the connection's framing ends it, so a cut one
    is an error of the connection.
    """

    def __init__(self) -> None:
        self.ended = False
        self.has_content = False
        self.final = b""
        self._size = 0
        self._digest = hashlib.sha256()

    def feed(self, chunk: bytes) -> bytes:
        """Return what the client may have now: the piece before this one."""
        if not chunk:
            return b""
        self.has_content = True
        self._size += len(chunk)
        self._digest.update(chunk)
        ready, self.final = self.final, chunk
        return ready

    def check_end(self) -> None:
        """Note the end."""
        self.ended = True

    def answer(self) -> Answer:
        """Return what is known of the answer: nothing that is counted."""
        return Answer(id="", model="")

    def record(self, content_type: bytes) -> bytes:
        """Return what is kept of the bytes: their type, size and hash."""
        return _described(content_type, self._size, self._digest.hexdigest())


def recorded(body: bytes, content_type: bytes) -> bytes:
    """Return a whole answer as JSON for the record: text as text, other bytes by their hash."""
    if content_type.startswith(b"application/json"):
        return body
    if content_type.startswith(b"text/"):
        return msgspec.json.encode(body.decode("utf-8", "replace"))
    return _described(content_type, len(body), hashlib.sha256(body).hexdigest())


def _described(content_type: bytes, size: int, digest: str) -> bytes:
    kind = content_type.decode("latin-1")
    return msgspec.json.encode({"content_type": kind, "bytes": size, "sha256": digest})
