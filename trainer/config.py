"""What a fine-tune is told: hyper-parameters with their ranges, and the orders to the child processes.

Pure: the pipeline writes these, the children read them, nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from schemas.errors import ConfigurationError

Count = Annotated[int, Meta(ge=1)]


class TuningConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyper-parameters of a local fine-tune, with TRAIN-01's defaults.

    `save_steps` is rounded to a multiple of `eval_steps`, so that the best weights are always
    saved ones. `early_stopping_threshold` is the least fall of the validation loss that counts as
    better. `max_training_seconds` bounds one attempt.
    """

    model_max_length: Annotated[int, Meta(ge=8, le=131_072)] = 512
    num_epochs: Annotated[int, Meta(ge=1, le=1000)] = 3
    batch_size: Annotated[int, Meta(ge=1, le=1024)] = 4
    gradient_accumulation: Annotated[int, Meta(ge=1, le=1024)] = 1
    gradient_checkpointing: bool = False
    learning_rate: Annotated[float, Meta(gt=0, le=1)] = 5e-5
    warmup_steps: Annotated[int, Meta(ge=0)] = 100
    weight_decay: Annotated[float, Meta(ge=0, le=1)] = 0.01
    scheduler: Literal["linear", "cosine", "constant"] = "cosine"
    use_lora: bool = True
    lora_rank: Annotated[int, Meta(ge=1, le=512)] = 16
    lora_alpha: Annotated[int, Meta(ge=1, le=1024)] = 32
    lora_dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    use_8bit: bool = True
    use_4bit: bool = False
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    eval_steps: Count = 100
    save_steps: Count = 500
    logging_steps: Count = 10
    early_stopping_patience: Annotated[int, Meta(ge=1)] = 3
    early_stopping_threshold: Annotated[float, Meta(ge=0)] = 0.001
    max_training_seconds: Annotated[float, Meta(gt=0)] = 12 * 3600
    seed: Annotated[int, Meta(ge=0)] = 0
    threads: Annotated[int, Meta(ge=0)] = 1

    def __post_init__(self) -> None:
        """Raise ValueError for settings that exclude each other."""
        if self.use_4bit and not self.use_lora:
            raise ValueError("use_4bit trains adapters only: set use_lora")

    @property
    def checkpoint_steps(self) -> int:
        """Steps between checkpoints: the multiple of `eval_steps` next to `save_steps`."""
        return max(1, round(self.save_steps / self.eval_steps)) * self.eval_steps


def tuning_config(*layers: Mapping[str, Any]) -> TuningConfig:
    """Build a config from layers of which later ones win: a base's recipe, then the operator's.

    Raises ConfigurationError naming the field that is unknown or out of its range.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged.update(layer)
    try:
        return msgspec.convert(merged, TuningConfig, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigurationError(f"hyper-parameters of the fine-tune: {error}") from error


class BaseAbout(msgspec.Struct, frozen=True):
    """`weir.json` beside a base model's weights: what it is, and the recipe that suits it."""

    name: str
    parameters: int | None = None
    hyperparameters: dict[str, Any] = {}


def about_base(folder: Path) -> BaseAbout:
    """Read a base's `weir.json`; a base without one (any Hugging Face folder) has no recipe."""
    file = folder / "weir.json"
    if not file.exists():
        return BaseAbout(name=folder.name)
    return msgspec.json.decode(file.read_bytes(), type=BaseAbout)


class CountOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Order to `trainer.tokens`: count the tokens of `examples`, write a JSON list to `counts`."""

    base: str
    examples: str
    counts: str


class TuneOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Order to `trainer.tune`. Paths are folders or JSONL files; `work` holds the checkpoints."""

    base: str
    training: str
    stopping: str | None
    work: str
    adapter: str
    config: TuningConfig


class EvaluateOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Order to `trainer.generate`: answer `examples` with the base and with its adapter."""

    base: str
    adapter: str
    examples: str
    predictions: str
    max_new_tokens: Annotated[int, Meta(ge=1)] = 256
    batch_size: Count = 16
    threads: int = 1


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """A reading of a running fine-tune, one JSON line on the child's stdout."""

    step: int
    steps_total: int
    epoch: float
    training_loss: float | None = None
    validation_loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    memory_bytes: int | None = None
    eta_seconds: float | None = None


class Notice(msgspec.Struct, frozen=True, kw_only=True, tag="notice"):
    """Something an operator should know, e.g. that 8-bit was turned off."""

    message: str


class Finished(msgspec.Struct, frozen=True, kw_only=True, tag="finished"):
    """The last line of a child that did what it was ordered to."""

    metrics: dict[str, float]
    output: dict[str, str] = {}


Line = Progress | Notice | Finished
