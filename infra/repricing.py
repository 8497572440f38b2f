"""Corrections of the ledger: calls get the price that held for them, whenever it becomes known (BEY-08).

A line is right when its cost is what today's knowledge of prices says for the time of its request. Where
it is not (the model had no price, the price was changed for the past, or a worker had not heard of it
yet) one `corrected` line adds the difference. Which are missing is told by the ledger itself, read to its
end before anything is written: whoever writes again after a crash finds what was written before, and an
id follows from the line and from how many corrections it had, so the same correction is the same event.

What still has no price is told by an alert for each model, which ends when it has one (PROV-08).

Control is the only writer. Its position is kept in a file; without it the ledger is read from its
beginning, as it is after a change of prices.
"""

import asyncio
import contextlib
import hashlib
import logging
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from fastapi import APIRouter

from schemas.alerts import OPEN, RESOLVED
from schemas.clock import now_us
from schemas.codec import decode_as
from schemas.errors import BrokerUnavailable, CorruptRecord, LogTruncated, WrongLog
from schemas.events.changes import PriceChanged, ProviderChanged
from schemas.events.llm import COSTS, CostEntry
from schemas.events.operations import AlertChanged
from schemas.identity import uuid7
from schemas.log import Cursor, Log, Reader, Record
from schemas.prices import PriceBook, list_of
from schemas.pricing import cost_of, price_for
from schemas.table_view import TableView

LOOK_S = 1.0
"""How often the new lines are looked at; changes of prices are gathered for as long."""
RETRY_S = 5.0
HEAR_S = 0.05
END_OF_LOG_MS = 2**53
"""A time after every record's."""
BATCH, BATCH_S = 5_000, 0.25
AT_ONCE = 500
"""Corrections on their way at a time."""
PRICED = frozenset({"settled", "wasted", "unpriced"})
"""Lines whose cost follows from a price. An abandoned call is entered at its reservation, for ever."""
UNPRICED_MAX = 1_000
"""Models without a price that are told of."""
_NAMESPACE = uuid.UUID("0b1a4c35-8a53-4b9e-9d0c-6f6cbb0c3c58")
_log = logging.getLogger(__name__)


class Knowledge:
    """What is known of prices now, and whose list each provider goes by."""

    def __init__(
        self, prices: Iterable[PriceChanged], providers: Iterable[ProviderChanged]
    ) -> None:
        self._all = list(prices)
        self._book = PriceBook(self._all)
        self._providers = {row.name: row for row in providers}

    def digest(self) -> str:
        """Return a digest of all that a price can depend on."""
        said = {
            p.key: (
                p.input_price,
                p.cached_input_price,
                p.cache_write_input_price,
                p.output_price,
                p.unit_prices,
                p.tiers,
            )
            for p in self._all
        }
        lists = {name: list_of(name, self._providers) for name in self._providers}
        known = msgspec.json.encode((said, lists), order="deterministic")
        return hashlib.sha256(known).hexdigest()

    def of(self, line: CostEntry) -> PriceChanged | None:
        """Return the price for a line: of the list that was used for it, at its request's time."""
        if line.provider is None or line.model is None or line.priced_at_us is None:
            return None
        name = line.price_list or list_of(line.provider, self._providers)
        return self._book.find(name, line.model, line.priced_at_us)


class Due(msgspec.Struct, frozen=True):
    """What the corrections of a line must come to (nano-USD); `known` says that it has a cost."""

    line: CostEntry
    price: PriceChanged
    nano_usd: int
    known: bool


