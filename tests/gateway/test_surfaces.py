"""Pictures, sound, vectors, moderations, counted tokens: the official clients through the gateway."""

import io
import wave
from typing import Any

import anthropic
import openai
import pytest
from openai.types import (
    CreateEmbeddingResponse,
    ImageEditStreamEvent,
    ImageGenStreamEvent,
    ImagesResponse,
    ModerationCreateResponse,
)
from openai.types.audio import Transcription, TranscriptionStreamEvent

from schemas.events.changes import PriceChanged
from tests.gateway.strict import check, frames
from tests.gateway.worker import META, Worker, price, put, target
from tests.sandbox.served import Served

PIXEL = b"\x89PNG\r\n\x1a\nnot looked at"
HELLO: Any = [{"role": "user", "content": "Say hello."}]


def sound(seconds: float = 1.5) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(8_000)
        writer.writeframes(bytes(int(16_000 * seconds)))
    return out.getvalue()


def unit_price(model: str, **units: int) -> PriceChanged:
    return PriceChanged(
        **META,
        provider="openai",
        model=model,
        valid_from_us=0,
        input_price=5_000_000_000 if "tokens" in str(units) else None,
        output_price=40_000_000_000 if "tokens" in str(units) else None,
        unit_prices=units,
        price_version="test-1",
        source="test",
    )


@pytest.fixture(scope="module", autouse=True)
def listed(worker: Worker) -> None:
    kinds = {
        "text-embedding-3-small": "embeddings",
        "gpt-image-1": "images",
        "dall-e-3": "images",
        "tts-1": "speech",
        "gpt-4o-mini-tts": "speech",
        "whisper-1": "transcription",
        "gpt-4o-transcribe": "transcription",
        "omni-moderation-latest": "moderation",
    }
    worker.change(
        *(target("openai", name, capabilities=[kind]) for name, kind in kinds.items()),
        price("openai", "text-embedding-3-small", 20_000_000, 0),
        unit_price("gpt-image-1", input_image_tokens=10_000_000_000),
        unit_price("dall-e-3", **{"image": 40_000_000_000_000, "image/hd": 80_000_000_000_000}),
        unit_price("tts-1", character=15_000_000_000),
        unit_price("whisper-1", audio_ms=100_000_000),
        unit_price("omni-moderation-latest", call=0),
    )
    assert put


def books(sandbox: Served, request_id: str) -> dict[str, Any]:
    return next(row for row in sandbox.rows() if row["weir_request_id"] == request_id)


@pytest.mark.req("BEY-01")
@pytest.mark.req("COST-01")
@pytest.mark.parametrize("model", ["text-embedding-3-small", "openai/text-embedding-3-small"])
def test_embeddings(worker: Worker, sandbox: Served, model: str) -> None:
    raw = worker.openai().embeddings.with_raw_response.create(
        model=model, input=["a", "river"], encoding_format="float"
    )
    check(raw.http_response.json(), CreateEmbeddingResponse)
    answer = raw.parse()
    assert len(answer.data) == 2
    assert len(answer.data[0].embedding) == 1_536
    admitted, response, cost = worker.call(raw.headers["x-weir-request-id"])
    row = books(sandbox, response.request_id)
    assert (admitted.surface, response.surface, cost.surface) == ("embeddings",) * 3
    assert response.usage_basis == "reported"
    assert (cost.input_tokens, cost.output_tokens) == (row["input_tokens"], 0)
    assert cost.cost_nano_usd == row["input_tokens"] * 20
    assert admitted.reserved_nano_usd is not None
    assert admitted.reserved_nano_usd >= cost.cost_nano_usd


@pytest.mark.req("BEY-01")
def test_a_chat_model_is_never_asked_for_vectors(worker: Worker) -> None:
    answer = worker.openai().embeddings.create(model="auto", input="a river")
    assert answer.model == "text-embedding-3-small"
    with pytest.raises(openai.BadRequestError, match="takes embeddings calls"):
        worker.openai().embeddings.create(model="anthropic/claude-sonnet-4-5", input="a")
    with pytest.raises(openai.BadRequestError, match="input"):
        worker.openai().embeddings.create(model="text-embedding-3-small", input=[])


