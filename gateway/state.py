"""What a gateway worker knows of the log, in memory: keys, routes, targets, prices, health.

Every part of it is a view of a topic, so a revoked key or a new route is in force as soon as its
event is read. A cache file keeps the views of `changes` topics across a restart, so that a
worker which starts while the broker is away still knows its keys; the log remains the truth.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from gateway import view_cache
from gateway.access import Refusals
from gateway.freshness import Freshness
from gateway.preferences import preferred
from gateway.runs import Runs
from schemas.access import Access, Grant
from schemas.clock import now_us
from schemas.errors import LogTruncated, WeirError, WrongLog
from schemas.events.batches import BatchChanged, FileChanged
from schemas.events.changes import (
    BudgetChanged,
    DeploymentChanged,
    GuardrailChanged,
    LimitChanged,
    PriceChanged,
    ProviderChanged,
    RouteChanged,
    TargetChanged,
    TenantChanged,
)
from schemas.events.circuits import CircuitChanged
from schemas.events.escrow import EscrowRow
from schemas.events.limits import LimitUsage
from schemas.events.operations import Heartbeat, OutboxClosed
from schemas.events.optimizer import OptimizerActed
from schemas.events.preferences import PreferenceChanged
from schemas.events.rewards import LikingRow, RewardRow
from schemas.events.tables import HealthRow, TableRow
from schemas.key_view import KeyView
from schemas.log import Cursor, Log
from schemas.optimizer import in_force
from schemas.prices import PriceBook, list_of
from schemas.routing import BUCKET_SECONDS, Target, TargetHealth, health_of
from schemas.table_view import TableView

HEALTH_WINDOW_S = 60
STREAMS_SILENCE_S = 5
RETRY_S = 2.0
SERVING_STATES = frozenset({"observing", "analyzing", "promoting", "promoted"})
"""Deployment states in which a version answers requests by its name (CANARY-02)."""

DEPLOYED_CAPABILITIES = frozenset({"chat", "stream"})

T = TypeVar("T")
P = TypeVar("P", bound=TableRow)

_log = logging.getLogger(__name__)


class Index(Generic[T]):
    """A value derived from views, computed again at the first look after one of them changed."""

    def __init__(
        self, build: Callable[[], T], first: TableView[Any], *further: TableView[Any]
    ) -> None:
        self._build = build
        self._first = first
        self._further = further
        self._stamp = -1
        self._value: T

    def __call__(self) -> T:
        # Generations only grow, so their sum changes whenever one of them does.
        stamp = self._first.generation
        if self._further:
            stamp += sum(view.generation for view in self._further)
        if stamp != self._stamp:
            self._value, self._stamp = self._build(), stamp
        return self._value


def _partials(view: TableView[P], entity: str) -> list[P]:
    """Return the rows of an entity, one per source partition, without looking at any other."""
    found = (view.get(f"{entity}|{number}") for number in range(view.topic.partitions))
    return [row for row in found if row is not None]


class GatewayState:
    """Lookups over table views; all of it belongs to the event loop's thread."""

    def __init__(self, cache_file: Path | None = None, freshness: Freshness | None = None) -> None:
        self.freshness = freshness or Freshness()
        self.keys = KeyView()
        self._tenants = TableView(TenantChanged)
        self.refusals = Refusals()
        self.access = Access(self.keys, self._tenants)
        self.deployments = TableView(DeploymentChanged)
        self.budgets = TableView(BudgetChanged)
        self.limits = TableView(LimitChanged)
        self.escrow = TableView(EscrowRow)
        self.usage = TableView(LimitUsage)
        self._routes = TableView(RouteChanged)
        self._targets = TableView(TargetChanged)
        self._providers = TableView(ProviderChanged)
        self._prices = TableView(PriceChanged)
        self._health = TableView(HealthRow)
        self._rewards = TableView(RewardRow)
        self._liking = TableView(LikingRow)
        self._circuits = TableView(CircuitChanged)
        self._shifts = TableView(OptimizerActed)
        self._preferences = TableView(PreferenceChanged)
        self._heartbeats = TableView(Heartbeat)
        self._heartbeats.listen(self._beaten)
        self._guardrails = TableView(GuardrailChanged)
        self.runs = Runs()
        self.files = TableView(FileChanged)
        self.batches = TableView(BatchChanged)
        self._closed = TableView(OutboxClosed)
        self._route_index = Index(self._build_routes, self._routes)
        self._target_index = Index(
            self._build_targets, self._targets, self.deployments, self._preferences
        )
        self._provider_index = Index(self._build_providers, self._providers)
        self._price_book = Index(self._build_prices, self._prices)
        self._health_index = Index(self._build_health, self._health)
        self._guardrail_index = Index(self._build_guardrails, self._guardrails)
        self._health_cache: dict[str, tuple[int, int, TargetHealth]] = {}
        self._cache_file = cache_file
        self._saved_generation = -1

    # --- views -----------------------------------------------------------------------------

    @property
    def durable_views(self) -> list[TableView[Any]]:
        """The views that the cache file keeps: what `changes` topics say."""
        return [
            self.keys,
            self._tenants,
            self._routes,
            self._targets,
            self._providers,
            self.deployments,
            self._prices,
            self.budgets,
            self.limits,
            self._guardrails,
        ]

    @property
    def views(self) -> list[TableView[Any]]:
        """Every view, for `Log.follow`."""
        return [
            *self.durable_views,
            self._health,
            self._rewards,
            self._liking,
            self._circuits,
            self._shifts,
            self._preferences,
            self._heartbeats,
            self.escrow,
            self.usage,
            self.runs,
            self.files,
            self.batches,
            self._closed,
        ]

    @property
    def ready(self) -> bool:
        """Whether there is anything to authenticate with: caught up once, or loaded from cache."""
        return bool(self.keys.entries) or self.keys.caught_up.is_set()

    # --- lookups ---------------------------------------------------------------------------

    def authenticate(self, secret: str) -> Grant:
        """Return what a secret opens. Raises as `schemas.access.Access.grant`, and StateTooOld."""
        self.freshness.check()
        return self.access.grant(secret)

    def health(self, target_id: str) -> TargetHealth:
        """Return a target's health over the last minute, all zero when nothing is known."""
        now_s = now_us() // 1_000_000
        generation, period = self._health.generation, now_s // BUCKET_SECONDS
        cached = self._health_cache.get(target_id)
        if cached is not None and cached[0] == generation and cached[1] == period:
            return cached[2]
        rows = self._health_index().get(target_id, [])
        health = health_of(target_id, rows, now_s - HEALTH_WINDOW_S)
        self._health_cache[target_id] = (generation, period, health)
        return health

    def knows(self, model: str) -> bool:
        """Whether a name means something here: a route, a target with or without its provider, or one
        that nobody lists and that was called all the same.
        """
        return (
            model in self.routes
            or model in self.targets
            or model in self._health_index()
            or any(target.model == model for target in self.targets.values())
        )

    def circuit(self, target_id: str) -> CircuitChanged | None:
        """Return what the stream processor last decided of a target's circuit."""
        return self._circuits.get(target_id)

    def rewards(self, entity: str) -> list[RewardRow]:
        """Return what calls of a task brought at a target (`schemas.rewards.entity_of`)."""
        return _partials(self._rewards, entity)

    def liking(self, entity: str) -> list[LikingRow]:
        """Return the feedback on the answers of a task at a target."""
        return _partials(self._liking, entity)

    def shift(self, target_id: str) -> OptimizerActed | None:
        """Return the optimizer's change of a target's share, if one is in force."""
        if not self._shifts.entries:
            return None
        acted = self._shifts.get(target_id)
        return acted if in_force(acted, now_us()) else None

    @property
    def streams_alive(self) -> bool:
        """Whether the stream processor reported within the last five seconds."""
        beat = self._heartbeats.get("streams")
        return beat is not None and now_us() - beat.occurred_at_us <= STREAMS_SILENCE_S * 1_000_000

    def price(self, provider: str, model: str, at_us: int) -> PriceChanged | None:
        """Return the price valid at a time (Unix microseconds), None when it is not known.

        A provider that resells another's models names its price list in `price_provider`.
        """
        return self._price_book().find(list_of(provider, self.providers), model, at_us)

    def guardrails(self) -> dict[str, GuardrailChanged]:
        """Return the guardrails that are in force, by name."""
        return self._guardrail_index()

    def outbox_closed(self, outbox_id: str) -> bool:
        """Whether an outbox was drained and will never be written again."""
        return f"outbox:{outbox_id}" in self._closed.entries

    # --- indexes ---------------------------------------------------------------------------

    @property
    def routes(self) -> dict[str, RouteChanged]:
        """Enabled routes by name."""
        return self._route_index()

    @property
    def targets(self) -> dict[str, Target]:
        """Targets by ``provider/model``, deployed versions of our own included."""
        return self._target_index()

    @property
    def providers(self) -> dict[str, ProviderChanged]:
        """Enabled providers by name."""
        return self._provider_index()

    def _build_guardrails(self) -> dict[str, GuardrailChanged]:
        return {rule.name: rule for rule in self._guardrails.entries.values() if rule.enabled}

    def _build_routes(self) -> dict[str, RouteChanged]:
        return {route.name: route for route in self._routes.entries.values() if route.enabled}

    def _build_providers(self) -> dict[str, ProviderChanged]:
        return {row.name: row for row in self._providers.entries.values() if row.enabled}

    def _build_targets(self) -> dict[str, Target]:
        listed = [
            Target(
                provider=event.provider,
                model=event.model,
                capabilities=frozenset(event.capabilities),
                context_length=event.context_length,
                max_output_tokens=event.max_output_tokens,
                quality=event.quality,
                task_quality=event.task_quality,
                quirks=event.quirks,
            )
            for event in self._targets.entries.values()
            if event.enabled
        ]
        deployed = [
            Target(
                provider=event.provider,
                model=event.model,
                capabilities=DEPLOYED_CAPABILITIES,
                deployment_id=event.deployment_id,
            )
            for event in self.deployments.entries.values()
            if event.state in SERVING_STATES
        ]
        targets = {target.id: target for target in (*listed, *deployed)}
        for change in self._preferences.entries.values():
            if change.target in targets:
                tuned, baseline = targets[change.target], targets.get(change.baseline)
                targets[change.target] = preferred(tuned, baseline, change)
        return targets

    def _build_prices(self) -> PriceBook:
        return PriceBook(self._prices.entries.values())

    def _build_health(self) -> dict[str, list[HealthRow]]:
        rows: dict[str, list[HealthRow]] = {}
        for row in self._health.entries.values():
            rows.setdefault(row.entity, []).append(row)
        return rows

    # --- following and the cache file ------------------------------------------------------

    async def follow(self, log: Log, stop: asyncio.Event, save_every_s: float = 3.0) -> None:
        """Follow the log until `stop` and keep the cache file fresh.

        A cache of another cluster, or one that the log no longer reaches back to, is dropped:
        unlike a projection it holds nothing of its own.
        """
        ended = asyncio.Event()
        saver = asyncio.create_task(self._save_regularly(ended, save_every_s))
        try:
            while not stop.is_set():
                try:
                    await log.follow(self.views, stop)
                except (WrongLog, LogTruncated) as error:
                    _log.warning("the views start afresh: %s", error.message)
                    self._forget()
                except WeirError as error:
                    # A worker goes on serving with what it knows; only a person can mend this.
                    _log.error("the views stand still: %s %s", error.message, error.advice)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), RETRY_S)
        finally:
            ended.set()
            await saver

    def _beaten(self, _: str, beat: Heartbeat | None) -> None:
        if beat is not None:
            self.freshness.heard(beat.occurred_at_us)

    def _forget(self) -> None:
        self.runs.runs.clear()
        for view in self.views:
            view.cursor = Cursor()
            view.entries.clear()
            view.generation += 1

    async def _save_regularly(self, ended: asyncio.Event, every_s: float) -> None:
        """Save every so often, and a last time in the end."""
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), every_s)
            await self._keep()

    async def _keep(self) -> None:
        try:
            await self.save()
            if self._cache_file is not None:
                # Its time of change is when the log was last heard: a restart makes nothing younger.
                heard_ns = self.freshness.heard_us * 1_000
                os.utime(self._cache_file, ns=(heard_ns, heard_ns))
        except OSError as error:
            _log.warning("the view cache could not be written: %s", error)

    async def save(self) -> None:
        """Write the cache file if something changed since, beside the calls. Raises OSError."""
        generation = sum(view.generation for view in self.durable_views)
        if self._cache_file is not None and generation != self._saved_generation:
            packed = view_cache.packed(self.durable_views)
            await asyncio.to_thread(view_cache.write, self._cache_file, packed)
            self._saved_generation = generation

    def load(self) -> bool:
        """Take the views from the cache file; False when there is none that can be used."""
        if self._cache_file is None:
            return False
        heard_us = view_cache.load(self._cache_file, self.durable_views)
        if heard_us is not None:
            self.freshness.began(heard_us)
        return heard_us is not None
