"""What is wrong right now, of what the log says and the time: one source of conditions per subject.

A source reads events and tells which conditions hold at a moment. It holds no alerts: `alert_watch`
compares what holds with what stands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from schemas.event import Event
from schemas.events.changes import DeploymentChanged, KeyChanged, LimitChanged
from schemas.events.limits import LimitUsage, PaceUsage
from schemas.events.operations import DeadLetter, Heartbeat
from schemas.events.optimizer import OptimizerActed, OptimizerRan
from schemas.events.training import StepCompleted, TriggerFired

DAY_US = 86_400_000_000
NOTICE_US = DAY_US
"""So long a thing is told of that is not wrong any more by itself: a run that ended."""
EXPIRY_NOTICE_US = 7 * DAY_US
DEAD_LETTER_US = 3_600_000_000
DRIFT_US = 900_000_000
SATURATED, CALM = 0.9, 0.7
"""Shares of a limit at which it counts as saturated, and as calm again."""
CONDITIONS_MAX = 1_000
"""Of one source."""
REFUSED_MAX = 50
"""So many callers with a wrong key within a minute are somebody who guesses; half as many are calm."""
_MINUTE_US = 60_000_000
_SLOT_S, _MINUTE_S = 5, 60
_LAST_STEP = "learn"
_STANDING_ACTS = frozenset({"proposed", "active", "restoring"})


class Condition(NamedTuple):
    """Something that is wrong; `alert_id` names it."""

    alert_id: str
    alert_type: str
    severity: str
    scope: str
    message: str
    value: float | None = None
    threshold: float | None = None


class Source(Protocol):
    """One subject."""

    def apply(self, event: Event) -> None:
        """Take in an event."""
        ...

    def holds(self, at_us: int, standing: frozenset[str]) -> Iterator[Condition]:
        """Yield what holds; `standing` are the ids of alerts that stand, for hysteresis."""
        ...


class Runs:
    """The last run of the trainer that ended, and feedback that made one due."""

    def __init__(self) -> None:
        self._ended: StepCompleted | None = None
        self._trigger: TriggerFired | None = None
        self._begun: deque[str] = deque(maxlen=CONDITIONS_MAX)

    def apply(self, event: Event) -> None:
        """Take in a step or a trigger."""
        if isinstance(event, TriggerFired):
            if event.reason == "feedback_threshold":
                self._trigger = event
        elif isinstance(event, StepCompleted):
            if event.run_id not in self._begun:
                self._begun.append(event.run_id)
            ends = event.status != "completed" or event.step == _LAST_STEP
            last_us = self._ended.occurred_at_us if self._ended else 0
            if ends and event.occurred_at_us >= last_us:
                self._ended = event

    def holds(self, at_us: int, standing: frozenset[str]) -> Iterator[Condition]:
        """Yield the last run's end, for a day or until the next ends, and a trigger that waits."""
        del standing
        ended, trigger = self._ended, self._trigger
        if ended is not None and at_us - ended.occurred_at_us < NOTICE_US:
            severity = {"completed": "info", "refused": "warning"}.get(ended.status, "error")
            reason = f": {ended.reason}" if ended.reason else ""
            yield Condition(
                f"tuning:{ended.run_id}",
                f"tuning_{ended.status}",
                severity,
                f"run:{ended.run_id}",
                f"the run {ended.run_id} ended with {ended.step}, {ended.status}{reason}",
            )
        if trigger is None or trigger.event_id in self._begun:
            return
        if at_us - trigger.occurred_at_us < NOTICE_US:
            yield Condition(
                f"feedback:{trigger.trigger_id}",
                "feedback_trigger",
                "info",
                f"feedback:{trigger.scope}",
                f"{trigger.count} pieces of feedback on {trigger.scope} make a fine-tune due",
                float(trigger.count),
                float(trigger.threshold),
            )


class Canaries:
    """Deployments that were rolled back."""

    def __init__(self) -> None:
        self._changes: dict[str, DeploymentChanged] = {}

    def apply(self, event: Event) -> None:
        """Take in a deployment; the last one of a model is told of."""
        if isinstance(event, DeploymentChanged):
            self._changes[event.model] = event

    def holds(self, at_us: int, standing: frozenset[str]) -> Iterator[Condition]:
        """Yield rollbacks, for a day or until something else is deployed of the model."""
        del standing
        for change in self._changes.values():
            if change.state == "rolled_back" and at_us - change.occurred_at_us < NOTICE_US:
                reason = f": {change.reason}" if change.reason else ""
                yield Condition(
                    f"rollback:{change.deployment_id}",
                    "canary_rollback",
                    "error",
                    f"model:{change.model}",
                    f"{change.model_version_id} was rolled back{reason}",
                )


