"""From calls on a broker to an anomaly and a forecast, over a restart of the streams."""

import asyncio
from pathlib import Path

import pytest

from infra.kafka import KafkaLog
from schemas.clock import now_us
from schemas.codec import decode
from schemas.event import Event, Topic
from schemas.events.forecasts import FORECASTS, ForecastMade
from schemas.events.llm import ResponseCompleted
from schemas.events.operations import ANOMALIES, AnomalyChanged
from schemas.identity import uuid7
from streams.app import run
from streams.settings import StreamsSettings

S = 1_000_000
DAY_US = 86_400 * S


def call(at_us: int, user: str, team: str) -> ResponseCompleted:
    return ResponseCompleted(
        event_id=uuid7(),
        occurred_at_us=at_us,
        request_id=uuid7(),
        key_id="k",
        user_id=user,
        team=team,
        route="r",
        outcome="success",
        status=200,
        attempts=[],
        usage_basis="reported",
        stream=False,
        latency_us=1_000,
        input_tokens=9,
        cost_nano_usd=70,
    )


async def read(log: KafkaLog, topic: Topic) -> list[Event]:
    found: list[Event | None] = []
    async with log.reader([topic]) as reader:
        while await reader.lag():
            found += [decode(one.value) for one in await reader.batch(1_000, 0.1) if one.value]
    return [event for event in found if event is not None]


async def anomalies(log: KafkaLog, user: str) -> list[AnomalyChanged]:
    return [
        event
        for event in await read(log, ANOMALIES)
        if isinstance(event, AnomalyChanged)
        and event.metric == "calls"
        and [driver.name for driver in event.drivers[:1]] == [user]
    ]


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.req("ANA-05", "COST-07", "EVT-04")
async def test_calls_become_an_anomaly_and_a_forecast_once(log: KafkaLog, tmp_path: Path) -> None:
    user, team, now = f"ada-{uuid7()}", f"team-{uuid7()}", now_us()
    today = now // DAY_US * DAY_US
    for day in range(8, 0, -1):
        await log.publish(call(today - day * DAY_US, "old", team))
    for second in range(1_500, 0, -3):
        at_us = now - second * S
        burst = 9 if second < 90 else 1
        made_now = [call(at_us, user, team) for _ in range(burst)]
        made_now += [call(at_us, "bob", "others") for _ in range(2)]
        await asyncio.gather(*(log.publish(event) for event in made_now))
    settings = StreamsSettings(tmp_path, folds=("traffic",))
    for _ in range(2):
        stop = asyncio.Event()
        part = asyncio.create_task(run(settings, log, stop))
        async with asyncio.timeout(90):
            while not (found := await anomalies(log, user)):
                await asyncio.sleep(0.5)
            while len(made := [e for e in await read(log, FORECASTS) if _of(e, team)]) < 3:
                await asyncio.sleep(0.5)
        await asyncio.sleep(3)
        stop.set()
        await part
    assert {event.number for event in await anomalies(log, user)} <= {1, 2}
    opened = [event for event in await anomalies(log, user) if event.number == 1]
    assert [event.event_id for event in opened] == [found[0].event_id]
    assert opened[0].kind == "spike"
    ids = [event.event_id for event in await read(log, FORECASTS) if _of(event, team)]
    assert len(ids) == len(set(ids)) == 3
    assert made


def _of(event: Event, team: str) -> bool:
    return isinstance(event, ForecastMade) and event.scope == f"team:{team}"
