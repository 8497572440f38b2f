"""Corrections of the ledger: what is due, once, whatever is read again."""

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.kafka import KafkaLog
from infra.repricing import Knowledge, Owed, Repricing
from schemas.codec import decode_as
from schemas.events.changes import PriceChanged, PriceTier, ProviderChanged
from schemas.events.llm import COSTS, CostEntry
from schemas.events.operations import ALERTS, AlertChanged
from schemas.identity import uuid7
from schemas.log import Cursor
from schemas.pricing import newly_unpriced
from schemas.table_view import TableView

MILLION = 1_000_000


def price(provider: str = "acme", valid_from_us: int = 0, version: int = 1, **fields: Any) -> Any:
    given = {"input_price": 2 * MILLION, "output_price": 8 * MILLION} | fields
    return PriceChanged(
        event_id=uuid7(),
        occurred_at_us=1,
        entity_version=version,
        actor="test",
        provider=provider,
        model="m",
        valid_from_us=valid_from_us,
        price_version=f"v{version}",
        source="test",
        **given,
    )


def line(**fields: Any) -> CostEntry:
    given: dict[str, Any] = {
        "event_id": uuid7(),
        "occurred_at_us": 600,
        "request_id": uuid7(),
        "key_id": "k",
        "route": "r",
        "provider": "acme",
        "model": "m",
        "target": "acme/m",
        "entry": "unpriced",
        "input_tokens": 100,
        "output_tokens": 10,
        "basis": "reported",
        "priced_at_us": 500,
        "budgets": ["b@2026-11-20"],
    }
    return CostEntry(**(given | fields))


def due(lines: Iterable[CostEntry], prices: Iterable[PriceChanged], *, whole: bool = True) -> Any:
    owed = Owed(Knowledge(prices, ()), whole=whole)
    for one in lines:
        owed.take(one)
    return owed.corrections()


def total(lines: Iterable[CostEntry]) -> int:
    return sum(one.cost_nano_usd or 0 for one in lines)


@pytest.mark.req("BEY-08", "PROV-08")
def test_an_unpriced_line_gets_its_price_once() -> None:
    one = line()
    [fix] = due([one], [price()])
    assert (fix.entry, fix.cost_nano_usd, fix.corrects) == ("corrected", 280, one.event_id)
    assert (fix.occurred_at_us, fix.request_id) == (one.occurred_at_us, one.request_id)
    assert (fix.input_tokens, fix.output_tokens, fix.budgets) == (None, None, [])
    assert fix.input_price == 2 * MILLION
    assert newly_unpriced(one) + newly_unpriced(fix) == 0, "readers of live tables count it no more"
    [again] = due([one, fix], [price(version=2, input_price=3 * MILLION)])
    assert newly_unpriced(again) == 0
    assert due([one], [price()]) == [fix], "the same correction is the same event"
    assert due([one, fix], [price()]) == []


@pytest.mark.req("PROV-08")
def test_the_price_at_the_requests_time_counts() -> None:
    dated = [price(), price(valid_from_us=501, input_price=9 * MILLION)]
    assert due([line()], dated)[0].cost_nano_usd == 280
    assert due([line(priced_at_us=501)], dated)[0].cost_nano_usd == 980
    assert due([line()], [price(valid_from_us=501)]) == []


@pytest.mark.req("PROV-08")
def test_a_line_of_a_long_input_is_corrected_to_its_tier() -> None:
    tier = PriceTier(above_input_tokens=99, input_price=4 * MILLION, output_price=8 * MILLION)
    ledger = [line(entry="settled", cost_nano_usd=280, price_list="acme")]
    [fix] = due(ledger, [price(version=2, tiers=[tier])])
    assert (fix.cost_nano_usd, fix.input_price) == (200, 4 * MILLION)
    assert due([*ledger, fix], [price(version=2, tiers=[tier])]) == []


@pytest.mark.req("BEY-08")
def test_a_price_that_changes_for_the_past_and_back() -> None:
    ledger = [line(entry="settled", cost_nano_usd=280, price_list="acme")]
    for version, rate, sums_to in ((2, 3, 380), (3, 2, 280), (4, 3, 380)):
        fixes = due(ledger, [price(version=version, input_price=rate * MILLION)])
        ledger += fixes
        assert total(ledger) == sums_to
    assert len({one.event_id for one in ledger}) == len(ledger) == 4


def test_what_stands_is_left_alone() -> None:
    still = [
        line(entry="settled", cost_nano_usd=280),
        line(entry="abandoned", cost_nano_usd=7, basis="estimated"),
        line(entry="admitted", cost_nano_usd=7, basis="estimated"),
        line(entry="settled", cost_nano_usd=0, basis="none", input_tokens=None),
        line(output_tokens=None),
        line(priced_at_us=None),
        line(provider="other"),
    ]
    assert due(still, [price()]) == []


def test_a_line_keeps_its_own_price_list_and_an_unpriced_one_takes_the_providers() -> None:
    row = ProviderChanged(
        event_id=uuid7(), occurred_at_us=1, entity_version=1, actor="test", name="acme",
        dialect="openai", base_url="http://x", price_provider="other",
    )  # fmt: skip
    book = Knowledge([price(), price("other", input_price=5 * MILLION)], [row])
    owed = Owed(book, whole=True)
    owed.take(line(entry="settled", cost_nano_usd=280, price_list="acme"))
    owed.take(line())
    assert [fix.cost_nano_usd for fix in owed.corrections()] == [580]


