"""The product's routing in simulated time: its router, health book and circuits, its folds and tables.

Only what lies outside of it is simulated: calls, answers, the time that passes. Every attempt that
ends becomes the event that a gateway writes; the folds of the stream processor make rows of it, which
the router sees `LAG_S` later at the latest, as in a running installation.
"""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Callable, Iterator
from itertools import count

import msgspec
import numpy as np

from bench.simulator.traffic import Calls, Outcomes, calls, outcomes, tasks
from bench.simulator.world import World
from gateway.ask import Ask
from gateway.circuits import Circuits
from gateway.health import HealthBook
from gateway.learning import Lessons
from gateway.routing import Router
from gateway.state import GatewayState
from schemas.codec import encode
from schemas.errors import UpstreamError
from schemas.event import FACT_PARTITIONS, Event
from schemas.events.changes import (
    Change,
    PriceChanged,
    ProviderChanged,
    RouteChanged,
    RouteTarget,
    TargetChanged,
)
from schemas.events.feedback import FeedbackRecorded
from schemas.events.llm import Attempt, ResponseCompleted
from schemas.log import Record
from schemas.routing import TargetHealth
from streams.agents.liking import LIKING
from streams.agents.rewards import REWARDS
from streams.fold import AnyFold
from streams.partition import PartitionFold

ROUTE = "simulated"
LAG_S = 1.0
"""How long an event takes to the memory of the gateway."""
FEEDBACK_AFTER_S = 20.0
ATTEMPTS_MAX = 3
_US = 1_000_000


class Served(msgspec.Struct, frozen=True):
    """One call as the gateway decided it: targets are indexes of the world's.

    `shares` are the probabilities of the first choice by target, 0 for those left out, `propensity`
    that of `chosen`. `served` is who answered, None nobody, after `latency_us` in all.
    """

    number: int
    at_s: float
    task: int
    chosen: int
    propensity: float
    shares: list[float]
    served: int | None
    latency_us: float


class _Call:
    """A call under way."""

    __slots__ = ("at_s", "attempts", "decision", "order", "row", "shares")

    def __init__(self, at_s: float, row: int, decision: object, order: list[int]) -> None:
        self.at_s = at_s
        self.row = row
        self.decision = decision
        self.order = order
        self.attempts: list[Attempt] = []
        self.shares: list[float] = []


