"""OpenAI's endpoints for pictures, sound and moderations, as its API reference gives them."""

import base64
import hashlib
import io
import random
import struct
import time
import wave
import zlib
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from infra.sandbox import calls, generation
from infra.sandbox.errors import invalid
from infra.sandbox.exchange import Exchange, Header
from infra.sandbox.generation import Ask
from infra.sandbox.models import Kind
from infra.sandbox.openai_wire import rate_headers
from infra.sandbox.requests import read, read_form
from infra.sandbox.tokens import count
from infra.sandbox.wire import Desk

_encode = msgspec.json.encode

IMAGE_TOKENS = {"low": 272, "medium": 1_056, "high": 4_160, "auto": 1_056}
"""Output tokens of a square picture by quality, as the vendor's guide to image generation has them."""
INPUT_IMAGE_TOKENS = 323
SPEECH_RATE_HZ = 24_000
CHARACTERS_PER_SECOND = 15
AUDIO_TOKENS_PER_SECOND = 10
CHUNK_BYTES = 4_096
_FORMATS = {"mp3": "audio/mpeg", "opus": "audio/opus", "aac": "audio/aac", "flac": "audio/flac",
            "wav": "audio/wav", "pcm": "audio/pcm"}  # fmt: skip
_CATEGORIES = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent",
    "self-harm", "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence",
    "violence/graphic",
)  # fmt: skip


class ImageRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The documented parameters of `/v1/images/generations`."""

    prompt: Annotated[str, Meta(min_length=1)]
    model: str = "dall-e-2"
    background: str | None = None
    moderation: str | None = None
    n: Annotated[int, Meta(ge=1, le=10)] = 1
    output_compression: int | None = None
    output_format: Literal["png", "jpeg", "webp"] = "png"
    partial_images: Annotated[int, Meta(ge=0, le=3)] = 0
    quality: str | None = None
    response_format: Literal["url", "b64_json"] | None = None
    size: str | None = None
    stream: bool = False
    style: str | None = None
    user: str | None = None


class SpeechRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The documented parameters of `/v1/audio/speech`."""

    model: str
    input: Annotated[str, Meta(min_length=1, max_length=4_096)]
    voice: str | dict[str, str]
    instructions: str | None = None
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = "mp3"
    speed: Annotated[float, Meta(ge=0.25, le=4)] = 1.0
    stream_format: Literal["sse", "audio"] = "audio"


class ModerationRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The documented parameters of `/v1/moderations`."""

    input: str | list[str | dict[str, Any]]
    model: str = "omni-moderation-latest"


_IMAGES = msgspec.json.Decoder(ImageRequest)
_SPEECH = msgspec.json.Decoder(SpeechRequest)
_MODERATIONS = msgspec.json.Decoder(ModerationRequest)


async def _begin(exchange: Exchange, desk: Desk, name: str, kind: Kind) -> list[Header] | None:
    """Find the model, meet the faults of its lane, and wait; None when the call is over."""
    model = desk.model(exchange, name, "openai")
    if model.kind != kind:
        raise invalid(f"The model '{name}' does not support this endpoint.", param="model")
    lane = desk.behaviours.lane(exchange.row.base, model)
    plan = lane.plan()
    if await calls.before(exchange, plan, anthropic=False):
        return None
    calls.admit(lane, 1)
    if plan.first_token_s > 0:
        await exchange.wait(plan.first_token_s)
    return rate_headers(exchange, lane)


# --- pictures ----------------------------------------------------------------------------------


def picture(seed: str) -> bytes:
    """A PNG of one pixel, coloured by its seed."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    colour = hashlib.blake2b(seed.encode("utf-8", "surrogatepass"), digest_size=3).digest()
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\x00" + colour)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


async def images(exchange: Exchange, desk: Desk) -> None:
    """Serve `/v1/images/generations`."""
    request = read(_IMAGES, await exchange.body(desk.settings.body_bytes_max))
    await _pictures(exchange, desk, request, inputs=0, event="image_generation")


