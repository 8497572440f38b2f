"""The members of Gemini's generateContent that the gateway reads; all others pass unread.

Source: Gemini API reference, "Generating content" (GenerateContentResponse, Candidate, Part,
UsageMetadata) at ai.google.dev/api/generate-content, "Thought signatures" at
ai.google.dev/gemini-api/docs/thought-signatures, and google.rpc.Status for errors.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from gateway.dialects.neutral import FinishReason, Json, Thinking, Usage
from gateway.dialects.reading import classify
from schemas.errors import (
    UpstreamAuthentication,
    UpstreamError,
    UpstreamProtocol,
    UpstreamQuota,
    UpstreamRateLimited,
)

VENDOR = "gemini"
"""Whose signatures these are, in the neutral form."""
_FOREIGN_SIGNATURE = b"weir:"
"""Marks, for Gemini's clients, a signature that another vendor gave."""
_REDACTED = "redacted"
"""Marks a thought that came as ciphertext, which stands in the signature's place."""
JSON_TYPE = "application/json"
UNSIGNED = "skip_thought_signature_validator"
"""What the vendor takes in place of the signature of a call that it did not make itself."""


class FunctionCall(msgspec.Struct, rename="camel"):
    name: str = ""
    args: msgspec.Raw = msgspec.Raw(b"{}")
    id: str | None = None


class InlineData(msgspec.Struct):
    """A picture or a sound, as some models give them unasked; its bytes pass unread."""


class Part(msgspec.Struct, rename="camel"):
    """A part of an answer; its kind is the member that is there."""

    text: str | None = None
    thought: bool = False
    thought_signature: str | None = None
    function_call: FunctionCall | None = None
    inline_data: InlineData | None = None


class Content(msgspec.Struct, rename="camel"):
    parts: list[Part] = []


class Candidate(msgspec.Struct, rename="camel"):
    content: Content = msgspec.field(default_factory=Content)
    finish_reason: str | None = None
    index: int = 0


class PromptFeedback(msgspec.Struct, rename="camel"):
    block_reason: str | None = None


class UsageMetadata(msgspec.Struct, rename="camel"):
    """Tokens: the prompt's include the cached ones, the candidates' exclude the thoughts."""

    prompt_token_count: int | None = None
    cached_content_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None

    def neutral(self) -> Usage:
        """Return the tokens in the neutral form: thoughts are billed as output."""
        prompt, thoughts = self.prompt_token_count, self.thoughts_token_count
        if prompt is not None:
            prompt += self.tool_use_prompt_token_count or 0
        output = self.candidates_token_count
        if output is not None or thoughts is not None:
            output = (output or 0) + (thoughts or 0)
        return Usage(prompt, self.cached_content_token_count, output, thoughts)


class WireError(msgspec.Struct):
    """google.rpc.Status as JSON."""

    code: int = 0
    message: str = ""
    status: str = ""
    details: list[dict[str, Any]] = []


class Response(msgspec.Struct, rename="camel"):
    """A whole answer, or one step of a stream."""

    candidates: list[Candidate] = []
    prompt_feedback: PromptFeedback | None = None
    usage_metadata: UsageMetadata | None = None
    model_version: str = ""
    response_id: str = ""
    error: WireError | None = None


class ErrorBody(msgspec.Struct):
    error: WireError


read_response = msgspec.json.Decoder(Response).decode
_read_errors = msgspec.json.Decoder(ErrorBody | list[ErrorBody]).decode

