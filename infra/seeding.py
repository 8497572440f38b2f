"""What the log must hold before requests can flow: an admin key, providers, targets, prices.

Each start compares the settings with the log and publishes only what differs, so the log tells
when what was changed. What an administrator changed over the API carries another actor and is
left alone unless the settings name the same thing.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from infra.kafka import KafkaLog
from infra.settings import ConfiguredProvider, WeirSettings, effective_providers
from infra.vendors import LOCAL_PROVIDER
from schemas.clock import now_us
from schemas.errors import BrokerUnavailable
from schemas.events.changes import (
    Change,
    KeyChanged,
    PriceChanged,
    ProviderChanged,
    RouteChanged,
    RouteTarget,
    TargetChanged,
)
from schemas.identity import uuid7
from schemas.log import TableView
from schemas.money import from_usd

ACTOR = "settings"
_CAUGHT_UP_S = 30.0
_AT_ONCE = 500
_PROVIDER_WORDS = {
    "concurrency",
    "headers",
    "options",
    "quirks",
    "requests_per_minute",
    "speaks",
    "tokens_per_minute",
}
"""What a provider's table says in the event's own words."""
_META = ("event_id", "occurred_at_us", "entity_version", "actor")

C = TypeVar("C", bound=Change)


@dataclass(frozen=True)
class Seeded:
    """What a start found or made. `admin_key` is set only in the start that made it."""

    admin_key: str | None
    published: int


async def seed(log: KafkaLog, settings: WeirSettings, environment: Mapping[str, str]) -> Seeded:
    """Publish what the settings say and the log does not say yet. Raises BrokerUnavailable."""
    keys, providers = TableView(KeyChanged), TableView(ProviderChanged)
    targets, routes, prices = (
        TableView(TargetChanged),
        TableView(RouteChanged),
        TableView(PriceChanged),
    )
    await read_now(log, [keys, providers, targets, routes, prices])

    wanted = effective_providers(settings, environment)
    admin_key, key_events = _admin_key(settings, keys)
    events: list[Change] = [
        *key_events,
        *_difference(_provider_events(wanted, settings), providers),
        *_difference(_target_events(wanted), targets),
        *_difference(_route_events(settings), routes),
        *_missing_prices(wanted, prices),
    ]
    for start in range(0, len(events), _AT_ONCE):
        await asyncio.gather(*(log.publish(event) for event in events[start : start + _AT_ONCE]))
    return Seeded(admin_key, len(events))


async def read_now(log: KafkaLog, views: Sequence[TableView[Any]]) -> None:
    """Fill the views with what the log says now. Raises BrokerUnavailable after 30 s."""
    stop = asyncio.Event()
    following = asyncio.create_task(log.follow(views, stop))

    async def caught_up() -> None:
        for view in views:
            await view.caught_up.wait()

    waiting = asyncio.create_task(caught_up())
    try:
        done, _ = await asyncio.wait(
            {following, waiting}, timeout=_CAUGHT_UP_S, return_when=asyncio.FIRST_COMPLETED
        )
        if following in done:
            following.result()
        if waiting not in done:
            raise BrokerUnavailable(f"Kafka did not answer within {_CAUGHT_UP_S:.0f} s")
    finally:
        stop.set()
        waiting.cancel()
        await asyncio.gather(following, waiting, return_exceptions=True)


def _admin_key(
    settings: WeirSettings, keys: TableView[KeyChanged]
) -> tuple[str | None, list[KeyChanged]]:
    """The first admin key: the one that is set, else a new one when there is none."""
    usable = {key.secret_hash for key in keys.entries.values() if not key.revoked}
    has_admin = any("admin" in key.scopes and not key.revoked for key in keys.entries.values())
    chosen = settings.admin_key.get_secret_value() if settings.admin_key else None
    if chosen is None:
        if has_admin:
            return None, []
        chosen = f"weir-{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(chosen.encode()).hexdigest()
    if digest in usable:
        return None, []
    event = KeyChanged(
        event_id=uuid7(),
        occurred_at_us=now_us(),
        entity_version=1,
        actor=ACTOR,
        key_id=uuid7(),
        name="first admin key",
        secret_hash=digest,
        scopes=["admin", "inference", "sql"],
    )
    return chosen, [event]


def _provider_events(
    wanted: Iterable[ConfiguredProvider], settings: WeirSettings
) -> list[ProviderChanged]:
    events = [
        ProviderChanged(
            **_meta(),
            name=provider.name,
            dialect=provider.dialect,
            base_url=provider.base_url.rstrip("/"),
            secret=provider.secrets[0] if provider.secrets else None,
            secrets=list(provider.secrets[1:]),
            price_provider=provider.price_provider,
            **provider.table.model_dump(include=_PROVIDER_WORDS),
        )
        for provider in wanted
    ]
    local = ProviderChanged(
        **_meta(),
        name=LOCAL_PROVIDER,
        dialect="openai",
        base_url=f"http://127.0.0.1:{settings.models_port}/v1",
    )
    return [*events, local]


def _target_events(wanted: Iterable[ConfiguredProvider]) -> list[TargetChanged]:
    return [
        TargetChanged(
            **_meta(),
            provider=provider.name,
            model=model.name,
            capabilities=list(model.capabilities),
            context_length=model.context_length,
            max_output_tokens=model.max_output_tokens,
            quality=model.quality,
        )
        for provider in wanted
        for model in provider.models
    ]


def _route_events(settings: WeirSettings) -> list[RouteChanged]:
    return [
        RouteChanged(
            **_meta(),
            name=name,
            targets=[RouteTarget(**entry.model_dump()) for entry in table.targets],
            max_cost_nano_usd=None if table.max_cost_usd is None else from_usd(table.max_cost_usd),
            **table.model_dump(exclude={"targets", "max_cost_usd"}),
        )
        for name, table in settings.routes.items()
    ]


def _missing_prices(
    wanted: Iterable[ConfiguredProvider], prices: TableView[PriceChanged]
) -> list[PriceChanged]:
    """The price lists that this version of the package has not given to the log yet."""
    from infra.prices import price_events, price_version  # half a second of lists

    current = price_version()
    present = {
        price.provider for price in prices.entries.values() if price.price_version == current
    }
    lists = {provider.price_provider for provider in wanted if provider.price_provider}
    return _changed(price_events(sorted(lists - present), ACTOR), prices)


def _difference(wanted: Sequence[C], view: TableView[C]) -> list[C]:
    """What to publish so that the view says what the settings say."""
    gone = set(view.entries) - {event.key for event in wanted}
    removals = [
        msgspec.structs.replace(entry, deleted=True, **_next(entry))
        for key in sorted(gone)
        if (entry := view.entries[key]).actor == ACTOR
    ]
    return [*_changed(wanted, view), *removals]


def _changed(wanted: Iterable[C], view: TableView[C]) -> list[C]:
    events = []
    for event in wanted:
        current = view.get(event.key)
        if current is None:
            events.append(event)
        elif _facts(current) != _facts(event):
            version = current.entity_version + 1
            events.append(msgspec.structs.replace(event, entity_version=version))
    return events


def _facts(event: Change) -> dict[str, Any]:
    fields = msgspec.structs.asdict(event)
    return {name: value for name, value in fields.items() if name not in _META}


def _meta() -> dict[str, Any]:
    return {"event_id": uuid7(), "occurred_at_us": now_us(), "entity_version": 1, "actor": ACTOR}


def _next(event: Change) -> dict[str, Any]:
    return _meta() | {"entity_version": event.entity_version + 1}
