"""What people may do (ANA-14): each action is an event or a command, under the actor's name, audited."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field
from pydantic import ValidationError as PydanticError

from infra.admin_desk import Desk, found, merged
from infra.alerting.api import Acts as AlertActs
from infra.circuits_api import CircuitBoard
from infra.commands import Accepted
from infra.entities import BUDGET, PROVIDER
from infra.steering.board import SteeringBoard
from schemas.alerts import ACKNOWLEDGED
from schemas.circuits import CLOSED
from schemas.clock import now_us
from schemas.discovery import discover
from schemas.errors import Conflict, NotFound, ValidationFailed
from schemas.events.changes import BudgetChanged, ProviderChanged
from schemas.events.optimizer import OptimizationRequested, OptimizerRuleChanged
from schemas.identity import uuid7
from schemas.log import Log
from schemas.optimizer import ACTIVE, OFF, ON, PROPOSE, RULES, TUNED_MODEL
from streams.optimizer.rule import Rule
from trainer.api import requested_run

DONE = "done"
_Result = tuple[str, dict[str, Any]]


class _Params(BaseModel):
    """The parameters of an action; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid")


class NoParams(_Params):
    """None."""


class RuleParams(_Params):
    """Which rule; `mode` propose lets it tell and not act."""

    rule: str
    mode: str = ON


class TargetParams(_Params):
    """Which target, as provider/model."""

    target: str = Field(min_length=1)


class ProviderParams(_Params):
    """Which provider, and whether it may be called."""

    provider: str
    enabled: bool


class BudgetParams(BaseModel):
    """Which budget, beside the fields that change."""

    budget_id: str


class AlertParams(_Params):
    """Which alert."""

    alert_id: str


