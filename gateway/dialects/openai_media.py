"""OpenAI's pictures, sound and moderations: calls that go through as they are, and are paid for.

Sources: OpenAI API reference, "Images" (https://developers.openai.com/api/reference/resources/images),
"Audio" (…/resources/audio), "Moderations" (…/resources/moderations).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import msgspec

from gateway.dialects.multipart import BOUNDARY, FormFields, read_form, record_form, write_form
from gateway.dialects.neutral import Answer, Fields, Json, Opening
from gateway.dialects.openai_base import OneShot
from gateway.dialects.openai_media_wire import (
    UnitUsage,
    read_pictures,
    read_transcript,
    read_verdicts,
)
from gateway.dialects.reading import member, required
from schemas.errors import InvalidRequest, UpstreamProtocol

_SSE = b"text/event-stream"


class Images(OneShot):
    """Pictures from words."""

    surface = "images"
    path = "/images/generations"
    client_paths: ClassVar[Mapping[str, Json]] = {"/v1/images/generations": {}}
    model_default = "auto"
    ends = frozenset({"image_generation.completed", "image_edit.completed"})

    @property
    def capability(self) -> str:
        return "images"

    def units(self, fields: Fields) -> dict[str, int]:
        name = "image"
        for part in ("quality", "size"):
            word = member(fields, part, str)
            name += f"/{word}" if word else ""
        count = member(fields, "n", int) or 1
        if not 1 <= count <= 100:
            raise InvalidRequest("'n' must lie between 1 and 100")
        return {name: count}

    def read_answer(self, body: bytes) -> Answer:
        try:
            wire = read_pictures(body)
        except msgspec.DecodeError as error:
            raise UpstreamProtocol(f"the answer holds no images: {error}") from error
        usage = wire.usage or UnitUsage()
        units = {**usage.units(), "image": len(wire.data or [])}
        return Answer(id="", model="", usage=usage.neutral(), units=units)


class _Form(OneShot):
    """A call whose body is a form with files."""

    default_headers: ClassVar[Mapping[str, str]] = {
        "content-type": f"multipart/form-data; boundary={BOUNDARY}"
    }

    def read_body(self, body: bytes, content_type: str | None) -> Fields:
        return read_form(body, content_type)

    def forward_request(self, fields: Fields, model: str, opening: Opening) -> bytes:
        del opening
        assert isinstance(fields, FormFields), "this dialect reads nothing else"
        return write_form(fields, model)

    def request_record(self, body: bytes, fields: Fields) -> bytes:
        del body
        assert isinstance(fields, FormFields), "this dialect reads nothing else"
        return record_form(fields)


class ImageEdits(_Form, Images):
    """Pictures from pictures and words."""

    surface = "image_edits"
    path = "/images/edits"
    client_paths: ClassVar[Mapping[str, Json]] = {"/v1/images/edits": {}}


class ImageVariations(_Form, Images):
    """Pictures like a picture."""

    surface = "image_variations"
    path = "/images/variations"
    client_paths: ClassVar[Mapping[str, Json]] = {"/v1/images/variations": {}}


class Speech(OneShot):
    """Sound from words: a run of bytes as it is made, or events that carry it."""

    surface = "speech"
    path = "/audio/speech"
    client_paths: ClassVar[Mapping[str, Json]] = {"/v1/audio/speech": {}}
    stream_type = b""
    heartbeats = False
    ends = frozenset({"speech.audio.done"})

    def units(self, fields: Fields) -> dict[str, int]:
        return {"character": len(required(fields, "input", str))}

    def streams(self, fields: Fields) -> bool:
        del fields
        return True

    def bare(self, headers: Mapping[bytes, bytes]) -> bool:
        return not headers.get(b"content-type", b"").startswith(_SSE)

    def read_answer(self, body: bytes) -> Answer:
        raise UpstreamProtocol(f"speech comes as a stream, not as {len(body)} bytes")


class Transcription(_Form):
    """Words from sound."""

    surface = "transcription"
    path = "/audio/transcriptions"
    client_paths: ClassVar[Mapping[str, Json]] = {"/v1/audio/transcriptions": {}}
    ends = frozenset({"transcript.text.done"})

    def read_answer(self, body: bytes) -> Answer:
        if not body.lstrip().startswith(b"{"):
            return Answer(id="", model="")  # text or subtitles: they say nothing of usage
        try:
            wire = read_transcript(body)
        except msgspec.DecodeError as error:
            raise UpstreamProtocol(f"the answer is no transcript: {error}") from error
        usage = wire.usage or UnitUsage(seconds=wire.duration)
        return Answer(id="", model="", usage=usage.neutral(), units=usage.units())


class Translation(Transcription):
    """English words from sound in any language."""

    surface = "translation"
    path = "/audio/translations"
    client_paths: ClassVar[Mapping[str, Json]] = {"/v1/audio/translations": {}}

    @property
    def capability(self) -> str:
        return "transcription"


class Moderation(OneShot):
    """Whether a text or picture does harm."""

    surface = "moderation"
    path = "/moderations"
    client_paths: ClassVar[Mapping[str, Json]] = {"/v1/moderations": {}}
    model_default = "omni-moderation-latest"

    def units(self, fields: Fields) -> dict[str, int]:
        del fields
        return {"call": 1}

    def read_answer(self, body: bytes) -> Answer:
        try:
            wire = read_verdicts(body)
        except msgspec.DecodeError as error:
            raise UpstreamProtocol(f"the answer is no moderation: {error}") from error
        return Answer(id=wire.id, model=wire.model)


IMAGES = Images()
IMAGE_EDITS = ImageEdits()
IMAGE_VARIATIONS = ImageVariations()
SPEECH = Speech()
TRANSCRIPTION = Transcription()
TRANSLATION = Translation()
MODERATION = Moderation()
