"""Money as integers: nano-USD (1 USD = 1_000_000_000), so that sums are exact and order-free."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final

from schemas.encoder import LONG_MAX

NANO_USD: Final = 1_000_000_000
TOKENS_PER_PRICE: Final = 1_000_000
"""Prices are quoted in nano-USD per million tokens."""
MOST_USD = LONG_MAX // NANO_USD
"""Amounts are 64 bits wide in the log."""


def to_usd(cost_nano_usd: int) -> str:
    """Return the amount as an exact decimal string in USD, e.g. ``"0.000123"``."""
    whole, nano = divmod(abs(cost_nano_usd), NANO_USD)
    sign = "-" if cost_nano_usd < 0 else ""
    return f"{sign}{whole}.{str(nano).zfill(9)}".rstrip("0").rstrip(".")


def from_usd(amount: str | int | Decimal) -> int:
    """Return nano-USD for an amount in USD.

    Raises ValueError beyond nano precision, and beyond what 64 bits hold.
    """
    exact = Decimal(amount)
    if not exact.is_finite() or abs(exact) > MOST_USD:
        raise ValueError(f"an amount is at most {MOST_USD} USD")
    scaled = exact.scaleb(9)
    if scaled != scaled.to_integral_value():
        raise ValueError(f"{amount} USD has more than nine decimals")
    return int(scaled)


def token_cost_nano_usd(parts: list[tuple[int, int]]) -> int:
    """Return the cost of (tokens, price in nano-USD per million tokens) parts.

    The exact sum is rounded once, half to even, so that a cost does not depend on the order or
    the number of its parts.
    """
    total = 0
    for tokens, price in parts:
        total += tokens * price
    return rounded_nano_usd(total)


def rounded_nano_usd(total: int) -> int:
    """Return a sum of tokens times their prices per million of them, rounded half to even."""
    quotient, remainder = divmod(total, TOKENS_PER_PRICE)
    twice = remainder * 2
    if twice > TOKENS_PER_PRICE or (twice == TOKENS_PER_PRICE and quotient % 2):
        quotient += 1
    return quotient


def price_from_usd_per_million(price: str | Decimal) -> int:
    """Return nano-USD per million tokens for a list price in USD per million tokens."""
    scaled = Decimal(price).scaleb(9)
    return int(scaled.to_integral_value(rounding=ROUND_HALF_EVEN))
