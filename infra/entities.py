"""What can be administered: for each kind its table, its event, and the way from one to the other."""

import os
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
from pydantic import BaseModel

from infra.alert_entities import ALERT_CHANNEL, ALERT_RULE
from infra.commands import facts, meta
from infra.kinds import Kind, prefixed, stripped
from infra.settings import require_known_quirks, require_known_words, secrets_of
from infra.tables import (
    BudgetTable,
    GuardrailTable,
    LimitTable,
    PriceTable,
    ProviderTable,
    RatesTable,
    RouteTable,
    RouteTargetTable,
    TargetTable,
    TenantTable,
    TierTable,
)
from infra.vendors import VENDORS, Vendor, fill
from schemas.errors import ConfigurationError, ValidationFailed
from schemas.events.changes import (
    BudgetChanged,
    Change,
    GuardrailChanged,
    LimitChanged,
    PriceChanged,
    PriceTier,
    ProviderChanged,
    RouteChanged,
    RouteTarget,
    TargetChanged,
    TenantChanged,
)
from schemas.money import TOKENS_PER_PRICE, from_usd, to_usd

TENANTS = ("organization", "team", "project", "user", "cost_center")
BY_HAND = "administrator"
"""The source of prices that are in no list."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SINCE = re.compile(r"@(0|-?\d{9,16})$")
"""What ends the id of a price: since when it holds, in microseconds. Models have dates of their own
(``claude-sonnet-4-5@20250929``), which are shorter."""
_VENDORS = {vendor.name: vendor for vendor in VENDORS}
_USD = ("daily_limit", "monthly_limit", "total_limit")
_PER_MILLION = ("input", "cached_input", "cache_write_input", "output")

# --- providers and targets -------------------------------------------------------------------


def provider_fields(name: str, table: ProviderTable) -> dict[str, Any]:
    """A provider's event; what a known vendor's table leaves out is the vendor's usual."""
    _known(require_known_words, {name: table}, {})
    if table.models is not None:
        raise ValidationFailed(
            "a provider's models are targets of their own",
            details=["models: name each as a target PROVIDER/MODEL"],
        )
    vendor = _VENDORS.get(name)
    usual = _usual(vendor, table) if vendor else {}
    base_url = table.base_url or usual.get("base_url")
    if base_url is None:
        raise ValidationFailed(
            f"the provider {name} needs a base_url", details=["base_url: missing"]
        )
    secrets = secrets_of(table, usual.get("key_variable"))
    return {
        **_plain(table, {"models", "key_env", "key_file"}),
        "name": name,
        "base_url": base_url.rstrip("/"),
        "secret": secrets[0] if secrets else None,
        "secrets": list(secrets[1:]),
        "price_provider": table.price_provider or usual.get("price_provider"),
        "dialect": table.dialect or usual.get("dialect", "openai"),
        "options": usual.get("options", {}) | table.options,
        "quirks": [*dict.fromkeys([*usual.get("quirks", ()), *table.quirks])],
        "speaks": [*dict.fromkeys([*usual.get("speaks", ()), *table.speaks])],
    }


def _usual(vendor: Vendor, table: ProviderTable) -> dict[str, Any]:
    """A known vendor's row, with the values of control's environment.

    A key's variable is named even where it is not set: whoever looks is told which one to set.
    """
    variables = [it for it in (vendor.key_variable, *vendor.more_keys) if it]
    key_set = next((it for it in variables if os.environ.get(it)), None)
    options = {name: fill(text, os.environ) for name, text in vendor.options.items()}
    by_identity = vendor.identity and not (key_set or table.key_env or table.key_file)
    if by_identity:
        options["auth"] = vendor.identity
    return {
        "base_url": fill(vendor.base_url, os.environ),
        "key_variable": None if by_identity else key_set or vendor.key_variable,
        "dialect": vendor.dialect,
        "price_provider": vendor.price_provider,
        "options": {name: text for name, text in options.items() if text is not None},
        "quirks": vendor.quirks,
        "speaks": vendor.speaks,
    }


def _provider_table(event: ProviderChanged) -> ProviderTable:
    secrets = [*([event.secret] if event.secret else []), *event.secrets]
    told = facts(event)
    for name in ("name", "secret", "secrets"):
        del told[name]
    return ProviderTable(
        key_env=[it.removeprefix("env:") for it in secrets if it.startswith("env:")],
        key_file=[it.removeprefix("file:") for it in secrets if it.startswith("file:")],
        **told,
    )


def target_fields(target_id: str, table: TargetTable) -> dict[str, Any]:
    """A target's event; its id is provider/model."""
    provider, slash, model = target_id.partition("/")
    if not (provider and slash and model):
        raise ValidationFailed(f"a target is named provider/model, not {target_id!r}")
    _known(require_known_quirks, target_id, table.quirks)
    return {"provider": provider, "model": model, **_plain(table)}


def _target_table(event: TargetChanged) -> TargetTable:
    return TargetTable(**_without(event, "provider", "model"))


# --- routes ------------------------------------------------------------------------------------


