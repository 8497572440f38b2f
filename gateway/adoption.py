"""Finishes the outboxes of workers that died: relays what is left and settles what was open.

Exactly once, wherever the adopter itself is killed: under the dead worker's lock it first writes
one more segment, whole or not at all (a rename), whose sequences follow the last whole entry. It
holds `abandoned` for each request without an outcome and `OutboxClosed`. From then on the folder
is an ordinary outbox that anyone may relay to its end; readers drop repeats by sequence. The
folder goes when Kafka holds all of it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
import uuid
from pathlib import Path
from urllib.parse import unquote

from gateway.entry import Entry
from gateway.outbox import LEASES_FILE, OutboxSettings, Segment, reserved_anew
from gateway.outbox_folder import lock_folder, sync_folder
from gateway.relay import Relay
from gateway.segment import (
    CARRY_TOPIC,
    carried,
    first_sequence_of,
    frame,
    frames,
    resumption,
    segment_path,
    segment_paths,
)
from gateway.spare import SPARE_FILE
from schemas import codec
from schemas.clock import now_us
from schemas.errors import LogError
from schemas.event import Event
from schemas.events.escrow import EscrowMoved, lease_of
from schemas.events.llm import CallEvent, CostEntry, RequestAdmitted, ResponseCompleted
from schemas.events.operations import OutboxClosed
from schemas.log import Connection
from schemas.partition import partition_of

SCAN_SECONDS = 1.0
STALE_SECONDS = 60.0
"""How old a hidden folder (being created, or being removed) must be to count as left behind."""

_NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
DAMAGED_SUFFIX = ".damaged"
_ADMITTED = RequestAdmitted.topic.name
_COMPLETED = ResponseCompleted.topic.name
_COSTS = CostEntry.topic.name
_CLOSED = OutboxClosed.topic.name

_log = logging.getLogger(__name__)


class Remains:
    """An outbox without its worker; whoever creates this holds the folder's lock.

    Reading it cuts a torn tail off. `damaged` says that entries are missing, between two segments or
    in the middle of one, which no crash of ours can cause. A segment that is damaged is kept beside
    what of it is whole. Raises OSError and CorruptRecord.
    """

    def __init__(self, folder: Path) -> None:
        self.id = folder.name
        self.folder = folder
        self.segments: list[Segment] = []
        self.admitted: dict[bytes, bytes] = {}
        self.leases = leases_of(folder)
        self.closed = False
        self.damaged = False
        self.last = 0
        (folder / SPARE_FILE).unlink(missing_ok=True)
        for path in segment_paths(folder):
            self._take(path)
        # Told by the copy, whoever made it: an adopter may die before it is done.
        self.damaged |= any(folder.glob(f"*{DAMAGED_SUFFIX}"))

    def sync(self) -> None:
        """Everything was synced when it was taken."""

    def acknowledge(self, sequence: int) -> None:
        """Nobody waits for an adopted outbox."""

    def discard(self, segment: Segment) -> None:
        """Delete a segment that Kafka holds."""
        segment.path.unlink(missing_ok=True)

    def _take(self, path: Path) -> None:
        segment = Segment(path, first_sequence_of(path), last=self.last)
        if self.segments and segment.first != self.last + 1:
            self.damaged = True
            _log.error("%s does not follow sequence %d: entries are lost", path, self.last)
        segment.last = segment.first - 1
        data = _without_damage(path)
        for whole in frames(data):
            for entry in whole.entries:
                self._see(entry)
                segment.last = max(segment.last, entry.sequence)
            segment.end = whole.end
        with path.open("r+b") as file:
            file.truncate(segment.end)
            os.fsync(file.fileno())
        self.last = segment.last
        self.segments.append(segment)

    def _see(self, entry: Entry) -> None:
        if entry.topic == CARRY_TOPIC:
            for value in carried(entry):
                event = codec.decode_as(value, RequestAdmitted)
                if event is not None:
                    self.admitted[event.request_id.encode()] = value
        elif entry.topic == _ADMITTED:
            self.admitted[entry.key] = entry.value
        elif entry.topic == _COSTS:
            if entry.key in self.admitted:
                admitted = self.admitted[entry.key]
                self.admitted[entry.key] = reserved_anew(admitted, entry.value)
        elif entry.topic == _COMPLETED:
            self.admitted.pop(entry.key, None)
        elif entry.topic == _CLOSED and entry.key.startswith(b"outbox:"):
            self.closed = True

    def conclude(self, source: str) -> int:
        """Write the last segment unless it is there; return how many requests it abandons.

        Raises OSError when the disk is full, UnknownSchema when a newer version wrote the outbox.
        """
        if self.closed:
            return 0
        groups: list[list[Event]] = []
        for value in self.admitted.values():
            request = codec.decode_as(value, RequestAdmitted)
            if request is not None:
                groups.append([*abandonment(request), *self._charged(request)])
        abandoned = len(groups)
        groups.append([*self._given_up(), self._closing(abandoned)])
        first = sequence = self.last + 1
        data = []
        for events in groups:
            data.append(
                frame([_entry(sequence + n, event, source) for n, event in enumerate(events)])
            )
            sequence += len(events)
        path = segment_path(self.folder, first)
        temporary = path.with_suffix(".new")
        with temporary.open("wb") as file:
            file.write(b"".join(data))
            file.flush()
            os.fsync(file.fileno())
        # An empty segment of that name (begun, never written) is replaced.
        temporary.replace(path)
        sync_folder(self.folder)
        self.segments = [segment for segment in self.segments if segment.path != path]
        self.segments.append(Segment(path, first, path.stat().st_size, sequence - 1))
        self.last, self.closed = sequence - 1, True
        self.admitted.clear()
        return abandoned

    def _charged(self, request: RequestAdmitted) -> list[Event]:
        """Spend what an abandoned request had reserved: nobody knows what it came to."""
        if not request.reserved_nano_usd:
            return []
        return [
            EscrowMoved(
                event_id=str(uuid.uuid5(_NAMESPACE, f"{request.request_id}/{name}/abandoned")),
                occurred_at_us=now_us(),
                budget_id=budget_id,
                kind="spent",
                node=self.id,
                day=day,
                amount_nano_usd=request.reserved_nano_usd,
                request_id=request.request_id,
            )
            for name in request.budgets
            for budget_id, day in [lease_of(name)]
        ]

    def _given_up(self) -> list[Event]:
        """Free what the worker held of budgets; never when spending may be missing."""
        if self.damaged:
            return []
        return [
            EscrowMoved(
                event_id=str(uuid.uuid5(_NAMESPACE, f"{self.id}/{budget_id}/closed")),
                occurred_at_us=now_us(),
                budget_id=budget_id,
                kind="closed",
                node=self.id,
                day="",
            )
            for budget_id in self.leases
        ]

    def _closing(self, abandoned: int) -> OutboxClosed:
        return OutboxClosed(
            event_id=str(uuid.uuid5(_NAMESPACE, f"{self.id}/closed")),
            occurred_at_us=now_us(),
            outbox_id=self.id,
            records=self.last,
            abandoned=abandoned,
        )

    def remove(self) -> None:
        """Delete the folder, or set it aside when it is damaged. Raises OSError."""
        if self.damaged:
            self.folder.rename(self.folder.with_name(f".damaged-{self.id}"))
            return
        hidden = self.folder.with_name(f".gone-{self.id}")
        self.folder.rename(hidden)
        shutil.rmtree(hidden)


def _without_damage(path: Path) -> bytes:
    """Return a segment without what is damaged between whole frames, and put it in the old one's place,
    of which a copy is kept. Raises OSError and CorruptRecord.
    """
    data = path.read_bytes()
    whole, start = [], 0
    while True:
        end = start
        for one in frames(data, start):
            end = one.end
        whole.append(data[start:end])
        resumed = resumption(data, end)
        if resumed is None:
            break
        _log.error("%s is damaged from byte %d to %d: entries are lost", path, end, resumed)
        start = resumed
    if len(whole) == 1:
        return data
    for suffix, content in ((DAMAGED_SUFFIX, data), (".new", b"".join(whole))):
        with path.with_suffix(suffix).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    path.with_suffix(".new").replace(path)
    sync_folder(path.parent)
    return b"".join(whole)


def leases_of(folder: Path) -> list[str]:
    """Return the budgets that a worker may hold money of; see `gateway.escrow`."""
    try:
        text = (folder / LEASES_FILE).read_text("utf-8")
    except FileNotFoundError:
        return []
    # A torn last line was never asked for: the line is on the disk before the ask.
    return list(dict.fromkeys(unquote(line) for line in text.split("\n")[:-1]))


def abandonment(request: RequestAdmitted) -> list[Event]:
    """Return the events that settle a request whose worker died: outcome unknown, cost reserved.

    Their ids follow from the request id, so that whoever writes them writes the same.
    """
    now = now_us()
    shared = {
        name: getattr(request, name)
        for name in CallEvent.__struct_fields__
        if name not in Event.__struct_fields__
    }
    response = ResponseCompleted(
        **shared,
        event_id=str(uuid.uuid5(_NAMESPACE, f"{request.request_id}/abandoned/response")),
        occurred_at_us=now,
        outcome="abandoned",
        status=None,
        error_code="worker_died",
        attempts=[],
        usage_basis="none",
        stream=request.stream,
        latency_us=max(0, now - request.occurred_at_us),
        cost_nano_usd=request.reserved_nano_usd,
    )
    cost = CostEntry(
        **shared,
        event_id=str(uuid.uuid5(_NAMESPACE, f"{request.request_id}/abandoned/cost")),
        occurred_at_us=now,
        entry="abandoned",
        cost_nano_usd=request.reserved_nano_usd,
        basis="none" if request.reserved_nano_usd is None else "estimated",
        budgets=request.budgets,
    )
    return [response, cost]


def _entry(sequence: int, event: Event, source: str) -> Entry:
    key = event.key.encode()
    request_id = getattr(event, "request_id", None)
    return Entry(
        sequence,
        event.topic.name,
        partition_of(key, event.topic.partitions),
        key,
        codec.encode(event),
        codec.headers(event, source, correlation_id=request_id),
        event.occurred_at_us // 1000,
    )


class Adopter:
    """Looks for outboxes whose worker is gone; `run` is the body of a thread."""

    def __init__(self, settings: OutboxSettings, connection: Connection, source: str) -> None:
        self.adopted = 0
        self.abandoned = 0
        self._settings = settings
        self.connection = connection
        self.source = source
        self._stop = threading.Event()
        self._relay: Relay | None = None
        self._not_before: dict[str, float] = {}

    def stop(self) -> None:
        """Make `run` return soon; an adoption in progress is left to the next adopter."""
        self._stop.set()
        relay = self._relay
        if relay is not None:
            relay.finish(0)

    def run(self) -> None:
        """Scan until `stop`."""
        while not self._stop.is_set():
            self.scan()
            self._stop.wait(SCAN_SECONDS)

    def scan(self) -> None:
        """Adopt every outbox that nobody holds, one after the other."""
        with contextlib.suppress(FileNotFoundError):
            for folder in sorted(self._settings.folder.iterdir()):
                if self._stop.is_set():
                    return
                if self._not_before.get(folder.name, 0.0) > time.monotonic():
                    continue
                try:
                    self._visit(folder)
                except (OSError, LogError) as error:
                    _log.error("outbox %s cannot be adopted yet: %s", folder.name, error)
                    self._not_before[folder.name] = time.monotonic() + STALE_SECONDS

    def _visit(self, folder: Path) -> None:
        hidden = folder.name.startswith(".")
        if hidden and (folder.name.startswith(".damaged-") or _age_s(folder) < STALE_SECONDS):
            return
        try:
            lock = lock_folder(folder)
        except FileNotFoundError:
            return
        if lock is None:
            return
        try:
            if not folder.exists():  # removed by the adopter whose lock we waited for
                return
            if hidden:
                shutil.rmtree(folder)
            else:
                self.adopt(Remains(folder))
        finally:
            os.close(lock)

    def adopt(self, remains: Remains, patience_s: float = float("inf")) -> bool:
        """Conclude and relay an outbox under its lock, then remove it.

        Return False when `stop` or the patience (seconds) ended it before Kafka had everything.
        """
        abandoned = remains.conclude(self.source)
        relay = Relay(remains, self.connection, self._settings.max_record_bytes)
        self._relay = relay
        relay.finish(0 if self._stop.is_set() else patience_s)
        relay.run()
        self._relay = None
        self.abandoned += abandoned
        if not relay.drained:
            return False
        remains.remove()
        self.adopted += 1
        _log.info("outbox %s is finished, %d requests abandoned", remains.id, abandoned)
        return True


def _age_s(folder: Path) -> float:
    try:
        return time.time() - folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0
