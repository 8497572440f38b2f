"""docs/providers.md holds the rows of infra/vendors.py and the words of the quirks, all of them."""

from pathlib import Path

from gateway.dialects import quirks
from infra.vendors import VENDORS, Vendor

PAGE = (Path(__file__).parents[2] / "docs" / "providers.md").read_text("utf-8")
EVERYWHERE = {"chat", "stream"}


def marked(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "–"


def row(vendor: Vendor) -> str:
    """The line that the page must have."""
    keys = tuple(name for name in (vendor.key_variable, *vendor.more_keys) if name)
    cells = (
        f"`{vendor.name}`",
        vendor.dialect,
        marked(keys),
        f"`{vendor.url_variable}`",
        ", ".join(word for word in vendor.offers if word not in EVERYWHERE) or "–",
        marked(vendor.quirks),
        f"[page]({vendor.page})",
    )
    return f"| {' | '.join(cells)} |"


def test_every_vendor_has_its_line() -> None:
    lines = PAGE.splitlines()
    begin = lines.index("|---|---|---|---|---|---|---|") + 1
    found = lines[begin : lines.index("", begin)]
    assert found == [row(vendor) for vendor in VENDORS]


def test_every_quirk_is_told() -> None:
    for word in (*quirks.WORDS, f"{quirks.DROP}NAME"):
        assert f"| `{word}` |" in PAGE, word
