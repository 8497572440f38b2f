"""A fold that stands still while there is work ends its process."""

import pytest

from schemas.errors import ConfigurationError
from streams.app import FoldStalled, Watchdog, chosen
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
