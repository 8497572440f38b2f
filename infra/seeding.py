"""What the log must hold before requests can flow: an admin key, providers, targets, prices.

Each start compares the settings with the log and publishes only what differs, so the log tells
when what was changed. What an administrator changed over the API carries another actor and is
left alone unless the settings name the same thing.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from infra.alert_entities import ALERT_CHANNEL, ALERT_RULE
from infra.entities import (
    BUDGET,
    GUARDRAIL,
    KINDS,
    LIMIT,
    PRICE,
    ROUTE,
    TARGET,
    TENANT,
    dated,
)
from infra.kafka import KafkaLog
from infra.keys import new_secret
from infra.kinds import Kind
from infra.settings import ConfiguredProvider, WeirSettings, effective_providers
from infra.tables import TargetTable
from infra.vendors import LOCAL_PROVIDER, SELF_HOSTED
from schemas.access import hash_of
from schemas.clock import now_us
from schemas.errors import BrokerUnavailable
from schemas.events.changes import (
    Change,
    KeyChanged,
    PriceChanged,
    ProviderChanged,
    TargetChanged,
)
from schemas.identity import uuid7
from schemas.table_view import TableView

ACTOR = "settings"
_BY_NAME: tuple[Kind[Any, Any], ...] = (
    GUARDRAIL,
    ROUTE,
    TENANT,
    BUDGET,
    LIMIT,
    ALERT_CHANNEL,
    ALERT_RULE,
)
"""What the settings say by name alone."""
_log = logging.getLogger(__name__)
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
    keys = TableView(KeyChanged)
    views: dict[str, TableView[Any]] = {kind.plural: TableView(kind.event) for kind in KINDS}
    await read_now(log, [keys, *views.values()])

    wanted = effective_providers(settings, environment)
    admin_key, key_events = _admin_key(settings, keys)
    asked = {f"provider:{name}" for name in settings.providers}
    listed = _target_events(wanted, settings.targets)
    named = {it.key for it in listed if f"provider:{it.provider}" in asked}
    named |= {f"target:{name}" for name in settings.targets}
    events: list[Change] = [
        *key_events,
        *_difference(_provider_events(wanted, settings), views["providers"], asked),
        *_difference(listed, views["targets"], named),
    ]
    for kind in _BY_NAME:
        told = [_event(kind, *item) for item in getattr(settings, kind.plural).items()]
        events += _difference(told, views[kind.plural], {event.key for event in told})
    events += _missing_prices(wanted, views["prices"])
    events += _changed(_own_prices(settings, views["prices"]), views["prices"])
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
    has_admin = any("admin" in key.scopes and not key.revoked for key in keys.entries.values())
    chosen = settings.admin_key.get_secret_value() if settings.admin_key else None
    if chosen is None:
        if has_admin:
            return None, []
        chosen = new_secret()
    digest = hash_of(chosen)
    known = next((it for it in keys.entries.values() if it.secret_hash == digest), None)
    if known is not None:
        if known.revoked:
            _log.warning("WEIR_ADMIN_KEY is a key that was revoked: it stays so")
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


def _target_events(
    wanted: Iterable[ConfiguredProvider], own: Mapping[str, TargetTable]
) -> list[TargetChanged]:
    listed = [
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
    said = [_event(TARGET, name, table) for name, table in own.items()]
    return [*(it for it in listed if f"{it.provider}/{it.model}" not in own), *said]


def _event(kind: Kind[C, Any], name: str, table: Any) -> C:
    return kind.event(**_meta(), **kind.fields(name, table))


def _own_prices(settings: WeirSettings, known: TableView[PriceChanged]) -> list[PriceChanged]:
    """The prices of the file; what a model cost before stays known."""
    return [
        _event(PRICE, name, dated(name, table, known.entries.values()))
        for name, table in settings.prices.items()
    ]


def _missing_prices(
    wanted: Iterable[ConfiguredProvider], prices: TableView[PriceChanged]
) -> list[PriceChanged]:
    """The price lists that this version of the package has not given to the log yet."""
    from infra.prices import free_prices, price_events, price_version  # half a second of lists

    current = price_version()
    present = {
        price.provider for price in prices.entries.values() if price.price_version == current
    }
    lists = {provider.price_provider for provider in wanted if provider.price_provider}
    known = [it.name for it in wanted if it.name in SELF_HOSTED and not it.secrets]
    listed = price_events(sorted(lists - present), ACTOR)
    return _changed([*listed, *free_prices(known, ACTOR)], prices)


def _difference(wanted: Sequence[C], view: TableView[C], named: set[str]) -> list[C]:
    """What to publish so that the view says what the settings say.

    What follows from the environment alone (`named` does not hold it) and was changed by somebody
    since is left as it is.
    """
    gone = set(view.entries) - {event.key for event in wanted}
    removals = [
        msgspec.structs.replace(entry, deleted=True, **_next(entry))
        for key in sorted(gone)
        if (entry := view.entries[key]).actor == ACTOR
    ]
    mine = [
        event
        for event in wanted
        if event.key in named or (it := view.get(event.key)) is None or it.actor == ACTOR
    ]
    return [*_changed(mine, view), *removals]


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
