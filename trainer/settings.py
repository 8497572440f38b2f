"""What the trainer and the model server need to know."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TrainerSettings:
    """How runs are made and judged, and where local models lie.

    `data_dir` holds the runs, `models_dir` the bases and the registry's files; `trainer_python` is
    the interpreter that can import torch, which may not exist yet. `backend` is one of
    `trainer.backends`; `base` names a folder under ``models_dir/bases``, None takes the only one
    there. `hyperparameters` win over a base's own.

    A run takes at most `examples_max` pieces of feedback of the last `lookback_days`, holds
    `validation_split` of them out, and passes when `gate_metric` gains significantly on them.
    A step that keeps dying is given up after `attempts_max` starts.

    The model server answers up to `batch_max` requests at once; `queue_max` more may wait.
    `threads` are those of one tensor operation (0: all cores): more than one pays off only for models
    far larger than the tiny one, and takes the cores from the gateway.
    """

    data_dir: Path
    models_dir: Path
    trainer_python: Path
    master_key: bytes = field(repr=False)
    host: str = "127.0.0.1"
    port: int = 8082
    local_provider: str = "local"
    backend: str = "local"
    base: str | None = None
    model_name: str | None = None
    environment: str = "production"
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    lookback_days: int = 30
    examples_max: int = 10_000
    validation_split: float = 0.2
    gate_metric: str = "exact_match"
    max_new_tokens: int = 256
    seed: int = 0
    attempts_max: int = 10
    batch_max: int = 16
    queue_max: int = 64
    threads: int = 1

    @property
    def bases_dir(self) -> Path:
        """Where base models lie, one folder each."""
        return self.models_dir / "bases"
