"""What a dead worker held of budgets: charged for its open calls first, then freed, once."""

import asyncio
import os
from pathlib import Path

import msgspec
import pytest

from gateway.adoption import Remains
from gateway.escrow import Escrow
from gateway.ledger import Recorder
from gateway.outbox import RESERVED, Outbox
from gateway.segment import frames, segment_paths
from schemas import codec
from schemas.event import Event
from schemas.events.changes import BudgetChanged
from schemas.events.escrow import EscrowMoved, EscrowRow, lease_id
from schemas.events.llm import CostEntry
from schemas.events.operations import OutboxClosed
from schemas.identity import uuid7
from schemas.publish import sample
from schemas.table_view import TableView
from tests.gateway_durability.support import MASTER, request, settings

DAY = "2026-11-20"


def budget(budget_id: str) -> BudgetChanged:
    return BudgetChanged(
        event_id="e",
        occurred_at_us=1,
        entity_version=1,
        actor="a",
        budget_id=budget_id,
        scope="global",
        daily_limit_nano_usd=10_000,
    )


def written(folder: Path) -> list[Event]:
    """Every event of an outbox, in order."""
    return [
        codec.decode(entry.value)
        for path in segment_paths(folder)
        for whole in frames(path.read_bytes())
        for entry in whole.entries
        if not entry.topic.startswith(":") and "." in entry.topic
    ]


async def dead(folder: Path, *, grown_to: int | None = None, rotated: bool = False) -> Path:
    """Leave an outbox as a worker leaves it that dies in the middle of a call under two budgets."""
    chosen = settings(folder, segment_bytes=1) if rotated else settings(folder)
    outbox = Outbox(chosen, "/gw/t")
    escrow = Escrow(outbox, TableView(EscrowRow))
    for name in ("b", "each/ann"):
        escrow.lease(budget(name), name)
    admitted = request(
        reserved_nano_usd=500, budgets=[lease_id("b", DAY), lease_id("each/ann", DAY)]
    )
    Recorder(outbox, MASTER).admitted(admitted)
    if grown_to is not None:
        fields = {"event_id": uuid7(), "request_id": admitted.request_id, "entry": RESERVED}
        more = {"cost_nano_usd": grown_to, "budgets": [lease_id("b", DAY)]}
        outbox.append(msgspec.structs.replace(sample(CostEntry), **fields, **more), settles=True)
    await outbox.durable("written")
    await asyncio.sleep(0.05)
    os.close(outbox.close())
    return outbox.folder


@pytest.mark.req("BEY-07", "BEY-03")
async def test_open_calls_are_charged_in_full_and_then_all_is_freed(tmp_path: Path) -> None:
    folder = await dead(tmp_path)
    assert Remains(folder).conclude("/gw/adopter") == 1
    events = written(folder)
    moves = [event for event in events if isinstance(event, EscrowMoved)]
    told = [(move.kind, move.budget_id, move.amount_nano_usd) for move in moves[2:]]
    assert told == [
        ("spent", "b", 500),
        ("spent", "each/ann", 500),
        ("closed", "b", 0),
        ("closed", "each/ann", 0),
    ]
    assert {move.day for move in moves if move.kind == "spent"} == {DAY}
    assert isinstance(events[-1], OutboxClosed)
    assert Remains(folder).conclude("/gw/other") == 0


@pytest.mark.req("BEY-07")
@pytest.mark.parametrize("rotated", [False, True])
async def test_what_a_failover_reserved_anew_is_charged(tmp_path: Path, rotated: bool) -> None:
    folder = await dead(tmp_path, grown_to=900, rotated=rotated)
    if rotated:  # what Kafka has is deleted; the carry of the last segment must know
        paths = segment_paths(folder)
        assert len(paths) > 1
        for path in paths[:-1]:
            path.unlink()
    Remains(folder).conclude("/gw/adopter")
    spent = [e for e in written(folder) if isinstance(e, EscrowMoved) and e.kind == "spent"]
    assert [(move.budget_id, move.amount_nano_usd) for move in spent] == [("b", 900)]


@pytest.mark.interpreted("a method replaced, to look when it is called")
@pytest.mark.req("BEY-07")
async def test_a_budget_is_listed_on_the_disk_before_it_is_asked(tmp_path: Path) -> None:
    outbox = Outbox(settings(tmp_path), "/gw/t")
    seen: list[list[str]] = []
    append = outbox.append

    def looking(*events: Event, **options: bool) -> int:
        seen.append((outbox.folder / "leases").read_text().split())
        return append(*events, **options)

    outbox.append = looking  # type: ignore[method-assign,assignment]
    Escrow(outbox, TableView(EscrowRow)).lease(budget("b"), "b")
    assert seen == [["b"]]
    os.close(outbox.close())


@pytest.mark.req("BEY-07")
async def test_a_budget_of_whatever_a_caller_names_is_listed_as_it_is(tmp_path: Path) -> None:
    outbox = Outbox(settings(tmp_path), "/gw/t")
    escrow = Escrow(outbox, TableView(EscrowRow))
    names = ["each/ann", "each/one\ntwo", "each/100%\u2028é"]
    for name in names:
        escrow.lease(budget("each"), name)
    os.close(outbox.close())
    assert Remains(outbox.folder).leases == names
