"""A fold that stands still while there is work ends its process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import ConfigurationError, LogTruncated
from streams.agents.health import HEALTH
from streams.app import FoldStalled, Watchdog, _beat, chosen, lag_of
from streams.settings import StreamsSettings


@pytest.mark.req("EVT-04")
def test_a_consumer_that_died_without_a_word_is_noticed() -> None:
    watchdog = Watchdog("health", limit_s=60)
    watchdog.look(position=10, lag=5, now_s=0)
    watchdog.look(position=10, lag=9, now_s=60)
    with pytest.raises(FoldStalled, match="has not moved"):
        watchdog.look(position=10, lag=9, now_s=61)


def test_progress_or_nothing_to_do_is_fine() -> None:
    watchdog = Watchdog("health", limit_s=60)
    watchdog.look(position=10, lag=5, now_s=0)
    watchdog.look(position=11, lag=5, now_s=100)
    watchdog.look(position=11, lag=0, now_s=200)
    watchdog.look(position=11, lag=3, now_s=250)


def test_time_without_a_broker_does_not_count() -> None:
    watchdog = Watchdog("health", limit_s=60)
    watchdog.look(position=10, lag=5, now_s=0)
    watchdog.forget()
    watchdog.look(position=10, lag=5, now_s=100)
    watchdog.look(position=10, lag=5, now_s=150)


def test_a_process_may_run_some_folds_only() -> None:
    names = [fold.name for fold in chosen(StreamsSettings(data_dir="unused"))]  # type: ignore[arg-type]
    assert {"health", "spend", "feedback"} <= set(names)
    some = StreamsSettings(data_dir="unused", folds=("spend",))  # type: ignore[arg-type]
    assert [fold.name for fold in chosen(some)] == ["spend"]
    none = StreamsSettings(data_dir="unused", folds=("nonsense",))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="nonsense"):
        chosen(none)


class Busy:
    """A fold that folds on while the broker is asked for the ends; and that broker, and the log."""

    fold, late = HEALTH, 0

    def __init__(self) -> None:
        self.folds = [self]
        self.at = 5
        self.told: list[Any] = []
        self.stop = asyncio.Event()

    def positions(self) -> dict[int, int]:
        return {0: self.at}

    async def now(self) -> dict[str, dict[int, int]]:
        ends = {HEALTH.source.name: {0: self.at + 1}}
        self.at += 3
        return ends

    async def publish(self, event: Any) -> None:
        self.told.append(event)
        self.stop.set()


@pytest.mark.req("EVT-04")
async def test_what_is_folded_while_the_ends_are_asked_for_is_no_truncated_log() -> None:
    busy: Any = Busy()
    await _beat([busy], busy, StreamsSettings(Path("unused")), busy, busy.stop)
    assert [beat.lags for beat in busy.told] == [{"health": 1}]


@pytest.mark.req("EVT-04", "GEN-05")
def test_a_source_that_ends_before_what_is_folded_is_told() -> None:
    with pytest.raises(LogTruncated, match="ends at 8, the health table already includes 3"):
        lag_of(HEALTH, {0: 11}, {HEALTH.source.name: {0: 8}})
