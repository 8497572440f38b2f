"""What deciders remember of their own decisions, so that a start need not read all that they ever made."""

from __future__ import annotations

from schemas.event import Event, Topic

DECIDERS = Topic("weir.deciders.tables.v1", partitions=1, cleanup="compact")


class DecisionsRemembered(Event, frozen=True, kw_only=True):
    """What `decider` knew of its decisions when it had read them up to a place.

    `events` are encoded: applied to a new ledger they leave it as it was there. `cursor` is the place,
    the JSON of a `schemas.log.Cursor` of the decisions' topic alone. Derived: without it everything is
    read again.
    """

    topic = DECIDERS
    type = "weir.deciders.remembered"

    decider: str
    cursor: bytes
    events: list[bytes]

    @property
    def key(self) -> str:
        return self.decider