@pytest.mark.req("BEY-18")
@pytest.mark.req("COST-01")
def test_images_by_token_and_by_piece(worker: Worker, sandbox: Served) -> None:
    raw = worker.openai().images.with_raw_response.generate(
        model="gpt-image-1", prompt="a weir at dawn", quality="low", n=2
    )
    check(raw.http_response.json(), ImagesResponse)
    assert len(raw.parse().data or []) == 2
    _, response, cost = worker.call(raw.headers["x-weir-request-id"])
    row = books(sandbox, response.request_id)
    assert response.units == {"image/low": 2}
    assert (cost.input_tokens, cost.output_tokens) == (row["input_tokens"], row["output_tokens"])
    assert cost.cost_nano_usd == row["input_tokens"] * 5_000 + row["output_tokens"] * 40_000
    raw = worker.openai().images.with_raw_response.generate(
        model="dall-e-3", prompt="a weir", quality="standard", n=2, size="1024x1024"
    )
    admitted, response, cost = worker.call(raw.headers["x-weir-request-id"])
    assert response.units == {"image/standard/1024x1024": 2}
    assert cost.cost_nano_usd == admitted.reserved_nano_usd == 80_000_000
    assert cost.units == response.units


@pytest.mark.req("BEY-18")
def test_images_streamed(worker: Worker) -> None:
    body = {"model": "gpt-image-1", "prompt": "a weir", "stream": True, "partial_images": 2}
    status, headers, data = worker.request("POST", "/v1/images/generations", body)
    assert status == 200
    for _, event in frames(data):
        check(event, ImageGenStreamEvent)
    seen = worker.openai().images.generate(**body)  # type: ignore[call-overload]
    assert [event.type for event in seen] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    _, response, cost = worker.call(headers["x-weir-request-id"])
    assert response.stream
    assert response.usage_basis == "reported"
    assert cost.cost_nano_usd is not None


@pytest.mark.req("BEY-18")
def test_image_edits_and_variations_are_forms(worker: Worker, sandbox: Served) -> None:
    client = worker.openai()
    raw = client.images.with_raw_response.edit(
        model="openai/gpt-image-1", image=[("a.png", PIXEL), ("b.png", PIXEL)], prompt="Ümlaut “é”"
    )
    check(raw.http_response.json(), ImagesResponse)
    _, response, cost = worker.call(raw.headers["x-weir-request-id"])
    row = books(sandbox, response.request_id)
    assert response.surface == "image_edits"
    assert response.units["input_image_tokens"] == row["units"]["input_image_tokens"] == 646
    text = row["input_tokens"] - 646
    expected = text * 5_000 + 646 * 10_000 + row["output_tokens"] * 40_000
    assert cost.cost_nano_usd == expected
    streamed = client.images.edit(
        model="gpt-image-1", image=("a.png", PIXEL), prompt="x", stream=True
    )
    events = [event.to_dict() for event in streamed]
    for event in events:
        check(event, ImageEditStreamEvent)
    varied = client.images.create_variation(model="openai/dall-e-3", image=("a.png", PIXEL), n=2)
    assert len(varied.data or []) == 2


@pytest.mark.req("BEY-18")
@pytest.mark.req("COST-01")
def test_speech_is_carried_byte_for_byte(worker: Worker, sandbox: Served) -> None:
    text = "A weir is a low dam. " * 20
    asked: Any = {"model": "tts-1", "voice": "alloy", "input": text, "response_format": "wav"}
    direct = sandbox.openai().audio.speech.create(**asked)
    with worker.openai().audio.speech.with_streaming_response.create(**asked) as streamed:
        assert streamed.headers["content-type"] == "audio/wav"
        data = b"".join(streamed.iter_bytes())
    assert data == direct.content
    admitted, response, cost = worker.call(streamed.headers["x-weir-request-id"])
    assert response.units == {"character": len(text)}
    assert response.usage_basis == "counted"
    assert response.first_token_us is not None
    assert cost.cost_nano_usd == admitted.reserved_nano_usd == len(text) * 15_000


@pytest.mark.req("BEY-18")
def test_speech_as_events_says_its_tokens(worker: Worker, sandbox: Served) -> None:
    body = {"model": "gpt-4o-mini-tts", "voice": "alloy", "input": "Hello", "stream_format": "sse"}
    status, headers, data = worker.request("POST", "/v1/audio/speech", body)
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert [event["type"] for _, event in frames(data)][-1] == "speech.audio.done"
    _, response, cost = worker.call(headers["x-weir-request-id"])
    row = books(sandbox, response.request_id)
    assert (response.input_tokens, response.output_tokens) == (
        row["input_tokens"],
        row["output_tokens"],
    )
    assert cost.entry == "unpriced"
    assert cost.cost_nano_usd is None


