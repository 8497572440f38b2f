"""The members of Bedrock's Converse that the gateway reads; all others pass unread.

Source: Amazon Bedrock API reference, "Converse" and "ConverseStream"
(https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html,
https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html).
"""

from __future__ import annotations

import msgspec

from gateway.dialects.neutral import FinishReason, Usage


class WireUsage(msgspec.Struct, rename="camel"):
    """`input_tokens` excludes what was read from, or written to, the cache."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None

    def neutral(self) -> Usage:
        """Return the tokens in the neutral form."""
        cached = self.cache_read_input_tokens
        total = self.input_tokens
        if total is not None:
            total += (cached or 0) + (self.cache_write_input_tokens or 0)
        return Usage(total, cached, self.output_tokens, None, self.cache_write_input_tokens)


class WireToolUse(msgspec.Struct, rename="camel"):
    """A whole call, the beginning of one, or (`input` alone) a piece of its JSON text."""

    tool_use_id: str = ""
    name: str = ""
    input: msgspec.Raw = msgspec.Raw(b"{}")


class _ReasoningText(msgspec.Struct):
    text: str = ""
    signature: str | None = None


class WireReasoning(msgspec.Struct, rename="camel"):
    """A whole block (`reasoning_text`) or a piece of one (`text`, `signature`)."""

    reasoning_text: _ReasoningText | None = None
    redacted_content: str | None = None
    text: str | None = None
    signature: str | None = None


class _GeneratedText(msgspec.Struct):
    text: str = ""


class _Citations(msgspec.Struct):
    content: list[_GeneratedText] = []


class Block(msgspec.Struct, rename="camel"):
    """A content block, or the delta of one: exactly one member is set."""

    text: str | None = None
    tool_use: WireToolUse | None = None
    reasoning_content: WireReasoning | None = None
    citations_content: _Citations | None = None


class _Message(msgspec.Struct):
    content: list[Block]


class _Output(msgspec.Struct):
    message: _Message


class Converse(msgspec.Struct, rename="camel"):
    """A whole answer."""

    output: _Output
    stop_reason: str = ""
    usage: WireUsage | None = None


class Event(msgspec.Struct, rename="camel"):
    """The payload of any event of a stream; which one it is stands in the message's headers."""

    content_block_index: int = 0
    start: Block | None = None
    delta: Block | None = None
    stop_reason: str = ""
    usage: WireUsage | None = None


class ErrorBody(msgspec.Struct):
    """An error's body; some services of the vendor write the member with a capital letter."""

    message: str = ""
    capital: str = msgspec.field(default="", name="Message")
    kind: str = msgspec.field(default="", name="__type")


read_converse = msgspec.json.Decoder(Converse).decode
read_event = msgspec.json.Decoder(Event).decode
read_error_body = msgspec.json.Decoder(ErrorBody).decode
read_text = msgspec.json.Decoder(str).decode

FINISH_IN: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop_sequence",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "guardrail_intervened": "filter",
    "content_filtered": "filter",
}
FINISH_OUT: dict[FinishReason, str] = {
    "stop": "end_turn",
    "stop_sequence": "stop_sequence",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "filter": "content_filtered",
}
MALFORMED = frozenset({"malformed_model_output", "malformed_tool_use"})
"""Stop reasons that say that there is no answer."""

EXCEPTION_STATUS: dict[str, int] = {
    "ValidationException": 400,
    "AccessDeniedException": 403,
    "UnrecognizedClientException": 403,
    "ExpiredTokenException": 403,
    "ResourceNotFoundException": 404,
    "ModelTimeoutException": 408,
    "ThrottlingException": 429,
    "ModelNotReadyException": 429,
    # 424 on the wire: the model failed, not the caller.
    "ModelErrorException": 502,
    "ModelStreamErrorException": 502,
    "InternalServerException": 500,
    "ServiceUnavailableException": 503,
}
EXCEPTION_OF: dict[int, str] = {
    400: "ValidationException",
    401: "AccessDeniedException",
    402: "AccessDeniedException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
    504: "ModelTimeoutException",
}
STREAM_EXCEPTION_OF: dict[int, str] = {
    400: "validationException",
    429: "throttlingException",
    503: "serviceUnavailableException",
}
"""A stream knows fewer exceptions: the rest is an internal error."""


def exception_of(status: int) -> str:
    """Return the name of the exception that a status stands for."""
    fallback = "InternalServerException" if status >= 500 else "ValidationException"
    return EXCEPTION_OF.get(status, fallback)
