"""Which price holds: of a list, for a model, at a time.

A list names families (``claude-sonnet-4-5``), a call may name one of a family's dated snapshots
(``claude-sonnet-4-5-20250929``), its place (``eu.amazon.nova-lite-v1:0``) or a tuned version of it: what
has no price of its own costs what its family does, and else what the list has for any model, if that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from schemas.events.changes import PriceChanged, ProviderChanged

_SNAPSHOT = re.compile(
    r"[-@](?:\d{8}|\d{4}-\d\d-\d\d|\d{3}|latest|preview-\d\d-\d\d(?:-\d{4})?|preview-\d\d-\d{4})$"
)
_PLACE = re.compile(r"^(?:us|us-gov|eu|apac|jp|au|ca)\.")
"""Where Bedrock runs a model, before its id; its own price holds in each. What runs `global` has another."""
_TUNED = re.compile(r"^(ft:[^:]+):.*$")
"""OpenAI's name of a tuned version: the base is part of it."""


ANY = "*"
"""The model of a price that holds for all that have none of their own."""


def families(model: str) -> Iterator[str]:
    """Yield the names under which a list may have a model's price, its own first."""
    yield model
    for pattern, kept in ((_TUNED, r"\1"), (_PLACE, ""), (_SNAPSHOT, "")):
        wider = pattern.sub(kept, model)
        if wider != model:
            model = wider
            yield model


class PriceBook:
    """Prices as known now, by list and model."""

    def __init__(self, prices: Iterable[PriceChanged] = ()) -> None:
        self._prices: dict[tuple[str, str], list[PriceChanged]] = {}
        for price in sorted(prices, key=lambda price: price.valid_from_us):
            self._prices.setdefault((price.provider, price.model), []).append(price)

    def find(self, price_list: str, model: str, at_us: int) -> PriceChanged | None:
        """Return the price that holds at a time (Unix microseconds), None when it is not known."""
        for name in chain(families(model), (ANY,)):  # most often the first, and no pattern is tried
            prices = self._prices.get((price_list, name))
            if prices is not None:
                for price in reversed(prices):  # most often the latest
                    if price.valid_from_us <= at_us:
                        return price
                return None
        return None


def list_of(provider: str, providers: Mapping[str, ProviderChanged]) -> str:
    """Return whose list a provider's models are priced by: its own unless it resells."""
    row = providers.get(provider)
    return row.price_provider if row is not None and row.price_provider else provider
