"""The members of Anthropic's messages that the gateway reads; all others pass unread.

Source: Anthropic API reference, "Messages" (create, streaming messages, errors).
"""

from __future__ import annotations

import re

import msgspec

from gateway.dialects.neutral import FinishReason, Usage


class CacheCreation(msgspec.Struct):
    """What was written to the cache, by how long it stays."""

    ephemeral_1h_input_tokens: int | None = None


class OutputDetails(msgspec.Struct):
    thinking_tokens: int | None = None


VENDOR = "anthropic"
"""Whose signatures stand in this dialect without a mark."""


class WireUsage(msgspec.Struct):
    """`input_tokens` excludes what was read from, or written to, the cache."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: CacheCreation | None = None
    output_tokens_details: OutputDetails | None = None

    def neutral(self) -> Usage:
        """Return the tokens in the neutral form."""
        cached, written = self.cache_read_input_tokens, self.cache_creation_input_tokens
        total = self.input_tokens
        if total is not None:
            total += (cached or 0) + (written or 0)
        details = self.output_tokens_details
        thought = details.thinking_tokens if details else None
        return Usage(total, cached, self.output_tokens, thought, written)

    def units(self) -> dict[str, int]:
        """Return which of the tokens have a price of their own."""
        longer = self.cache_creation and self.cache_creation.ephemeral_1h_input_tokens
        return {"cache_write_1h_tokens": longer} if longer else {}


class Block(msgspec.Struct):
    type: str
    text: str = ""
    thinking: str = ""
    signature: str | None = None
    data: str = ""
    id: str = ""
    name: str = ""
    input: msgspec.Raw = msgspec.Raw(b"{}")


class WireMessage(msgspec.Struct):
    content: list[Block]
    id: str = ""
    model: str = ""
    stop_reason: str | None = None
    usage: WireUsage | None = None


class WireDelta(msgspec.Struct):
    """A piece of a block, or (without type) the end of the message."""

    type: str = ""
    text: str = ""
    partial_json: str = ""
    thinking: str = ""
    signature: str = ""
    stop_reason: str | None = None


class WireError(msgspec.Struct):
    type: str = ""
    message: str = ""


class Event(msgspec.Struct):
    type: str
    index: int = 0
    message: WireMessage | None = None
    content_block: Block | None = None
    delta: WireDelta | None = None
    usage: WireUsage | None = None
    error: WireError | None = None


class ErrorBody(msgspec.Struct):
    error: WireError


def sealed(signature: str | None, vendor: str) -> str:
    """Return a signature as this dialect's clients keep it: another vendor's is marked as such."""
    if not signature:
        return ""
    return signature if vendor in {"", VENDOR} else f"{vendor}:{signature}"


def unsealed(signature: str) -> tuple[str, str]:
    """Return (signature, vendor) of what a client of this dialect sent back."""
    vendor, mark, rest = signature.partition(":")
    return (rest, vendor) if mark else (signature, VENDOR)


def own_thoughts(messages: msgspec.Raw) -> msgspec.Raw:
    """Return messages without the thoughts of another vendor, which this one refuses: those that
    are marked as such, and those that nobody signed.

    They are there when several vendors answered the turns of one conversation.
    """
    if not _FOREIGN.search(bytes(messages)):
        return messages
    wires = msgspec.json.decode(messages)
    for wire in wires if isinstance(wires, list) else ():
        if isinstance(wire, dict) and isinstance(wire.get("content"), list):
            wire["content"] = [block for block in wire["content"] if not _is_foreign(block)]
    return msgspec.Raw(msgspec.json.encode(wires))


def _is_foreign(block: object) -> bool:
    signature = block.get("signature") if isinstance(block, dict) else None
    return isinstance(signature, str) and (not signature or unsealed(signature)[1] != VENDOR)


_FOREIGN = re.compile(rb'"signature"\s*:\s*"([a-z]+:|")')
read_message = msgspec.json.Decoder(WireMessage).decode
read_event = msgspec.json.Decoder(Event).decode
read_error_body = msgspec.json.Decoder(ErrorBody).decode

FINISH_IN: dict[str, FinishReason] = {
    "end_turn": "stop",
    "pause_turn": "stop",
    "stop_sequence": "stop_sequence",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "filter",
}
FINISH_OUT: dict[FinishReason, str] = {
    "stop": "end_turn",
    "stop_sequence": "stop_sequence",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "filter": "refusal",
}

ERROR_STATUS: dict[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
ERROR_TYPE: dict[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
