"""The state of every training run, folded from its events: what a restart or an API needs to know."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from schemas.codec import decode_as
from schemas.event import Event
from schemas.events.training import StepCompleted, StepStarted, TrainingProgress, TriggerFired
from schemas.log import Record
from schemas.table_view import TableView

LAST_STEP = "learn"


@dataclass
class TrainingRun:
    """One run: its trigger, how often each step was started, how it ended, its latest reading."""

    run_id: str
    trigger: TriggerFired | None = None
    attempts: dict[str, int] = field(default_factory=dict)
    started_at_us: dict[str, int] = field(default_factory=dict)
    completed: dict[str, StepCompleted] = field(default_factory=dict)
    progress: TrainingProgress | None = None

    @property
    def ending(self) -> StepCompleted | None:
        """The event that ended the run: its last step, or one that failed or was refused."""
        for event in self.completed.values():
            if event.status != "completed" or event.step == LAST_STEP:
                return event
        return None

    @property
    def status(self) -> str:
        """A word of TRAIN-09, or `refused` when the gate or the data said no."""
        ending = self.ending
        if ending is None:
            return "running" if self.completed or self.attempts else "pending"
        return ending.status

    def output(self, step: str, name: str) -> str:
        """What an earlier step left for later ones. Raises KeyError when it did not."""
        return self.completed[step].output[name]


E = TypeVar("E", bound=Event)


class EventView(TableView[E]):
    """Hands every event of one type to `note` instead of keeping the last one per key."""

    def __init__(self, event_type: type[E], note: Callable[[E], None]) -> None:
        super().__init__(event_type)
        self._note = note

    def apply(self, record: Record) -> None:
        """Fold one record in. Raises as `schemas.codec.decode`."""
        event = None if record.value is None else decode_as(record.value, self.event_type)
        if event is not None:
            self._note(event)


class Journal:
    """All runs; give its `views` to `Log.follow`."""

    def __init__(self) -> None:
        self.runs: dict[str, TrainingRun] = {}
        self.changed = asyncio.Event()
        self.views: list[TableView[Any]] = [
            EventView(kind, self.note)
            for kind in (TriggerFired, StepStarted, StepCompleted, TrainingProgress)
        ]

    def note(self, event: TriggerFired | StepStarted | StepCompleted | TrainingProgress) -> None:
        """Fold one event in; the first completion of a step stands, so a repeat changes nothing."""
        match event:
            case TriggerFired():
                self._run(event.event_id).trigger = event
            case StepStarted():
                run = self._run(event.run_id)
                run.attempts[event.step] = max(run.attempts.get(event.step, 0), event.attempt)
                run.started_at_us.setdefault(event.step, event.occurred_at_us)
            case StepCompleted():
                self._run(event.run_id).completed.setdefault(event.step, event)
            case TrainingProgress():
                self._run(event.run_id).progress = event
        self.changed.set()

    def _run(self, run_id: str) -> TrainingRun:
        return self.runs.setdefault(run_id, TrainingRun(run_id))

    def listed(self) -> list[TrainingRun]:
        """Runs whose trigger is known, newest first."""
        known = [run for run in self.runs.values() if run.trigger is not None]
        return sorted(known, key=_time_of, reverse=True)

    def next_open(self) -> TrainingRun | None:
        """The oldest run that has not ended."""
        return next((run for run in reversed(self.listed()) if run.ending is None), None)


def _time_of(run: TrainingRun) -> tuple[int, str]:
    assert run.trigger is not None
    return run.trigger.occurred_at_us, run.run_id
