"""What all of Cohere's endpoints share: errors, and what an answer without a stream tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import msgspec
from mypy_extensions import mypyc_attr

from gateway.dialects import cohere_wire
from gateway.dialects.base import BaseDialect
from gateway.dialects.neutral import Fields, Json, Opening
from gateway.dialects.reading import advice_of
from gateway.dialects.sse import write_frame
from schemas.errors import UpstreamError, WeirError

_encode = msgspec.json.encode


@mypyc_attr(allow_interpreted_subclasses=True)
class CohereBase(BaseDialect):
    """A provider's base URL is the vendor's host, without a version."""

    name = "cohere"
    path: ClassVar[str]

    def path_of(self, model: str, stream: bool) -> str:
        del model, stream
        return self.path

    def forward_request(self, fields: Fields, model: str, opening: Opening) -> bytes:
        del opening
        return _encode({**fields, "model": model})

    def read_error(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> UpstreamError:
        return cohere_wire.read_error(status, headers, body)

    def write_error(self, error: WeirError, status: int, request_id: str) -> bytes:
        del status
        return _encode({"id": request_id, "message": error.message, **advice_of(error)})

    def write_error_frame(self, error: WeirError, status: int, request_id: str) -> bytes:
        del status
        delta: Json = {"error": error.message, "finish_reason": "ERROR"}
        event = {"type": "message-end", "id": request_id, "delta": delta}
        return write_frame(_encode(event), "message-end")
