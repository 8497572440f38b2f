"""Simulated time through the optimizer itself: its fold, its decider, the gateway's shares.

Nothing is imitated but traffic, targets and the way of an event from one to the other, which takes no
time here. A step is 30 s: calls go where the shares say, their events are folded, the rows are read,
decisions enter the decider's state and the shares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.simulator import Calls, Outcomes, World, calls, outcomes
from gateway.shifts import shifted
from gateway.strategies.base import Standing
from gateway.strategies.weighted import WEIGHTED
from schemas.event import Event
from schemas.events.changes import (
    PriceChanged,
    ProviderChanged,
    RouteChanged,
    RouteTarget,
    TargetChanged,
)
from schemas.events.feedback import FeedbackRecorded
from schemas.events.llm import Attempt, ResponseCompleted
from schemas.events.optimizer import OptimizerActed
from schemas.optimizer import OptimizerRules, in_force
from streams.agents.opinions import OPINIONS
from streams.agents.optimizer import OptimizerLedger
from streams.agents.performance import PERFORMANCE
from streams.fold import AnyFold

STEP_S = 30
Spoil = Callable[[Outcomes, int, float], np.ndarray]
"""What else happens to calls of a step, of what the optimizer did: factors of targets' latency."""


@dataclass
class Table:
    """A fold with the states of its entities."""

    fold: AnyFold
    states: dict[str, Any] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)

    def take(self, event: Event) -> None:
        """Fold one event."""
        for name, given in self.fold.split(event):
            state = self.states.get(name)
            if state is None:
                state = self.states[name] = self.fold.new()
            self.fold.apply(state, given)
            self.touched.add(name)

    def rows(self, at_us: int, offset: int) -> Iterator[Event]:
        """Yield the rows that changed since the last time."""
        for name in self.touched:
            yield self.fold.row(
                event_id="row",
                occurred_at_us=at_us,
                entity=name,
                partition=0,
                offset=offset,
                **self.fold.freeze(self.states[name]),
            )
        self.touched.clear()


