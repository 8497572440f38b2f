"""What the system says of itself: keys of content, alerts, audit, dead letters."""

from __future__ import annotations

import msgspec

from schemas.event import Event, Topic

PRIVACY_KEYS = Topic("weir.privacy.keys.v1", cleanup="compact")
ALERTS = Topic("weir.alerts.v1")
ANOMALIES = Topic("weir.anomalies.v1")
AUDIT = Topic("weir.audit.v1", partitions=1)
DEAD_LETTERS = Topic("weir.dead-letters.v1")
HEARTBEATS = Topic("weir.heartbeats.v1", partitions=1, cleanup="compact")


class DataKeyCreated(Event, frozen=True, kw_only=True):
    """A data key, wrapped by the master key; a tombstone under its id destroys it."""

    topic = PRIVACY_KEYS
    type = "weir.privacy.key.created"

    data_key_id: str
    subject: str
    nonce: bytes
    wrapped: bytes

    @property
    def key(self) -> str:
        return self.data_key_id


class AlertChanged(Event, frozen=True, kw_only=True):
    """An alert (OPS-01) was opened, acknowledged or resolved; `schemas.alerts` says what follows.

    `alert_id` names the thing that is wrong, so that it is told once: opened again while it is open
    it only brings new figures. `status` is open, acknowledged or resolved, `severity` info, warning,
    error or critical, `scope` whom it concerns (``target:openai/gpt-4o``, ``budget:search``…).
    Whoever raises an alert may leave the times out: the event's own counts. `channels` are those
    that are told, all when empty; `details` what a person wants to know beside the message;
    `number` counts the changes that a decider made of this alert.
    """

    topic = ALERTS
    type = "weir.alerts.alert.changed"
    version = 2

    alert_id: str
    alert_type: str
    severity: str
    scope: str
    status: str
    message: str
    value: float | None = None
    threshold: float | None = None
    opened_at_us: int | None = None
    acknowledged_at_us: int | None = None
    acknowledged_by: str | None = None
    resolved_at_us: int | None = None
    resolved_by: str | None = None
    rule_id: str | None = None
    channels: list[str] = msgspec.field(default_factory=list)
    details: dict[str, str] = msgspec.field(default_factory=dict)
    number: int = 0

    @property
    def key(self) -> str:
        return self.alert_id


class AnomalyDriver(msgspec.Struct, frozen=True):
    """Who made the difference: `name` of a `dimension` (user, team, key, target, model, task…).

    `contribution` is its part of the change, `share_before` and `share_after` its parts of what was
    expected and of what came; `expected` and `actual` are in the anomaly's unit.
    """

    dimension: str
    name: str
    contribution: float
    share_before: float
    share_after: float
    expected: float
    actual: float


class AnomalyChanged(Event, frozen=True, kw_only=True):
    """An anomaly (ANA-05) was found, has changed or has ended; carries its whole state.

    `metric` is calls, cost_nano_usd or tokens (per minute), failure_rate (0–1), latency_us (mean) or
    price (nano-USD per million tokens); `dimension` the series in which it shows, as ``total:`` or
    ``user:ada``; `kind` spike, drop, level_shift, trend or new_value; `severity` as an alert's;
    `status` open or ended. `score` counts the series' own standard deviations. `drivers` begin with the one who made the difference, and
    are empty when everybody did. `number` counts the changes of this anomaly from 1.
    """

    topic = ANOMALIES
    type = "weir.anomalies.anomaly.changed"
    version = 2

    anomaly_id: str
    metric: str
    dimension: str
    kind: str
    severity: str
    status: str
    expected: float | None = None
    actual: float | None = None
    score: float | None = None
    started_at_us: int
    ended_at_us: int | None = None
    explanation: str = ""
    found_at_us: int | None = None
    number: int = 0
    drivers: list[AnomalyDriver] = msgspec.field(default_factory=list)

    @property
    def key(self) -> str:
        return self.anomaly_id


class AuditRecorded(Event, frozen=True, kw_only=True):
    """A privileged act. `previous_hash` chains the records; of two with one `sequence` the first
    counts.
    """

    topic = AUDIT
    type = "weir.audit.recorded"

    actor: str
    action: str
    subject: str
    detail: dict[str, str] = msgspec.field(default_factory=dict)
    sequence: int
    previous_hash: str
    hash: str

    @property
    def key(self) -> str:
        return self.actor


class DeadLetter(Event, frozen=True, kw_only=True):
    """A record that the named consumer could not take, with its bytes and the reason."""

    topic = DEAD_LETTERS
    type = "weir.dead-letter"

    consumer: str
    source_topic: str
    source_partition: int
    source_offset: int
    error_code: str
    error: str
    record_key: bytes | None = None
    record_value: bytes | None = None
    record_headers: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.source_topic}|{self.source_partition}"


class Heartbeat(Event, frozen=True, kw_only=True):
    """A part is alive. `positions` maps ``topic|partition`` to the next offset it will read.

    `lag` counts the records that it has still to take, `lags` says so by what takes them (its folds).
    `refused` counts the callers whose key was unknown or invalid, since the instance began; `late`, by
    fold, what came after the rows that it belonged to had expired.
    """

    topic = HEARTBEATS
    type = "weir.heartbeat"
    version = 4

    part: str
    instance: str
    started_at_us: int
    lag: int | None = None
    positions: dict[str, int] = msgspec.field(default_factory=dict)
    lags: dict[str, int] = msgspec.field(default_factory=dict)
    refused: int = 0
    late: dict[str, int] = msgspec.field(default_factory=dict)

    @property
    def key(self) -> str:
        return self.part


class OutboxClosed(Event, frozen=True, kw_only=True):
    """An outbox is drained and will never be written again."""

    topic = HEARTBEATS
    type = "weir.outbox.closed"

    outbox_id: str
    records: int
    abandoned: int

    @property
    def key(self) -> str:
        return f"outbox:{self.outbox_id}"
