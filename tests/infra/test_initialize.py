"""OPS-05: an installation is brought to what its release and settings say, once."""

from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from infra.broker import Broker
from infra.initialize import initialize, topic_differences
from infra.settings import WeirSettings
from schemas.log import Connection

TABLE = "weir.spend.tables.v1"
CONTENT = "weir.llm.content.v1"
CHANGES = "weir.routing.changes.v1"


def spoil(connection: Connection) -> None:
    """Delete a topic, and set others as an operator or an older release would."""
    admin = AdminClient({"bootstrap.servers": connection.bootstrap})
    settings = {
        TABLE: {"cleanup.policy": "delete", "segment.bytes": "1073741824"},
        CONTENT: {"retention.ms": "-1"},
        CHANGES: {"retention.ms": "3600000"},
    }
    asked = [
        ConfigResource(
            ConfigResource.Type.TOPIC,
            topic,
            incremental_configs=[
                ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
                for name, value in words.items()
            ],
        )
        for topic, words in settings.items()
    ]
    for future in admin.incremental_alter_configs(asked).values():
        future.result()


@pytest.mark.req("OPS-05")
async def test_what_differs_is_put_right_and_told_and_a_second_time_there_is_nothing_to_do(
    fresh_broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = Connection(fresh_broker.bootstrap)
    settings = WeirSettings(home=tmp_path)
    first = await initialize(connection, settings)
    assert first.admin_key
    assert first.entities >= 1
    assert topic_differences(connection) == {}
    spoil(connection)
    # Longer than asked for is the operator's right, shorter would lose what must be kept.
    assert set(topic_differences(connection)) == {TABLE, CHANGES}
    again = await initialize(connection, settings)
    assert again.topic_settings == [
        f"{CHANGES}: retention.ms 3600000 → -1",
        f"{TABLE}: cleanup.policy delete → compact",
        f"{TABLE}: segment.bytes 1073741824 → 2097152",
    ]
    assert not any((await initialize(connection, settings)).model_dump().values())
