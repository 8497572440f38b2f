import os
from pathlib import Path

import pytest

from gateway.outbox import Outbox
from gateway.outbox_alerts import AWAY_SECONDS, OutboxAlerts
from gateway.relay import Relay
from gateway.segment import frames, segment_paths
from schemas import codec
from schemas.events.operations import AlertChanged
from schemas.log import Connection
from tests.gateway_durability.support import settings


def alerts(outbox: Outbox) -> list[tuple[str, str, str]]:
    events = [
        codec.decode(entry.value)
        for path in segment_paths(outbox.folder)
        for whole in frames(path.read_bytes())
        for entry in whole.entries
    ]
    return [
        (event.alert_type, event.severity, event.status)
        for event in events
        if isinstance(event, AlertChanged)
    ]


@pytest.mark.req("BEY-19")
@pytest.mark.req("EVT-05")
async def test_alerts_at_half_and_four_fifths_once_per_crossing(tmp_path: Path) -> None:
    outbox = Outbox(settings(tmp_path, max_bytes=1_000_000, chunk_bytes=10_000), "/gw/t")
    watch = OutboxAlerts(outbox, Relay(outbox, Connection("127.0.0.1:1"), 10**6))
    watch.check()
    outbox.reserve(600_000)
    watch.check()
    watch.check()
    outbox.reserve(250_000)
    watch.check()
    watch.check()
    await outbox.durable("written")
    assert alerts(outbox) == [
        ("outbox_50%", "warning", "open"),
        ("outbox_80%", "critical", "open"),
    ]
    os.close(outbox.close())


@pytest.mark.req("EVT-05")
async def test_a_broker_that_stays_away_is_an_alert_until_it_is_back(tmp_path: Path) -> None:
    outbox = Outbox(settings(tmp_path), "/gw/t")
    relay = Relay(outbox, Connection("127.0.0.1:1"), 10**6)
    watch = OutboxAlerts(outbox, relay)
    relay.away = True
    for _ in range(int(AWAY_SECONDS) + 3):
        watch.check()
    relay.away = False
    watch.check()
    await outbox.durable("written")
    assert alerts(outbox) == [
        ("broker_away", "critical", "open"),
        ("broker_away", "critical", "resolved"),
    ]
    os.close(outbox.close())
