"""What all of Gemini's endpoints share: the key's header, the model's place, errors."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

import msgspec
from mypy_extensions import mypyc_attr

from gateway.dialects import gemini_wire
from gateway.dialects.base import BaseDialect
from gateway.dialects.gemini_wire import STATUS_NAME
from gateway.dialects.neutral import Json
from gateway.dialects.sse import write_frame
from schemas.errors import UpstreamError, WeirError

_RPC = "type.googleapis.com/google.rpc."
_encode = msgspec.json.encode


def model_place(model: str) -> str:
    """Return a model as the vendor names it: ``models/NAME``, unless the name has a place itself."""
    return quote(model, safe="/") if "/" in model else f"models/{quote(model, safe='')}"


@mypyc_attr(allow_interpreted_subclasses=True)
class GeminiBase(BaseDialect):
    """Errors are google.rpc.Status as JSON."""

    name = "gemini"
    heartbeats = False
    """The vendor's own client takes a comment in a stream for the beginning of an error."""

    def authorization(self, secret: str) -> dict[str, str]:
        return {"x-goog-api-key": secret}

    def read_error(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> UpstreamError:
        return gemini_wire.read_error(status, headers, body)

    def write_error(self, error: WeirError, status: int, request_id: str) -> bytes:
        name = STATUS_NAME.get(status, "INTERNAL" if status >= 500 else "INVALID_ARGUMENT")
        info: Json = {
            "@type": _RPC + "ErrorInfo",
            "reason": error.code.upper(),
            "domain": "weir",
            "metadata": {"request_id": request_id, "action": error.advice},
        }
        details = [info]
        if error.details:
            # The vendor's own form for what is wrong with a request.
            faults = [{"description": text} for text in error.details]
            details.append({"@type": _RPC + "BadRequest", "fieldViolations": faults})
        if error.retry_after_seconds is not None:
            delay = f"{error.retry_after_seconds:.3f}".rstrip("0").rstrip(".") + "s"
            details.append({"@type": _RPC + "RetryInfo", "retryDelay": delay})
        body = {"code": status, "message": error.message, "status": name, "details": details}
        return _encode({"error": body})

    def write_error_frame(self, error: WeirError, status: int, request_id: str) -> bytes:
        return write_frame(self.write_error(error, status, request_id))
