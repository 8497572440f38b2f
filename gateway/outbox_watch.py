"""What the outbox says of itself (EVT-05): how far Kafka is behind, and alerts.

An alert opens when it is half full, four fifths full, and when the broker is away.

They are events like any other, so they wait in the outbox for the broker that they speak of; the
log line and `/status` tell of them at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
from collections.abc import Callable
from pathlib import Path

from gateway.outbox import Outbox
from gateway.relay import Relay
from schemas.clock import now_us
from schemas.events.operations import AlertChanged, Heartbeat
from schemas.identity import uuid7

LEVELS = ((0.5, "warning"), (0.8, "critical"))
"""Shares of the outbox's bound at which an alert opens, and how severe it is."""
AWAY_SECONDS = 5.0
"""How long the broker is away before that is worth an alert."""
CHECK_SECONDS = 1.0
BEAT_CHECKS = 5
"""A heartbeat every so many checks; none while the broker is away, they would only pile up."""

_log = logging.getLogger(__name__)


class OutboxWatch:
    """Reports for the worker `part`; an alert opens once per crossing."""

    def __init__(
        self, part: str, outbox: Outbox, relay: Relay, refused: Callable[[], int] = lambda: 0
    ) -> None:
        self._part = part
        self._started_at_us = now_us()
        self._outbox = outbox
        self._relay = relay
        self._open: set[str] = set()
        self._away_checks = 0
        self._refused = refused

    async def watch(self) -> None:
        """Check every second until cancelled."""
        for number in itertools.count():
            await self.look_beside()
            self.check()
            if number % BEAT_CHECKS == 0 and not self._relay.away:
                self.beat()
            await asyncio.sleep(CHECK_SECONDS)

    async def look_beside(self) -> None:
        """Note what the outboxes of other workers hold: the disk is one, and so is the bound."""
        folder = self._outbox.settings.folder
        beside = await asyncio.to_thread(bytes_beside, folder, self._outbox.id)
        self._outbox.bytes_beside = beside

    def beat(self) -> None:
        """Record a heartbeat whose lag is what Kafka does not have yet."""
        event = Heartbeat(
            event_id=uuid7(),
            occurred_at_us=now_us(),
            part=self._part,
            instance=self._outbox.id,
            started_at_us=self._started_at_us,
            lag=self._outbox.written - self._outbox.acked,
            refused=self._refused(),
        )
        self._outbox.append(event, settles=True)

    def check(self) -> None:
        """Compare the figures with the limits and record what changed."""
        share = self._outbox.share
        for limit, severity in LEVELS:
            message = f"the outboxes are {share:.0%} full"
            self._set(f"outbox_{limit:.0%}", severity, share >= limit, message, share, limit)
        self._away_checks = self._away_checks + 1 if self._relay.away else 0
        away = self._away_checks * CHECK_SECONDS
        message = "the broker is away; calls are served and recorded in the outbox"
        self._set("broker_away", "critical", away > AWAY_SECONDS, message, away, AWAY_SECONDS)

    def _set(
        self, name: str, severity: str, active: bool, message: str, value: float, limit: float
    ) -> None:
        if active == (name in self._open):
            return
        if active:
            self._open.add(name)
        else:
            self._open.remove(name)
        _log.warning("%s: %s", message, "alert" if active else "resolved")
        event = AlertChanged(
            event_id=uuid7(),
            occurred_at_us=now_us(),
            alert_id=f"{name}:{self._outbox.id}",
            alert_type=name,
            severity=severity,
            scope=f"outbox:{self._outbox.id}",
            status="open" if active else "resolved",
            message=message,
            value=value,
            threshold=limit,
            details={"outbox_id": self._outbox.id},
        )
        # Room kept for settlements may be used: the alert tells why there is so little of it.
        self._outbox.append(event, settles=True)


async def stopped(task: asyncio.Task[None]) -> None:
    """Cancel a watch and wait for its end."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def bytes_beside(folder: Path, own_id: str) -> int:
    """Return how many bytes other outboxes of a folder hold, those of dead workers included."""
    held = 0
    for outbox in os.scandir(folder):
        if outbox.name == own_id or not outbox.is_dir():
            continue
        # Whoever relays it may delete a file, or all of it, while we look.
        with contextlib.suppress(FileNotFoundError):
            held += sum(_size(entry) for entry in os.scandir(outbox))
    return held


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return 0
