import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.feedback import FEEDBACK_TYPES, FeedbackDesk, UserContext, snake_case
from gateway.ledger import Recorder
from gateway.outbox import Outbox
from gateway.segment import frames, segment_paths
from schemas import codec
from schemas.errors import InvalidRequest
from schemas.events.changes import KeyChanged
from schemas.events.feedback import FeedbackRecorded
from schemas.events.operations import DataKeyCreated
from schemas.privacy import Opener, Sealed
from schemas.publish import sample
from tests.gateway_durability.support import MASTER, settings

KEY = msgspec.structs.replace(sample(KeyChanged), key_id="k1", user_id="user-of-key")
GOOD: dict[str, Any] = {
    "user_id": "u1",
    "original_prompt": "say hello",
    "model_response": "hallo",
    "feedback_type": "manual_correction",
    "corrected_response": "hello",
    "satisfaction_score": -0.5,
    "user_context": ["prefers English"],
    "metadata": {"page": "7"},
    "request_id": "r1",
    "model_id": "openai/gpt",
    "deployment_id": "d1",
    "task_type": "chat",
    "request_context": {
        "session_id": "s1",
        "client_application": "app",
        "request_parameters": {"temperature": 0.5, "style": "short"},
        "prompt_tokens": 3,
        "response_tokens": 4,
        "processing_time_ms": 12.5,
    },
}


class Desk:
    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.desk = FeedbackDesk(recorder)

    async def post(self, body: Any) -> tuple[int, dict[str, Any]]:
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        status, headers, answer = await self.desk.handle(
            data, KEY, "req-1", {"openai/gpt"}.__contains__
        )
        assert (b"content-type", b"application/json") in headers
        return status, msgspec.json.decode(answer)

    def events(self) -> list[Any]:
        return [
            codec.decode(entry.value)
            for path in segment_paths(self.recorder.outbox.folder)
            for whole in frames(path.read_bytes())
            for entry in whole.entries
        ]

    def recorded(self) -> list[FeedbackRecorded]:
        return [event for event in self.events() if isinstance(event, FeedbackRecorded)]

    def texts(self, event: FeedbackRecorded) -> dict[str, Any]:
        keys = {e.data_key_id: e for e in self.events() if isinstance(e, DataKeyCreated)}
        sealed = Sealed(event.data_key_id, event.nonce, event.ciphertext)
        return msgspec.json.decode(Opener(MASTER, keys.get).open(sealed, event.feedback_id))


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    outbox = Outbox(settings(tmp_path), "/gateway/test")
    yield Desk(Recorder(outbox, MASTER))
    os.close(outbox.close())


@pytest.mark.req("FB-01")
@pytest.mark.req("FB-04")
async def test_the_id_comes_back_once_it_is_in_the_file(desk: Desk) -> None:
    status, answer = await desk.post(GOOD)
    assert status == 201
    [event] = desk.recorded()
    assert event.feedback_id == answer["id"]
    assert (event.user_id, event.key_id, event.request_id) == ("u1", "k1", "r1")
    assert (event.feedback_type, event.satisfaction_score) == ("manual_correction", -0.5)
    assert event.has_correction
    assert (event.session_id, event.client_application) == ("s1", "app")
    assert event.request_parameters == {"temperature": "0.5", "style": "short"}
    assert (event.prompt_tokens, event.response_tokens) == (3, 4)
    assert event.processing_time_ms == 12.5
    assert (event.model_id, event.deployment_id) == ("openai/gpt", "d1")
    assert event.task_type == "chat"
    assert desk.texts(event) == {
        "original_prompt": "say hello",
        "model_response": "hallo",
        "corrected_response": "hello",
        "user_context": ["prefers English"],
        "metadata": {"page": "7"},
    }


@pytest.mark.req("GEN-02")
async def test_camel_case_is_understood(desk: Desk) -> None:
    body = {
        "userId": "u1",
        "originalPrompt": "p",
        "modelResponse": "r",
        "feedbackType": "ThumbsUp",
        "satisfactionScore": 1,
        "userSegment": "pro",
        "requestContext": {"sessionId": "s", "promptTokens": 1, "processingTimeMs": 2},
    }
    status, _ = await desk.post(body)
    assert status == 201
    [event] = desk.recorded()
    assert event.feedback_type == "thumbs_up"
    assert (event.session_id, event.prompt_tokens, event.user_segment) == ("s", 1, "pro")


