"""What every test may use: a real embedded broker, and a log over it."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from infra import compiled

COMPILED = bool(os.environ.get("WEIR_TEST_COMPILED"))
"""Whether the tests run on the compiled modules (`make test-compiled`), not on their source."""
if COMPILED and not compiled.prefer():
    raise pytest.UsageError("nothing is compiled here: `make compiled`")

# Only now: what these import is what may be compiled.
from infra.broker import Broker, BrokerSettings, free_port
from infra.kafka import KafkaLog
from infra.topics import ensure_topics
from schemas.log import Connection

# How long an example takes, or drawing it, depends on what else the machine does: no test asserts it.
settings.register_profile("weir", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("weir")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what reaches into modules in ways that compiled ones do not allow."""
    for item in items:
        if COMPILED and (mark := item.get_closest_marker("interpreted")):
            item.add_marker(pytest.mark.skip(reason=f"interpreted only: {mark.args[0]}"))


def _started(home: Path) -> Broker:
    """A running broker under `home` with every topic of Weir on it."""
    broker = Broker(BrokerSettings(home, port=free_port(), controller_port=free_port()))
    broker.start()
    asyncio.run(ensure_topics(Connection(broker.bootstrap)))
    return broker


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker for the whole run, its topics shared: tell your records apart by your own ids."""
    started = _started(tmp_path_factory.mktemp("broker"))
    yield started
    started.stop()


@pytest.fixture(scope="module")
def fresh_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker of the module's own, with empty topics; its tests may kill and restart it."""
    started = _started(tmp_path_factory.mktemp("fresh-broker"))
    yield started
    started.stop()


@pytest.fixture
async def log(broker: Broker) -> AsyncIterator[KafkaLog]:
    """A log over the session's broker."""
    async with KafkaLog(Connection(broker.bootstrap)) as opened:
        yield opened


@pytest.fixture
async def fresh_log(fresh_broker: Broker) -> AsyncIterator[KafkaLog]:
    """A log over the module's own broker."""
    async with KafkaLog(Connection(fresh_broker.bootstrap)) as opened:
        yield opened