async def image_edits(exchange: Exchange, desk: Desk) -> None:
    """Serve `/v1/images/edits`."""
    form = await _form(exchange, desk)
    files = [value for name, value in form.multi_items() if name in {"image", "image[]"}]
    if not files or not all(isinstance(value, UploadFile) for value in files):
        raise invalid("'image' is a required property", param="image")
    request = _picture_form(form, {"image", "image[]", "mask", "input_fidelity"})
    await _pictures(exchange, desk, request, inputs=len(files), event="image_edit")


async def image_variations(exchange: Exchange, desk: Desk) -> None:
    """Serve `/v1/images/variations`."""
    form = await _form(exchange, desk)
    if not isinstance(form.get("image"), UploadFile):
        raise invalid("'image' is a required property", param="image")
    request = _picture_form(form, {"image"}, prompt="a variation")
    await _pictures(exchange, desk, request, inputs=1, event="image_edit")


def _picture_form(form: FormData, files: set[str], **given: str) -> ImageRequest:
    texts = {name: value for name, value in form.items() if name not in files}
    return read_form({**given, **texts}, ImageRequest)


async def _pictures(
    exchange: Exchange, desk: Desk, request: ImageRequest, *, inputs: int, event: str
) -> None:
    headers = await _begin(exchange, desk, request.model, "image")
    if headers is None:
        return
    row = exchange.row
    by_token = request.model.startswith("gpt-image")
    drawn = [picture(f"{request.prompt}|{number}") for number in range(request.n)]
    row.units = {"image": request.n}
    answer: dict[str, Any] = {"created": int(time.time())}
    if by_token:
        text = count(request.prompt)
        made = IMAGE_TOKENS.get(request.quality or "auto", IMAGE_TOKENS["auto"]) * request.n
        row.input_tokens, row.output_tokens = text + inputs * INPUT_IMAGE_TOKENS, made
        row.units["input_image_tokens"] = inputs * INPUT_IMAGE_TOKENS
        answer["usage"] = {
            "input_tokens": row.input_tokens,
            "input_tokens_details": {
                "text_tokens": text,
                "image_tokens": inputs * INPUT_IMAGE_TOKENS,
            },
            "output_tokens": made,
            "total_tokens": row.input_tokens + made,
        }
        answer |= {"background": "opaque", "output_format": request.output_format}
        answer |= {"quality": _quality(request), "size": _size(request)}
    row.usage_sent = True
    if request.stream:
        await _stream_pictures(exchange, headers, request, drawn, answer, event)
        return
    as_url = not by_token and request.response_format != "b64_json"
    answer["data"] = [
        {"url": f"https://sandbox.invalid/{hashlib.sha256(data).hexdigest()[:16]}.png"}
        if as_url
        else {"b64_json": base64.b64encode(data).decode()}
        for data in drawn
    ]
    await exchange.answer_json(answer, headers)


def _quality(request: ImageRequest) -> str:
    return request.quality if request.quality in {"low", "medium", "high"} else "medium"


def _size(request: ImageRequest) -> str:
    return request.size if request.size and request.size != "auto" else "1024x1024"


async def _stream_pictures(
    exchange: Exchange,
    headers: list[Header],
    request: ImageRequest,
    drawn: list[bytes],
    answer: dict[str, Any],
    event: str,
) -> None:
    exchange.row.stream = True
    shared = {
        "created_at": answer["created"],
        "background": "opaque",
        "output_format": request.output_format,
        "quality": _quality(request),
        "size": _size(request),
    }
    await exchange.start(200, [(b"content-type", b"text/event-stream; charset=utf-8"), *headers])
    data = base64.b64encode(drawn[0]).decode()
    for number in range(request.partial_images):
        kind = f"{event}.partial_image"
        await _event(
            exchange, {"type": kind, "b64_json": data, "partial_image_index": number, **shared}
        )
    last = {"type": f"{event}.completed", "b64_json": data, **shared, "usage": answer["usage"]}
    await _event(exchange, last)
    exchange.row.complete = True
    await exchange.write(b"", more=False)


