"""The projections over HTTP, behind control's own door."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession
from uvicorn import Config

from infra.broker import Broker, free_port
from infra.control import _Server, build
from infra.door import Keys
from infra.kafka import KafkaLog
from projections.api import Projections, component
from projections.settings import ProjectionsSettings
from schemas.events.operations import PRIVACY_KEYS
from schemas.identity import uuid7
from schemas.key_view import KeyView
from schemas.log import Connection
from schemas.privacy import MasterKey, Sealer
from tests.projections.records import admitted, event, settled

OPERATOR = {"authorization": "Bearer the-operators-token"}
MASTER = os.urandom(32)


class Client:
    """Calls the API; `log` feeds it."""

    def __init__(self, owner: Projections, log: KafkaLog, session: ClientSession) -> None:
        self.owner = owner
        self.log = log
        self._session = session

    async def get(self, path: str, status: int = 200) -> Any:
        async with self._session.get(path, headers=OPERATOR) as answer:
            assert answer.status == status, await answer.text()
            return await answer.json()

    async def post(self, path: str, body: Any, status: int = 200) -> Any:
        async with self._session.post(path, json=body, headers=OPERATOR) as answer:
            assert answer.status == status, await answer.text()
            is_json = answer.content_type == "application/json"
            return await (answer.json() if is_json else answer.text())

    async def sql(self, query: str, **more: Any) -> list[list[Any]]:
        return (await self.post("/sql", {"query": query, **more}))["rows"]

    async def until_known(self, table: str, event_id: str) -> None:
        statement = f"SELECT count(*) FROM {table} WHERE event_id = ?"
        for _ in range(600):
            if self.owner.projector.live().query(statement, [event_id]) == [(1,)]:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{event_id} never came")


@pytest.fixture
async def client(broker: Broker, tmp_path: Path) -> AsyncIterator[Client]:
    connection = Connection(broker.bootstrap)
    settings = ProjectionsSettings(
        tmp_path, master_key=MASTER, commit_interval_s=0.05, snapshot_age_s=0.1, sql_workers=1
    )
    stop = asyncio.Event()
    port = free_port()
    async with KafkaLog(connection) as log:
        owner = component(settings, log, lambda: KafkaLog(connection, "/projections"))
        keys = Keys(KeyView(), "the-operators-token")
        config = Config(build(keys, owner.routers), "127.0.0.1", port, log_config=None)
        server = _Server(config)
        tasks = [asyncio.create_task(owner.run(stop)), asyncio.create_task(server.serve())]
        try:
            while not (server.started and owner.ready() is None):
                await asyncio.sleep(0.05)
                assert not any(task.done() for task in tasks)
            async with ClientSession(f"http://127.0.0.1:{port}") as session:
                yield Client(owner, log, session)
        finally:
            stop.set()
            server.should_exit = True
            await asyncio.gather(*tasks)


@pytest.mark.req("EVT-03")
async def test_a_call_its_sql_and_a_replay(client: Client) -> None:
    request_id = uuid7()
    await client.log.publish(admitted(request_id, model="tiny"))
    last = settled(request_id, cost_nano_usd=42)
    await client.log.publish(last)
    await client.until_known("costs", last.event_id)

    found = await client.get(f"/api/v1/calls/{request_id}")
    assert found["call"]["cost_nano_usd"] == 42
    assert found["call"]["started_at"].endswith("Z")
    assert found["requests"][0]["candidates"]
    assert [entry["entry"] for entry in found["costs"]] == ["settled"]
    missing = await client.get("/api/v1/calls/nobody", 404)
    assert missing["error"]["code"] == "not_found"

    where = f"FROM calls WHERE request_id = '{request_id}'"
    for _ in range(100):
        if await client.sql(f"SELECT cost_nano_usd {where}") == [[42]]:
            break
        await asyncio.sleep(0.1)
    assert await client.sql(f"SELECT model {where}", limit=5) == [["tiny"]]
    answer = await client.post("/api/v1/sql", {"sql": f"SELECT 1 AS n, model {where}"})
    assert answer["columns"] == [
        {"name": "n", "type": "INTEGER"},
        {"name": "model", "type": "VARCHAR"},
    ]
    shaped = {"query": f"SELECT 1 AS n, model, [1] AS l {where}"}
    objects = await client.post("/sql", {**shaped, "format": "objects"})
    assert objects["rows"] == [{"n": 1, "model": "tiny", "l": [1]}]
    assert await client.post("/sql", {**shaped, "format": "csv"}) == "n,model,l\r\n1,tiny,[1]\r\n"

    listed = await client.get("/api/v1/projections?digest=true")
    assert listed["projector"]["state"] == "running"
    assert listed["digests"]["calls"]["rows"] >= 1
    order = await client.post("/api/v1/projections/calls/replay", {"verify": True}, 202)
    refused = await client.post("/api/v1/projections/calls/replay", {"verify": True}, 409)
    assert order["id"] in refused["error"]["action"]
    while (job := await client.get(f"/api/v1/replays/{order['id']}"))["status"] == "running":
        await asyncio.sleep(0.1)
    assert (job["status"], job["report"]["verified"]) == ("done", True), job
    assert [item["id"] for item in (await client.get("/api/v1/replays"))["replays"]] == [
        order["id"]
    ]


@pytest.mark.req("GEN-05")
async def test_errors_of_statements_and_replays(client: Client) -> None:
    for body, status, code in [
        ({"query": "DROP TABLE calls"}, 403, "permission_denied"),
        ({"query": "SELECT * FROM read_text('/etc/passwd')"}, 403, "permission_denied"),
        ({"query": "SELECT nope FROM calls"}, 400, "invalid_request"),
        ({"query": "SELECT repeat('x', 4000000000)"}, 400, "statement_memory"),
        (
            {
                "query": "SELECT sum(a.range * b.range) FROM range(1000000000) a, range(1000) b",
                "timeout_seconds": 0.5,
            },
            408,
            "statement_timeout",
        ),
        ({"query": "SELECT 1", "limit": 0}, 422, "validation_failed"),
        ({}, 422, "validation_failed"),
        ({"query": "SELECT 1", "moment": "../live"}, 400, "invalid_request"),
    ]:
        answer = await client.post("/sql", body, status)
        assert answer["error"]["code"] == code, answer
    assert await client.sql("SELECT 1") == [[1]]
    await client.post("/api/v1/projections/nonsense/replay", {}, 404)
    await client.post("/api/v1/projections/calls/replay", {"as_of": "yesterday"}, 400)
    await client.get("/api/v1/replays/none", 404)


@pytest.mark.req("FB-05")
async def test_feedback_by_id_time_type_and_user(client: Client) -> None:
    user, keys = uuid7(), []
    sealer = Sealer(MasterKey(MASTER), keys.append)
    items = []
    for number, kind in enumerate(["thumbs_up", "manual_correction", "thumbs_up"]):
        feedback_id = uuid7()
        texts = {
            "original_prompt": f"prompt {number}",
            "model_response": "answer",
            "corrected_response": None,
            "user_context": ["expert"],
            "metadata": {"a": "b"},
        }
        sealed = sealer.seal(user, msgspec.json.encode(texts), feedback_id)
        items.append(
            event(
                "weir.llm.feedback.recorded",
                feedback_id=feedback_id,
                user_id=user,
                feedback_type=kind,
                satisfaction_score=0.5,
                occurred_at_us=4_000_000_000_000_000 + number * 1_000_000,
                data_key_id=sealed.data_key_id,
                nonce=sealed.nonce,
                ciphertext=sealed.ciphertext,
            )
        )
    for item in [*keys, *items]:
        await client.log.publish(item)
    await client.until_known("feedback", items[-1].event_id)

    found = await client.get(f"/api/v1/feedback/{items[0].feedback_id}")
    assert found["original_prompt"] == "prompt 0"
    assert found["user_context"] == ["expert"]
    assert found["timestamp"] == "2096-10-02T07:06:40Z"
    assert not found["erased"]
    assert set(found["request_context"]) >= {"session_id", "prompt_tokens", "processing_time_ms"}

    since = "since=2096-10-02T07:06:41Z"
    listed = await client.get(f"/api/v1/feedback?{since}")
    assert [row["id"] for row in listed["feedback"]] == [item.feedback_id for item in items[1:]]
    assert listed["total"] == 2
    assert await client.get(f"/api/v1/feedback/count?{since}&type=thumbs_up") == {"count": 1}
    listed = await client.get(f"/api/v1/feedback?{since}&type=manual_correction&limit=1000")
    assert [row["id"] for row in listed["feedback"]] == [items[1].feedback_id]
    mine = await client.get(f"/api/v1/users/{user}/feedback?limit=2")
    assert [row["id"] for row in mine["feedback"]] == [items[2].feedback_id, items[1].feedback_id]
    await client.get("/api/v1/feedback?limit=1001", 422)
    await client.get("/api/v1/feedback/nobody", 404)

    # Once the person is forgotten, the texts are gone and say so; the facts stay.
    await client.log.tombstone(PRIVACY_KEYS, keys[0].data_key_id)
    for _ in range(200):
        found = await client.get(f"/api/v1/feedback/{items[0].feedback_id}")
        if found["erased"]:
            break
        await asyncio.sleep(0.05)
    assert found["erased"]
    assert found["original_prompt"] is None
    assert found["satisfaction_score"] == 0.5
