"""Feedback (FB-01..04): checked whole, sealed, and in the outbox before the caller has its id.

It needs neither the broker nor control, so nothing that a person says of an answer is lost while
these are away.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from gateway.ledger import Recorder
from schemas.clock import now_us
from schemas.errors import InvalidRequest, ValidationFailed
from schemas.events.changes import KeyChanged
from schemas.events.feedback import FeedbackRecorded
from schemas.identity import uuid7

PATHS = frozenset({"/api/model-training/feedback", "/api/v1/feedback"})
DEFAULT_SCORES = {"thumbs_up": 1.0, "thumbs_down": -1.0}
FEEDBACK_TYPES = (
    "thumbs_down",
    "thumbs_up",
    "text_feedback",
    "manual_correction",
    "prompt_reformulation",
    "automatic_evaluation",
)
TOKENS_MAX = 2**63 - 1
DAY_MS = 86_400_000

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class UserContext(msgspec.Struct, frozen=True):
    """What is known of a user beyond the request: a segment, and preferences as short phrases."""

    segment: str | None = None
    preferences: list[str] = []


class UserContextProvider(Protocol):
    """Enriches feedback whose caller says nothing of the user."""

    def context(self, user_id: str) -> UserContext:
        """Return what is known; an empty context for a stranger."""
        ...


class NoUserContext:
    """Knows nobody."""

    def context(self, user_id: str) -> UserContext:  # noqa: ARG002 - the protocol's signature
        """Return an empty context."""
        return UserContext()


def snake_case(name: str) -> str:
    """Return ``satisfactionScore`` as ``satisfaction_score``; snake_case stays as it is."""
    return _HUMP.sub("_", name).lower()


class Form:
    """A JSON object whose fields are taken one by one; what is wrong gathers in `errors`."""

    def __init__(self, fields: dict[str, Any], errors: list[str], prefix: str = "") -> None:
        self._fields = {snake_case(name): value for name, value in fields.items()}
        self._prefix = prefix
        self.errors = errors

    def _fail(self, name: str, what: str) -> None:
        self.errors.append(f"{self._prefix}{name}: {what}")

    def text(self, name: str, *, required: bool = False) -> str | None:
        """Return a string; blank counts as missing when it is required."""
        value = self._fields.get(name)
        if value is None or (required and isinstance(value, str) and not value.strip()):
            if required:
                self._fail(name, "must not be blank")
            return None
        if not isinstance(value, str):
            self._fail(name, "must be a string")
            return None
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        """Return a number within bounds."""
        value = self._fields.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._fail(name, "must be a number")
            return None
        if not low <= value <= high:
            self._fail(name, f"must lie between {low:g} and {high:g}")
            return None
        return float(value)

    def count(self, name: str) -> int | None:
        """Return a non-negative integer."""
        value = self._fields.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= TOKENS_MAX:
            self._fail(name, "must be a non-negative integer")
            return None
        return value

    def texts(self, name: str) -> list[str]:
        """Return a list of strings."""
        value = self._fields.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self._fail(name, "must be a list of strings")
            return []
        return value

    def mapping(self, name: str) -> dict[str, str]:
        """Return an object of strings; other scalars are written as JSON would."""
        value = self._fields.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._fail(name, "must be an object")
            return {}
        return {
            key: item if isinstance(item, str) else msgspec.json.encode(item).decode()
            for key, item in value.items()
        }

    def part(self, name: str) -> Form:
        """Return a nested object, an empty one when it is missing."""
        value = self._fields.get(name)
        if value is not None and not isinstance(value, dict):
            self._fail(name, "must be an object")
            value = None
        return Form(value or {}, self.errors, f"{self._prefix}{name}.")

    def kind(self, name: str) -> str:
        """Return a feedback type; ``ThumbsUp`` and ``thumbsUp`` are understood."""
        value = self.text(name, required=True)
        if value is None:
            return ""
        kind = snake_case(value)
        if kind not in FEEDBACK_TYPES:
            self._fail(name, f"must be one of {', '.join(FEEDBACK_TYPES)}")
        return kind


class FeedbackDesk:
    """Takes feedback; belongs to the event loop's thread."""

    def __init__(self, recorder: Recorder, users: UserContextProvider | None = None) -> None:
        self._recorder = recorder
        self._users = users or NoUserContext()

    async def handle(
        self, body: bytes, key: KeyChanged, request_id: str, knows: Callable[[str], bool]
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Record feedback; return status 201, headers and ``{"id"}`` once it is written.

        `knows` says of a model's name whether it is one of ours: others are recorded all the same.
        Invalid feedback gives 422 with every error (FB-03). Raises InvalidRequest for a body that
        is no JSON object, OutboxFull when there is no room.
        """
        try:
            fields = msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest("the body is not a JSON object in UTF-8") from error
        except RecursionError as error:
            raise InvalidRequest("the body is nested too deeply") from error
        errors: list[str] = []
        event = self._event(Form(fields, errors), key, knows)
        headers = [(b"content-type", b"application/json")]
        if event is None:
            return ValidationFailed.status, headers, _refusal(errors, request_id)
        sequence = self._recorder.outbox.append(
            event, correlation_id=event.request_id or event.feedback_id
        )
        await self._recorder.durable("written", sequence)
        answer = {"id": event.feedback_id, "is_valid": True, "errors": []}
        return 201, headers, msgspec.json.encode(answer)

    def _event(
        self, form: Form, key: KeyChanged, knows: Callable[[str], bool]
    ) -> FeedbackRecorded | None:
        """Return the event, None when the form gathered errors."""
        kind = form.kind("feedback_type")
        texts: dict[str, Any] = {
            "original_prompt": form.text("original_prompt", required=True),
            "model_response": form.text("model_response", required=True),
            "corrected_response": form.text(
                "corrected_response", required=kind == "manual_correction"
            ),
            "user_context": form.texts("user_context"),
            "metadata": form.mapping("metadata"),
        }
        score = form.number("satisfaction_score", -1, 1)
        context = form.part("request_context")
        user_id = form.text("user_id") or key.user_id or key.key_id
        known = self._users.context(user_id)
        texts["user_context"] = texts["user_context"] or known.preferences
        fields: dict[str, Any] = {
            "request_id": form.text("request_id"),
            "user_segment": form.text("user_segment") or known.segment,
            "session_id": context.text("session_id"),
            "client_application": context.text("client_application"),
            "request_parameters": context.mapping("request_parameters"),
            "prompt_tokens": context.count("prompt_tokens"),
            "response_tokens": context.count("response_tokens"),
            "processing_time_ms": context.number("processing_time_ms", 0, DAY_MS),
            "model_id": form.text("model_id"),
            "deployment_id": form.text("deployment_id"),
            "task_type": form.text("task_type"),
        }
        if form.errors:
            return None
        feedback_id, model_id = uuid7(), fields["model_id"]
        sealed = self._recorder.sealer.seal(user_id, msgspec.json.encode(texts), feedback_id)
        return FeedbackRecorded(
            event_id=uuid7(),
            occurred_at_us=now_us(),
            feedback_id=feedback_id,
            key_id=key.key_id,
            user_id=user_id,
            feedback_type=kind,
            satisfaction_score=DEFAULT_SCORES.get(kind, 0.0) if score is None else score,
            has_correction=bool((texts["corrected_response"] or "").strip()),
            data_key_id=sealed.data_key_id,
            nonce=sealed.nonce,
            ciphertext=sealed.ciphertext,
            model_known=model_id is not None and knows(model_id),
            **fields,
        )


def _refusal(errors: list[str], request_id: str) -> bytes:
    error = {
        "code": ValidationFailed.code,
        "message": "the feedback is not valid",
        "type": ValidationFailed.type,
        "details": errors,
        "request_id": request_id,
        "retryable": False,
        "retry_after_seconds": None,
        "action": ValidationFailed.action,
    }
    return msgspec.json.encode({"error": error, "is_valid": False, "errors": errors})