class Gateway:
    """One worker with one route over all targets of a world."""

    def __init__(
        self,
        world: World,
        strategy: str,
        *,
        quality_floor: float | None = None,
        options: dict[str, str] | None = None,
        learns: bool = True,
    ) -> None:
        self.world = world
        self.now_s = 0.0
        self.state = _configured(world, strategy, quality_floor, options or {})
        self._index = {process.target: at for at, process in enumerate(world.targets)}
        self._learns = learns
        self._tables = [_Table(REWARDS, self.state), _Table(LIKING, self.state)]
        self.book = HealthBook(TargetHealth, lambda: False, lambda: self.now_s)
        self.circuits = Circuits(lambda _: None, lambda: False, clock_us=self._now_us)
        rng = random.Random(f"router {world.seed} {strategy}")
        lessons = Lessons(self.state.rewards, self.state.liking, self._now_us)
        self.router = Router(self.state, self.book, rng, self.circuits, lessons)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._done: list[Served] = []
        self.decided_ns: list[int] = []
        """Processor time of each decision."""

    def run(self, from_s: float, to_s: float) -> Iterator[tuple[Calls, Outcomes, list[Served]]]:
        """Serve the calls of a span; yield them by the hour, in the order of their calls."""
        tick_s = from_s
        for made in calls(self.world, from_s, to_s):
            result = outcomes(self.world, made)
            for row in range(len(made)):
                at_s = float(made.at_s[row])
                while tick_s <= at_s:
                    self._until(tick_s)
                    self._publish()
                    tick_s += LAG_S
                self._until(at_s)
                self._begin(made, result, row)
            self._until(float("inf"))
            served, self._done = sorted(self._done, key=lambda item: item.number), []
            yield made, result, served

    # --- time ---------------------------------------------------------------------------------

    def _now_us(self) -> int:
        return int((self.world.start_s + self.now_s) * _US)

    def _at(self, at_s: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._due, (at_s, next(self._order), what))

    def _until(self, at_s: float) -> None:
        while self._due and self._due[0][0] <= at_s:
            self.now_s, _, what = heapq.heappop(self._due)
            what()
        if at_s != float("inf"):
            self.now_s = at_s

    def _publish(self) -> None:
        for table in self._tables:
            table.publish(shown=self._learns)

    # --- a call -------------------------------------------------------------------------------

    def _begin(self, made: Calls, result: Outcomes, row: int) -> None:
        task = tasks(self.world)[made.task[row]]
        plan = self.router.plan(ROUTE)
        ask = Ask(
            task_type=task,
            input_tokens=int(made.input_tokens[row]),
            max_tokens=int(made.output_tokens[row]),
        )
        begun_ns = time.thread_time_ns()
        decision = self.router.decide(plan, ask)
        self.decided_ns.append(time.thread_time_ns() - begun_ns)
        order = [self._index[target.id] for target in (*decision.order, *decision.last_resort)]
        call = _Call(self.now_s, row, decision, list(dict.fromkeys(order))[:ATTEMPTS_MAX])
        call.shares = [0.0] * len(self.world.targets)
        for candidate in decision.candidates:
            call.shares[self._index[candidate.target]] = candidate.score
        self._attempt(made, result, call, decision.propensity)

    def _attempt(self, made: Calls, result: Outcomes, call: _Call, propensity: float) -> None:
        at = call.order[len(call.attempts)]
        target = self.world.targets[at].target
        trial = self.circuits.begin(target)
        self.book.begun(target)
        good = bool(result.good[call.row, at])
        latency_us = int(result.latency_us[call.row, at])
        first_us = int(result.first_token_us[call.row, at])

        def ended() -> None:
            self.circuits.end(trial, good)
            self.book.ended(target)
            if good:
                self.book.succeeded(target, first_us)
                self.book.produced(target, int(made.output_tokens[call.row]))
            else:
                self.book.failed(target, UpstreamError("simulated"))
            status, error = (200, None) if good else (503, "server")
            outcome = "success" if good else "failed"
            call.attempts.append(
                Attempt(target, outcome, error, status, latency_us, first_us if good else None)
            )
            if good or len(call.attempts) == len(call.order):
                self._end(made, result, call, at if good else None, propensity)
            else:
                self._attempt(made, result, call, propensity)

        self._at(self.now_s + latency_us / _US, ended)

    def _end(
        self, made: Calls, result: Outcomes, call: _Call, served: int | None, propensity: float
    ) -> None:
        row, number = call.row, int(made.number[call.row])
        latency_us = (self.now_s - call.at_s) * _US
        task = tasks(self.world)[made.task[row]]
        target = None if served is None else self.world.targets[served].target
        self._tables[0].take(
            number,
            ResponseCompleted(
                event_id=f"{number}",
                occurred_at_us=self._now_us(),
                request_id=f"{number}",
                key_id="simulated",
                route=ROUTE,
                task_type=task,
                target=target,
                outcome="failed" if served is None else "success",
                status=503 if served is None else 200,
                attempts=call.attempts,
                usage_basis="none" if served is None else "reported",
                stream=False,
                latency_us=int(latency_us),
                cost_nano_usd=None if served is None else int(result.cost_nano_usd[row, served]),
                output_tokens=None if served is None else int(made.output_tokens[row]),
            ),
        )
        if served is not None and made.judged[row]:
            liked = bool(result.liked[row, served])
            self._at(
                self.now_s + FEEDBACK_AFTER_S, lambda: self._judged(number, target, task, liked)
            )
        self._done.append(
            Served(
                number,
                call.at_s,
                int(made.task[row]),
                call.order[0],
                propensity,
                call.shares,
                served,
                latency_us,
            )
        )

    def _judged(self, number: int, target: str | None, task: str, liked: bool) -> None:
        self._tables[1].take(
            number,
            FeedbackRecorded(
                event_id=f"{number}",
                occurred_at_us=self._now_us(),
                feedback_id=f"{number}",
                key_id="simulated",
                user_id="simulated",
                feedback_type="thumbs_up" if liked else "thumbs_down",
                satisfaction_score=1.0 if liked else -1.0,
                has_correction=False,
                model_id=target,
                task_type=task,
                data_key_id="none",
                nonce=b"",
                ciphertext=b"",
            ),
        )


