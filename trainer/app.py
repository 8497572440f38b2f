"""The trainer part: follows triggers and carries every run to its end."""

from __future__ import annotations

import asyncio
import logging

from schemas.log import Log
from trainer import pipeline, steps
from trainer.backends.base import backend
from trainer.settings import TrainerSettings
from trainer.steps import Workshop

_log = logging.getLogger(__name__)
LOOK_S = 2.0


async def run(settings: TrainerSettings, log: Log, stop: asyncio.Event) -> None:
    """Work until `stop`. A run that is cut off goes on at the next start.

    Raises LogTruncated or WrongLog when the log is not the one whose runs lie here, and
    ConfigurationError for a backend that does not exist.
    """
    backend(settings.backend)
    shop = Workshop(settings, log)
    async with asyncio.TaskGroup() as group:
        group.create_task(log.follow(shop.views, stop))
        group.create_task(pipeline.until(stop, pipeline.work(shop, stop)))
        group.create_task(pipeline.until(stop, offer_bases(shop)))


async def offer_bases(shop: Workshop) -> None:
    """Deploy every base model under its own name as soon as it lies in the models' folder."""
    await shop.deployments.caught_up.wait()
    while True:
        for base in shop.bases():
            deployment_id = f"base-{base.name}"
            if shop.deployments.get(deployment_id) is None:
                version = f"base:{base.name}"
                await steps.publish_deployment(
                    shop, deployment_id, version, base.name, "a base model"
                )
                _log.info("the base model %s is offered", base.name)
        await asyncio.sleep(LOOK_S)
