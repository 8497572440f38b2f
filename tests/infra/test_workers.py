"""Every worker's own figures, wherever one asks."""

import asyncio
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from gateway.figures import publish
from infra.control import build
from infra.door import Keys
from infra.system import system_router
from infra.workers import COLUMNS, summary, worker_figures
from schemas.events.operations import Heartbeat
from schemas.key_view import KeyView
from schemas.log import Connection
from schemas.table_view import TableView

FIGURES: dict[str, Any] = {
    "worker": "gateway-0",
    "compiled": True,
    "outbox": {"entries_waiting": 7},
    "providers": [
        {"target": "a/m", "waiting": 3, "closed_s": 1.5},
        {"target": "b/m", "waiting": 0, "closed_s": 0.0},
    ],
    "calls": 2,
    "calls_refused": 5,
    "lag_seconds": 0.012,
}


async def until(folder: Path, files: int) -> None:
    while len(list(folder.glob("gateway/workers/*.json"))) != files:
        await asyncio.sleep(0.01)


@pytest.mark.req("GW-07")
async def test_each_worker_tells_its_figures_while_it_lives(tmp_path: Path) -> None:
    workers = [
        asyncio.create_task(
            publish(tmp_path / "gateway", name, partial(dict, FIGURES, worker=name))
        )
        for name in ("gateway-1", "gateway-0")
    ]
    await until(tmp_path, 2)
    first, second = await asyncio.to_thread(worker_figures, tmp_path)
    assert (first["worker"], second["worker"]) == ("gateway-0", "gateway-1")
    assert first["pid"] == os.getpid()
    assert first["age_seconds"] < 60
    line = summary(first)
    assert line == ["gateway-0", "2", "5", "7", "12 ms", "yes", "a/m 3 waiting, closed 1.5 s"]
    assert len(line) == len(COLUMNS)
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    assert worker_figures(tmp_path) == []


@pytest.mark.req("GW-07")
async def test_a_worker_serves_on_when_its_figures_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "workers").write_text("no folder")
    telling = asyncio.create_task(publish(tmp_path, "gateway-0", dict))
    while not caplog.records:
        await asyncio.sleep(0.01)
    assert "cannot be written" in caplog.text
    assert not telling.done()
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)


@pytest.mark.req("GW-07")
def test_status_gathers_the_living_workers(tmp_path: Path) -> None:
    folder = tmp_path / "gateway" / "workers"
    folder.mkdir(parents=True)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name, pid in (("gateway-0", os.getpid()), ("gateway-1", dead.pid)):
        said = {**FIGURES, "worker": name, "pid": pid, "written_at_us": 0}
        (folder / f"{name}.json").write_text(json.dumps(said))
    (folder / "gateway-2.json").write_text("{")
    router = system_router(tmp_path, Connection("127.0.0.1:1"), {}, [], TableView(Heartbeat))
    app = build(Keys(KeyView(), "the-operators-token"), [router])
    headers = {"authorization": "Bearer the-operators-token"}
    found = TestClient(app).get("/status", headers=headers).json()
    (worker,) = found["workers"]
    assert (worker["worker"], worker["calls_refused"]) == ("gateway-0", 5)
    assert worker["outbox"]["entries_waiting"] == 7
