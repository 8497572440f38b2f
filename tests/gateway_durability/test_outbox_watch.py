import os
from pathlib import Path

import pytest

from gateway.ledger import Recorder
from gateway.outbox import Outbox
from gateway.outbox_watch import AWAY_SECONDS, OutboxWatch
from gateway.relay import Relay
from gateway.segment import frames, segment_paths
from schemas import codec
from schemas.errors import OutboxFull
from schemas.event import Event
from schemas.events.operations import AlertChanged, Heartbeat
from schemas.log import Connection
from tests.gateway_durability.support import MASTER, call, settings


def events(outbox: Outbox) -> list[Event]:
    return [
        codec.decode(entry.value)
        for path in segment_paths(outbox.folder)
        for whole in frames(path.read_bytes())
        for entry in whole.entries
    ]


def alerts(outbox: Outbox) -> list[tuple[str, str, str]]:
    return [
        (event.alert_type, event.severity, event.status)
        for event in events(outbox)
        if isinstance(event, AlertChanged)
    ]


@pytest.mark.req("BEY-19")
@pytest.mark.req("EVT-05")
async def test_alerts_at_half_and_four_fifths_once_per_crossing(tmp_path: Path) -> None:
    outbox = Outbox(settings(tmp_path, max_bytes=1_000_000, chunk_bytes=10_000), "/gw/t")
    watch = OutboxWatch("gateway-0", outbox, Relay(outbox, Connection("127.0.0.1:1"), 10**6))
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


@pytest.mark.req("BEY-19")
async def test_outboxes_of_dead_workers_count_towards_the_bound(tmp_path: Path) -> None:
    room = settings(tmp_path, max_bytes=1_000_000, chunk_bytes=10_000)
    living, dead = Outbox(room, "/gw/u"), room.folder / "dead"
    dead.mkdir()
    (dead / "segment").write_bytes(bytes(700_000))
    watch = OutboxWatch("gateway-0", living, Relay(living, Connection("127.0.0.1:1"), 10**6))
    living.reserve(100_000)
    await watch.look_beside()
    watch.check()
    await living.durable("written")
    assert alerts(living) == [
        ("outbox_50%", "warning", "open"),
        ("outbox_80%", "critical", "open"),
    ]
    with pytest.raises(OutboxFull):
        living.reserve(300_000)
    (dead / "segment").unlink()
    await watch.look_beside()
    living.reserve(300_000)
    os.close(living.close())


@pytest.mark.req("EVT-05")
async def test_a_broker_that_stays_away_is_an_alert_until_it_is_back(tmp_path: Path) -> None:
    outbox = Outbox(settings(tmp_path), "/gw/t")
    relay = Relay(outbox, Connection("127.0.0.1:1"), 10**6)
    watch = OutboxWatch("gateway-0", outbox, relay)
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


@pytest.mark.req("EVT-03")
async def test_a_heartbeat_tells_how_much_kafka_does_not_have_yet(tmp_path: Path) -> None:
    outbox = Outbox(settings(tmp_path), "/gateway-0")
    recorder = Recorder(outbox, MASTER)
    call(recorder)
    await recorder.durable("written")
    relay = Relay(outbox, Connection("127.0.0.1:1"), 10**6)
    OutboxWatch("gateway-0", outbox, relay, lambda: 7).beat()
    await recorder.durable("written")
    [beat] = [event for event in events(outbox) if isinstance(event, Heartbeat)]
    assert (beat.part, beat.instance, beat.lag) == ("gateway-0", outbox.id, 5)
    assert beat.refused == 7
    os.close(outbox.close())
