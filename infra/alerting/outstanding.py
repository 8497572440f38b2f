"""Who is still to be told of what: pure, from the alerts, the channels and the deliveries of the log."""

from __future__ import annotations

import random
import uuid
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import msgspec

from schemas.alerts import RESOLVED, followed, is_news, rank
from schemas.event import Event
from schemas.events.alerts import AlertChannelChanged, AlertDelivered
from schemas.events.operations import AlertChanged
from schemas.identity import uuid7

DELIVERED, FAILED, ABANDONED = "delivered", "failed", "abandoned"
NEWS_DAYS_MAX = 7
"""What is older is not told any more to a channel that never heard of it."""
WAITING_MAX = 1_000
"""Notifications that wait for one channel; the oldest are given up beyond it."""
VERSIONS_MAX = 100
_DAY_US = 86_400_000_000
_NAMESPACE = uuid.UUID("5c0f6a3e-5d0e-5b52-9a77-0f3d6b1c2a10")


@dataclass(frozen=True)
class DeliverySettings:
    """How long to try, in seconds and attempts, and how many follow the stream of alerts."""

    retry_first_s: float = 1.0
    retry_max_s: float = 300.0
    give_up_s: float = 86_400.0
    attempts_max: int = 500
    timeout_s: float = 10.0
    listeners_max: int = 50


DELIVERY = DeliverySettings()


@dataclass
class Notification:
    """One change of an alert for one channel. `due_at_us` is when it is to be tried (Unix µs)."""

    notification_id: str
    channel: str
    alert: AlertChanged
    due_at_us: int
    attempts: int = 0
    first_attempt_at_us: int | None = None


@dataclass
class _Channel:
    versions: deque[AlertChannelChanged] = field(default_factory=lambda: deque(maxlen=VERSIONS_MAX))

    @property
    def current(self) -> AlertChannelChanged:
        return self.versions[-1]

    def at(self, at_us: int) -> AlertChannelChanged | None:
        """The version in force at a moment; what was set up later hears nothing of before."""
        return next((it for it in reversed(self.versions) if it.occurred_at_us <= at_us), None)


