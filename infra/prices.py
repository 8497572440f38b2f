"""The public price lists of `genai-prices` as price events: one per model name and start date."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import version
from typing import Any

from genai_prices import types
from genai_prices.data import providers

from schemas.clock import now_us
from schemas.events.changes import PriceChanged, PriceTier
from schemas.identity import uuid7
from schemas.money import price_from_usd_per_million
from schemas.prices import ANY

SOURCE = "genai-prices"
SELF_HOSTED = "self-hosted"
TOKEN_KINDS = {
    "cache_write_1h_mtok": "cache_write_1h_tokens",
    "input_audio_mtok": "input_audio_tokens",
    "input_image_mtok": "input_image_tokens",
    "output_audio_mtok": "output_audio_tokens",
    "output_image_mtok": "output_image_tokens",
}
MS_PER_HOUR = 3_600_000
_REGIONAL = "regional."
"""How the list marks what Bedrock runs in one region; `schemas.prices` knows the regions' own marks."""
FREE = frozenset({("openai", "moderation")})
"""Models that the list names without any price because their vendor takes none
(https://developers.openai.com/api/docs/guides/moderation: free of charge)."""
FREE_NAMES = ("omni-moderation-latest",)

SEARCHES = {("cohere", "rerank-v3.5"): Decimal(2_000)}
"""USD per million searches, which the list leaves out (https://cohere.com/pricing: a search is a query
with up to 100 documents)."""
SEARCHES_SOURCE = "https://cohere.com/pricing"


def price_version() -> str:
    """Which list the prices come from, e.g. `genai-prices 0.2.3`."""
    return f"{SOURCE} {version(SOURCE)}"


def price_events(price_providers: Iterable[str], actor: str) -> list[PriceChanged]:
    """Every price of these vendors' models, under every exact name that the list gives them.

    What the list has no price for is left out: a model whose price is unknown is settled as
    `unpriced`, never as free.
    """
    wanted = set(price_providers)
    events: dict[str, PriceChanged] = {}
    for provider in providers:
        if provider.id not in wanted:
            continue
        for model in provider.models:
            free = (provider.id, model.id) in FREE
            own = model.id.removeprefix(_REGIONAL)
            for name in (own, *_names(model.match), *(FREE_NAMES if free else ())):
                for valid_from_us, price in _dated(model.prices):
                    event = _event(provider.id, name, valid_from_us, vars(price), actor, free=free)
                    if event is not None:
                        events.setdefault(event.key, event)
    for (vendor, model_name), price in SEARCHES.items():
        if vendor in wanted:
            units = {"search": price_from_usd_per_million(price)}
            event = _always(vendor, model_name, SEARCHES_SOURCE, actor, units=units)
            events.setdefault(event.key, event)
    return list(events.values())


def free_prices(providers: Iterable[str], actor: str) -> list[PriceChanged]:
    """A price of nothing for whatever these providers run: they are machines of one's own."""
    return [_always(provider, ANY, SELF_HOSTED, actor, tokens_price=0) for provider in providers]


def _always(
    provider: str,
    model: str,
    source: str,
    actor: str,
    *,
    tokens_price: int | None = None,
    units: dict[str, int] | None = None,
) -> PriceChanged:
    """A price that holds from the beginning on, by a page that has no versions."""
    return PriceChanged(
        event_id=uuid7(),
        occurred_at_us=now_us(),
        entity_version=1,
        actor=actor,
        provider=provider,
        model=model,
        valid_from_us=0,
        input_price=tokens_price,
        output_price=tokens_price,
        price_version=source,
        source=source,
        unit_prices=units or {},
    )


def _units(provider: str, fields: Mapping[str, Any]) -> dict[str, int]:
    """Prices of what is not counted in tokens, or of tokens of another kind, per million of each."""
    units = {
        name: price
        for part, name in TOKEN_KINDS.items()
        if (price := _nano(fields.get(part))) is not None
    }
    if (characters := _nano(fields.get("input_mchars"))) is not None:
        units["character"] = characters
    hours = fields.get("input_audio_hours") or fields.get("audio_hours")
    if isinstance(hours, Decimal):
        units["audio_ms"] = price_from_usd_per_million(hours * 1_000_000 / MS_PER_HOUR)
    base, written = _nano(fields.get("input_mtok")), fields.get("cache_write_mtok")
    if provider == "anthropic" and base is not None and written is not None:
        units.setdefault("cache_write_1h_tokens", 2 * base)
    return units


def _names(clause: Any) -> Iterator[str]:
    """The literal names in a match clause: exact ones, and prefixes, which are families' names."""
    if isinstance(clause, types.ClauseEquals):
        yield clause.equals
    elif isinstance(clause, types.ClauseStartsWith):
        yield clause.starts_with
    elif isinstance(clause, types.ClauseOr):
        for part in clause.or_:
            yield from _names(part)


def _dated(prices: Any) -> Iterator[tuple[int, Any]]:
    """Each price with the microsecond from which on it holds."""
    if not isinstance(prices, list):
        yield 0, prices
        return
    for conditional in prices:
        constraint = conditional.constraint
        if constraint is None:
            yield 0, conditional.prices
        elif isinstance(constraint, types.StartDateConstraint):
            day = constraint.start_date
            start = datetime(day.year, day.month, day.day, tzinfo=UTC)
            yield int(start.timestamp()) * 1_000_000, conditional.prices


def _event(
    provider: str,
    name: str,
    valid_from_us: int,
    fields: Mapping[str, Any],
    actor: str,
    *,
    free: bool,
) -> PriceChanged | None:
    base = _rates(provider, _within(fields, 0))
    if free:
        base["unit_prices"] = {"call": 0}
    if base["input_price"] is None and base["output_price"] is None and not base["unit_prices"]:
        return None
    starts = {
        tier.start
        for price in fields.values()
        if isinstance(price, types.TieredPrices)
        for tier in price.tiers
    }
    return PriceChanged(
        event_id=uuid7(),
        occurred_at_us=now_us(),
        entity_version=1,
        actor=actor,
        provider=provider,
        model=name,
        valid_from_us=valid_from_us,
        price_version=price_version(),
        source=SOURCE,
        tiers=[
            PriceTier(above_input_tokens=start, **_rates(provider, _within(fields, start)))
            for start in sorted(starts)
        ],
        **base,
    )


def _within(fields: Mapping[str, Any], start: int) -> dict[str, Any]:
    """A price's fields as they are for calls with more input tokens than this."""
    return {
        part: _at(price, start) if isinstance(price, types.TieredPrices) else price
        for part, price in fields.items()
    }


def _at(price: types.TieredPrices, start: int) -> Decimal:
    found: Decimal = price.base
    for tier in price.tiers:  # the shortest first
        if tier.start <= start:
            found = tier.price
    return found


def _rates(provider: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    input_price, output_price = _nano(fields.get("input_mtok")), _nano(fields.get("output_mtok"))
    if input_price is not None and output_price is None:
        # An embedding has no output part: nothing is produced, nothing is paid for it.
        output_price = 0
    return {
        "input_price": input_price,
        "cached_input_price": _nano(fields.get("cache_read_mtok")),
        "output_price": output_price,
        "cache_write_input_price": _nano(fields.get("cache_write_mtok")),
        "unit_prices": _units(provider, fields),
    }


def _nano(price: Any) -> int | None:
    """Nano-USD per million tokens for a list price in USD, None where there is none."""
    return price_from_usd_per_million(price) if isinstance(price, Decimal) else None
