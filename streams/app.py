"""The streams part: every fold, every decider, a heartbeat, a watchdog."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import time
from collections.abc import Mapping, Sequence

from schemas.clock import now_us
from schemas.discovery import discover
from schemas.errors import BrokerUnavailable, ConfigurationError, LogTruncated, WeirError
from schemas.events.operations import Heartbeat
from schemas.identity import uuid7
from schemas.log import Log
from streams import READY_FILE
from streams.decider import Decider, decide
from streams.ends import Ends, EndsReader
from streams.fold import AnyFold, Fold
from streams.runtime import SourceRunner
from streams.settings import StreamsSettings
from streams.table import FoldRunner
from streams.writer import TableWriter

_log = logging.getLogger(__name__)

PART = "streams"

GC_OBJECTS = 50_000
"""New objects after which the youngest are looked through.

States and rows are no cycles, and live long: to walk them took a third of the time with many keys.
"""

_RETRY_S = 1.0


class FoldStalled(WeirError):
    """A consumer died without a word: the process ends, and its supervisor starts it again."""

    code = "fold_stalled"
    action = "Nothing: the part is restarted and reads on from its cursor."


async def run(settings: StreamsSettings, log: Log, stop: asyncio.Event) -> None:
    """Run the folds until `stop`. Any failure ends it: restarting is exact, skipping is not."""
    gc.set_threshold(GC_OBJECTS, 20, 50)
    folds = chosen(settings)
    topic_ids = await _topic_ids(folds, log, stop)
    if stop.is_set():
        return
    try:
        async with (
            TableWriter(log.connection, log.source) as writer,
            EndsReader(log.connection, [fold.source for fold in folds]) as ends,
            asyncio.TaskGroup() as group,
        ):
            runners = [FoldRunner(fold, settings.batch_wait_s, log, writer) for fold in folds]
            sources = _by_source(runners, settings, log, ends, topic_ids)
            for source in sources:
                group.create_task(source.run(stop))
            beginning = group.create_task(_begin(sources, runners, settings, log, stop))
            group.create_task(_beat(sources, ends, settings, log, stop))
            await stop.wait()
            beginning.cancel()
    except BaseExceptionGroup as failures:
        raise _first(failures) from failures


def _by_source(
    runners: Sequence[FoldRunner],
    settings: StreamsSettings,
    log: Log,
    ends: EndsReader,
    topic_ids: Mapping[str, str],
) -> list[SourceRunner]:
    by_source: dict[str, list[FoldRunner]] = {}
    for runner in runners:
        by_source.setdefault(runner.fold.source.name, []).append(runner)
    return [
        SourceRunner(together, settings, log, ends, topic_ids.get(name))
        for name, together in by_source.items()
    ]


async def _begin(
    sources: Sequence[SourceRunner],
    runners: Sequence[FoldRunner],
    settings: StreamsSettings,
    log: Log,
    stop: asyncio.Event,
) -> None:
    """Say once that everything is folded from now on, and only then read tables to decide.

    A process that lives may wait for minutes, for its partitions for example.
    """
    for source in sources:
        await source.assigned.wait()
    gc.freeze()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    (settings.data_dir / READY_FILE).write_text(str(os.getpid()))
    deciders = discover("streams.agents", Decider)
    seats = [
        (decider, runner.leads)
        for runner in runners
        for decider in deciders
        if decider.leads is runner.fold
    ]
    if seats:
        await decide(seats, settings, log, stop)


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def chosen(settings: StreamsSettings) -> list[AnyFold]:
    """Return the folds that this process runs. Raises ConfigurationError for an unknown name."""
    folds: dict[str, AnyFold] = {fold.name: fold for fold in discover("streams.agents", Fold)}
    unknown = [name for name in settings.folds if name not in folds]
    if unknown:
        raise ConfigurationError(f"there is no fold {unknown[0]!r}, but {', '.join(sorted(folds))}")
    return [fold for name, fold in folds.items() if not settings.folds or name in settings.folds]


async def _topic_ids(folds: Sequence[AnyFold], log: Log, stop: asyncio.Event) -> dict[str, str]:
    """Return {source topic: its id}, which tells a topic that was deleted and created anew.

    Waits for a broker that is away; Faust would crash on it.
    """
    while not stop.is_set():
        try:
            async with log.reader([fold.source for fold in folds]) as reader:
                return dict(reader.cursor.topic_ids)
        except BrokerUnavailable as error:
            _log.warning("the folds wait: %s", error.message)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _RETRY_S)
    return {}


async def _beat(
    sources: Sequence[SourceRunner],
    ends: EndsReader,
    settings: StreamsSettings,
    log: Log,
    stop: asyncio.Event,
) -> None:
    """Publish a heartbeat every second, and end the process when a fold has stalled.

    The beat stops with the folds: a gateway that no longer hears it relies on its own breakers.
    """
    started_at_us = now_us()
    runners = [runner for source in sources for runner in source.folds]
    watchdogs = {
        runner.fold.name: Watchdog(runner.fold.name, settings.stalled_s) for runner in runners
    }
    while not stop.is_set():
        try:
            # Asked for before the ends: what is folded until they are known lies beyond them.
            positions = {runner.fold.name: runner.positions() for runner in runners}
            found = await ends.now()
            lags = {
                runner.fold.name: lag_of(runner.fold, positions[runner.fold.name], found)
                for runner in runners
            }
            for name, watchdog in watchdogs.items():
                watchdog.look(sum(positions[name].values()), lags[name], time.monotonic())
            await log.publish(
                Heartbeat(
                    event_id=uuid7(),
                    occurred_at_us=now_us(),
                    part=f"{PART}-{settings.worker}" if settings.worker else PART,
                    instance=str(settings.worker),
                    started_at_us=started_at_us,
                    lag=sum(lags.values()),
                    positions=_positions(runners),
                    lags=lags,
                    late={runner.fold.name: runner.late for runner in runners if runner.late},
                )
            )
        except BrokerUnavailable as error:
            _log.warning("no heartbeat: %s", error.message)
            for watchdog in watchdogs.values():
                watchdog.forget()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), settings.heartbeat_s)


def lag_of(fold: AnyFold, positions: Mapping[int, int], ends: Ends) -> int:
    """Return how many records of its source a fold had not folded when it was at `positions`.

    `ends` are no older than these. Raises LogTruncated when the source ends below a position: never
    an automatic reset.
    """
    found = ends[fold.source.name]
    for partition, position in positions.items():
        if found[partition] < position:
            raise LogTruncated(
                f"{fold.source.name}|{partition} ends at {found[partition]}, the {fold.name} table "
                f"already includes {position - found[partition]} records more"
            )
    return sum(found[partition] - position for partition, position in positions.items())


def _positions(runners: Sequence[FoldRunner]) -> dict[str, int]:
    """Return {``topic|partition``: the offset before which every fold of ours has everything}."""
    positions: dict[str, int] = {}
    for runner in runners:
        for partition, at in runner.positions().items():
            name = f"{runner.fold.source.name}|{partition}"
            positions[name] = min(at, positions.get(name, at))
    return positions


class Watchdog:
    """Tells a fold that makes no progress while its lag does not shrink for `limit_s`."""

    def __init__(self, name: str, limit_s: float) -> None:
        self._name = name
        self._limit_s = limit_s
        self._seen = -1
        self._since_s: float | None = None

    def forget(self) -> None:
        """Begin anew, after a time in which nothing could be seen."""
        self._since_s = None

    def look(self, position: int, lag: int, now_s: float) -> None:
        """Judge a fold's position (over its partitions) and lag. Raises FoldStalled."""
        if lag == 0 or position != self._seen or self._since_s is None:
            self._seen, self._since_s = position, now_s
        elif now_s - self._since_s > self._limit_s:
            raise FoldStalled(
                f"the fold {self._name} has not moved for {self._limit_s:g} s, {lag} records behind"
            )