class Outstanding:
    """What was read. Nothing is due before everything was read to its end (`settle`)."""

    def __init__(self, settings: DeliverySettings) -> None:
        self._settings = settings
        self._alerts: dict[str, AlertChanged] = {}
        self._channels: dict[str, _Channel] = {}
        self._news: list[AlertChanged] = []
        self._tries: dict[str, AlertDelivered] = {}
        self._waiting: dict[str, dict[str, Notification]] = {}
        self._unwanted: list[tuple[Notification, str]] = []

    def apply(self, event: Event) -> None:
        """Take in an alert, a channel or a delivery."""
        if isinstance(event, AlertChannelChanged):
            self._set_up(event)
        elif isinstance(event, AlertChanged):
            before = self._alerts.get(event.alert_id)
            after = followed(before, event)
            if after is None:
                return
            if is_news(before, after):
                self._news.append(after)
            if after.status == RESOLVED:
                self._alerts.pop(event.alert_id, None)
            else:
                self._alerts[event.alert_id] = after
        elif isinstance(event, AlertDelivered):
            self._tried(event)

    def _set_up(self, event: AlertChannelChanged) -> None:
        known = self._channels.get(event.name)
        if not event.follows(known.current if known else None):
            return
        if event.deleted:
            self._channels.pop(event.name, None)
            self._drop(event.name, f"the channel {event.name} was removed")
            return
        self._channels.setdefault(event.name, _Channel()).versions.append(event)
        if not event.enabled:
            self._drop(event.name, f"the channel {event.name} was disabled")

    def _drop(self, channel: str, why: str) -> None:
        for notification in self._waiting.pop(channel, {}).values():
            self._unwanted.append((notification, why))

    def _tried(self, event: AlertDelivered) -> None:
        waiting = self._waiting.get(event.channel, {})
        found = waiting.get(event.notification_id)
        self._unwanted = [
            it for it in self._unwanted if it[0].notification_id != event.notification_id
        ]
        if found is None:
            self._tries[event.notification_id] = event
        elif event.outcome == FAILED:
            _note(found, event)
        else:
            del waiting[event.notification_id]

    def settle(self, at_us: int) -> None:
        """Make notifications of the news; everything up to now was read."""
        for news in self._news:
            if at_us - news.occurred_at_us <= NEWS_DAYS_MAX * _DAY_US:
                if not self._channels.keys() & set(news.channels):
                    # Nobody of those that its rule names is there: better all than none.
                    news = msgspec.structs.replace(news, channels=[])
                for name, channel in self._channels.items():
                    told = channel.at(news.occurred_at_us)
                    if told is not None and channel.current.enabled and wants(told, news):
                        self._add(name, news, at_us)
        self._news.clear()
        self._tries.clear()

    def _add(self, channel: str, alert: AlertChanged, at_us: int) -> None:
        notification_id = str(uuid.uuid5(_NAMESPACE, f"{alert.event_id}|{channel}"))
        tried = self._tries.get(notification_id)
        if tried is not None and tried.outcome != FAILED:
            return
        notification = Notification(notification_id, channel, alert, at_us)
        if tried is not None:
            _note(notification, tried)
        waiting = self._waiting.setdefault(channel, {})
        waiting[notification_id] = notification
        if len(waiting) > WAITING_MAX:
            oldest = waiting.pop(next(iter(waiting)))
            self._unwanted.append((oldest, f"more than {WAITING_MAX} wait for {channel}"))

    def due(self, at_us: int) -> Iterator[tuple[AlertChannelChanged, Notification]]:
        """Yield for each channel the next notification that is to be tried now.

        What was said of one alert is told in this order: who waits for its turn holds back what
        came after it of the same alert, and nothing else.
        """
        for name, waiting in self._waiting.items():
            held: set[str] = set()
            for notification in waiting.values():
                alert_id = notification.alert.alert_id
                if alert_id in held:
                    continue
                if notification.due_at_us <= at_us:
                    yield self._channels[name].current, notification
                    break
                held.add(alert_id)

    def unwanted(self) -> list[tuple[Notification, str]]:
        """What nobody will be told any more, each with the reason; until it was read back."""
        return list(self._unwanted)

    def stirs(self, at_us: int) -> bool:
        """Whether there is anything to be done now."""
        return bool(self._news or self._unwanted) or next(self.due(at_us), None) is not None

    @property
    def waiting(self) -> dict[str, int]:
        """How many notifications wait, by channel."""
        return {name: len(waiting) for name, waiting in self._waiting.items() if waiting}

    def result(
        self, notification: Notification, error: str | None, began_us: int, ended_us: int
    ) -> AlertDelivered:
        """Return the event of an attempt: done, to be repeated, or given up."""
        attempt = notification.attempts + 1
        first_us = notification.first_attempt_at_us or began_us
        outcome, next_us = DELIVERED, None
        if error is not None:
            outcome, next_us = FAILED, ended_us + round(self.pause_s(attempt) * 1e6)
            given_up = next_us - first_us > self._settings.give_up_s * 1e6
            if given_up or attempt >= self._settings.attempts_max:
                outcome, next_us = ABANDONED, None
        return _delivered(
            notification, attempt, outcome, error, next_us, first_us, ended_us, ended_us - began_us
        )

    def abandoned(self, notification: Notification, why: str, at_us: int) -> AlertDelivered:
        """Return the event that ends a notification that nobody wants any more."""
        first_us = notification.first_attempt_at_us or at_us
        return _delivered(
            notification, notification.attempts, ABANDONED, why, None, first_us, at_us, 0
        )

    def pause_s(self, attempt: int) -> float:
        """Return the time before the next attempt: doubled each time, with half of it as jitter."""
        limit = min(self._settings.retry_first_s * 2.0 ** min(attempt - 1, 30), 1e9)
        # To spread repeats, not to keep a secret.
        return min(limit, self._settings.retry_max_s) * random.uniform(0.5, 1)


def wants(channel: AlertChannelChanged, alert: AlertChanged) -> bool:
    """Whether a channel is to be told of a change of an alert."""
    return (
        channel.enabled
        and (not alert.channels or channel.name in alert.channels)
        and (channel.resolved or alert.status != RESOLVED)
        and rank(alert.severity) >= rank(channel.severity)
        and (
            not channel.alert_types
            or any(fnmatchcase(alert.alert_type, it) for it in channel.alert_types)
        )
    )


def _note(notification: Notification, tried: AlertDelivered) -> None:
    if tried.attempt >= notification.attempts:
        notification.attempts = tried.attempt
        notification.first_attempt_at_us = tried.first_attempt_at_us
        notification.due_at_us = tried.next_attempt_at_us or notification.due_at_us


def _delivered(
    notification: Notification,
    attempt: int,
    outcome: str,
    error: str | None,
    next_us: int | None,
    first_us: int,
    at_us: int,
    duration_us: int,
) -> AlertDelivered:
    return AlertDelivered(
        event_id=uuid7(),
        occurred_at_us=at_us,
        notification_id=notification.notification_id,
        alert_id=notification.alert.alert_id,
        alert_event_id=notification.alert.event_id,
        status=notification.alert.status,
        channel=notification.channel,
        attempt=attempt,
        outcome=outcome,
        error=error,
        next_attempt_at_us=next_us,
        first_attempt_at_us=first_us,
        duration_us=duration_us,
    )
