"""Alerts in control on a real broker: state, endpoints, and delivery to receivers on sockets."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from uvicorn import Config

from bench.receivers import HttpReceiver, Ledger, SmtpReceiver
from infra.alerting.component import Alerting
from infra.alerting.outstanding import DeliverySettings
from infra.audit import Auditor
from infra.broker import Broker, free_port
from infra.control import _Server, build
from infra.door import Keys
from infra.kafka import KafkaLog
from schemas.clock import now_us
from schemas.events.alerts import AlertChannelChanged
from schemas.events.operations import AlertChanged
from schemas.identity import uuid7
from schemas.key_view import KeyView
from schemas.log import Connection

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.req("OPS-01")]
OPERATOR = {"Authorization": "Bearer the-operators-token"}
SECRET = "whsec_" + base64.b64encode(b"a key of this test").decode()
FAST = DeliverySettings(retry_first_s=0.1, retry_max_s=0.3, timeout_s=2)


@dataclass
class Desk:
    """A control with alerts alone."""

    url: str
    alerting: Alerting
    log: KafkaLog
    session: aiohttp.ClientSession

    async def call(self, method: str, path: str) -> tuple[int, Any]:
        async with self.session.request(method, self.url + path, headers=OPERATOR) as answer:
            return answer.status, json.loads(await answer.read())

    async def raised(self, alert_id: str, status: str = "open", **told: Any) -> str:
        fields: dict[str, Any] = {
            "alert_type": "lag",
            "severity": "error",
            "scope": "fold:spend",
            "message": "it is <far> behind",
        }
        event = AlertChanged(
            event_id=uuid7(),
            occurred_at_us=now_us(),
            alert_id=alert_id,
            status=status,
            **fields | told,
        )
        await self.log.publish(event)
        return alert_id


@asynccontextmanager
async def control(broker: Broker) -> AsyncIterator[Desk]:
    stop = asyncio.Event()
    connection = Connection(broker.bootstrap)
    async with KafkaLog(connection, "/control/test") as log, aiohttp.ClientSession() as session:
        auditor = Auditor(log)
        alerting = Alerting(log, FAST, auditor)
        keys = KeyView()
        app = build(Keys(keys, "the-operators-token"), alerting.routers)
        port = free_port()
        server = _Server(Config(app, "127.0.0.1", port, log_config=None))
        tasks = [
            asyncio.create_task(server.serve()),
            asyncio.create_task(alerting.run(stop)),
            asyncio.create_task(auditor.run(stop)),
        ]
        await until(lambda: server.started and alerting.book.caught_up.is_set())
        try:
            yield Desk(f"http://127.0.0.1:{port}", alerting, log, session)
        finally:
            stop.set()
            server.should_exit = True
            await asyncio.gather(*tasks)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.02)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(broker: Broker) -> AsyncIterator[Desk]:
    async with control(broker) as running:
        yield running


async def set_up(desk: Desk, name: str, **told: Any) -> None:
    event = AlertChannelChanged(
        event_id=uuid7(),
        occurred_at_us=now_us(),
        entity_version=1,
        actor="test",
        name=name,
        **told,
    )
    await desk.log.publish(event)


async def test_every_way_tells_once_and_again_after_the_receiver_was_away(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_KEY", SECRET)
    ledger, unique = Ledger(), uuid7()
    http, smtp = HttpReceiver(ledger), SmtpReceiver(ledger)
    for receiver in (http, smtp):
        receiver.open()
        receiver.close()  # away, but its port is known
    names = {way: f"{way}-{unique}" for way in ("hook", "chat", "email", "log")}
    hook = {"kind": "webhook", "url": http.url("hook"), "secret": "env:HOOK_KEY"}
    await set_up(desk, names["hook"], **hook)
    await set_up(desk, names["chat"], kind="chat", url=http.url("chat"))
    mail = {"host": "127.0.0.1", "port": smtp.port, "security": "none", "sender": "weir@x.org"}
    await set_up(desk, names["email"], kind="email", recipients=["ops@x.org"], **mail)
    await set_up(desk, names["log"], kind="log")
    alert_id = await desk.raised(f"lag:{unique}", channels=list(names.values()))
    await until(lambda: desk.alerting.status()["failed"] >= 3)
    assert ledger.entries == []
    http.open()
    smtp.open()
    await until(lambda: {entry.way for entry in ledger.entries} == {"hook", "chat", "email"})
    await desk.raised(alert_id, channels=list(names.values()))  # it is raised already
    await desk.raised(alert_id, "resolved")
    await until(lambda: len(ledger.entries) >= 6)
    await asyncio.sleep(0.6)
    for receiver in (http, smtp):
        receiver.close()
    assert [len(ledger.of(way)) for way in ("hook", "chat", "email")] == [2, 2, 2]
    assert len({entry.notification_id for entry in ledger.entries}) == 6

    opened, over = ledger.of("hook")
    headers, raw = opened.said["headers"], opened.said["raw"]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{raw}".encode()
    digest = hmac.digest(b"a key of this test", signed, hashlib.sha256)
    assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
    assert opened.said["body"]["type"] == "weir.alert.opened"
    assert opened.said["body"]["data"]["id"] == alert_id
    assert over.said["body"]["data"]["status"] == "resolved"
    assert "&lt;far&gt;" in ledger.of("chat")[0].said["body"]["text"]
    (first, _) = ledger.of("email")
    assert first.said["recipients"] == ["<ops@x.org>"]
    assert "[error] lag: fold:spend" in first.said["subject"]


async def test_one_of_two_controls_delivers(desk: Desk, broker: Broker) -> None:
    async with control(broker) as other:
        await until(
            lambda: [it.alerting.status()["delivers"] for it in (desk, other)].count(True) == 1
        )
    await until(lambda: desk.alerting.status()["delivers"])


async def test_alerts_are_listed_acknowledged_and_resolved_by_hand(desk: Desk) -> None:
    unique = uuid7()
    alert_id = await desk.raised(f"circuit:{unique}/some model", alert_type=f"type-{unique}")
    await until(lambda: desk.alerting.book.get(alert_id) is not None)
    status, page = await desk.call("GET", f"/admin/alerts?type=type-{unique}&severity=warning")
    assert (status, page["total"], page["items"][0]["id"]) == (200, 1, alert_id)
    for wanted in ("severity=critical", "scope=other", "status=resolved"):
        _, page = await desk.call("GET", f"/admin/alerts?type=type-{unique}&{wanted}")
        assert page["items"] == []
    place = f"/api/v1/admin/alerts/{alert_id.replace(' ', '%20')}"
    status, told = await desk.call("POST", f"{place}/acknowledge")
    assert (status, told["status"], told["acknowledged_by"]) == (200, "acknowledged", "operator")
    status, told = await desk.call("POST", f"{place}/acknowledge")
    assert (status, told["error"]["code"]) == (409, "version_conflict")
    status, told = await desk.call("POST", f"{place}/resolve")
    assert (status, told["status"], told["resolved_by"]) == (200, "resolved", "operator")
    assert (await desk.call("POST", f"{place}/resolve"))[0] == 409
    assert (await desk.call("GET", place))[1] == told
    assert (await desk.call("POST", f"/admin/alerts/{uuid7()}/acknowledge"))[0] == 404


async def test_the_stream_begins_with_what_stands_and_goes_on_with_what_comes(desk: Desk) -> None:
    first = await desk.raised(f"lag:{uuid7()}")
    await until(lambda: desk.alerting.book.get(first) is not None)
    heard: list[dict[str, Any]] = []
    async with desk.session.get(f"{desk.url}/admin/alerts/stream", headers=OPERATOR) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")

        async def listen() -> None:
            async for line in answer.content:
                name, _, data = line.partition(b": ")
                if name == b"data":
                    alert = json.loads(data)
                    heard.append(alert)

        listening = asyncio.create_task(listen())
        await until(lambda: first in [alert["id"] for alert in heard])
        second = await desk.raised(f"lag:{uuid7()}")
        await until(lambda: heard[-1]["id"] == second)
        listening.cancel()
    await until(lambda: desk.alerting.status()["listeners"] == 0)
