"""Runs and versions as control serves them, from real events."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn

from infra.broker import free_port
from infra.control import build
from infra.door import Keys
from infra.kafka import KafkaLog
from schemas.clock import now_us
from schemas.events.training import StepCompleted
from schemas.identity import uuid7
from schemas.key_view import KeyView
from tests.trainer import support
from trainer.api import TrainingDesk, component
from trainer.registry import moved
from trainer.settings import TrainerSettings

TOKEN = "operator"


@pytest.fixture
async def desk(log: KafkaLog, tmp_path: Path) -> AsyncIterator[TrainingDesk]:
    settings = TrainerSettings(tmp_path, tmp_path, Path("python"), support.MASTER_KEY)
    made = component(settings, log, lambda: KafkaLog(log.connection))
    stop = asyncio.Event()
    running = asyncio.create_task(made.run(stop))
    while made.ready() is not None:
        await asyncio.sleep(0.05)
    yield made
    stop.set()
    await running


@pytest.fixture
async def session(desk: TrainingDesk) -> AsyncIterator[aiohttp.ClientSession]:
    app, port = build(Keys(KeyView(), TOKEN), desk.routers), free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    address = f"http://127.0.0.1:{port}/api/model-training/"
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(address, headers=headers) as made:
        yield made
    server.should_exit = True
    await serving


async def get(session: aiohttp.ClientSession, path: str) -> tuple[int, dict[str, Any]]:
    async with session.get(path) as answer:
        return answer.status, await answer.json()


@pytest.mark.req("TRAIN-09", "GEN-04")
async def test_a_run_can_be_started_listed_and_explained(
    desk: TrainingDesk, session: aiohttp.ClientSession, log: KafkaLog
) -> None:
    async with session.post("training-jobs") as answer:
        assert answer.status == 202
        started = await answer.json()
    run_id = started["job_id"]
    while run_id not in desk.journal.runs:
        await asyncio.sleep(0.02)
    status, job = await get(session, f"training-jobs/{run_id}")
    assert (status, job["status"], job["progress"], job["step"]) == (200, "pending", 0, "collect")
    await log.publish(
        StepCompleted(
            event_id=uuid7(),
            occurred_at_us=now_us(),
            run_id=run_id,
            step="collect",
            status="refused",
            reason="nothing to learn from",
            duration_us=2_000_000,
        )
    )
    while desk.journal.runs[run_id].ending is None:
        await asyncio.sleep(0.02)
    _, job = await get(session, f"training-jobs/{run_id}")
    assert (job["status"], job["message"]) == ("refused", "nothing to learn from")
    _, steps = await get(session, f"training-jobs/{run_id}/steps")
    first = steps["steps"][0]  # type: ignore[index]
    assert (first["step"], first["status"], first["duration_seconds"]) == ("collect", "refused", 2)
    _, listed = await get(session, "training-jobs?limit=1&status=refused")
    assert listed["training_jobs"][0]["job_id"] == run_id  # type: ignore[index]
    for path, wanted in (("training-jobs/none", 404), ("training-jobs?limit=0", 422)):
        status, error = await get(session, path)
        assert status == wanted
        assert error["error"]["code"]  # type: ignore[index]


@pytest.mark.req("REG-02")
async def test_versions_are_listed_and_read(
    desk: TrainingDesk, session: aiohttp.ClientSession, log: KafkaLog
) -> None:
    name = f"model-{uuid7()}"
    event = moved(
        None,
        "training",
        "test",
        model_version_id=f"{name}_20260101_00000000",
        name=name,
        base_model="b",
    )
    await log.publish(event)
    await log.publish(moved(event, "available", "test", metrics={"gain": 0.5}))
    while (seen := desk.versions.get(event.key)) is None or seen.status != "available":
        await asyncio.sleep(0.02)
    _, listed = await get(session, f"models?name={name}")
    assert listed["total"] == 1
    _, version = await get(session, f"models/{event.key}")
    assert (version["status"], version["metrics"]) == ("available", {"gain": 0.5})
    assert (await get(session, f"models/{event.key}/report"))[0] == 404
    report = desk.settings.models_dir / event.key / "report.md"
    report.parent.mkdir()
    report.write_text("# Better", "utf-8")
    async with session.get(f"models/{event.key}/report") as answer:
        assert (answer.content_type, await answer.text()) == ("text/markdown", "# Better")
    _, document = await get(session, "/openapi.json")
    told = document["paths"]["/api/model-training/models/{model_id}/report"]["get"]
    assert list(told["responses"]["200"]["content"]) == ["text/markdown"]
    assert (await get(session, "models/none"))[0] == 404