@pytest.mark.req("FB-02")
@pytest.mark.parametrize("kind", FEEDBACK_TYPES)
async def test_every_type_is_taken(desk: Desk, kind: str) -> None:
    status, _ = await desk.post(GOOD | {"feedback_type": kind})
    assert status == 201
    assert desk.recorded()[0].feedback_type == kind


@pytest.mark.req("FB-03")
async def test_all_errors_come_at_once(desk: Desk) -> None:
    body = {
        "original_prompt": " ",
        "model_response": None,
        "feedback_type": "shrug",
        "satisfaction_score": 1.5,
        "user_context": "text",
        "metadata": [],
        "request_context": {"prompt_tokens": -1, "processing_time_ms": "soon"},
    }
    status, answer = await desk.post(body)
    assert status == 422
    assert answer["is_valid"] is False
    assert [error.split(":")[0] for error in answer["errors"]] == [
        "feedback_type",
        "original_prompt",
        "model_response",
        "user_context",
        "metadata",
        "satisfaction_score",
        "request_context.prompt_tokens",
        "request_context.processing_time_ms",
    ]
    assert answer["error"]["code"] == "validation_failed"
    assert answer["error"]["details"] == answer["errors"]
    assert answer["error"]["request_id"] == "req-1"
    assert desk.events() == []


@pytest.mark.req("FB-03")
@pytest.mark.parametrize("corrected", [None, "", "  \n"])
async def test_a_correction_needs_its_text(desk: Desk, corrected: str | None) -> None:
    status, answer = await desk.post(GOOD | {"corrected_response": corrected})
    assert status == 422
    assert answer["errors"] == ["corrected_response: must not be blank"]


@pytest.mark.req("FB-03")
@pytest.mark.parametrize("score", [-1.0001, 2, True, "1", 10**400])
async def test_a_score_out_of_bounds_is_refused(desk: Desk, score: object) -> None:
    status, answer = await desk.post(GOOD | {"satisfaction_score": score})
    assert status == 422
    assert len(answer["errors"]) == 1


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff\xfe", b'{"a": NaN}', b'"text"'])
async def test_what_is_no_json_object_is_refused(desk: Desk, body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        await desk.post(body)


async def test_the_user_and_score_have_defaults(desk: Desk) -> None:
    body = {"original_prompt": "p", "model_response": "r", "feedback_type": "thumbs_down"}
    assert (await desk.post(body))[0] == 201
    [event] = desk.recorded()
    assert (event.user_id, event.satisfaction_score) == ("user-of-key", -1.0)
    assert event.key == event.feedback_id
    assert not event.has_correction


@pytest.mark.req("FB-04")
async def test_a_user_context_provider_enriches(desk: Desk) -> None:
    class Known:
        def context(self, user_id: str) -> UserContext:
            return UserContext("gold", [f"knows {user_id}"])

    desk.desk = FeedbackDesk(desk.recorder, Known())
    plain = {k: v for k, v in GOOD.items() if k != "user_context"}
    await desk.post(plain)
    [event] = desk.recorded()
    assert event.user_segment == "gold"
    assert desk.texts(event)["user_context"] == ["knows u1"]


@pytest.mark.req("FB-01")
@pytest.mark.parametrize(("model", "known"), [("openai/gpt", True), ("openai/none", False)])
async def test_whether_a_model_exists_is_recorded_with_what_was_said_of_it(
    desk: Desk, model: str, known: bool
) -> None:
    status, _ = await desk.post({**GOOD, "model_id": model})
    [event] = desk.recorded()
    assert (status, event.model_id, event.model_known) == (201, model, known)


async def test_texts_are_not_in_the_open(desk: Desk) -> None:
    await desk.post(GOOD)
    [path] = segment_paths(desk.recorder.outbox.folder)
    assert b"say hello" not in path.read_bytes()


@pytest.mark.parametrize(
    ("name", "snake"),
    [("satisfactionScore", "satisfaction_score"), ("ThumbsUp", "thumbs_up"), ("a_b", "a_b")],
)
def test_snake_case(name: str, snake: str) -> None:
    assert snake_case(name) == snake


async def test_feedback_leaves_no_open_request(desk: Desk) -> None:
    await desk.post(GOOD)
    assert desk.recorder.outbox.open_requests == 0