_FILTERED = frozenset(
    [
        "SAFETY",
        "RECITATION",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
        "MODEL_ARMOR",
        "ESCALATION",
    ]
)
FINISH_OUT: dict[FinishReason, str] = {
    "stop": "STOP",
    "stop_sequence": "STOP",
    "tool_calls": "STOP",
    "length": "MAX_TOKENS",
    "filter": "SAFETY",
}
STATUS_NAME: dict[int, str] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "FAILED_PRECONDITION",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def finish_of(reason: str | None, *, calls: bool) -> FinishReason | None:
    """Return why an answer ended, None while it has not.

    Raises UpstreamProtocol for an end that leaves nothing to use, such as a malformed call.
    """
    match reason:
        case None | "FINISH_REASON_UNSPECIFIED":
            return None
        case "STOP":
            return "tool_calls" if calls else "stop"
        case "MAX_TOKENS":
            return "length"
    if reason in _FILTERED:
        return "filter"
    raise UpstreamProtocol(f"the model's answer cannot be used: it ended with {reason}")


# --- signatures ------------------------------------------------------------------------------


def foreign_signature(thought: Thinking) -> str | None:
    """Return what lets another vendor's thought come back as it was, as base64: that is what
    Gemini's clients hold.
    """
    proof = thought.text if thought.redacted else thought.signature
    if not proof:
        return None
    if thought.vendor == VENDOR:
        return proof
    kind = _REDACTED if thought.redacted else ""
    told = f"{thought.vendor}:{kind}:{proof}".encode()
    return base64.b64encode(_FOREIGN_SIGNATURE + told).decode()


def signed_thought(text: str, signature: str) -> Thinking:
    """Return the thought of a signature that a client of this dialect sent back."""
    try:
        plain = base64.b64decode(signature.translate(_STANDARD), validate=True)
    except (binascii.Error, ValueError):
        return Thinking(text, signature, vendor=VENDOR)
    if not plain.startswith(_FOREIGN_SIGNATURE):
        return Thinking(text, signature, vendor=VENDOR)
    told = plain[len(_FOREIGN_SIGNATURE) :].decode("utf-8", "replace")
    vendor, _, rest = told.partition(":")
    kind, _, proof = rest.partition(":")
    if kind == _REDACTED:
        return Thinking(proof, redacted=True, vendor=vendor)
    return Thinking(text, proof, vendor=vendor)


_STANDARD = str.maketrans("-_", "+/")


# --- errors ----------------------------------------------------------------------------------


def read_error(status: int, headers: Any, body: bytes) -> UpstreamError:
    """Classify a provider's error by its status and details."""
    try:
        found = _read_errors(body)
    except msgspec.DecodeError:
        return classify(status, "", "", headers)
    if isinstance(found, list):  # what a stream that is not SSE would have answered
        found = found[0] if found else ErrorBody(WireError())
    return fault_of(found.error, status, headers)


def fault_of(error: WireError, status: int, headers: Any = None) -> UpstreamError:
    """Classify an error of google.rpc.Status."""
    details = {str(detail.get("@type", "")).rpartition(".")[2]: detail for detail in error.details}
    reason = details.get("ErrorInfo", {}).get("reason")
    # A wrong key, and a country or account that the vendor does not serve, come as 400.
    if reason in {"API_KEY_INVALID", "API_KEY_EXPIRED"} or error.status == "FAILED_PRECONDITION":
        return UpstreamAuthentication(f"the provider refused the gateway's key: {error.message}")
    if status == 429 and _is_spent(details.get("QuotaFailure", {})):
        return UpstreamQuota(error.message)
    fault = classify(status, error.status, error.message, headers)
    if fault.retry_after_seconds is None and isinstance(fault, UpstreamRateLimited | UpstreamError):
        fault.retry_after_seconds = _seconds(details.get("RetryInfo", {}).get("retryDelay"))
    return fault


def _is_spent(failure: Json) -> bool:
    """Whether a quota of the day is used up: to wait for seconds does not help then."""
    violations = failure.get("violations")
    return isinstance(violations, list) and any(
        isinstance(violation, dict) and "PerDay" in str(violation.get("quotaId", ""))
        for violation in violations
    )


def _seconds(duration: object) -> float | None:
    """Return a protobuf Duration, such as ``46s`` or ``0.5s``, in seconds."""
    if not isinstance(duration, str) or not duration.endswith("s"):
        return None
    try:
        return max(0.0, float(duration[:-1]))
    except ValueError:
        return None
