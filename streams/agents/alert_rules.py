"""Raises alerts by rules on what is spent and served (COST-04): one per crossing and owner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from schemas.alerts import OPEN, RESOLVED, followed, retold
from schemas.event import Event
from schemas.events.alerts import ALERT_SETTINGS, AlertRuleChanged
from schemas.events.operations import ALERTS, AlertChanged
from streams.agents.spend import SPEND
from streams.decider import Decider, Ledger, daily_id
from streams.figures import TABLES, Figures

STANDING_MAX = 1_000
"""Alerts of one rule that stand at once: a rule for each key must not flood everybody."""
KNOWN_MAX = 50_000
"""Alerts whose end is remembered, for the cooldown."""
PREFIX = "rule:"
_LOOK_US = 1_000_000
_WORDS = {"gt": "more than", "gte": "at least", "lt": "less than", "lte": "at most"}
_UNITS = {
    "cost_usd": "USD",
    "tokens": "tokens",
    "calls": "calls",
    "failures": "failures",
    "failure_rate": "of all calls failed",
    "latency_ms": "ms on average",
}


class RuleLedger(Ledger):
    """The rules, the figures, and the alerts that were raised by rules."""

    def __init__(self) -> None:
        self._rules: dict[str, AlertRuleChanged] = {}
        self._alerts: dict[str, AlertChanged] = {}
        self._figures = Figures()
        self._restless: set[str] = set()
        self._held: set[str] = set()
        """Ended by hand while the figure is still beyond the threshold: the crossing was told."""
        self._looked_us = 0

    def apply(self, event: Event) -> None:
        """Take in a row, a rule or an alert."""
        if isinstance(event, AlertRuleChanged):
            if event.follows(self._rules.get(event.rule_id)):
                self._rules.pop(event.rule_id, None)
                if not event.deleted:
                    self._rules[event.rule_id] = event
        elif isinstance(event, AlertChanged):
            if event.alert_id.startswith(PREFIX):
                self._take(event)
        else:
            self._figures.apply(event)

    def _take(self, event: AlertChanged) -> None:
        after = followed(self._alerts.get(event.alert_id), event)
        if after is None:
            return
        self._alerts[event.alert_id] = after
        if len(self._alerts) > KNOWN_MAX:
            over = (name for name, it in self._alerts.items() if it.status == RESOLVED)
            self._alerts.pop(next(over, ""), None)
        if after.status == RESOLVED and after.resolved_by is not None:
            self._held.add(event.alert_id)

    def removed(self, topic: str, key: bytes) -> None:
        """Take in that a row has expired."""
        self._figures.removed(topic, key)

    def remembered(self) -> Iterator[Event]:
        """Return what leads to the alerts as they are."""
        return (event for alert in self._alerts.values() for event in retold(alert))

    def knows(self, decision: Event) -> bool:
        """Whether this change of an alert, or a later one, has been read back."""
        known = self._alerts.get(decision.key)
        return (
            isinstance(decision, AlertChanged)
            and known is not None
            and known.number >= decision.number
        )

    def due(self, at_us: int) -> Sequence[Event]:
        """Return the alerts that open and end now; figures are looked at once a second."""
        if at_us - self._looked_us < _LOOK_US:
            return ()
        self._looked_us = at_us
        self._restless |= self._figures.restless
        self._figures.restless.clear()
        due: list[Event] = [*self._orphans(at_us)]
        calm = set(self._restless)
        for rule in self._rules.values():
            if not rule.enabled:
                continue
            standing = self._standing(rule)
            for owner in self._owners(rule, standing):
                change = self._judged(rule, owner, len(standing), at_us)
                if change is not None:
                    due.append(change)
                    calm.discard(f"{rule.scope}:{owner}")
        self._restless -= calm
        return due

    def _standing(self, rule: AlertRuleChanged) -> list[AlertChanged]:
        return [
            it
            for it in self._alerts.values()
            if it.rule_id == rule.rule_id and it.status != RESOLVED
        ]

    def _owners(self, rule: AlertRuleChanged, standing: list[AlertChanged]) -> set[str]:
        """Who is to be looked at: the one it names, else who did something, and who is told of."""
        if rule.scope == "global":
            return {""}
        if rule.scope_id is not None:
            return {rule.scope_id}
        prefix = f"{rule.scope}:"
        told = {it.scope.removeprefix(prefix) for it in standing}
        return told | {it.removeprefix(prefix) for it in self._restless if it.startswith(prefix)}

    def _judged(
        self, rule: AlertRuleChanged, owner: str, standing: int, at_us: int
    ) -> AlertChanged | None:
        alert_id = f"{PREFIX}{rule.rule_id}:{rule.scope}:{owner}"
        known = self._alerts.get(alert_id)
        stands = known is not None and known.status != RESOLVED
        value = self._figures.value(rule.metric, rule.scope, owner, rule.window, at_us)
        if stands:
            over = value is None or _is_over(rule, value)
            return self._change(rule, owner, alert_id, RESOLVED, value, at_us) if over else None
        if value is None or not _is_beyond(rule, value):
            self._held.discard(alert_id)
            return None
        ended_us = known.resolved_at_us if known is not None else None
        cooling = ended_us is not None and at_us < ended_us + rule.cooldown_s * 1_000_000
        if alert_id in self._held or cooling or standing >= STANDING_MAX:
            return None
        return self._change(rule, owner, alert_id, OPEN, value, at_us)

    def _change(
        self,
        rule: AlertRuleChanged,
        owner: str,
        alert_id: str,
        status: str,
        value: float | None,
        at_us: int,
    ) -> AlertChanged:
        known = self._alerts.get(alert_id)
        number = known.number + 1 if known is not None else 1
        whose = f"{rule.scope} {owner}".strip()
        figure = "nothing" if value is None else f"{value:.6g} {_UNITS[rule.metric]}"
        compared = f"{_WORDS[rule.comparator]} {rule.threshold:g}"
        verdict = compared if status == OPEN else f"no longer {compared}"
        return AlertChanged(
            event_id=daily_id("alert_rules", f"{alert_id}#{number}", at_us),
            occurred_at_us=at_us,
            alert_id=alert_id,
            alert_type=f"rule_{rule.metric}",
            severity=rule.severity,
            scope=f"{rule.scope}:{owner}",
            status=status,
            message=f"{rule.name or rule.rule_id}: {whose}: {figure} in {rule.window}, {verdict}",
            value=value,
            threshold=rule.threshold,
            rule_id=rule.rule_id,
            channels=rule.channels,
            number=number,
        )

    def _orphans(self, at_us: int) -> Iterator[AlertChanged]:
        """Yield the end of what stands by rules that are gone, disabled or about others now."""
        for alert in self._alerts.values():
            if alert.status == RESOLVED or alert.rule_id is None:
                continue
            if self._watches(self._rules.get(alert.rule_id), alert):
                continue
            number = alert.number + 1
            yield AlertChanged(
                event_id=daily_id("alert_rules", f"{alert.alert_id}#{number}", at_us),
                occurred_at_us=at_us,
                alert_id=alert.alert_id,
                alert_type=alert.alert_type,
                severity=alert.severity,
                scope=alert.scope,
                status=RESOLVED,
                message=f"the rule {alert.rule_id} does not watch this any more",
                rule_id=alert.rule_id,
                channels=alert.channels,
                number=number,
            )

    @staticmethod
    def _watches(rule: AlertRuleChanged | None, alert: AlertChanged) -> bool:
        if rule is None or not rule.enabled:
            return False
        scope, _, owner = alert.scope.partition(":")
        return rule.scope == scope and (rule.scope_id is None or rule.scope_id == owner)


def _is_beyond(rule: AlertRuleChanged, value: float) -> bool:
    match rule.comparator:
        case "gt":
            return value > rule.threshold
        case "gte":
            return value >= rule.threshold
        case "lt":
            return value < rule.threshold
        case _:
            return value <= rule.threshold


def _is_over(rule: AlertRuleChanged, value: float) -> bool:
    """Whether a figure is back, by more than the hysteresis: one that trembles is told once."""
    margin = rule.threshold * rule.hysteresis
    if rule.comparator in ("gt", "gte"):
        return not _is_beyond(rule, value) and value <= rule.threshold - margin
    return not _is_beyond(rule, value) and value >= rule.threshold + margin


ALERT_RULES = Decider(
    name="alert_rules",
    leads=SPEND,
    reads=(ALERT_SETTINGS, *TABLES),
    decisions=ALERTS,
    ledger=lambda _: RuleLedger(),
    settled=(ALERT_SETTINGS,),
)
