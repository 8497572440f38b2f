"""Decides how much traffic targets keep (RT-09): rules, their effects, and the way back."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.discovery import discover
from schemas.event import Event
from schemas.events.changes import DEPLOYMENTS, MODELS, PRICES, ROUTING
from schemas.events.opinions import OpinionRow
from schemas.events.optimizer import (
    OPTIMIZER,
    OptimizationRequested,
    OptimizerActed,
    OptimizerRan,
    PerformanceRow,
)
from schemas.events.preferences import PreferenceChanged
from schemas.identity import uuid7
from schemas.optimizer import LIVE, OFF, RULE_NAMES, TUNED_MODEL, OptimizerRules
from streams.agents.opinions import OPINIONS
from streams.agents.performance import PERFORMANCE
from streams.decider import Decider, Ledger
from streams.optimizer import preference
from streams.optimizer.course import next_act
from streams.optimizer.degradation import worse
from streams.optimizer.rule import Rule
from streams.optimizer.scene import Config, Memory, Scene

_SECOND_US = 1_000_000


class OptimizerLedger(Ledger):
    """What the log says of targets, of the configuration, and of what was done so far."""

    def __init__(self, rules: OptimizerRules) -> None:
        self._figures = rules
        found = {rule.name: rule for rule in discover("streams.optimizer", Rule)}
        known = [name for name in RULE_NAMES if name in found]
        self._rules = {name: found[name] for name in [*known, *sorted(set(found) - set(known))]}
        self._memory = Memory()
        self._config = Config()
        self.acted: dict[str, OptimizerActed] = {}
        self.preferences: dict[str, PreferenceChanged] = {}
        self._looked_us = 0

    def apply(self, event: Event) -> None:
        """Take in a row, a change of the configuration, or a decision."""
        if isinstance(event, PerformanceRow | OpinionRow):
            self._memory.take(event)
        elif isinstance(event, OptimizerActed):
            self.acted[event.target] = event
        elif isinstance(event, PreferenceChanged):
            self.preferences[event.target] = event
        elif isinstance(event, OptimizationRequested):
            self._looked_us = 0
        else:
            self._config.take(event)

    def knows(self, decision: Event) -> bool:
        """Whether this change, or a later one of its target, has been read back."""
        known: OptimizerActed | PreferenceChanged | None
        if isinstance(decision, OptimizerActed):
            known = self.acted.get(decision.target)
        elif isinstance(decision, PreferenceChanged):
            known = self.preferences.get(decision.target)
        else:
            return False
        return known is not None and known.number >= decision.number

    @property
    def modes(self) -> dict[str, str]:
        """How each rule is set: the settings say it for all, until somebody says it for one."""
        usual = self._figures.mode
        said = {} if usual == OFF else self._config.modes
        return {name: said.get(name, usual) for name in [*self._rules, TUNED_MODEL]}

    def due(self, at_us: int) -> Sequence[Event]:
        """Look at every target, twice a minute, and return what is to be done."""
        if at_us < self._looked_us + int(self._figures.interval_s * _SECOND_US):
            return ()
        self._looked_us = at_us
        self._config.refresh()
        modes = self.modes
        shifted = {name for name, act in self.acted.items() if act.state in LIVE}
        scene = Scene(self._memory, self._config, self._figures, at_us, shifted)
        targets = sorted(set(self._memory.targets) - set(self._config.canaries))
        acts = []
        for target in targets:
            act = next_act(scene, target, self.acted.get(target), self._rules, modes)
            if act is not None:
                acts.append(act)
                if act.state in LIVE:
                    shifted.add(target)
        preferred = list(preference.due(scene, self.preferences, modes[TUNED_MODEL]))
        ran = OptimizerRan(
            event_id=uuid7(),
            occurred_at_us=at_us,
            targets=len(targets),
            acted=len(acts) + len(preferred),
            modes=modes,
            drifting={
                target: found.finding.reason
                for target in targets
                if (found := next(worse(scene, target, 0), None)) is not None
            },
        )
        return [*acts, *preferred, ran]


OPTIMIZER_DECIDER = Decider(
    name="optimizer",
    leads=PERFORMANCE,
    reads=(PERFORMANCE.table, OPINIONS.table, ROUTING, PRICES, DEPLOYMENTS, MODELS),
    decisions=OPTIMIZER,
    ledger=lambda settings: OptimizerLedger(settings.optimizer),
    settled=(ROUTING, PRICES, DEPLOYMENTS, MODELS),
    wait_s=1.0,
)
