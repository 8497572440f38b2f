"""What all of Amazon Bedrock's endpoints share: errors.

Source: Amazon Bedrock API reference, "Converse", "InvokeModel", "Common errors".
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from mypy_extensions import mypyc_attr

from gateway.dialects.base import BaseDialect
from gateway.dialects.bedrock_wire import (
    EXCEPTION_STATUS,
    STREAM_EXCEPTION_OF,
    exception_of,
    read_error_body,
)
from gateway.dialects.eventstream import write_exception
from gateway.dialects.reading import advice_of, classify
from schemas.errors import UpstreamError, UpstreamModelMissing, WeirError

_encode = msgspec.json.encode
_WRONG_MODEL = "model identifier is invalid"


@mypyc_attr(allow_interpreted_subclasses=True)
class BedrockBase(BaseDialect):
    """The kind of an error stands in a header."""

    name = "bedrock"
    heartbeats = False  # its frames are binary: there are no comments

    def read_error(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> UpstreamError:
        kind = headers.get(b"x-amzn-errortype", b"").decode("latin-1")
        message = ""
        try:
            error = read_error_body(body)
            kind, message = kind or error.kind, error.message or error.capital
        except msgspec.DecodeError:
            pass  # the status and the header have to do
        # The header may add an address (Name:http://…), the body a namespace (com.amazon#Name).
        name = kind.partition(":")[0].rpartition("#")[2]
        return fault_of(status, name, message, headers)

    def write_error(self, error: WeirError, status: int, request_id: str) -> bytes:
        del request_id  # the header carries it
        return _encode(
            {"__type": exception_of(status), "message": error.message, **advice_of(error)}
        )

    def error_headers(self, status: int) -> list[tuple[bytes, bytes]]:
        return [(b"x-amzn-errortype", exception_of(status).encode())]

    def write_error_frame(self, error: WeirError, status: int, request_id: str) -> bytes:
        del request_id
        name = STREAM_EXCEPTION_OF.get(status, "internalServerException")
        return write_exception(_encode({"message": error.message, **advice_of(error)}), name)


def fault_of(
    status: int, name: str, message: str, headers: Mapping[bytes, bytes] | None = None
) -> UpstreamError:
    """Return the class of a vendor's error, by the exception's name where it is known."""
    if _WRONG_MODEL in message:
        return UpstreamModelMissing(message)
    return classify(EXCEPTION_STATUS.get(name, status), name, message, headers)
