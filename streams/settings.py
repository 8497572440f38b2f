"""What the streams part needs to know."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from schemas.circuits import RULES, CircuitRules
from schemas.errors import ConfigurationError
from schemas.optimizer import RULES as OPTIMIZER_RULES
from schemas.optimizer import OptimizerRules
from streams.agents.feedback import ALL, BUCKET_SECONDS, WINDOW


@dataclass(frozen=True)
class StreamsSettings:
    """How the folds run.

    `data_dir` is the part's own folder. `folds` names those that this process runs, all if empty:
    each is a consumer group of its own, so processes may share the work out by fold, and, with a
    `worker` number each, by partition.

    A fine-tune is due when `feedback_threshold` pieces of feedback on `feedback_scope` (``all``,
    ``model:…`` or ``task:…``) arrived within `feedback_window_s`; the next one no sooner than
    `feedback_cooldown_s` later, and it counts only what came after.

    A fold whose rows nobody waits for gathers `batch_wait_s` long, so that an entity has one row of
    all that came meanwhile.

    After `session_timeout_s` the partitions of a worker that went silent go to others. A fold
    that is behind and has not moved for `stalled_s` has lost its consumer: the process ends.
    """

    data_dir: Path
    folds: tuple[str, ...] = ()
    worker: int = 0
    feedback_threshold: int = 500
    feedback_window_s: int = 86_400
    feedback_cooldown_s: int = 86_400
    feedback_scope: str = ALL
    batch_records_max: int = 4_000
    batch_wait_s: float = 1.0
    heartbeat_s: float = 1.0
    stalled_s: float = 60.0
    lag_records_max: int = 20_000
    lag_alert_s: float = 30.0
    session_timeout_s: float = 10.0
    circuits: CircuitRules = RULES
    optimizer: OptimizerRules = OPTIMIZER_RULES

    def __post_init__(self) -> None:
        longest_s = WINDOW.keep * BUCKET_SECONDS
        if not 0 < self.feedback_window_s <= longest_s:
            raise ConfigurationError(
                f"a feedback window of {self.feedback_window_s} s is not within 1 to {longest_s} s",
                action="Correct the feedback window in the settings.",
            )
