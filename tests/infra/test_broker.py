from pathlib import Path

import pytest

from infra import jars
from infra.broker import Broker, BrokerError, require_free
from infra.kafka import KafkaLog
from schemas.clock import now_us
from schemas.events.operations import HEARTBEATS, Heartbeat
from schemas.identity import uuid7
from schemas.log import Connection


@pytest.mark.req("BEY-03")
async def test_a_killed_broker_comes_back_with_everything_acknowledged(
    fresh_broker: Broker,
) -> None:
    async with KafkaLog(Connection(fresh_broker.bootstrap)) as log:
        sent = [uuid7() for _ in range(20)]
        for part in sent:
            await log.publish(
                Heartbeat(
                    event_id=uuid7(),
                    occurred_at_us=now_us(),
                    part=part,
                    instance="1",
                    started_at_us=0,
                )
            )
        fresh_broker.kill()
        fresh_broker.start()
        async with log.reader([HEARTBEATS]) as reader:
            records = await reader.batch(100, 5)
    assert [record.key.decode() for record in records if record.key] == sent


def test_a_taken_port_is_named_with_the_way_out(broker: Broker) -> None:
    with pytest.raises(BrokerError, match=f"port {broker.settings.port} is taken") as caught:
        require_free(broker.settings.port)
    assert "WEIR_PORT" in caught.value.advice


def test_a_jar_that_is_not_the_locked_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jar = jars.locked()[0]

    class Offline:
        def __init__(self, **_: object) -> None: ...

        def project(self, *_: str) -> None:
            raise ConnectionError("no route")

    monkeypatch.setattr("jgo.maven.MavenContext", Offline)
    path = jar.path(tmp_path / "maven")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"tampered with")
    with pytest.raises(jars.JarError, match="cannot download") as caught:
        jars.fetch([jar], tmp_path)
    assert "network" in caught.value.advice
    assert not path.exists()


def test_the_lock_holds_a_checksum_per_jar_and_no_address() -> None:
    assert len(jars.locked()) == 46
    assert all(len(jar.sha256) == 64 for jar in jars.locked())
    assert "://" not in jars.LOCK.read_text()