class Keys:
    """API keys that end soon."""

    def __init__(self) -> None:
        self._keys: dict[str, KeyChanged] = {}
        self._ending: dict[str, int] = {}
        """When those end that do, Unix µs."""

    def apply(self, event: Event) -> None:
        """Take in a key."""
        if isinstance(event, KeyChanged) and event.follows(self._keys.get(event.key_id)):
            self._keys[event.key_id] = event
            self._ending.pop(event.key_id, None)
            if event.deleted:
                del self._keys[event.key_id]
            elif event.expires_at_us is not None and not event.revoked:
                self._ending[event.key_id] = event.expires_at_us

    def holds(self, at_us: int, standing: frozenset[str]) -> Iterator[Condition]:
        """Yield keys that end within a week, and those that ended within the last one."""
        del standing
        for key_id, ends_us in self._ending.items():
            left_us = ends_us - at_us
            if abs(left_us) < EXPIRY_NOTICE_US:
                when = f"ends in {left_us / DAY_US:.1f} days" if left_us > 0 else "has ended"
                yield Condition(
                    f"key_expiry:{key_id}",
                    "secret_expiry",
                    "warning" if left_us > 0 else "error",
                    f"key:{key_id}",
                    f"the key {self._keys[key_id].name} {when}",
                    round(left_us / DAY_US, 3),
                    EXPIRY_NOTICE_US / DAY_US,
                )