class _Table:
    """A fold over all partitions of its source, and the gateway's view of its rows."""

    def __init__(self, fold: AnyFold, state: GatewayState) -> None:
        self._fold = fold
        self._parts = [PartitionFold(fold, number, {}) for number in range(FACT_PARTITIONS)]
        self._waiting: list[list[Record]] = [[] for _ in self._parts]
        self._offsets = [0] * FACT_PARTITIONS
        self._view = next(view for view in state.views if view.event_type is fold.row)

    def take(self, number: int, event: Event) -> None:
        """Append an event to the source."""
        partition = number % FACT_PARTITIONS
        offset = self._offsets[partition]
        self._offsets[partition] += 1
        headers = (("weir-outbox", b"o%d" % partition), ("weir-seq", b"%d" % offset))
        key = event.key.encode()
        self._waiting[partition].append(
            Record(self._fold.source.name, partition, offset, 0, key, encode(event), headers)
        )

    def publish(self, *, shown: bool) -> None:
        """Fold what waits; the view reads the rows where they are `shown`."""
        for partition, part in enumerate(self._parts):
            if not self._waiting[partition]:
                continue
            step = part.take(self._waiting[partition])
            self._waiting[partition] = []
            part.published(step)
            for row in step.rows if shown else ():
                name = self._fold.table.name
                self._view.apply(Record(name, partition, 0, 0, row.key, row.value, ()))


def _configured(
    world: World, strategy: str, quality_floor: float | None, options: dict[str, str]
) -> GatewayState:
    state = GatewayState()
    views = {view.event_type: view for view in state.durable_views}
    for event in _changes(world, strategy, quality_floor, options):
        views[type(event)].entries[event.key] = event
        views[type(event)].generation += 1
    return state


def _changes(
    world: World, strategy: str, quality_floor: float | None, options: dict[str, str]
) -> Iterator[Change]:
    meta = {"event_id": "simulated", "occurred_at_us": 1, "entity_version": 1, "actor": "simulator"}
    for process in world.targets:
        provider, _, model = process.target.partition("/")
        url = f"http://{provider}.invalid/v1"
        yield ProviderChanged(
            **meta, name=provider, dialect="openai", base_url=url, secret="env:NONE"
        )
        yield TargetChanged(
            **meta, provider=provider, model=model, capabilities=["chat"], quality=process.quality
        )
        yield PriceChanged(
            **meta,
            provider=provider,
            model=model,
            valid_from_us=0,
            input_price=process.input_price,
            output_price=process.output_price,
            price_version="simulated",
            source="simulator",
        )
    yield RouteChanged(
        **meta,
        name=ROUTE,
        targets=[RouteTarget(process.target) for process in world.targets],
        strategy=strategy,
        quality_floor=quality_floor,
        options={"local_fallback": "off", **options},
    )


def reward(world: World, made: Calls, result: Outcomes, weights: tuple[float, ...]) -> np.ndarray:
    """Return the true reward of every call at every target, by (quality, success, latency, cost).

    As `gateway.learning` defines it: norms against what the fastest target usually takes for an answer
    of that length, and against the least price; a failed call brings nothing.
    """
    quality, success, latency, cost = weights
    usual_us = [item.median_us + item.per_token_us * made.output_tokens for item in world.targets]
    fastest_us = np.min(usual_us, axis=0)[:, None]
    speed = fastest_us / (fastest_us + result.latency_us)
    inputs = np.array([process.input_price for process in world.targets])
    outputs = np.array([process.output_price for process in world.targets])
    prices = made.input_tokens[:, None] * inputs + made.output_tokens[:, None] * outputs
    least = prices.min(axis=1, keepdims=True)
    value = quality * result.liked + success + latency * speed + cost * least / (least + prices)
    return np.asarray(result.good * value / sum(weights))
