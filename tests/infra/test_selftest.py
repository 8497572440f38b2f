"""OPS-05: every subsystem is asked, and says what is wrong with it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from infra import selftest
from infra.heart import Heart
from infra.initialize import Initialized
from infra.selftest import SelfTest, SelfTestReport
from schemas.clock import now_us
from schemas.errors import BrokerUnavailable
from schemas.event import Event
from schemas.events import topics
from schemas.events.operations import Heartbeat
from schemas.log import Connection, Log
from schemas.table_view import TableView


class Echo:
    """A log whose records come back at once, unless it is away."""

    connection = Connection("nowhere:1")

    def __init__(self, view: TableView[Heartbeat], *, away: bool = False) -> None:
        self._view = view
        self._away = away

    async def publish(self, event: Event) -> None:
        if self._away:
            raise BrokerUnavailable("no answer")
        assert isinstance(event, Heartbeat)
        self._view.entries[event.key] = event


class Part:
    def __init__(self, reason: str | None) -> None:
        self.reason = reason

    def ready(self) -> str | None:
        return self.reason

    def status(self) -> dict[str, Any]:
        return {}


def report(
    monkeypatch: pytest.MonkeyPatch,
    home: Path,
    *,
    away: bool = False,
    missing: int = 0,
    unlike: bool = False,
    initialize: bool = False,
) -> SelfTestReport:
    declared = {topic.name: topic.partitions for topic in topics()[missing:]}
    monkeypatch.setattr(selftest, "partition_counts", lambda _: declared)
    differing: dict[str, dict[str, tuple[str, str]]] = {}
    if unlike:
        differing = {"weir.x": {"cleanup.policy": ("delete", "compact")}}
    monkeypatch.setattr(selftest, "topic_differences", lambda _: differing)
    view = TableView(Heartbeat)
    beat = {"event_id": "e", "instance": "0", "started_at_us": 0, "positions": {"t|0": 1}}
    view.entries["streams"] = Heartbeat(occurred_at_us=now_us(), part="streams", lag=3, **beat)
    log: Any = Echo(view, away=away)
    typed: Log = log
    parts = {"projections": Part(None), "trainer": Part("still reading")}

    async def initialized() -> Initialized:
        return Initialized(topics=["weir.x"])

    test = SelfTest(home, typed, parts, view, Heart(typed, lambda: 0), initialized)
    told = asyncio.run(test.report(initialize=initialize))
    # What a test leaves behind must be no part that falls silent afterwards.
    assert set(view.entries) <= {"streams", "control"}
    return told


@pytest.mark.req("OPS-05")
def test_each_subsystem_is_asked_and_what_fails_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = report(monkeypatch, tmp_path)
    found = {check.subsystem: check for check in told.checks}
    assert {name for name, check in found.items() if check.ok} >= {"log", "topics", "streams"}
    assert found["projections"].ok
    assert not told.ok
    assert found["trainer"].text == "still reading"
    assert not found["gateway"].ok
    assert found["gateway"].action
    assert "3 records behind" in found["streams"].text


@pytest.mark.req("OPS-05")
def test_a_broker_that_is_away_and_missing_topics_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = {check.subsystem: check for check in report(monkeypatch, tmp_path, away=True).checks}
    assert (found["log"].ok, found["log"].text) == (False, "no answer")
    told = report(monkeypatch, tmp_path, missing=1)
    topic = next(check for check in told.checks if check.subsystem == "topics")
    assert not topic.ok
    assert topics()[0].name in topic.text
    assert "--initialize" in topic.action
    told = report(monkeypatch, tmp_path, unlike=True)
    topic = next(check for check in told.checks if check.subsystem == "topics")
    assert topic.text == "not as declared: weir.x: cleanup.policy delete → compact"


@pytest.mark.req("OPS-05")
def test_what_initializing_changed_is_in_the_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = report(monkeypatch, tmp_path, initialize=True)
    assert told.initialized is not None
    assert told.initialized.topics == ["weir.x"]
    assert report(monkeypatch, tmp_path).initialized is None