def test_a_model_that_is_free_is_priced_too() -> None:
    one, free = line(), [price(input_price=0, output_price=0)]
    [fix] = due([one], free)
    assert fix.cost_nano_usd == 0
    assert due([one, fix], free) == []


RATES = st.lists(st.integers(0, 9), min_size=1, max_size=5)
TOKENS = st.lists(st.tuples(st.integers(0, 999), st.integers(0, 99)), max_size=8)


@given(RATES, TOKENS)
def test_after_any_changes_the_sum_is_that_of_the_last_price(
    rates: Sequence[int], counts: Sequence[tuple[int, int]]
) -> None:
    ledger = [line(input_tokens=inputs, output_tokens=outputs) for inputs, outputs in counts]
    for version, rate in enumerate(rates, 1):
        now = [price(version=version, input_price=rate * MILLION)]
        ledger += due(ledger, now)
        assert due(ledger, now) == []
    assert total(ledger) == sum(inputs * rates[-1] + outputs * 8 for inputs, outputs in counts)
    assert len({one.event_id for one in ledger}) == len(ledger)


async def _lines(log: KafkaLog, model: str) -> list[CostEntry]:
    found = []
    async with log.reader([COSTS], Cursor()) as reader:
        while records := await reader.batch(1_000, 0.4):
            decoded = [decode_as(r.value, CostEntry) for r in records if r.value is not None]
            found += [one for one in decoded if one is not None and one.model == model]
    return found


async def _until(log: KafkaLog, model: str, cost_nano_usd: int) -> list[CostEntry]:
    async with asyncio.timeout(30):
        while total(found := await _lines(log, model)) != cost_nano_usd:
            await asyncio.sleep(0.2)
    return found


async def _alerts(log: KafkaLog, target: str) -> list[str]:
    found = []
    async with log.reader([ALERTS], Cursor()) as reader:
        while records := await reader.batch(1_000, 0.4):
            for record in records:
                alert = decode_as(record.value or b"", AlertChanged)
                if alert is not None and alert.alert_id == f"price_unknown:{target}":
                    found.append(alert.status)
    return found


@pytest.mark.req("PROV-08")
async def test_a_model_without_a_price_is_told_until_it_has_one(
    log: KafkaLog, tmp_path: Path
) -> None:
    model, stop = uuid7(), asyncio.Event()
    one = line(model=model)
    target = f"{one.provider}/{model}"
    await log.publish(one)
    task = asyncio.create_task(Repricing(log, tmp_path / "repricing.json").run(stop))
    try:
        async with asyncio.timeout(30):
            while await _alerts(log, target) != ["open"]:
                await asyncio.sleep(0.2)
            await log.publish(line(model=model))
            await log.publish(msgspec.structs.replace(price(), model=model))
            while await _alerts(log, target) != ["open", "resolved"]:
                await asyncio.sleep(0.2)
    finally:
        stop.set()
        await task


class Late:
    """A log whose followers, once they have caught up, hear nothing for two seconds."""

    def __init__(self, log: KafkaLog) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def follow(self, views: Sequence[TableView[Any]], stop: asyncio.Event) -> None:
        pause = asyncio.Event()
        following = asyncio.create_task(self._log.follow(views, pause))
        for view in views:
            await view.caught_up.wait()
        pause.set()
        await following
        await asyncio.sleep(2)
        await self._log.follow(views, stop)


@pytest.mark.req("BEY-08")
async def test_a_line_priced_by_a_change_not_heard_of_yet_is_left_alone(
    log: KafkaLog, tmp_path: Path
) -> None:
    """Workers may hear of a price before control does: nothing is taken back to be given again."""
    model, stop = uuid7(), asyncio.Event()
    await log.publish(msgspec.structs.replace(price(), model=model))
    late: Any = Late(log)
    repricing = Repricing(late, tmp_path / "repricing.json")
    task = asyncio.create_task(repricing.run(stop))
    try:
        async with asyncio.timeout(30):
            await repricing.prices.caught_up.wait()
            dear = price(version=2, input_price=3 * MILLION)
            await log.publish(msgspec.structs.replace(dear, model=model))
            # As priced by a worker that has heard of it, and by one that has not.
            await log.publish(line(model=model, entry="settled", cost_nano_usd=380))
            await log.publish(line(model=model, entry="settled", cost_nano_usd=280))
            lines = await _until(log, model, 760)
    finally:
        stop.set()
        await task
    assert sorted(one.cost_nano_usd or 0 for one in lines) == [100, 280, 380]


@pytest.mark.req("BEY-08")
async def test_on_a_log_with_restarts_and_a_lost_position(log: KafkaLog, tmp_path: Path) -> None:
    model, file = uuid7(), tmp_path / "repricing.json"

    async def work(stop: asyncio.Event, cost_nano_usd: int) -> list[CostEntry]:
        task = asyncio.create_task(Repricing(log, file).run(stop))
        try:
            return await _until(log, model, cost_nano_usd)
        finally:
            stop.set()
            await task

    first = [line(model=model), line(model=model)]
    for one in first:
        await log.publish(one)
    await log.publish(msgspec.structs.replace(price(), model=model))
    assert len(await work(asyncio.Event(), 560)) == 4
    await log.publish(line(model=model))  # by a worker that has not heard of the price
    assert len(await work(asyncio.Event(), 840)) == 6
    file.unlink()
    dearer = price(version=2, input_price=3 * MILLION)
    await log.publish(msgspec.structs.replace(dearer, model=model))
    assert len(await work(asyncio.Event(), 1_140)) == 9
    await asyncio.sleep(1.5)
    assert len(await work(asyncio.Event(), 1_140)) == 9, "nothing is corrected twice"
