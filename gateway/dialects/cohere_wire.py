"""The members of Cohere's API that the gateway reads; all others pass unread.

Sources: Cohere API reference, "Chat" (v2) at docs.cohere.com/reference/chat, "Streaming responses" at
docs.cohere.com/docs/streaming, "Errors" at docs.cohere.com/reference/errors.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.dialects.neutral import FinishReason, Json, Usage
from gateway.dialects.reading import classify
from schemas.errors import (
    UpstreamAuthentication,
    UpstreamError,
    UpstreamQuota,
    UpstreamTimeout,
)

VENDOR = "cohere"
INVALID_TOKEN_STATUS = 498
"""The vendor's own status for a token that it does not take."""


class Counted(msgspec.Struct):
    """Counts, which the vendor writes as numbers with or without a fraction."""

    input_tokens: float | None = None
    output_tokens: float | None = None
    search_units: float | None = None
    images: float | None = None


class WireUsage(msgspec.Struct):
    """`tokens` is what the model saw, `billed_units` what is paid for: the prompts that the vendor
    puts around the caller's own are not.
    """

    billed_units: Counted | None = None
    tokens: Counted | None = None
    cached_tokens: float | None = None

    def neutral(self) -> Usage:
        """Return the tokens that are billed."""
        billed, seen = self.billed_units or Counted(), self.tokens or Counted()
        return Usage(
            whole(seen.input_tokens if billed.input_tokens is None else billed.input_tokens),
            whole(self.cached_tokens),
            whole(seen.output_tokens if billed.output_tokens is None else billed.output_tokens),
        )

    def units(self) -> dict[str, int]:
        """Return what is billed and not counted in tokens."""
        billed = self.billed_units or Counted()
        counts = {"search": whole(billed.search_units), "image": whole(billed.images)}
        return {name: count for name, count in counts.items() if count}


def whole(count: float | None) -> int | None:
    """Return a count as an integer."""
    return None if count is None else int(count)


class Meta(msgspec.Struct):
    """The ``meta`` of answers other than the chat's."""

    billed_units: Counted | None = None
    tokens: Counted | None = None

    @property
    def usage(self) -> WireUsage:
        """The same as the chat's usage."""
        return WireUsage(self.billed_units, self.tokens)


class WireFunction(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class WireToolCall(msgspec.Struct):
    id: str | None = None
    function: WireFunction | None = None


class Block(msgspec.Struct):
    type: str = "text"
    text: str | None = None
    thinking: str | None = None


class WireMessage(msgspec.Struct):
    content: list[Block] | None = None
    tool_plan: str | None = None
    tool_calls: list[WireToolCall] | None = None


class Answered(msgspec.Struct):
    """A whole answer."""

    message: WireMessage
    id: str = ""
    finish_reason: str | None = None
    usage: WireUsage | None = None


class PieceMessage(msgspec.Struct):
    """A piece of a message: where a whole one has lists, a piece has one entry, or none."""

    content: Block | list[Block] | None = None
    tool_plan: str | None = None
    tool_calls: WireToolCall | list[WireToolCall] | None = None


class WireDelta(msgspec.Struct):
    message: PieceMessage | None = None
    finish_reason: str | None = None
    usage: WireUsage | None = None
    error: str | None = None


class Event(msgspec.Struct):
    type: str
    id: str = ""
    index: int = 0
    delta: WireDelta | None = None


class ErrorBody(msgspec.Struct):
    message: str = ""


read_answered = msgspec.json.Decoder(Answered).decode
read_event = msgspec.json.Decoder(Event).decode
_read_error_body = msgspec.json.Decoder(ErrorBody).decode

FINISH_IN: dict[str, FinishReason] = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop_sequence",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
    "ERROR_TOXIC": "filter",
}
FINISH_OUT: dict[FinishReason, str] = {
    "stop": "COMPLETE",
    "stop_sequence": "STOP_SEQUENCE",
    "length": "MAX_TOKENS",
    "tool_calls": "TOOL_CALL",
    "filter": "ERROR",
}


def finish_of(reason: str | None, told: str | None = None) -> FinishReason | None:
    """Return why an answer ended. Raises UpstreamError where the vendor gave it up."""
    match reason:
        case None:
            return None
        case "TIMEOUT":
            raise UpstreamTimeout(
                told or "the provider ran out of time in the middle of the answer"
            )
        case "ERROR" | "ERROR_LIMIT":
            raise UpstreamError(told or "the provider failed in the middle of the answer")
    return FINISH_IN.get(reason, "stop")


def read_error(status: int, headers: Mapping[bytes, bytes], body: bytes) -> UpstreamError:
    """Classify a provider's error by its status and words."""
    try:
        message = _read_error_body(body).message
    except msgspec.DecodeError:
        message = ""
    if status == INVALID_TOKEN_STATUS:
        return UpstreamAuthentication(f"the provider refused the gateway's key: {message}")
    if status == 429 and "month" in message:
        return UpstreamQuota(message)
    return classify(status, "", message, headers)


def usage_json(usage: Usage) -> Json:
    """Return usage as the vendor writes it."""
    counts = {"input_tokens": usage.input_tokens or 0, "output_tokens": usage.output_tokens or 0}
    body: Json = {"billed_units": counts, "tokens": counts}
    if usage.cached_input_tokens is not None:
        body["cached_tokens"] = usage.cached_input_tokens
    return body
