"""What becomes of a budget when it is changed, disabled, removed or made anew."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.escrow import terms_of
from tests.gateway.keeper import Keeper, ask, budget
from tests.gateway.worker import Worker, started
from tests.sandbox.served import Served


@pytest.fixture
def kept(sandbox: Served, tmp_path: Path) -> Iterator[tuple[Worker, Keeper]]:
    with started(sandbox, tmp_path) as worker:
        yield worker, Keeper(worker)


@pytest.mark.req("COST-02", "OPS-01")
@pytest.mark.parametrize("after", ["raised", "disabled", "deleted"])
def test_an_alert_ends_when_its_budget_changes_without_waiting_for_a_call(
    kept: tuple[Worker, Keeper], after: str
) -> None:
    worker, keeper = kept
    worker.change(budget(0.000001, on_exceeded="alert_only"))
    assert ask(worker)[0] == 200
    assert keeper.waits(lambda: bool(keeper.row().alerts))
    if after == "deleted":
        view = worker.state.budgets
        worker.loop.call_soon_threadsafe(view.caught_up.set)
        worker.loop.call_soon_threadsafe(view.entries.pop, "b")
    else:
        limit = {"raised": 1.0, "disabled": 0.000001}[after]
        worker.change(budget(limit, occurred_at_us=2, enabled=after == "raised"))
    assert keeper.waits(lambda: not keeper.row().alerts)


@pytest.mark.req("COST-02", "BEY-07")
def test_a_budget_that_was_removed_and_made_anew_has_its_new_limit(
    kept: tuple[Worker, Keeper],
) -> None:
    worker, keeper = kept
    worker.change(budget(0.000001))
    worker.change(budget(0.0000005, entity_version=2, occurred_at_us=2))
    assert ask(worker, max_tokens=20)[0] == 402
    worker.change(budget(1.0, entity_version=1, occurred_at_us=3))
    assert ask(worker, max_tokens=20)[0] == 200
    assert keeper.row().terms == terms_of(budget(1.0, entity_version=1, occurred_at_us=3))