@dataclass
class Loop:
    """One simulated gateway with its optimizer; `acts` are all decisions, in order."""

    rules: OptimizerRules
    targets: Sequence[str]
    acts: list[OptimizerActed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger = OptimizerLedger(self.rules)
        self._tables = {fold.event: Table(fold) for fold in (PERFORMANCE, OPINIONS)}
        self._offset = 0

    def take(self, event: ResponseCompleted | FeedbackRecorded) -> None:
        """Fold one event."""
        self._tables[type(event)].take(event)

    def tell(self, event: Event) -> None:
        """Let the decider read an event of the log."""
        self.ledger.apply(event)

    def look(self, at_us: int) -> list[OptimizerActed]:
        """Publish what was folded, let the decider look, and read its decisions back."""
        self._offset += 1
        for table in self._tables.values():
            for row in table.rows(at_us, self._offset):
                self.ledger.apply(row)
        acts = [it for it in self.ledger.due(at_us) if isinstance(it, OptimizerActed)]
        for act in acts:
            self.ledger.apply(act)
        self.acts += acts
        return acts

    def shares(self, at_us: int) -> np.ndarray:
        """Return the targets' shares of first choices, as the gateway makes them."""
        standings = [
            Standing(target, weight=1, priority=0, success=1.0, answer_us=None, cooling=False)
            for target in self.targets
        ]

        def shift(target: str) -> OptimizerActed | None:
            act = self.ledger.acted.get(target)
            return act if in_force(act, at_us) else None

        return np.array(shifted(standings, WEIGHTED, shift)[0])


def drive(
    loop: Loop, world: World, from_s: float, to_s: float, rng: np.random.Generator, spoil: Spoil
) -> None:
    """Let a span of a world's time pass."""
    for made in calls(world, from_s, to_s):
        found = outcomes(world, made)
        begin_s = float(made.at_s[0]) // 3600 * 3600 if len(made) else from_s
        for step in range(int(3600 / STEP_S)):
            start_s = max(from_s, begin_s) + step * STEP_S
            rows = np.nonzero((made.at_s >= start_s) & (made.at_s < start_s + STEP_S))[0]
            at_us = int((world.start_s + start_s) * 1e6)
            edges = np.cumsum(loop.shares(at_us))
            chosen = np.minimum(np.searchsorted(edges, rng.random(len(rows))), len(edges) - 1)
            factors = spoil(found, step, start_s)
            for row, target in zip(rows, chosen, strict=True):
                loop.take(
                    _completed(world, made, found, int(row), int(target), float(factors[target]))
                )
                if made.judged[row] and found.good[row, target]:
                    liked = bool(found.liked[row, target])
                    loop.take(_judged(world, float(made.at_s[row]), int(target), liked=liked))
            loop.look(at_us + STEP_S * 1_000_000)


def _completed(
    world: World, made: Calls, found: Outcomes, row: int, chosen: int, factor: float
) -> ResponseCompleted:
    target = world.targets[chosen].target
    good = bool(found.good[row, chosen])
    latency_us = int(found.latency_us[row, chosen] * factor)
    first_us = int(found.first_token_us[row, chosen] * factor) if good else None
    provider, _, model = target.partition("/")
    return ResponseCompleted(
        event_id="e",
        # As of its start: the order in which steps are told is the order of their times.
        occurred_at_us=int((world.start_s + float(made.at_s[row])) * 1e6),
        request_id="r",
        key_id="k",
        route="main",
        target=target,
        provider=provider,
        model=model,
        outcome="success" if good else "failed",
        status=200 if good else 503,
        attempts=[
            Attempt(
                target,
                "success" if good else "failed",
                None if good else "server",
                None,
                latency_us,
                first_us,
            )
        ],
        input_tokens=int(made.input_tokens[row]) if good else None,
        output_tokens=int(made.output_tokens[row]) if good else None,
        usage_basis="reported",
        stream=False,
        latency_us=latency_us,
        cost_nano_usd=int(found.cost_nano_usd[row, chosen]) if good else None,
    )


def _judged(world: World, at_s: float, chosen: int, *, liked: bool) -> FeedbackRecorded:
    return FeedbackRecorded(
        event_id="f",
        occurred_at_us=int((world.start_s + at_s) * 1e6),
        feedback_id="f",
        key_id="k",
        user_id="u",
        feedback_type="thumbs_up" if liked else "thumbs_down",
        satisfaction_score=1.0 if liked else -1.0,
        has_correction=False,
        model_id=world.targets[chosen].target,
        data_key_id="d",
        nonce=b"",
        ciphertext=b"",
    )


def configuration(world: World, per_minute: dict[str, int]) -> Iterator[Event]:
    """Yield the settings of a world: one route of all targets; `per_minute` are providers' limits."""
    entries = []
    for process in world.targets:
        provider, _, model = process.target.partition("/")
        entries.append(RouteTarget(process.target))
        yield ProviderChanged(
            event_id="p",
            occurred_at_us=0,
            entity_version=1,
            actor="simulator",
            name=provider,
            dialect="openai",
            base_url="http://localhost",
            requests_per_minute=per_minute.get(provider),
        )
        yield TargetChanged(
            event_id="t",
            occurred_at_us=0,
            entity_version=1,
            actor="simulator",
            provider=provider,
            model=model,
            capabilities=["chat"],
            quality=process.quality,
        )
        yield priced(process.target, process.input_price, process.output_price, 0)
    yield RouteChanged(
        event_id="r",
        occurred_at_us=0,
        entity_version=1,
        actor="simulator",
        name="main",
        targets=entries,
    )


def priced(target: str, input_price: int, output_price: int, from_us: int) -> PriceChanged:
    """Return a price from a moment on."""
    provider, _, model = target.partition("/")
    return PriceChanged(
        event_id=f"{target}@{from_us}",
        occurred_at_us=from_us,
        entity_version=1,
        actor="simulator",
        provider=provider,
        model=model,
        valid_from_us=from_us,
        input_price=input_price,
        output_price=output_price,
        price_version="1",
        source="simulator",
    )
