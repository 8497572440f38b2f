"""The members of OpenAI's chat completions that the gateway reads; all others pass unread.

Source: OpenAI API reference, "Chat Completions" (create, the chat completion object, streaming).
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.dialects.neutral import FinishReason, Usage


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    audio_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None
    audio_tokens: int | None = None


class WireUsage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    prompt_cache_hit_tokens: int | None = None  # DeepSeek's word for cached ones

    def neutral(self) -> Usage:
        """Return the tokens in the neutral form."""
        prompt, completion = self.prompt_tokens_details, self.completion_tokens_details
        return Usage(
            self.prompt_tokens,
            prompt.cached_tokens if prompt else self.prompt_cache_hit_tokens,
            self.completion_tokens,
            completion.reasoning_tokens if completion else None,
            prompt.cache_write_tokens if prompt else None,
        )

    def units(self) -> dict[str, int]:
        """Return which of the tokens have a price of their own: those of sound."""
        units = {}
        if (prompt := self.prompt_tokens_details) and prompt.audio_tokens:
            units["input_audio_tokens"] = prompt.audio_tokens
        if (completion := self.completion_tokens_details) and completion.audio_tokens:
            units["output_audio_tokens"] = completion.audio_tokens
        return units


class WireFunction(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class WireToolCall(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: WireFunction | None = None


class SentFunction(msgspec.Struct):
    name: str
    arguments: str | None = None


class SentCall(msgspec.Struct):
    """A call of a tool in an earlier turn: its id and name are needed again. Cohere has the same."""

    id: str
    function: SentFunction


class WireDetail(msgspec.Struct):
    """A piece of reasoning as OpenRouter and others write it; `format` names whose it is.

    Source: https://openrouter.ai/docs/use-cases/reasoning-tokens ("Preserving reasoning blocks").
    """

    type: str = ""
    text: str | None = None
    summary: str | None = None
    data: str | None = None
    signature: str | None = None
    format: str | None = None


DETAIL_FORMATS = {
    "anthropic": "anthropic-claude-v1",
    "openai": "openai-responses-v1",
    "gemini": "google-gemini-v1",
}
DETAIL_VENDORS = {name: vendor for vendor, name in DETAIL_FORMATS.items()}


class WirePart(msgspec.Struct):
    """A part of a message's content: text, or thoughts in parts of their own.

    Source: https://docs.mistral.ai/capabilities/reasoning.
    """

    type: str = ""
    text: str = ""
    thinking: list[WirePart] = []


class WireMessage(msgspec.Struct):
    """A whole message or the delta of one; `reasoning*` are the words of compatible vendors."""

    content: str | list[WirePart] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: list[WireDetail] | None = None
    tool_calls: list[WireToolCall] | None = None


class WireError(msgspec.Struct):
    message: str = ""
    type: str | None = None
    code: str | int | None = None

    @property
    def kind(self) -> str:
        """The vendor's word for it; a mere number says no more than the status."""
        code = str(self.code or "")
        return self.type or code if not code or code.isdigit() else code


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


class _TextChoice(msgspec.Struct):
    text: str = ""
    index: int = 0
    finish_reason: str | None = None


class TextCompletion(msgspec.Struct):
    """A completion of plain text, or a chunk of one."""

    choices: list[_TextChoice]
    id: str = ""
    model: str = ""
    usage: WireUsage | None = None
    error: WireError | None = None


class Chunk(msgspec.Struct):
    id: str = ""
    model: str = ""
    choices: list[_ChunkChoice] = []
    usage: WireUsage | None = None
    error: WireError | None = None


class ErrorBody(msgspec.Struct):
    """An error's body: OpenAI's object, or one of the forms of compatible vendors.

    A bare text (xAI, Hugging Face), `message` (Mistral, there also an object), `detail` (NVIDIA).
    """

    error: WireError | str | None = None
    message: Any = None
    detail: Any = None
    type: str | None = None
    code: str | int | None = None

    def told(self) -> WireError:
        """Return what the body says, in OpenAI's form."""
        if isinstance(self.error, WireError):
            return self.error
        told = next((said for said in (self.error, self.message, self.detail) if said), "")
        text = told if isinstance(told, str) else msgspec.json.encode(told).decode()
        return WireError(text, self.type, self.code)


read_completion = msgspec.json.Decoder(Completion).decode
read_text_completion = msgspec.json.Decoder(TextCompletion).decode
read_chunk = msgspec.json.Decoder(Chunk).decode
read_error_body = msgspec.json.Decoder(ErrorBody).decode

FINISH_IN: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "filter",
    "model_length": "length",
}
FAILED = "error"
"""A finish reason that says that there is no answer (Mistral, OpenRouter)."""
FINISH_OUT: dict[FinishReason, str] = {
    "stop": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "filter": "content_filter",
}
