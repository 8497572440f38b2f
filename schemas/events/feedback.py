"""What people and evaluators say of an answer."""

from __future__ import annotations

import msgspec

from schemas.event import Event, Topic

FEEDBACK = Topic("weir.llm.feedback.v1")


class FeedbackRecorded(Event, frozen=True, kw_only=True):
    """One piece of feedback (FB-01).

    The texts (original_prompt, model_response, corrected_response, user_context, metadata) are
    sealed together as JSON; what folds and projections need stays in the open.
    `satisfaction_score` lies in −1..1; `feedback_type` is a word of FB-02. `model_id` is what the caller
    said; `model_known` whether it named something of ours then: a caller may write anything, and tables
    have no row for what does not exist.
    """

    topic = FEEDBACK
    type = "weir.llm.feedback.recorded"
    version = 2

    feedback_id: str
    request_id: str | None = None
    key_id: str
    user_id: str
    feedback_type: str
    satisfaction_score: float
    has_correction: bool
    user_segment: str | None = None
    session_id: str | None = None
    client_application: str | None = None
    request_parameters: dict[str, str] = msgspec.field(default_factory=dict)
    prompt_tokens: int | None = None
    response_tokens: int | None = None
    processing_time_ms: float | None = None
    model_id: str | None = None
    deployment_id: str | None = None
    task_type: str | None = None
    data_key_id: str
    nonce: bytes
    ciphertext: bytes
    model_known: bool = True

    @property
    def key(self) -> str:
        return self.request_id or self.feedback_id
