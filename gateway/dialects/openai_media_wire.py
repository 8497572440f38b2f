"""The members of OpenAI's pictures, sound and moderations that the gateway reads, and of their streams.

Sources: as in `openai_media`.
"""

from __future__ import annotations

import msgspec

from gateway.dialects.neutral import Json, Usage


class Details(msgspec.Struct):
    """Which tokens are of which kind."""

    audio_tokens: int | None = None
    image_tokens: int | None = None


class UnitUsage(msgspec.Struct):
    """Usage of the endpoints for pictures and sound: by tokens, or by duration."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    seconds: float | None = None
    input_tokens_details: Details | None = None
    input_token_details: Details | None = None
    output_tokens_details: Details | None = None

    def neutral(self) -> Usage:
        """Return the tokens in the neutral form."""
        return Usage(self.input_tokens, None, self.output_tokens)

    def units(self) -> dict[str, int]:
        """Return what has a price of its own."""
        read = self.input_tokens_details or self.input_token_details or Details()
        made = self.output_tokens_details or Details()
        units = {
            "input_audio_tokens": read.audio_tokens,
            "input_image_tokens": read.image_tokens,
            "output_audio_tokens": made.audio_tokens,
            "output_image_tokens": made.image_tokens,
            "audio_ms": None if self.seconds is None else round(self.seconds * 1000),
        }
        return {name: count for name, count in units.items() if count}


class Event(msgspec.Struct):
    type: str = ""
    usage: UnitUsage | None = None
    error: Json | None = None


class Pictures(msgspec.Struct):
    data: list[msgspec.Raw] | None = None
    usage: UnitUsage | None = None


class Transcript(msgspec.Struct):
    text: str
    duration: float | None = None
    usage: UnitUsage | None = None


class Verdicts(msgspec.Struct):
    results: list[msgspec.Raw]
    id: str = ""
    model: str = ""


read_event = msgspec.json.Decoder(Event).decode
read_pictures = msgspec.json.Decoder(Pictures).decode
read_transcript = msgspec.json.Decoder(Transcript).decode
read_verdicts = msgspec.json.Decoder(Verdicts).decode