class Owed:
    """What is due and what was corrected, in one pass over the ledger.

    `whole` says that the pass begins with the ledger's first line. Only lines that are not right are
    held. A line comes before its corrections, so in a whole pass one that is corrected and not held
    was right by itself: what was corrected must be taken back.
    """

    def __init__(self, book: Knowledge, *, whole: bool) -> None:
        self._book = book
        self._whole = whole
        self._due: dict[str, Due] = {}
        self._corrected: dict[str, tuple[int, int]] = {}
        self.unpriced: set[str] = set()
        """Targets of lines that no price is known for."""

    def take(self, line: CostEntry) -> None:
        """Take the next line of the ledger."""
        if line.corrects is None:
            self._compare(line)
            return
        if line.corrects not in self._due:
            price = self._book.of(line)
            if not self._whole or price is None:
                return
            own = msgspec.structs.replace(line, event_id=line.corrects)
            self._due[line.corrects] = Due(own, price, 0, known=True)
        total, times = self._corrected.get(line.corrects, (0, 0))
        self._corrected[line.corrects] = (total + (line.cost_nano_usd or 0), times + 1)

    def _compare(self, line: CostEntry) -> None:
        if line.entry not in PRICED or line.basis == "none":
            return
        price = self._book.of(line)
        cost = cost_of(price, line, line.units)
        if cost is None and line.entry == "unpriced" and len(self.unpriced) < UNPRICED_MAX:
            self.unpriced.add(f"{line.provider}/{line.model}")
        if price is not None and cost is not None and cost != line.cost_nano_usd:
            known = line.cost_nano_usd is not None
            held = price_for(price, line.input_tokens)
            self._due[line.event_id] = Due(line, held, cost - (line.cost_nano_usd or 0), known)

    def corrections(self) -> list[CostEntry]:
        """Return what is missing, once the ledger was read to its end."""
        found = []
        for line_id, due in self._due.items():
            total, times = self._corrected.get(line_id, (0, 0))
            # A model that turns out to be free is priced too: by a difference of nothing.
            if due.nano_usd != total or not (due.known or times):
                found.append(correction(due, due.nano_usd - total, times))
        return found


def correction(due: Due, difference: int, times: int) -> CostEntry:
    """Return the line that adds a difference (nano-USD) to one that was corrected so often before.

    It has the time of the line that it corrects, whose day and month it belongs to.
    """
    line, price = due.line, due.price
    return msgspec.structs.replace(
        line,
        event_id=str(uuid.uuid5(_NAMESPACE, f"{line.event_id}/{times}")),
        entry="corrected",
        corrects=line.event_id,
        first_price=not (due.known or times),
        cost_nano_usd=difference,
        input_tokens=None,
        cached_input_tokens=None,
        output_tokens=None,
        cache_write_input_tokens=None,
        units={},
        input_price=price.input_price,
        cached_input_price=price.cached_input_price,
        output_price=price.output_price,
        cache_write_input_price=price.cache_write_input_price,
        price_version=price.price_version,
        price_list=price.provider,
        cache_saved_nano_usd=None,
        budgets=[],
    )


def alert_of(target: str, status: str) -> AlertChanged:
    """Return the alert that a target has no price, opened or resolved."""
    what = (
        "now have a price"
        if status == RESOLVED
        else f'have no price; [prices."{target}"] gives them one, for the past too'
    )
    return AlertChanged(
        event_id=uuid7(),
        occurred_at_us=now_us(),
        alert_id=f"price_unknown:{target}",
        alert_type="price_unknown",
        severity="warning",
        scope=f"target:{target}",
        status=status,
        message=f"calls of {target} {what}",
    )


class State(msgspec.Struct):
    """How far the ledger is right, by which prices (their digest), and what has none."""

    prices: str
    cursor: Cursor
    unpriced: list[str] = []


