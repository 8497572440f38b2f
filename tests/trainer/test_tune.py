"""The fine-tune as a child process: it learns, and a kill in the middle changes nothing of what it learns."""

import asyncio
import os
import signal
from pathlib import Path

import msgspec
import pytest

from schemas.errors import ModelTrainingError
from tests.trainer import support
from trainer.child import run_child
from trainer.config import Finished, Line, Progress, TuneOrder, tuning_config
from trainer.datasets import TrainingExample, write_split

RECIPE = {
    "num_epochs": 16,
    "batch_size": 4,
    "learning_rate": 2e-3,
    "warmup_steps": 4,
    "lora_rank": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.1,
    "eval_steps": 5,
    "save_steps": 5,
    "logging_steps": 1,
    "early_stopping_patience": 50,
    "seed": 7,
    "threads": 1,
}


def order(home: Path, base: Path, name: str) -> TuneOrder:
    examples = [
        TrainingExample(id=f"e{n}", user_prompt=p, model_response=a, preferred_response=c)
        for n, (p, a, c) in enumerate(support.corrections(2, 20))
    ]
    training = write_split(home, "training", examples[:16])
    stopping = write_split(home, "stopping", examples[16:])
    return TuneOrder(
        base=str(base),
        training=training.storage_path,
        stopping=stopping.storage_path,
        work=str(home / name / "work"),
        adapter=str(home / name / "adapter"),
        config=tuning_config(RECIPE),
    )


class Listener:
    """Keeps every reading; kills the child at a step when told to."""

    def __init__(self, folder: Path, kill_at: int | None = None) -> None:
        self.folder, self.kill_at = folder, kill_at
        self.losses: dict[int, float] = {}
        self.validation: dict[int, float] = {}

    async def __call__(self, line: Line) -> None:
        if not isinstance(line, Progress):
            return
        if line.training_loss is not None:
            self.losses[line.step] = line.training_loss
        if line.validation_loss is not None:
            self.validation[line.step] = line.validation_loss
        if self.kill_at is not None and line.step >= self.kill_at:
            self.kill_at = None
            pid = int((self.folder / "tune.pid").read_text("utf-8"))
            os.kill(pid, signal.SIGKILL)


async def tune(python: Path, told: TuneOrder, listener: Listener) -> Finished:
    return await run_child(python, "trainer.tune", told, listener.folder, listener)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.req("TRAIN-06", "TRAIN-07")
async def test_a_killed_fine_tune_goes_on_with_the_same_losses(
    tuner: Path, tiny_base: Path, tmp_path: Path
) -> None:
    told = order(tmp_path, tiny_base, "whole")
    whole = Listener(tmp_path / "whole")
    finished = await tune(tuner, told, whole)
    assert finished.metrics["steps"] == 64
    assert whole.losses[64] < whole.losses[1] / 2

    told = order(tmp_path, tiny_base, "cut")
    cut = Listener(tmp_path / "cut", kill_at=23)
    with pytest.raises(ModelTrainingError, match="SIGKILL"):
        await tune(tuner, told, cut)
    resumed = Listener(tmp_path / "cut")
    again = await tune(tuner, told, resumed)
    assert min(resumed.losses) == 21, "it goes on from the checkpoint of step 20"
    # Identical, not close: optimizer, schedule, dropout and data order were all restored.
    assert {**cut.losses, **resumed.losses} == whole.losses
    assert {**cut.validation, **resumed.validation} == whole.validation
    assert again.metrics["best_validation_loss"] == finished.metrics["best_validation_loss"]
    weights = [
        (tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes()
        for name in ("whole", "cut")
    ]
    assert weights[0] == weights[1]
    metadata = msgspec.json.decode(
        (tmp_path / "cut" / "adapter" / "training_metadata.json").read_bytes()
    )
    assert metadata["hyperparameters"]["lora_rank"] == 4
    assert metadata["stopped"] == "completed"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.req("TRAIN-06")
async def test_a_child_that_fails_says_why(tuner: Path, tmp_path: Path) -> None:
    told = order(tmp_path, tmp_path / "no-such-base", "failed")
    with pytest.raises(ModelTrainingError, match="no-such-base"):
        await tune(tuner, told, Listener(tmp_path / "failed"))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.req("TRAIN-06")
async def test_a_child_does_not_outlive_the_task_that_ordered_it(
    tuner: Path, tiny_base: Path, tmp_path: Path
) -> None:
    told = order(tmp_path, tiny_base, "left")
    task = asyncio.create_task(tune(tuner, told, Listener(tmp_path / "left")))
    pid_file = tmp_path / "left" / "tune.pid"
    while not pid_file.exists():
        await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text("utf-8")), 0)
