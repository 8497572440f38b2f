"""Which price holds for a name that no list has to the letter."""

import pytest

from infra.prices import price_events
from schemas.prices import PriceBook, families

BOOK = PriceBook(price_events(["openai", "anthropic", "aws", "google", "mistral"], "test"))


@pytest.mark.req("PROV-08")
@pytest.mark.parametrize(
    ("price_list", "named", "family"),
    [
        ("anthropic", "claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("anthropic", "claude-3-5-sonnet-latest", "claude-3-5-sonnet"),
        ("openai", "gpt-5-nano-2025-08-07", "gpt-5-nano"),
        ("openai", "ft:gpt-4o-mini-2024-07-18:acme::abc", "ft:gpt-4o-mini"),
        ("google", "gemini-1.5-pro-002", "gemini-1.5-pro"),
        ("google", "gemini-2.5-pro-preview-05-06", "gemini-2.5-pro"),
        ("mistral", "magistral-medium-latest", "magistral-medium"),
        ("aws", "eu.amazon.nova-lite-v1:0", "amazon.nova-lite-v1:0"),
        (
            "aws",
            "us.anthropic.claude-3-7-sonnet-20250219-v1:0",
            "anthropic.claude-3-7-sonnet-20250219-v1:0",
        ),
    ],
)
def test_a_snapshot_costs_what_its_family_does(price_list: str, named: str, family: str) -> None:
    now_us = 1_795_000_000_000_000
    found = BOOK.find(price_list, named, now_us)
    assert found is not None
    assert found == BOOK.find(price_list, family, now_us)


@pytest.mark.req("PROV-08")
def test_what_is_no_snapshot_has_no_price_but_its_own() -> None:
    now_us = 1_795_000_000_000_000
    for name in ("gpt-4o-ultra", "claude-sonnet-4-5-fast", "my-model", "nova-lite"):
        assert list(families(name)) == [name]
        assert BOOK.find("openai", name, now_us) is None
    own = BOOK.find("openai", "gpt-4o-2024-05-13", now_us)
    assert own is not None, "a snapshot with a price of its own keeps it"
    assert own.model == "gpt-4o-2024-05-13"
