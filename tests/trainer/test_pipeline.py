"""A trigger becomes a served model, or a refusal, from real events; kills in between change nothing."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from infra.kafka import KafkaLog
from tests.trainer import support
from tests.trainer.running import ended, install, settings_for, trainer, watching
from trainer import pipeline
from trainer.journal import Journal
from trainer.settings import TrainerSettings


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.req("FT-12", "FB-06", "REG-01", "REG-03", "TRAIN-06", "EVAL-02")
async def test_corrections_become_a_served_version_though_trainer_and_child_are_killed(
    fresh_log: KafkaLog, tuner: Path, tiny_base: Path, tmp_path: Path
) -> None:
    settings = settings_for(tmp_path, tuner)
    install(tiny_base, settings)
    await support.record(fresh_log, support.corrections(2, 40), "anna")
    run_id = await support.fire(fresh_log, 40)
    async with watching(fresh_log) as seen:
        async with trainer(settings, fresh_log):
            await ended(seen.journal, run_id, "split")
            await _kill_child(settings, run_id, "tune")
            await _progress_beyond(seen.journal, run_id, 16)
        # The trainer has been cut off in the middle of the fine-tune; another one goes on.
        assert "tune" not in seen.journal.runs[run_id].completed
        async with trainer(settings, fresh_log):
            run = await ended(seen.journal, run_id)
        assert run.status == "completed", run.ending
        assert list(run.completed) == [step.name for step in pipeline.STEPS]
        assert run.attempts["tune"] >= 3
        judged = run.completed["evaluate"].metrics
        assert judged["gain_lower"] > 0
        version = seen.versions.get(run.output("register", "model_version_id"))
        assert version is not None
        assert version.status == "deployed"
        assert {"adapter_model.safetensors", "tokenizer.json"} <= set(version.files)
        served = {d.model for d in seen.deployments.entries.values() if d.state == "promoted"}
        assert served == {"tiny", version.model_version_id}


async def _kill_child(settings: TrainerSettings, run_id: str, name: str) -> None:
    pid_file = settings.data_dir / "runs" / run_id / f"{name}.pid"
    while not pid_file.exists():
        await asyncio.sleep(0.05)
    await asyncio.sleep(1)
    os.kill(int(pid_file.read_text("utf-8")), signal.SIGKILL)


async def _progress_beyond(journal: Journal, run_id: str, step: int) -> None:
    while (progress := journal.runs[run_id].progress) is None or progress.step < step:
        await asyncio.sleep(0.02)
