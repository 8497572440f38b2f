"""A trainer that runs inside a test, and a view of what it does."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from infra.kafka import KafkaLog
from tests.trainer import support
from trainer import app
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
