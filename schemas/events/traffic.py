"""The traffic table: what calls did, per dimension and block of time. `schemas.traffic` reads it."""

from __future__ import annotations

from schemas.event import Topic
from schemas.events.tables import CursorRow, TableRow

TRAFFIC_TABLE = Topic("weir.traffic.tables.v1", cleanup="compact")


class TrafficCursor(CursorRow, frozen=True, kw_only=True):
    """The cursor of the traffic fold."""

    topic = TRAFFIC_TABLE
    type = "weir.traffic.cursor"


class TrafficRow(TableRow, frozen=True, kw_only=True):
    """Sums of the members of one slot of a dimension over one block of time, as columns.

    `entity` is ``DIMENSION.LEVEL.SLOT@START_S``. Cell k belongs to ``members[member[k]]`` and to the
    bucket number ``bucket[k]`` of the block. The member ``""`` is everybody for whom the slot had no
    room. `failures` are calls that failed or were abandoned, `latency_us` is a sum over the calls
    that succeeded, of which there are `successes`; cancelled calls are in neither.
    """

    topic = TRAFFIC_TABLE
    type = "weir.traffic.row"

    members: list[str]
    member: list[int]
    bucket: list[int]
    calls: list[int]
    failures: list[int]
    successes: list[int]
    latency_us: list[int]
    cost_nano_usd: list[int]
    input_tokens: list[int]
    output_tokens: list[int]
