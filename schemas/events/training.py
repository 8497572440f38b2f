"""The trainer's steps: a run can be explained, and resumed, from these alone."""

from __future__ import annotations

import msgspec

from schemas.event import Event, Topic

TRIGGERS = Topic("weir.training.triggers.v1", partitions=1)
STEPS = Topic("weir.training.steps.v1")
PROGRESS = Topic("weir.training.progress.v1")


class TriggerFired(Event, frozen=True, kw_only=True):
    """A feedback threshold was crossed (one event per crossing), or a person asked for a run.

    `since_us`..`until_us` is the window of feedback that it counted. The id of an automatic one
    is its scope and ordinal, so that a double is recognisable; `total` is how much feedback the
    scope had ever received when it fired, from which the next crossing counts on.
    """

    topic = TRIGGERS
    type = "weir.training.trigger.fired"

    trigger_id: str
    scope: str
    reason: str
    count: int
    threshold: int
    since_us: int
    until_us: int
    total: int = 0

    @property
    def key(self) -> str:
        return self.trigger_id


class StepCompleted(Event, frozen=True, kw_only=True):
    """A step of a pipeline run ended. `status` is completed, failed or refused.

    `output` holds what later steps need (ids, digests, counts, as text).
    """

    topic = STEPS
    type = "weir.training.step.completed"

    run_id: str
    step: str
    status: str
    output: dict[str, str] = msgspec.field(default_factory=dict)
    metrics: dict[str, float] = msgspec.field(default_factory=dict)
    reason: str | None = None
    duration_us: int

    @property
    def key(self) -> str:
        return self.run_id


class StepStarted(Event, frozen=True, kw_only=True):
    """The intent of a step with effects outside the log; `attempt` counts restarts."""

    topic = STEPS
    type = "weir.training.step.started"

    run_id: str
    step: str
    attempt: int
    input: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def key(self) -> str:
        return self.run_id


class TrainingProgress(Event, frozen=True, kw_only=True):
    """A live reading of a fine-tune (TRAIN-07)."""

    topic = PROGRESS
    type = "weir.training.progress"

    run_id: str
    step: int
    steps_total: int
    epoch: float
    training_loss: float | None = None
    validation_loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    memory_bytes: int | None = None
    eta_seconds: float | None = None

    @property
    def key(self) -> str:
        return self.run_id
