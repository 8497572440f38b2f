"""Alerting as it is set up, and what became of each notification (OPS-01, COST-04)."""

from __future__ import annotations

import msgspec

from schemas.event import DAYS, Event, Topic
from schemas.events.changes import Change

ALERT_SETTINGS = Topic("weir.alerts.changes.v1", partitions=1)
DELIVERIES = Topic("weir.alerts.deliveries.v1", partitions=1, retention_ms=90 * DAYS)


class AlertRuleChanged(Change, frozen=True, kw_only=True):
    """A rule on what is spent and served; it raises one alert per crossing and owner.

    `scope_id` None watches each owner of the scope by itself. `threshold` is in the metric's unit
    (USD, tokens, calls, a share of 1, milliseconds), `window` 1m to 24h back from now, or the UTC day
    or month. Raised again no sooner than `cooldown_s` after it was over; over once the value is beyond
    the threshold by `hysteresis`, a share of it. Raised alerts go to `channels`, all when empty.
    """

    topic = ALERT_SETTINGS
    type = "weir.alerts.rule.changed"

    rule_id: str
    name: str | None = None
    scope: str
    scope_id: str | None = None
    metric: str
    comparator: str
    threshold: float
    window: str
    channels: list[str] = msgspec.field(default_factory=list)
    cooldown_s: int = 0
    hysteresis: float = 0.05
    severity: str = "warning"
    enabled: bool = True

    @property
    def key(self) -> str:
        return f"alert_rule:{self.rule_id}"


class AlertChannelChanged(Change, frozen=True, kw_only=True):
    """A way to people: `kind` is log, webhook, chat or email.

    It takes alerts of at least `severity` whose type fits one of the patterns `alert_types`, all when
    empty. `secret` (a webhook's signing key, a mail account's password) and `url_secret` name where
    the secret lies (``env:…``, ``file:…``), never it. `security` is tls, starttls or none.
    """

    topic = ALERT_SETTINGS
    type = "weir.alerts.channel.changed"

    name: str
    kind: str
    url: str | None = None
    url_secret: str | None = None
    secret: str | None = None
    host: str | None = None
    port: int | None = None
    security: str = "starttls"
    username: str | None = None
    sender: str | None = None
    recipients: list[str] = msgspec.field(default_factory=list)
    severity: str = "info"
    alert_types: list[str] = msgspec.field(default_factory=list)
    resolved: bool = True
    enabled: bool = True

    @property
    def key(self) -> str:
        return f"alert_channel:{self.name}"


class AlertDelivered(Event, frozen=True, kw_only=True):
    """One attempt to tell one channel of one change of an alert, and how it ended.

    `outcome` is delivered, failed (tried again at `next_attempt_at_us`) or abandoned: given up, or
    nobody wants it any more. `notification_id` is what receivers know a repeat by; `alert_event_id`
    the change that was told of, with its `status`.
    """

    topic = DELIVERIES
    type = "weir.alerts.delivered"

    notification_id: str
    alert_id: str
    alert_event_id: str
    status: str
    channel: str
    attempt: int
    outcome: str
    error: str | None = None
    next_attempt_at_us: int | None = None
    first_attempt_at_us: int
    duration_us: int

    @property
    def key(self) -> str:
        return self.notification_id
