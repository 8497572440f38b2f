"""`weir tail`: what was there, oldest first, then what comes."""

from collections.abc import Mapping
from typing import Any

import pytest

from infra.tail import _until, find_topic
from schemas.errors import NotFound
from schemas.log import Cursor, Record


class Partitions:
    """A reader that gives one partition after the other, as a consumer does that catches up."""

    def __init__(self, records: list[list[Record]]) -> None:
        self.cursor = Cursor(positions={"t": dict.fromkeys(range(len(records)), 0)})
        self._records = records

    async def batch(self, max_records: int, timeout_s: float) -> list[Record]:
        del max_records, timeout_s
        found = self._records.pop(0)
        for one in found:
            self.cursor.positions["t"][one.partition] = one.offset + 1
        return found

    async def end_positions(self) -> Mapping[str, Mapping[int, int]]:
        raise AssertionError("the ends are those of the beginning")

    async def lag(self) -> int:
        raise AssertionError("a busy topic always lags")


def record(partition: int, offset: int, at_ms: int) -> Record:
    fields: Any = ("t", partition, offset, at_ms, b"k", b"", ())
    return Record(*fields)


@pytest.mark.req("EVT-02")
async def test_the_first_records_come_in_the_order_of_their_time() -> None:
    reader = Partitions(
        [
            [record(0, 0, 5), record(0, 1, 9)],
            [record(1, 0, 1), record(1, 1, 7)],
            [record(0, 2, 2)],
        ]
    )
    found = await _until(reader, "t", {0: 2, 1: 2})
    assert [one.timestamp_ms for one in found] == [1, 5, 7, 9]


@pytest.mark.req("BEY-22")
def test_a_topic_is_found_by_what_it_is_called() -> None:
    assert find_topic("alerts").name == find_topic("weir.alerts.v1").name == "weir.alerts.v1"
    assert find_topic("deliveries").name == "weir.alerts.deliveries.v1"
    with pytest.raises(NotFound, match="does not name one topic"):
        find_topic("alerts.")
