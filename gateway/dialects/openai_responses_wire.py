"""The members of OpenAI's responses that the gateway reads; all others pass unread.

Source: OpenAI API reference, "Responses" (create, the response object, streaming events):
https://developers.openai.com/api/reference/resources/responses.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from gateway.dialects.neutral import FinishReason, Part, Text, Thinking, ToolCall, Usage
from schemas.errors import UpstreamProtocol

VENDOR = "openai"
OWN = "weir:"
"""Begins the encrypted content of reasoning items that hold another vendor's signed thoughts."""
_encode = msgspec.json.encode


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class WireUsage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None

    def neutral(self) -> Usage:
        """Return the tokens in the neutral form."""
        read = self.input_tokens_details or _InputDetails()
        made = self.output_tokens_details or _OutputDetails()
        return Usage(
            self.input_tokens,
            read.cached_tokens,
            self.output_tokens,
            made.reasoning_tokens,
            read.cache_write_tokens,
        )


class WirePart(msgspec.Struct):
    type: str = ""
    text: str = ""
    refusal: str = ""


class WireItem(msgspec.Struct):
    type: str = ""
    id: str | None = None
    call_id: str = ""
    name: str = ""
    arguments: str = ""
    content: list[WirePart] | None = None
    summary: list[WirePart] | None = None
    encrypted_content: str | None = None


class WireError(msgspec.Struct):
    code: str | None = None
    message: str = ""


class _Incomplete(msgspec.Struct):
    reason: str | None = None


class WireResponse(msgspec.Struct):
    output: list[WireItem]
    id: str = ""
    model: str = ""
    status: str | None = None
    error: WireError | None = None
    incomplete_details: _Incomplete | None = None
    usage: WireUsage | None = None

    @property
    def finish(self) -> FinishReason:
        """Why the answer ended."""
        if self.status == "incomplete":
            reason = self.incomplete_details.reason if self.incomplete_details else None
            return "filter" if reason == "content_filter" else "length"
        called = any(item.type == "function_call" for item in self.output)
        return "tool_calls" if called else "stop"

    def units(self) -> dict[str, int]:
        """Return the calls of the vendor's own tools, which have prices of their own."""
        units: dict[str, int] = {}
        for item in self.output:
            name = item.type.removesuffix("_call")
            if item.type in _OWN_CALLS:
                units[name] = units.get(name, 0) + 1
        return units


_OWN_CALLS = frozenset({"web_search_call", "file_search_call", "code_interpreter_call"})


class Event(msgspec.Struct):
    type: str = ""
    delta: str = ""
    output_index: int = 0
    summary_index: int = 0
    item: WireItem | None = None
    response: WireResponse | None = None
    code: str | None = None
    message: str | None = None
    error: WireError | None = None


read_response = msgspec.json.Decoder(WireResponse).decode
read_event = msgspec.json.Decoder(Event).decode


def parts_of(items: list[WireItem]) -> list[Part]:
    """Return what an answer's items say; those of the vendor's own tools have no counterpart."""
    parts: list[Part] = []
    for item in items:
        match item.type:
            case "reasoning":
                parts.append(thinking_of(item))
            case "message":
                texts = [part.text or part.refusal for part in item.content or []]
                parts += [Text(text) for text in texts if text]
            case "function_call":
                if not item.name:
                    raise UpstreamProtocol("a function call of the answer has no name")
                parts.append(ToolCall(item.call_id, item.name, item.arguments or "{}"))
    return parts


def thinking_of(item: WireItem) -> Thinking:
    """Return a reasoning item's thoughts, as whoever signed them wrote them."""
    text = "\n\n".join(part.text for part in (item.summary or item.content or []))
    content = item.encrypted_content
    if content is not None and content.startswith(OWN):
        return _unpack(content, text)
    return Thinking(text, content and signed(item.id, content), False, VENDOR if content else "")


def signed(item_id: str | None, content: str) -> str:
    """Return OpenAI's signature: the item's id belongs to it."""
    return f"{item_id or ''}:{content}"


def pack(part: Thinking) -> str | None:
    """Return a foreign vendor's signed or hidden thoughts as encrypted content, None for others."""
    if not (part.signature or part.redacted):
        return None
    held = [part.vendor, part.signature, part.text if part.redacted else None]
    return OWN + base64.urlsafe_b64encode(_encode(held)).decode()


def _unpack(content: str, text: str) -> Thinking:
    try:
        held: list[Any] = msgspec.json.decode(
            base64.urlsafe_b64decode(content.removeprefix(OWN)), type=list[str | None]
        )
        vendor, signature, hidden = held
    except (binascii.Error, msgspec.DecodeError, ValueError):
        return Thinking(text, vendor="")  # not as we wrote it: the thoughts lose their signature
    if hidden is not None:
        return Thinking(hidden, None, True, vendor or "")
    return Thinking(text, signature, False, vendor or "")
