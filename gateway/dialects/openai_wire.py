"""The members of OpenAI's chat completions that the gateway reads; all others pass unread.

Source: OpenAI API reference, "Chat Completions" (create, the chat completion object, streaming).
"""

from __future__ import annotations

import msgspec

from gateway.dialects.neutral import FinishReason, Usage


class _CachedTokens(msgspec.Struct):
    cached_tokens: int | None = None


class _ReasoningTokens(msgspec.Struct):
    reasoning_tokens: int | None = None


class WireUsage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _CachedTokens | None = None
    completion_tokens_details: _ReasoningTokens | None = None

    def neutral(self) -> Usage:
        """Return the tokens in the neutral form."""
        prompt, completion = self.prompt_tokens_details, self.completion_tokens_details
        return Usage(
            self.prompt_tokens,
            prompt.cached_tokens if prompt else None,
            self.completion_tokens,
            completion.reasoning_tokens if completion else None,
        )


class WireFunction(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class WireToolCall(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: WireFunction | None = None


class WireMessage(msgspec.Struct):
    """A whole message or the delta of one; `reasoning*` are the words of compatible vendors."""

    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[WireToolCall] | None = None


class WireError(msgspec.Struct):
    message: str = ""
    type: str | None = None
    code: str | int | None = None


class _Choice(msgspec.Struct):
    message: WireMessage
    index: int = 0
    finish_reason: str | None = None


class _ChunkChoice(msgspec.Struct):
    index: int = 0
    delta: WireMessage | None = None
    finish_reason: str | None = None


class Completion(msgspec.Struct):
    choices: list[_Choice]
    id: str = ""
    model: str = ""
    usage: WireUsage | None = None


class Chunk(msgspec.Struct):
    id: str = ""
    model: str = ""
    choices: list[_ChunkChoice] = []
    usage: WireUsage | None = None
    error: WireError | None = None


class ErrorBody(msgspec.Struct):
    error: WireError | str


read_completion = msgspec.json.Decoder(Completion).decode
read_chunk = msgspec.json.Decoder(Chunk).decode
read_error_body = msgspec.json.Decoder(ErrorBody).decode

FINISH_IN: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "filter",
}
FINISH_OUT: dict[FinishReason, str] = {
    "stop": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "filter": "content_filter",
}