@pytest.mark.req("BEY-18")
@pytest.mark.req("COST-01")
def test_transcription_per_second_and_per_token(worker: Worker, sandbox: Served) -> None:
    client = worker.openai()
    raw = client.audio.transcriptions.with_raw_response.create(
        model="whisper-1", file=("a.wav", sound()), language="en"
    )
    check(raw.http_response.json(), Transcription)
    _, response, cost = worker.call(raw.headers["x-weir-request-id"])
    assert response.units == {"audio_ms": 1_500}
    assert response.usage_basis == "counted"
    assert cost.cost_nano_usd == 150_000
    raw = client.audio.transcriptions.with_raw_response.create(
        model="openai/gpt-4o-transcribe", file=("a.wav", sound())
    )
    _, response, cost = worker.call(raw.headers["x-weir-request-id"])
    row = books(sandbox, response.request_id)
    assert response.units == row["units"] == {"input_audio_tokens": 15}
    assert cost.entry == "unpriced"
    text = client.audio.transcriptions.with_raw_response.create(
        model="whisper-1", file=("a.wav", sound()), response_format="text"
    )
    assert text.headers["content-type"].startswith("text/plain")
    assert text.http_response.text.strip()
    _, response, cost = worker.call(text.headers["x-weir-request-id"])
    assert (response.usage_basis, cost.entry) == ("none", "unpriced")


@pytest.mark.req("BEY-18")
def test_transcription_streamed_and_translation(worker: Worker) -> None:
    client = worker.openai()
    stream = client.audio.transcriptions.create(
        model="gpt-4o-transcribe", file=("a.wav", sound()), stream=True
    )
    events = list(stream)
    for event in events:
        check(event.to_dict(), TranscriptionStreamEvent)
    assert events[-1].type == "transcript.text.done"
    answer = client.audio.translations.create(model="whisper-1", file=("a.wav", sound()))
    assert answer.text


@pytest.mark.req("BEY-18")
def test_moderations_cost_nothing_and_say_so(worker: Worker) -> None:
    raw = worker.openai().moderations.with_raw_response.create(input=["hello", "kill"])
    check(raw.http_response.json(), ModerationCreateResponse)
    assert [result.flagged for result in raw.parse().results] == [False, True]
    _, response, cost = worker.call(raw.headers["x-weir-request-id"])
    assert response.target == "openai/omni-moderation-latest"
    assert (response.units, cost.cost_nano_usd, cost.entry) == ({"call": 1}, 0, "settled")


@pytest.mark.req("BEY-18")
@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/v1/images/generations", {"model": "gpt-image-1"}, "prompt"),
        ("/v1/images/generations", {"model": "gpt-image-1", "prompt": "x", "n": 0}, "'n'"),
        ("/v1/audio/speech", {"model": "tts-1", "voice": "alloy"}, "input"),
        ("/v1/audio/transcriptions", {"model": "whisper-1"}, "form"),
        ("/v1/moderations", {"model": "nobody-has-this", "input": "x"}, "does not exist"),
    ],
)
def test_what_is_wrong_is_said_in_openais_words(
    worker: Worker, path: str, body: Any, told: str
) -> None:
    status, _, data = worker.request("POST", path, body)
    assert status in {400, 404}
    assert told in data.decode()


@pytest.mark.req("BEY-18")
@pytest.mark.parametrize("kind", ["cut", "reset", "rate_limited", "server_error"])
def test_a_form_or_a_picture_that_fails_is_settled_once(
    worker: Worker, sandbox: Served, kind: str
) -> None:
    sandbox.behave("dall-e-3", "/a", faults=[{"kind": kind, "count": 1}])
    status, headers, _ = worker.request(
        "POST", "/v1/images/generations", {"model": "a/dall-e-3", "prompt": "x"}
    )
    assert status == 200 or kind != "cut"
    admitted, response, _ = worker.call(headers["x-weir-request-id"])
    assert admitted.request_id == response.request_id


@pytest.mark.req("BEY-01")
@pytest.mark.parametrize(
    ("model", "estimated"),
    [
        ("anthropic/claude-sonnet-4-5", False),
        ("openai/gpt-4o-mini", False),
        ("a/gpt-4o-mini", True),
    ],
)
def test_tokens_are_counted_or_said_to_be_estimated(
    worker: Worker, model: str, estimated: bool
) -> None:
    raw = worker.anthropic().messages.with_raw_response.count_tokens(model=model, messages=HELLO)
    check(raw.http_response.json(), anthropic.types.MessageTokensCount)
    assert raw.parse().input_tokens > 0
    assert (raw.headers.get("x-weir-usage-basis") == "estimated") is estimated
    _, response, cost = worker.call(raw.headers["x-weir-request-id"])
    assert (cost.cost_nano_usd, cost.entry, response.surface) == (0, "settled", "count_tokens")


@pytest.mark.req("BEY-01")
@pytest.mark.parametrize("model", ["openai/gpt-4o-mini", "anthropic/claude-sonnet-4-5"])
def test_openais_client_counts_too(worker: Worker, model: str) -> None:
    counted = worker.openai().responses.input_tokens.count(model=model, input="What is a weir?")
    assert counted.object == "response.input_tokens"
    assert counted.input_tokens > 5
