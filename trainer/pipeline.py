"""From a trigger to a better model, unattended: the steps, top to bottom.

A step is done when its `StepCompleted` event exists. A trainer that starts again reads the events of
a run and goes on with the first step that has none; a step that was cut off runs again and continues
or repeats its own work. Everything a later step needs is in the outputs of the earlier ones, so a run
can be explained from the log alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from schemas.clock import now_us
from schemas.errors import BrokerUnavailable, ModelTrainingError, WeirError
from schemas.events.training import StepCompleted, StepStarted
from schemas.identity import uuid7
from trainer import steps
from trainer.journal import LAST_STEP, TrainingRun
from trainer.steps import Outcome, Workshop

_log = logging.getLogger(__name__)
RETRY_S = 2.0


@dataclass(frozen=True)
class Step:
    """A named piece of work that may be cut off anywhere and run again."""

    name: str
    work: Callable[[Workshop, TrainingRun], Awaitable[Outcome]]


STEPS: tuple[Step, ...] = (
    Step("collect", steps.collect_feedback),
    Step("validate", steps.validate_examples),
    Step("anonymize", steps.anonymize),
    Step("split", steps.split_dataset),
    Step("estimate", steps.estimate),
    Step("tune", steps.tune),
    Step("evaluate", steps.evaluate),
    Step("register", steps.register),
    Step("deploy", steps.deploy),
    Step(LAST_STEP, steps.learn),
)


async def advance(shop: Workshop, run: TrainingRun) -> None:
    """Take a run from where its events end to its own end."""
    for step in STEPS:
        if run.ending is not None:
            return
        if step.name not in run.completed:
            await _perform(shop, run, step)


async def _perform(shop: Workshop, run: TrainingRun, step: Step) -> None:
    """Start a step until it is completed, refused or failed for good, and record which."""
    began = time.monotonic()
    while True:
        attempt = run.attempts.get(step.name, 0) + 1
        started = StepStarted(
            event_id=uuid7(),
            occurred_at_us=now_us(),
            run_id=run.run_id,
            step=step.name,
            attempt=attempt,
        )
        await _publish(shop, started)
        _log.info("run %s: %s, attempt %d", run.run_id, step.name, attempt)
        try:
            outcome = await step.work(shop, run)
        except BrokerUnavailable as error:
            _log.warning("run %s: %s pauses: %s", run.run_id, step.name, error.message)
            run.attempts[step.name] = attempt - 1  # waiting for the broker is nobody's failure
        except WeirError as error:
            _log.warning("run %s: %s: %s", run.run_id, step.name, error.message)
            # Only a child's death can come out differently next time; data stays what it is.
            if not isinstance(error, ModelTrainingError) or attempt >= shop.settings.attempts_max:
                await _complete(shop, run, step, "failed", Outcome(), error.message, began)
                return
        else:
            status = "completed" if outcome.refused is None else "refused"
            await _complete(shop, run, step, status, outcome, outcome.refused, began)
            return
        await asyncio.sleep(RETRY_S)


async def _complete(
    shop: Workshop,
    run: TrainingRun,
    step: Step,
    status: str,
    outcome: Outcome,
    reason: str | None,
    began: float,
) -> None:
    if status == "failed":
        await steps.give_up(shop, run, reason or "")
    event = StepCompleted(
        event_id=uuid7(),
        occurred_at_us=now_us(),
        run_id=run.run_id,
        step=step.name,
        status=status,
        output=dict(outcome.output),
        metrics={name: float(value) for name, value in outcome.metrics.items()},
        reason=reason,
        duration_us=round((time.monotonic() - began) * 1_000_000),
    )
    await _publish(shop, event)
    _log.info("run %s: %s %s %s", run.run_id, step.name, status, reason or "")


async def _publish(shop: Workshop, event: StepStarted | StepCompleted) -> None:
    """Append the event, however long the broker is away, and fold it in at once."""
    while True:
        try:
            await shop.log.publish(event, correlation_id=event.run_id)
        except BrokerUnavailable:
            await asyncio.sleep(RETRY_S)
        else:
            shop.journal.note(event)
            return


async def work(shop: Workshop, stop: asyncio.Event) -> None:
    """Finish every open run, oldest first, and wait for the next, until `stop`."""
    for view in shop.views:
        await view.caught_up.wait()
    while not stop.is_set():
        shop.journal.changed.clear()
        run = shop.journal.next_open()
        if run is None:
            await shop.journal.changed.wait()
            continue
        await advance(shop, run)


async def until(stop: asyncio.Event, work_to_do: Awaitable[None]) -> None:
    """Run something until it ends or `stop` is set; then cancel it. Its errors are raised."""
    working, stopping = asyncio.ensure_future(work_to_do), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        for task in (working, stopping):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
