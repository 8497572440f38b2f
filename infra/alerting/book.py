"""The state of all alerts, as the log has it."""

from collections.abc import Callable

from schemas.alerts import RESOLVED, followed
from schemas.codec import decode_as
from schemas.errors import CorruptRecord
from schemas.events.operations import AlertChanged
from schemas.log import Record
from schemas.table_view import TableView

HISTORY_MAX = 10_000
"""So many alerts that are over are remembered; the log has them all."""

Listener = Callable[[AlertChanged], None]


class AlertBook(TableView[AlertChanged]):
    """Every alert that stands, and the last ones that are over, each with its whole state."""

    def __init__(self) -> None:
        super().__init__(AlertChanged)
        self._over: dict[str, None] = {}
        self._hearers: set[Listener] = set()

    def hear(self, hearer: Listener) -> Callable[[], None]:
        """Call `hearer` with each state that comes; returns how to stop that."""
        self._hearers.add(hearer)
        return lambda: self._hearers.discard(hearer)

    def apply(self, record: Record) -> None:
        """Fold one record in. Raises as `schemas.codec.decode`."""
        if record.value is None:
            raise CorruptRecord(f"a record of {record.topic} has no value")
        event = decode_as(record.value, AlertChanged)
        if event is not None:
            self.take(event)

    def take(self, event: AlertChanged) -> None:
        """Fold one event in."""
        after = followed(self.entries.get(event.alert_id), event)
        if after is None:
            self.refused += 1
            return
        self.entries[event.alert_id] = after
        self._over.pop(event.alert_id, None)
        if after.status == RESOLVED:
            self._over[event.alert_id] = None
            if len(self._over) > HISTORY_MAX:
                oldest = next(iter(self._over))
                del self._over[oldest], self.entries[oldest]
        self.generation += 1
        for hearer in tuple(self._hearers):
            hearer(after)

    @property
    def standing(self) -> list[AlertChanged]:
        """The alerts that are not over, the newest first."""
        found = [alert for alert in self.entries.values() if alert.status != RESOLVED]
        return sorted(found, key=lambda alert: -(alert.opened_at_us or 0))