class Strangers:
    """Callers with a wrong key: at all workers and at control together, whichever of them are asked."""

    def __init__(self) -> None:
        self._refused: dict[str, deque[tuple[int, int]]] = {}
        """By instance (time, Unix µs; count) of its heartbeats of the last minute and the one before."""

    def apply(self, event: Event) -> None:
        """Take in how many an instance has refused so far."""
        if isinstance(event, Heartbeat):
            counts = self._refused.setdefault(f"{event.part}|{event.instance}", deque())
            counts.append((event.occurred_at_us, event.refused))
            _forget(counts, event.occurred_at_us - _MINUTE_US)

    def holds(self, at_us: int, standing: frozenset[str]) -> Iterator[Condition]:
        """Yield that many were refused within a minute, until it is half as many."""
        since_us = at_us - _MINUTE_US
        for instance, counts in list(self._refused.items()):
            _forget(counts, since_us)
            if counts[-1][0] < since_us:
                del self._refused[instance]
        refused = sum(counts[-1][1] - counts[0][1] for counts in self._refused.values())
        name = "keys_refused"
        if refused >= (REFUSED_MAX // 2 if name in standing else REFUSED_MAX):
            yield Condition(
                name,
                name,
                "warning",
                "keys",
                f"{refused} calls of the last minute came with a key that is unknown or invalid",
                float(refused),
                float(REFUSED_MAX),
            )


class Limits:
    """Limits on callers that are nearly used up."""

    def __init__(self) -> None:
        self._limits: dict[str, LimitChanged] = {}
        self._usage: dict[str, dict[str, PaceUsage]] = {}

    def apply(self, event: Event) -> None:
        """Take in a limit, or what a worker let through."""
        if isinstance(event, LimitChanged):
            if event.follows(self._limits.get(event.limit_id)):
                self._limits[event.limit_id] = event
                if event.deleted:
                    del self._limits[event.limit_id]
        elif isinstance(event, LimitUsage):
            usage = self._usage.setdefault(event.node, {})
            usage.update({pace.pace: pace for pace in event.paces})
            now = event.occurred_at_us // 1_000_000 // _SLOT_S
            for name in [it for it, pace in usage.items() if not _recent(pace, now)]:
                del usage[name]

    def forget(self, node: str) -> None:
        """Forget a worker that is gone."""
        self._usage.pop(node, None)

    def holds(self, at_us: int, standing: frozenset[str]) -> Iterator[Condition]:
        """Yield paces that used nine tenths of a minute's limit, until it is seven tenths."""
        since = at_us // 1_000_000 // _SLOT_S - _MINUTE_S // _SLOT_S
        used: dict[str, list[int]] = {}
        for paces in self._usage.values():
            for name, pace in paces.items():
                sums = used.setdefault(name, [0, 0])
                sums[0] += _since(pace.requests, since)
                sums[1] += _since(pace.tokens, since)
        for name, (requests, tokens) in used.items():
            limit_id, _, owner = name.partition("|")
            limit = self._limits.get(limit_id)
            if limit is None or not limit.enabled:
                continue
            alert_id = f"limit:{name}"
            shares = [
                (amount / allowed, amount, allowed, unit)
                for amount, allowed, unit in (
                    (requests, limit.requests_per_minute, "calls"),
                    (tokens, limit.tokens_per_minute, "tokens"),
                )
                if allowed
            ]
            share, amount, allowed, unit = max(shares, default=(0.0, 0, 0, ""))
            if share >= (CALM if alert_id in standing else SATURATED):
                yield Condition(
                    alert_id,
                    "rate_limit_saturated",
                    "warning",
                    f"limit:{limit_id}",
                    f"{owner}: {amount} of {allowed} {unit} a minute are used",
                    float(amount),
                    float(allowed),
                )


class Opportunities:
    """What the optimizer proposes, or does now."""

    def __init__(self) -> None:
        self._acts: dict[str, OptimizerActed] = {}

    def apply(self, event: Event) -> None:
        """Take in an act; the last one of a target says how it stands."""
        if isinstance(event, OptimizerActed):
            self._acts[event.target] = event

    def holds(self, at_us: int, standing: frozenset[str]) -> Iterator[Condition]:
        """Yield acts that are proposed or in force."""
        del standing
        for act in self._acts.values():
            if act.state in _STANDING_ACTS and (act.expires_at_us or at_us + 1) > at_us:
                elsewhere = f", to {act.alternative}" if act.alternative else ""
                yield Condition(
                    f"optimizer:{act.action_id}",
                    "optimization_opportunity",
                    "info",
                    f"target:{act.target}",
                    f"{act.rule} ({act.state}) for {act.target}{elsewhere}: {act.reason}",
                    act.before,
                )


class Drift:
    """Targets that do worse than they did in seven days, whoever else there is."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, int]] = {}
        """How each one drifts, and when that was seen last (Unix µs)."""

    def apply(self, event: Event) -> None:
        """Take in what the optimizer saw."""
        if isinstance(event, OptimizerRan):
            for target, reason in event.drifting.items():
                self._seen[target] = (reason, event.occurred_at_us)

    def holds(self, at_us: int, standing: frozenset[str]) -> Iterator[Condition]:
        """Yield who was seen to drift within a quarter of an hour: one good look is no recovery."""
        del standing
        for target, (reason, seen_us) in list(self._seen.items()):
            if at_us - seen_us > DRIFT_US:
                del self._seen[target]
                continue
            yield Condition(
                f"drift:{target}", "drift", "warning", f"target:{target}", f"{target}: {reason}"
            )


class DeadLetters:
    """Records that somebody could not take."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[DeadLetter, int]] = {}

    def apply(self, event: Event) -> None:
        """Count one."""
        if isinstance(event, DeadLetter):
            known = self._last.get(event.consumer)
            fresh = (
                known is not None
                and event.occurred_at_us - known[0].occurred_at_us < DEAD_LETTER_US
            )
            self._last[event.consumer] = (event, known[1] + 1 if known and fresh else 1)

    def holds(self, at_us: int, standing: frozenset[str]) -> Iterator[Condition]:
        """Yield consumers whose last dead letter is less than an hour old."""
        del standing
        for consumer, (last, count) in self._last.items():
            if at_us - last.occurred_at_us < DEAD_LETTER_US:
                yield Condition(
                    f"dead_letters:{consumer}",
                    "dead_letters",
                    "error",
                    f"consumer:{consumer}",
                    f"{consumer} could not take {last.source_topic}: {last.error}",
                    float(count),
                )


def _forget(counts: deque[tuple[int, int]], since_us: int) -> None:
    """Leave what was counted since a time, and the last count before it to start from."""
    while len(counts) > 1 and counts[1][0] <= since_us:
        counts.popleft()


def _recent(pace: PaceUsage, now: int) -> bool:
    return bool(pace.running or _since(pace.requests, now - _MINUTE_S // _SLOT_S))


def _since(slots: dict[str, int], since: int) -> int:
    return sum(count for slot, count in slots.items() if int(slot) > since)