async def _event(exchange: Exchange, event: dict[str, Any]) -> None:
    await exchange.write(b"event: %b\ndata: %b\n\n" % (event["type"].encode(), _encode(event)))


# --- sound -------------------------------------------------------------------------------------


async def speech(exchange: Exchange, desk: Desk) -> None:
    """Serve `/v1/audio/speech`: silence, as long as the text takes to say."""
    request = read(_SPEECH, await exchange.body(desk.settings.body_bytes_max))
    if request.stream_format == "sse" and request.model.startswith("tts-1"):
        raise invalid(
            "stream_format 'sse' is not supported with this model.", param="stream_format"
        )
    headers = await _begin(exchange, desk, request.model, "speech")
    if headers is None:
        return
    row = exchange.row
    seconds = len(request.input) / CHARACTERS_PER_SECOND / request.speed
    sound = _sound(request, seconds)
    row.stream, row.units = True, {"character": len(request.input)}
    if not request.model.startswith("tts-1"):
        row.input_tokens = count(request.input)
        row.output_tokens = max(1, round(seconds * AUDIO_TOKENS_PER_SECOND))
    if request.stream_format == "sse":
        await exchange.start(
            200, [(b"content-type", b"text/event-stream; charset=utf-8"), *headers]
        )
        for at in range(0, len(sound), CHUNK_BYTES):
            audio = base64.b64encode(sound[at : at + CHUNK_BYTES]).decode()
            await _event(exchange, {"type": "speech.audio.delta", "audio": audio})
        total = row.input_tokens + row.output_tokens
        usage = {"input_tokens": row.input_tokens, "output_tokens": row.output_tokens}
        row.usage_sent = True
        await _event(
            exchange, {"type": "speech.audio.done", "usage": {**usage, "total_tokens": total}}
        )
    else:
        kind = _FORMATS[request.response_format].encode()
        await exchange.start(200, [(b"content-type", kind), *headers])
        for at in range(0, len(sound), CHUNK_BYTES):
            await exchange.write(sound[at : at + CHUNK_BYTES])
    row.complete = True
    await exchange.write(b"", more=False)