def route_fields(name: str, table: RouteTable) -> dict[str, Any]:
    """A route's event."""
    _known(require_known_words, {}, {name: table})
    if not any(entry.weight for entry in table.targets):
        raise ValidationFailed(
            f"no target of route {name} has a weight above 0",
            details=["targets: one of them needs a weight of 1 or more"],
        )
    return {
        "name": name,
        "targets": [RouteTarget(**entry.model_dump()) for entry in table.targets],
        "max_cost_nano_usd": _nano(table.max_cost_usd),
        **_plain(table, {"targets", "max_cost_usd"}),
    }


def _route_table(event: RouteChanged) -> RouteTable:
    told = _without(event, "name", "targets", "max_cost_nano_usd")
    targets = [RouteTargetTable(**msgspec.structs.asdict(entry)) for entry in event.targets]
    return RouteTable(targets=targets, max_cost_usd=_usd(event.max_cost_nano_usd), **told)


def _guardrail_fields(name: str, table: GuardrailTable) -> dict[str, Any]:
    fields = {"name": name, **_plain(table)}
    _known(_require_guardrail, GuardrailChanged(**meta(name, None, "check"), **fields))
    return fields


def _require_guardrail(event: GuardrailChanged) -> None:
    """Its plug-in exists and takes it. Raises ConfigurationError."""
    from gateway.guardrails.base import Kind as Plugin
    from schemas.discovery import discover

    plugins = {plugin.name: plugin for plugin in discover("gateway.guardrails", Plugin)}
    if event.kind not in plugins:
        raise ConfigurationError(
            f"the guardrail {event.name} asks for the kind {event.kind!r}; "
            f"there are: {', '.join(sorted(plugins))}"
        )
    plugins[event.kind].build(event)


def _guardrail_table(event: GuardrailChanged) -> GuardrailTable:
    return GuardrailTable(**_without(event, "name"))


# --- tenants -----------------------------------------------------------------------------------


def _tenant_fields(tenant: str, table: TenantTable) -> dict[str, Any]:
    kind, _, tenant_id = tenant.partition(":")
    for name in filter(None, (tenant, table.parent)):
        if name.partition(":")[0] not in TENANTS or not name.partition(":")[2]:
            raise ValidationFailed(
                f"a tenant is named KIND:ID with the kind {', '.join(TENANTS)}, not {name!r}"
            )
    return {
        "kind": kind,
        "tenant_id": tenant_id,
        "name": table.name or tenant_id,
        **_plain(table, {"name"}),
    }


def _tenant_table(event: TenantChanged) -> TenantTable:
    return TenantTable(**_without(event, "kind", "tenant_id"))


# --- money and pace ----------------------------------------------------------------------------


def _budget_fields(budget_id: str, table: BudgetTable) -> dict[str, Any]:
    limits = {f"{name}_nano_usd": _nano(getattr(table, f"{name}_usd")) for name in _USD}
    return {"budget_id": budget_id, **limits, **_plain(table, {f"{name}_usd" for name in _USD})}


def _budget_table(event: BudgetChanged) -> BudgetTable:
    told = _without(event, "budget_id", *(f"{name}_nano_usd" for name in _USD))
    told |= {f"{name}_usd": _usd(getattr(event, f"{name}_nano_usd")) for name in _USD}
    return BudgetTable(**told)


def _limit_fields(limit_id: str, table: LimitTable) -> dict[str, Any]:
    return {"limit_id": limit_id, **_plain(table)}


def _limit_table(event: LimitChanged) -> LimitTable:
    return LimitTable(**_without(event, "limit_id"))


def price_name(price: str) -> str:
    """Return the `provider/model` of a price's id, which may go on with ``@MICROSECONDS``."""
    return _SINCE.sub("", price)


def _price_fields(price: str, table: PriceTable) -> dict[str, Any]:
    provider, slash, model = price_name(price).partition("/")
    if not (provider and slash and model):
        raise ValidationFailed(f"a price is named provider/model, not {price!r}")
    base = _rates(table)
    return {
        "provider": provider,
        "model": model,
        "valid_from_us": microseconds(table.valid_from),
        **base,
        "tiers": [
            PriceTier(above_input_tokens=tier.above_input_tokens, **_above(base, _rates(tier)))
            for tier in table.tiers
        ],
        "price_version": table.price_version,
        "source": BY_HAND,
    }


def _rates(table: RatesTable) -> dict[str, Any]:
    prices = {
        f"{name}_price": _nano(getattr(table, f"{name}_usd_per_million")) for name in _PER_MILLION
    }
    # The log has prices per million of everything.
    units = {unit: from_usd(amount * TOKENS_PER_PRICE) for unit, amount in table.unit_usd.items()}
    return {**prices, "unit_prices": units}