class SteeringActs:
    """Carries out actions by name."""

    def __init__(
        self, log: Log, desk: Desk, board: SteeringBoard, circuits: CircuitBoard, alerts: AlertActs
    ) -> None:
        self._log = log
        self._desk = desk
        self._board = board
        self._circuits = circuits
        self._alerts = alerts
        self._known: dict[
            str, tuple[type[BaseModel], Callable[[Any, str, Mapping[str, Any]], Awaitable[_Result]]]
        ] = {
            "update_budget": (BudgetParams, self._budget),
            "run_optimization": (NoParams, self._run),
            "enable_rule": (RuleParams, self._enable),
            "disable_rule": (RuleParams, self._disable),
            "apply_change": (TargetParams, self._apply),
            "reset_circuit": (TargetParams, self._reset),
            "set_provider_enabled": (ProviderParams, self._provider),
            "trigger_fine_tuning": (NoParams, self._train),
            "acknowledge_alert": (AlertParams, self._acknowledge),
        }

    @property
    def names(self) -> list[str]:
        """The actions that there are."""
        return sorted(self._known)

    async def act(self, action: str, params: Mapping[str, Any], actor: str) -> _Result:
        """Do it; return its status and what to tell. Raises as the command behind it."""
        if action not in self._known:
            raise ValidationFailed(
                f"there is no action {action!r}",
                details=[f"action: one of {', '.join(self.names)}"],
            )
        form, do = self._known[action]
        try:
            given = form.model_validate(dict(params))
        except PydanticError as error:
            details = [f"params.{it['loc'][0]}: {it['msg']}" for it in error.errors()]
            raise ValidationFailed(f"{action} needs other params", details=details) from error
        return await do(given, actor, params)

    # --- the optimizer -----------------------------------------------------------------------

    async def _run(self, _: NoParams, actor: str, __: Mapping[str, Any]) -> _Result:
        event = OptimizationRequested(event_id=uuid7(), occurred_at_us=now_us(), actor=actor)
        await self._log.publish(event)
        await self._desk.auditor.record(actor, "optimizer.run", "optimizer")
        return "accepted", {"event_id": event.event_id}

    async def _enable(self, given: RuleParams, actor: str, _: Mapping[str, Any]) -> _Result:
        if given.mode not in {ON, PROPOSE}:
            raise ValidationFailed(
                "a rule is enabled in the mode on or propose", details=["params.mode: on, propose"]
            )
        return await self._mode(given.rule, given.mode, actor)

    async def _disable(self, given: RuleParams, actor: str, _: Mapping[str, Any]) -> _Result:
        return await self._mode(given.rule, OFF, actor)

    async def _mode(self, rule: str, mode: str, actor: str) -> _Result:
        known = rule_names()
        if rule not in known:
            raise NotFound(f"there is no rule {rule}", action=f"Name one of {', '.join(known)}.")
        fields = {"rule": rule, "mode": mode}
        key = f"optimizer:{rule}"
        accepted = await self._desk.commands.put(OptimizerRuleChanged, key, fields, actor=actor)
        return await self._audited(f"optimizer.{mode}", accepted, fields)

    async def _apply(self, given: TargetParams, actor: str, _: Mapping[str, Any]) -> _Result:
        last = next((it for it in self._board.proposals() if it.target == given.target), None)
        if last is None:
            raise NotFound(
                f"no change is proposed for {given.target}",
                action="GET /admin/analytics/insights lists what is proposed.",
            )
        at_us = now_us()
        event = msgspec.structs.replace(
            last,
            event_id=uuid7(),
            occurred_at_us=at_us,
            state=ACTIVE,
            number=last.number + 1,
            started_at_us=at_us,
            stepped_at_us=at_us,
            expires_at_us=at_us + int(RULES.expiry_s * 1_000_000),
            actor=actor,
        )
        await self._log.publish(event)
        await self._desk.auditor.record(actor, "optimizer.apply", given.target)
        return "accepted", {"action_id": event.action_id, "keeps": event.factor}

    # --- circuits, providers, budgets --------------------------------------------------------

    async def _reset(self, given: TargetParams, actor: str, _: Mapping[str, Any]) -> _Result:
        last = self._circuits.change(given.target)
        if last is None or last.state == CLOSED:
            raise Conflict(
                f"the circuit of {given.target} is closed", action="Nothing is left to be done."
            )
        at_us = now_us()
        event = msgspec.structs.replace(
            last,
            event_id=uuid7(),
            occurred_at_us=at_us,
            state=CLOSED,
            number=last.number + 1,
            since_us=at_us,
            openings=0,
            opened_at_us=None,
            next_probe_at_us=None,
            reason=f"reset by {actor}",
            actor=actor,
        )
        await self._log.publish(event)
        await self._desk.auditor.record(actor, "circuit.reset", given.target)
        return "accepted", {"target": given.target, "state": CLOSED}

    async def _provider(self, given: ProviderParams, actor: str, _: Mapping[str, Any]) -> _Result:
        key = f"provider:{given.provider}"
        event = found(
            self._desk.commands.view(ProviderChanged).get(key), f"provider {given.provider}"
        )
        table = merged(PROVIDER.table(event), {"enabled": given.enabled})
        fields = PROVIDER.fields(given.provider, table)
        accepted = await self._desk.commands.put(
            ProviderChanged, key, fields, actor=actor, expected_version=event.entity_version
        )
        told = {"provider": given.provider, "enabled": given.enabled}
        return await self._audited("provider.change", accepted, told)

    async def _budget(self, given: BudgetParams, actor: str, params: Mapping[str, Any]) -> _Result:
        view = self._desk.commands.view(BudgetChanged)
        event = found(view.get(given.budget_id), f"budget {given.budget_id}")
        changes = {name: value for name, value in params.items() if name != "budget_id"}
        table = merged(BUDGET.table(event), changes)
        accepted = await self._desk.commands.put(
            BudgetChanged,
            given.budget_id,
            BUDGET.fields(given.budget_id, table),
            actor=actor,
            expected_version=event.entity_version,
        )
        told = {"budget_id": given.budget_id, **table.model_dump(mode="json")}
        return await self._audited("budget.change", accepted, told)

    # --- training and alerts -----------------------------------------------------------------

    async def _train(self, _: NoParams, actor: str, __: Mapping[str, Any]) -> _Result:
        event = requested_run()
        await self._log.publish(event)
        await self._desk.auditor.record(actor, "training.start", event.event_id)
        return "accepted", {"job_id": event.event_id}

    async def _acknowledge(self, given: AlertParams, actor: str, _: Mapping[str, Any]) -> _Result:
        answer = await self._alerts.act(given.alert_id, ACKNOWLEDGED, actor)
        late = answer.status_code == 202
        return "accepted" if late else DONE, {"alert_id": given.alert_id}

    async def _audited(self, action: str, accepted: Accepted, told: dict[str, Any]) -> _Result:
        event = accepted.event
        version = {"version": str(event.entity_version)}
        await self._desk.auditor.record(event.actor, action, event.key, version)
        return DONE if accepted.in_force else "accepted", told | version


def rule_names() -> list[str]:
    """Return what is turned on and off: the optimizer's rules, and preferences of tuned models."""
    rules = sorted(rule.name for rule in discover("streams.optimizer", Rule))
    return [*rules, TUNED_MODEL]
