"""On this machine: LoRA or full fine-tuning by transformers, peft and TRL, in a child process."""

from __future__ import annotations

from pathlib import Path

from trainer.backends.base import Backend, Hear
from trainer.child import run_child
from trainer.config import Finished, TuneOrder
from trainer.settings import TrainerSettings


async def tune(settings: TrainerSettings, order: TuneOrder, folder: Path, hear: Hear) -> Finished:
    """Run `trainer.tune` in the trainer's environment; it goes on from its last checkpoint."""
    return await run_child(settings.trainer_python, "trainer.tune", order, folder, hear)


LOCAL = Backend("local", tune)