class Repricing:
    """Watches prices and the ledger; a component of control."""

    def __init__(self, log: Log, file: Path) -> None:
        self.prices = TableView(PriceChanged)
        self.providers = TableView(ProviderChanged)
        self._views: list[TableView[Any]] = [self.prices, self.providers]
        self.corrected = 0
        self._log = log
        self._file = file
        self._generation = (-1, -1)
        self._digest = ""
        self._book = Knowledge((), ())

    @property
    def routers(self) -> Sequence[APIRouter]:
        """None: prices are changed where all entities are."""
        return []

    def ready(self) -> str | None:
        """Nobody waits for corrections."""
        return None

    def status(self) -> dict[str, Any]:
        """How many lines were corrected since the start."""
        return {"corrected": self.corrected}

    async def run(self, stop: asyncio.Event) -> None:
        """Correct what must be corrected until `stop`."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._log.follow(self._views, stop))
            group.create_task(self._work(stop))

    async def _work(self, stop: asyncio.Event) -> None:
        for view in self._views:
            waits = (asyncio.create_task(view.caught_up.wait()), asyncio.create_task(stop.wait()))
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for task in waits:
                task.cancel()
        while not stop.is_set():
            try:
                await self.watch(stop)
            except BrokerUnavailable as error:
                # What was sent may be there all the same: it is read before anything is sent again.
                _log.warning("the ledger cannot be corrected now: %s", error.message)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), RETRY_S)
            except (LogTruncated, WrongLog) as error:
                _log.warning("the ledger is read from its beginning: %s", error.message)
                self._file.unlink(missing_ok=True)

    async def watch(self, stop: asyncio.Event) -> None:
        """Correct the ledger, and go on with its new lines, until `stop` or a change of prices.

        Raises BrokerUnavailable, LogTruncated, WrongLog.
        """
        digest = self._known()
        state = self._load()
        whole = state is None or state.prices != digest
        cursor = Cursor() if state is None or whole else state.cursor
        told = set() if state is None else set(state.unpriced)
        async with self._log.reader([COSTS], cursor) as reader:
            while not stop.is_set():
                owed = Owed(self._book, whole=whole)
                if await _read_on(reader, owed) or whole:
                    missing = owed.corrections()
                    if missing:
                        await self._hear_of_changes(stop)
                    if self._known() != digest:
                        return
                    await self._write(missing)
                    room = UNPRICED_MAX - len(told)
                    new = sorted(owed.unpriced - told)[:room]
                    unpriced = owed.unpriced if whole else told.union(new)
                    await self._tell(told, unpriced)
                    told = unpriced
                    self._save(State(digest, reader.cursor, sorted(told)))
                whole = False
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), LOOK_S)
                if self._known() != digest:
                    return

    async def _hear_of_changes(self, stop: asyncio.Event) -> None:
        """Wait for every change of prices that there is by now.

        A worker may have priced a line by one that has not come here yet: what is right would be
        taken back. Raises BrokerUnavailable.
        """
        ends = await self._log.positions_at([view.topic for view in self._views], END_OF_LOG_MS)
        while not stop.is_set() and any(
            view.cursor.next_offset(view.topic.name, partition) < end
            for view in self._views
            for partition, end in ends[view.topic.name].items()
        ):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), HEAR_S)

    async def _write(self, missing: Sequence[CostEntry]) -> None:
        for start in range(0, len(missing), AT_ONCE):
            async with asyncio.TaskGroup() as group:
                for line in missing[start : start + AT_ONCE]:
                    group.create_task(self._publish(line))
        if missing:
            _log.info("%d lines of the ledger are corrected", len(missing))

    async def _tell(self, before: set[str], now: set[str]) -> None:
        for target in sorted(now - before):
            await self._log.publish(alert_of(target, OPEN))
        for target in sorted(before - now):
            await self._log.publish(alert_of(target, RESOLVED))

    async def _publish(self, line: CostEntry) -> None:
        await self._log.publish(line, correlation_id=line.request_id, causation_id=line.corrects)
        self.corrected += 1

    def _known(self) -> str:
        """Return the digest of all that prices depend on, and take it as the price book."""
        generation = (self.prices.generation, self.providers.generation)
        if generation != self._generation:
            prices = sorted(self.prices.entries.values(), key=lambda price: price.key)
            self._book = Knowledge(prices, self.providers.entries.values())
            self._digest = self._book.digest()
            self._generation = generation
        return self._digest

    def _load(self) -> State | None:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=State)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def _save(self, state: State) -> None:
        half = self._file.with_suffix(".new")
        half.write_bytes(msgspec.json.encode(state))
        half.replace(self._file)


async def _read_on(reader: Reader, owed: Owed) -> int:
    """Take every line up to the end of the ledger as of now; return how many."""
    taken = 0
    while True:
        records = await reader.batch(BATCH, BATCH_S)
        for record in records:
            line = _line(record)
            if line is not None:
                owed.take(line)
        taken += len(records)
        if not records and not await reader.lag():
            return taken
        await asyncio.sleep(0)


def _line(record: Record) -> CostEntry | None:
    try:
        return None if record.value is None else decode_as(record.value, CostEntry)
    except CorruptRecord as error:
        # Whoever shows the ledger sets such a record aside, as a dead letter.
        _log.error("%s|%s@%s is no line: %s", record.topic, record.partition, record.offset, error)
        return None