def _sound(request: SpeechRequest, seconds: float) -> bytes:
    frames = bytes(2 * max(1, round(seconds * SPEECH_RATE_HZ)))
    if request.response_format == "pcm":
        return frames
    if request.response_format != "wav":
        # Not a real encoding: nobody listens, but every byte must arrive.
        return random.Random(request.input).randbytes(max(64, len(frames) // 16))
    out = io.BytesIO()
    with wave.open(out, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(SPEECH_RATE_HZ)
        writer.writeframes(frames)
    return out.getvalue()


async def transcriptions(exchange: Exchange, desk: Desk) -> None:
    """Serve `/v1/audio/transcriptions`."""
    await _hear(exchange, desk, await _form(exchange, desk), translate=False)


async def translations(exchange: Exchange, desk: Desk) -> None:
    """Serve `/v1/audio/translations`."""
    await _hear(exchange, desk, await _form(exchange, desk), translate=True)


async def _hear(exchange: Exchange, desk: Desk, form: FormData, *, translate: bool) -> None:
    file, name = form.get("file"), form.get("model")
    if not isinstance(file, UploadFile) or not isinstance(name, str):
        raise invalid("'file' and 'model' are required properties", param="file")
    headers = await _begin(exchange, desk, name, "transcription")
    if headers is None:
        return
    row, data = exchange.row, await file.read()
    seconds = _seconds(data)
    digest = hashlib.sha256(data).hexdigest()
    ask = Ask(prompt=f"{name}\n{digest}", limit=64, length_min=8, length_max=40)
    text = "".join(generation.compose(ask).blocks[-1].pieces)
    usage: dict[str, Any] = {"type": "duration", "seconds": seconds}
    row.units = {"audio_ms": round(seconds * 1000)}
    if name != "whisper-1":
        heard = max(1, round(seconds * AUDIO_TOKENS_PER_SECOND))
        row.input_tokens, row.output_tokens = heard, count(text)
        row.units = {"input_audio_tokens": heard}
        usage = {
            "type": "tokens",
            "input_tokens": heard,
            "input_token_details": {"text_tokens": 0, "audio_tokens": heard},
            "output_tokens": row.output_tokens,
            "total_tokens": heard + row.output_tokens,
        }
    row.usage_sent = True
    if form.get("stream") in {"true", "True"} and name != "whisper-1":
        await _stream_text(exchange, headers, text, usage)
        return
    match form.get("response_format") or "json":
        case "text":
            kind = (b"content-type", b"text/plain; charset=utf-8")
            await exchange.answer(200, text.encode() + b"\n", [kind, *headers])
        case "verbose_json" if name == "whisper-1":
            body = {"language": "english", "duration": seconds, "text": text}
            await exchange.answer_json({**body, "segments": [], "usage": usage}, headers)
        case "json":
            shown = {} if translate else {"usage": usage}
            await exchange.answer_json({"text": text, **shown}, headers)
        case other:
            raise invalid(f"response_format '{other}' is not compatible with this model.")


async def _stream_text(
    exchange: Exchange, headers: list[Header], text: str, usage: dict[str, Any]
) -> None:
    exchange.row.stream = True
    await exchange.start(200, [(b"content-type", b"text/event-stream; charset=utf-8"), *headers])
    for word in text.split(" "):
        await _event(exchange, {"type": "transcript.text.delta", "delta": f"{word} "})
    await _event(exchange, {"type": "transcript.text.done", "text": text, "usage": usage})
    exchange.row.complete = True
    await exchange.write(b"", more=False)


def _seconds(data: bytes) -> float:
    try:
        with wave.open(io.BytesIO(data)) as reader:
            frames: int = reader.getnframes()
            rate: int = reader.getframerate()
            return round(frames / rate, 3)
    except (wave.Error, EOFError):
        return round(len(data) / 16_000, 3)  # as 128 kbit/s


async def _form(exchange: Exchange, desk: Desk) -> FormData:
    body = await exchange.body(desk.settings.body_bytes_max)

    async def replay() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        size = desk.settings.files_bytes_max
        return await Request(exchange.scope, replay).form(max_part_size=size)
    except MultiPartException as error:
        raise invalid(f"Invalid multipart body: {error.message}") from error


# --- moderations -------------------------------------------------------------------------------


async def moderations(exchange: Exchange, desk: Desk) -> None:
    """Serve `/v1/moderations`: texts that speak of harm are flagged."""
    request = read(_MODERATIONS, await exchange.body(desk.settings.body_bytes_max))
    headers = await _begin(exchange, desk, request.model, "moderation")
    if headers is None:
        return
    given = [request.input] if isinstance(request.input, str) else request.input
    if not given:
        raise invalid("'input' is empty", param="input")
    texts = [item if isinstance(item, str) else str(item.get("text", "")) for item in given]
    if any(isinstance(item, dict) for item in given):
        texts = [" ".join(texts)]
    exchange.row.units = {"call": 1}
    answer = {
        "id": f"modr-{exchange.row.id.removeprefix('req_')}",
        "model": request.model,
        "results": [_verdict(text) for text in texts],
    }
    await exchange.answer_json(answer, headers)


def _verdict(text: str) -> dict[str, Any]:
    harm = "kill" in text.lower()
    flags = {name: harm and name == "violence" for name in _CATEGORIES}
    return {
        "flagged": harm,
        "categories": flags,
        "category_scores": {name: 0.98 if flagged else 0.01 for name, flagged in flags.items()},
        "category_applied_input_types": {name: ["text"] for name in _CATEGORIES},
    }


ROUTES = {
    ("POST", "images/generations"): images,
    ("POST", "images/edits"): image_edits,
    ("POST", "images/variations"): image_variations,
    ("POST", "audio/speech"): speech,
    ("POST", "audio/transcriptions"): transcriptions,
    ("POST", "audio/translations"): translations,
    ("POST", "moderations"): moderations,
}
