"""What a call costs: tokens, and what is not counted in tokens.

Units are words of the log: ``image`` (with quality and size behind it, as in
``image/high/1024x1024``), ``character`` of speech, ``audio_ms`` of a recording, ``search`` of a
rerank, ``call`` where the call itself is billed. Units that end in ``_tokens`` are no addition: they
say how many of the input or output tokens are of a kind that has its own price.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from schemas.events.changes import PriceChanged, PriceTier
from schemas.events.llm import CostEntry
from schemas.money import rounded_nano_usd, token_cost_nano_usd

ESTIMATED_SURFACES = frozenset({"chat", "embeddings"})
"""Surfaces whose tokens can be estimated from bytes; sound and pictures cannot."""
INPUT_KINDS = ("input_audio_tokens", "input_image_tokens", "cache_write_1h_tokens")
OUTPUT_KINDS = ("output_audio_tokens", "output_image_tokens")
FEES = frozenset({"web_search", "file_search", "code_interpreter"})
"""What vendors bill beside tokens: without its price the call has none."""
_NEEDS_OWN_PRICE = frozenset({"input_audio_tokens", "output_audio_tokens"})
"""Sound costs many times what text does: without its own price it has none. A picture's tokens, and
a longer-lived cache entry, cost what the price list says for all of them.
"""


class Counts(Protocol):
    """Tokens as a provider counted them, None where it did not; lines of the ledger have them too."""

    @property
    def input_tokens(self) -> int | None:
        """All input, cached and cache-written included."""
        ...

    @property
    def cached_input_tokens(self) -> int | None:
        """Input read from the provider's cache."""
        ...

    @property
    def cache_write_input_tokens(self) -> int | None:
        """Input written to the provider's cache."""
        ...

    @property
    def output_tokens(self) -> int | None:
        """All output, reasoning included."""
        ...


def newly_unpriced(line: CostEntry) -> int:
    """Return by how many a ledger line changes the number of those without a price."""
    return int(line.cost_nano_usd is None) - int(line.first_price)


def price_for(price: PriceChanged, input_tokens: int | None) -> PriceChanged:
    """Return the prices that hold for a call with so much input: its tier's, in place of the others."""
    if input_tokens is None or not price.tiers:
        return price
    return prices_up_to(price, input_tokens)[-1]


def prices_up_to(price: PriceChanged, input_tokens: int) -> list[PriceChanged]:
    """Return the prices one of which holds for a call with at most so much input; for one with just so
    much, the last.
    """
    held = [tier for tier in price.tiers if tier.above_input_tokens < input_tokens]
    return [msgspec.structs.replace(price, tiers=[]), *(_within(price, tier) for tier in held)]


def _within(price: PriceChanged, tier: PriceTier) -> PriceChanged:
    return msgspec.structs.replace(
        price,
        input_price=tier.input_price,
        cached_input_price=tier.cached_input_price,
        output_price=tier.output_price,
        cache_write_input_price=tier.cache_write_input_price,
        unit_prices=tier.unit_prices,
        tiers=[],
    )


def cost_of(
    price: PriceChanged | None,
    usage: Counts,
    units: Mapping[str, int] | None = None,
) -> int | None:
    """Return the cost of a call in nano-USD, None when a needed price or count is unknown.

    `usage.input_tokens` includes cached and cache-written ones, each with its own price, or the full
    one where none is known. A count of zero needs no price. Where tokens are unknown, what is billed
    by units costs these alone.
    """
    if price is not None and price.tiers:
        price = price_for(price, usage.input_tokens)
    if price is not None and not units and not price.unit_prices:
        return _plain_cost(price, usage)
    counted = {name: count for name, count in (units or {}).items() if count}
    if usage.input_tokens == 0 and usage.output_tokens == 0 and not counted:
        return 0
    if price is None:
        return None
    if any(name in FEES and _unit_price(price, name) is None for name in counted):
        return None
    parts = [
        (count, rate)
        for name, count in counted.items()
        if not name.endswith("_tokens") and (rate := _unit_price(price, name)) is not None
    ]
    if usage.input_tokens is None or usage.output_tokens is None:
        return token_cost_nano_usd(parts) if parts else None
    tokens = _token_parts(price, usage, counted)
    if any(count for count, rate in tokens if rate is None):
        return None
    return token_cost_nano_usd(
        [*parts, *((count, rate) for count, rate in tokens if rate is not None)]
    )


def _plain_cost(price: PriceChanged, usage: Counts) -> int | None:
    """The same where nothing but plain tokens is counted and priced, as nearly always."""
    inputs, outputs = usage.input_tokens, usage.output_tokens
    if inputs is None or outputs is None:
        return None
    input_price, output_price = price.input_price, price.output_price
    special = usage.cached_input_tokens or usage.cache_write_input_tokens
    if not special and input_price is not None and output_price is not None:
        return rounded_nano_usd(inputs * input_price + outputs * output_price)
    cached = min(usage.cached_input_tokens or 0, inputs)
    written = min(usage.cache_write_input_tokens or 0, inputs - cached)
    parts = [(inputs - cached - written, input_price), (outputs, output_price)]
    if cached:
        parts.append((cached, _either(price.cached_input_price, input_price)))
    if written:
        parts.append((written, _either(price.cache_write_input_price, input_price)))
    known = []
    for count, rate in parts:
        if rate is not None:
            known.append((count, rate))
        elif count:
            return None
    return token_cost_nano_usd(known)


def _token_parts(
    price: PriceChanged, usage: Counts, units: Mapping[str, int]
) -> list[tuple[int, int | None]]:
    inputs, outputs = usage.input_tokens or 0, usage.output_tokens or 0
    cached = min(usage.cached_input_tokens or 0, inputs)
    written = min(usage.cache_write_input_tokens or 0, inputs - cached)
    special: list[tuple[int, int | None]] = []
    for kinds, room in ((INPUT_KINDS, inputs - cached), (OUTPUT_KINDS, outputs)):
        for name in kinds:
            rate = price.unit_prices.get(name)
            if rate is None and name not in _NEEDS_OWN_PRICE:
                continue
            count = min(units.get(name, 0), room)
            special.append((count, rate))
            room -= count
            if name in INPUT_KINDS:
                inputs -= count
                written -= min(count, written) if name == "cache_write_1h_tokens" else 0
            else:
                outputs -= count
    plain = max(0, inputs - cached - written)
    return [
        *special,
        (plain, price.input_price),
        (cached, _either(price.cached_input_price, price.input_price)),
        (written, _either(price.cache_write_input_price, price.input_price)),
        (outputs, price.output_price),
    ]


def _either(price: int | None, other: int | None) -> int | None:
    return other if price is None else price


def _unit_price(price: PriceChanged, name: str) -> int | None:
    exact = price.unit_prices.get(name)
    return price.unit_prices.get(name.partition("/")[0]) if exact is None else exact
