"""Versions move as the registry allows, and their files are what they were."""

from pathlib import Path

import msgspec
import pytest

from schemas.clock import now_us
from schemas.errors import ConfigurationError, Conflict, ModelLoadingError
from schemas.events.training import StepCompleted, StepStarted, TriggerFired
from schemas.identity import uuid7
from trainer.config import tuning_config
from trainer.journal import Journal
from trainer.registry import TRANSITIONS, moved, store, verify, version_id


@pytest.mark.req("REG-01")
def test_an_id_names_model_day_and_run() -> None:
    one = version_id("tiny-tuned", "run-1", 1_700_000_000_000_000)
    assert one == version_id("tiny-tuned", "run-1", 1_700_000_000_000_000)
    name, day, digits = one.rsplit("_", 2)
    assert (name, day, len(digits)) == ("tiny-tuned", "20231114", 8)
    assert one != version_id("tiny-tuned", "run-2", 1_700_000_000_000_000)


@pytest.mark.req("REG-01")
def test_every_known_transition_works_and_every_other_is_refused() -> None:
    statuses = sorted(status for status in TRANSITIONS if status)
    first = moved(
        None, "created", "test", model_version_id="v", name="n", base_model="b", run_id="r"
    )
    for before in statuses:
        current = msgspec.structs.replace(first, status=before)
        for after in statuses:
            if after in TRANSITIONS[before]:
                event = moved(current, after, "test")
                assert (event.status, event.entity_version) == (after, 2)
                assert event.run_id == "r"
            else:
                with pytest.raises(Conflict):
                    moved(current, after, "test")
    with pytest.raises(Conflict):
        moved(None, "deployed", "test", model_version_id="v", name="n", base_model="b")


@pytest.mark.req("REG-03")
def test_a_damaged_version_is_not_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "v"
    sums = store(folder, {"a.bin": b"weights", "b.json": b"{}"})
    assert verify(folder) == sums
    assert store(folder, {"a.bin": b"weights", "b.json": b"{}"}) == sums
    (folder / "a.bin").write_bytes(b"weightz")
    with pytest.raises(ModelLoadingError, match=r"a\.bin"):
        verify(folder)
    with pytest.raises(ModelLoadingError):
        verify(tmp_path / "none")


@pytest.mark.req("TRAIN-01")
def test_hyper_parameters_have_their_defaults_ranges_and_layers() -> None:
    defaults = tuning_config()
    assert (defaults.num_epochs, defaults.batch_size, defaults.learning_rate) == (3, 4, 5e-5)
    assert (defaults.lora_rank, defaults.lora_alpha, defaults.use_8bit) == (16, 32, True)
    assert (defaults.eval_steps, defaults.save_steps, defaults.logging_steps) == (100, 500, 10)
    assert tuning_config({"num_epochs": 5}, {"num_epochs": 7}).num_epochs == 7
    for wrong in ({"num_epochs": 0}, {"learning_rate": 2}, {"epochs": 3}, {"scheduler": "x"}):
        with pytest.raises(ConfigurationError):
            tuning_config(wrong)


def step(run_id: str, name: str, status: str = "completed") -> StepCompleted:
    return StepCompleted(
        event_id=uuid7(),
        occurred_at_us=now_us(),
        run_id=run_id,
        step=name,
        status=status,
        output={"n": name},
        duration_us=1,
    )


def trigger(at_us: int) -> TriggerFired:
    return TriggerFired(
        event_id=uuid7(),
        occurred_at_us=at_us,
        trigger_id="all#1",
        scope="all",
        reason="threshold",
        count=1,
        threshold=1,
        since_us=0,
        until_us=at_us,
    )


@pytest.mark.req("FT-12", "TRAIN-09")
def test_a_run_goes_on_where_its_events_end() -> None:
    journal = Journal()
    first, second = trigger(1), trigger(2)
    for event in (second, first, step(first.event_id, "collect")):
        journal.note(event)
    run = journal.next_open()
    assert run is not None
    assert run.run_id == first.event_id, "the oldest first"
    assert (run.status, run.output("collect", "n")) == ("running", "collect")
    # A step that was recorded twice counts as it was recorded first.
    journal.note(step(first.event_id, "collect", "failed"))
    assert run.ending is None
    started = StepStarted(
        event_id=uuid7(), occurred_at_us=3, run_id=first.event_id, step="tune", attempt=2
    )
    journal.note(started)
    assert run.attempts == {"tune": 2}
    journal.note(step(first.event_id, "tune", "refused"))
    assert run.status == "refused"
    following = journal.next_open()
    assert following is not None
    assert following.run_id == second.event_id
    assert following.status == "pending"
