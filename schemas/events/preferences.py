"""What a tuned model has gained by task, once its canary has passed: routing prefers it by that."""

from __future__ import annotations

import msgspec

from schemas.event import Event
from schemas.events.optimizer import OPTIMIZER


class PreferenceChanged(Event, frozen=True, kw_only=True):
    """The quality by which routing knows a tuned model was changed, or changed back (RT-15).

    `gains` are by task type, relative to `baseline`, the target whose traffic the canary shared:
    ``quality of target = quality of baseline + gain`` (0–1). `state` is proposed, active or withdrawn.
    `metric` is what was measured, `before` with the base or baseline, `after` with the tuned model:
    on held-out examples when it became active, of people's feedback when it was withdrawn for that.
    `number` counts the events of a target.
    """

    topic = OPTIMIZER
    type = "weir.optimizer.preference.changed"

    target: str
    baseline: str
    deployment_id: str
    model_version_id: str
    state: str
    reason: str
    metric: str
    before: float | None = None
    after: float | None = None
    gains: dict[str, float] = msgspec.field(default_factory=dict)
    number: int
    actor: str = "streams"

    @property
    def key(self) -> str:
        return f"preference:{self.target}"