def _above(base: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    """A tier's rates: what it does not say itself is as for a shorter input."""
    prices = {name: base[name] if price is None else price for name, price in said.items()}
    return {**prices, "unit_prices": base["unit_prices"] | said["unit_prices"]}


def _price_table(event: PriceChanged) -> PriceTable:
    return PriceTable(
        valid_from=EPOCH + timedelta(microseconds=event.valid_from_us),
        tiers=[
            TierTable(above_input_tokens=tier.above_input_tokens, **_rates_told(tier))
            for tier in event.tiers
        ],
        price_version=event.price_version,
        **_rates_told(event),
    )


def _rates_told(price: PriceChanged | PriceTier) -> dict[str, Any]:
    units = {
        unit: Decimal(to_usd(amount)) / TOKENS_PER_PRICE
        for unit, amount in price.unit_prices.items()
    }
    usd = {
        f"{name}_usd_per_million": _usd(getattr(price, f"{name}_price")) for name in _PER_MILLION
    }
    return {"unit_usd": units, **usd}


def in_force(price: str, known: Iterable[PriceChanged]) -> PriceChanged | None:
    """Return what `provider/model` costs now: of its prices that hold already the last."""
    now_us = microseconds(datetime.now(UTC))
    since = (
        event
        for event in known
        if f"{event.provider}/{event.model}" == price and event.valid_from_us <= now_us
    )
    return max(since, key=lambda event: event.valid_from_us, default=None)


def dated(price: str, table: PriceTable, known: Iterable[PriceChanged]) -> PriceTable:
    """A price that does not say since when holds from now on, or since it was first said so.

    Raises ValidationFailed where its id says another time than its table.
    """
    if (since := _SINCE.search(price)) is not None:
        said = EPOCH + timedelta(microseconds=int(since.group(1)))
        if table.valid_from not in {None, said}:
            raise ValidationFailed(
                f"the price {price} holds since {said.isoformat()}",
                details=["valid_from: another time is another price, made under its name alone"],
            )
        return table.model_copy(update={"valid_from": said})
    if table.valid_from is not None:
        return table
    event = in_force(price, known)
    last = None if event is None else _price_table(event)
    told = table.model_dump(exclude={"valid_from"})
    if last is not None and last.model_dump(exclude={"valid_from"}) == told:
        return last
    return table.model_copy(update={"valid_from": datetime.now(UTC)})


def _price_key(price: str, table: PriceTable | None) -> str:
    if table is None:
        return price
    return f"{price_name(price)}@{microseconds(table.valid_from)}"


# --- all of them -------------------------------------------------------------------------------


PROVIDER = Kind(
    "provider",
    "providers",
    ProviderChanged,
    ProviderTable,
    provider_fields,
    _provider_table,
    stripped("provider:"),
    prefixed("provider:"),
)
TARGET = Kind(
    "target",
    "targets",
    TargetChanged,
    TargetTable,
    target_fields,
    _target_table,
    stripped("target:"),
    prefixed("target:"),
)
GUARDRAIL = Kind(
    "guardrail",
    "guardrails",
    GuardrailChanged,
    GuardrailTable,
    _guardrail_fields,
    _guardrail_table,
    stripped("guardrail:"),
    prefixed("guardrail:"),
)
ROUTE = Kind(
    "route",
    "routes",
    RouteChanged,
    RouteTable,
    route_fields,
    _route_table,
    stripped("route:"),
    prefixed("route:"),
)
TENANT = Kind(
    "tenant",
    "tenants",
    TenantChanged,
    TenantTable,
    _tenant_fields,
    _tenant_table,
    stripped("tenant:"),
    prefixed("tenant:"),
)
BUDGET = Kind(
    "budget",
    "budgets",
    BudgetChanged,
    BudgetTable,
    _budget_fields,
    _budget_table,
    stripped(""),
    prefixed(""),
)
LIMIT = Kind(
    "limit",
    "limits",
    LimitChanged,
    LimitTable,
    _limit_fields,
    _limit_table,
    stripped("limit:"),
    prefixed("limit:"),
)
PRICE = Kind(
    "price",
    "prices",
    PriceChanged,
    PriceTable,
    _price_fields,
    _price_table,
    stripped(""),
    _price_key,
)
KINDS: tuple[Kind[Any, Any], ...] = (
    PROVIDER,
    TARGET,
    GUARDRAIL,
    ROUTE,
    TENANT,
    BUDGET,
    LIMIT,
    PRICE,
    ALERT_CHANNEL,
    ALERT_RULE,
)
"""In the order in which they are written: what others name comes first."""


def _known(check: Callable[..., None], *tables: Any) -> None:
    """What stops a start when it stands in a file is the caller's mistake in a command."""
    try:
        check(*tables)
    except ConfigurationError as error:
        raise ValidationFailed(error.message) from error


def _plain(table: BaseModel, but: set[str] | None = None) -> dict[str, Any]:
    return table.model_dump(exclude=but)


def _without(event: Change, *names: str) -> dict[str, Any]:
    return {name: value for name, value in facts(event).items() if name not in names}


def _nano(amount: Decimal | None) -> int | None:
    return None if amount is None else from_usd(amount)


def _usd(nano: int | None) -> Decimal | None:
    return None if nano is None else Decimal(to_usd(nano))


def microseconds(at: datetime | None) -> int:
    """Microseconds since 1970."""
    assert at is not None, "`dated` says since when a price holds"
    return (at - EPOCH) // timedelta(microseconds=1)
