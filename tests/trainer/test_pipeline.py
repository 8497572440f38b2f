"""A trigger becomes a served model, or a refusal, from real events; kills in between change nothing."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from infra.kafka import KafkaLog
from tests.trainer import support
from trainer import app, pipeline
from trainer.journal import Journal, TrainingRun
from trainer.settings import TrainerSettings
from trainer.steps import Workshop


def settings_for(home: Path, python: Path) -> TrainerSettings:
    return TrainerSettings(
        data_dir=home / "trainer",
        models_dir=home / "models",
        trainer_python=python,
        master_key=support.MASTER_KEY,
    )


def install(base: Path, settings: TrainerSettings) -> None:
    shutil.copytree(base, settings.bases_dir / "tiny")


@asynccontextmanager
async def trainer(settings: TrainerSettings, log: KafkaLog) -> AsyncIterator[None]:
    """The trainer part, running."""
    stop = asyncio.Event()
    part = asyncio.create_task(app.run(settings, log, stop))
    try:
        yield
    finally:
        stop.set()
        await part


@asynccontextmanager
async def watching(log: KafkaLog) -> AsyncIterator[Workshop]:
    """Everything that the log says of runs, versions and deployments, by a reader of its own."""
    shop = Workshop(settings_for(Path("/nowhere"), Path("/nowhere")), log)
    stop = asyncio.Event()
    following = asyncio.create_task(log.follow(shop.views, stop))
    try:
        yield shop
    finally:
        stop.set()
        await following


async def ended(journal: Journal, run_id: str, step: str | None = None) -> TrainingRun:
    """The run once it has ended, or once a step is completed."""
    while True:
        run = journal.runs.get(run_id)
        if run is not None and (run.ending is not None or step in run.completed):
            return run
        await asyncio.sleep(0.1)


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


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.req("FT-12", "EVAL-02", "REG-01")
async def test_corrections_that_teach_nothing_are_refused(
    fresh_log: KafkaLog, tuner: Path, tiny_base: Path, tmp_path: Path
) -> None:
    settings = settings_for(tmp_path, tuner)
    install(tiny_base, settings)
    async with watching(fresh_log) as seen, trainer(settings, fresh_log):
        # Another user's feedback lies on the topic already; far newer prompts win nothing from it.
        await support.record(fresh_log, support.corrections(3, 40, shuffled=True), "boris")
        run_id = await support.fire(fresh_log, 40)
        run = await ended(seen.journal, run_id)
        assert run.status == "refused"
        version = seen.versions.get(run.output("register", "model_version_id"))
        assert version is not None
        assert version.status == "archived"
        assert "not shown to be better" in (version.reason or "")


async def _kill_child(settings: TrainerSettings, run_id: str, name: str) -> None:
    pid_file = settings.data_dir / "runs" / run_id / f"{name}.pid"
    while not pid_file.exists():
        await asyncio.sleep(0.05)
    await asyncio.sleep(1)
    os.kill(int(pid_file.read_text("utf-8")), signal.SIGKILL)


async def _progress_beyond(journal: Journal, run_id: str, step: int) -> None:
    while (progress := journal.runs[run_id].progress) is None or progress.step < step:
        await asyncio.sleep(0.02)
