"""The configuration page against the settings: names, defaults, examples."""

import inspect
from pathlib import Path

import pytest
from pydantic import BaseModel

from gateway.strategies.base import Strategy
from infra import settings
from infra.settings import (
    KafkaTable,
    WeirSettings,
    configured_providers,
    load,
)
from infra.tables import (
    BudgetTable,
    GuardrailTable,
    LimitTable,
    PriceTable,
    ProviderTable,
    RouteTable,
    TargetTable,
    TenantTable,
)
from infra.words import settings_of
from schemas.discovery import discover
from schemas.errors import ConfigurationError
from tests.docs.pages import ROOT, blocks, code, page, rows, section

PAGE = page("docs/configuration.md")
EXAMPLES = blocks(section(PAGE, "Examples of `weir.toml`"), "toml")
UNLIKE = {
    "–",
    "all",
    "both",
    "made at the first start",
    "none",
    "the first start that knows it",
    "the id",
    "the vendor's",
    "unknown",
    "`chat`, `stream`, `tools`",
    "`master.key` in the data folder",
}
"""What stands for a default that has no literal."""


def documented(title: str) -> dict[str, str]:
    """{name: default} of the first table of a section that names fields or variables."""
    found = rows(section(PAGE, title))
    return {name: row[1] for row in found if code(row[0]) for name in code(row[0])}


def literal(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_every_variable_is_documented_with_its_default() -> None:
    table = documented("Variables")
    own = {f"WEIR_{name.upper()}": field for name, field in WeirSettings.model_fields.items()}
    assert set(own) <= set(table)
    for name, field in own.items():
        if table[name] not in UNLIKE:
            assert code(table[name])[0] == literal(field.default), name


def test_no_variable_is_documented_that_nothing_reads() -> None:
    sources = "".join(
        path.read_text("utf-8") for path in [ROOT / "bootstrap", *(ROOT / "infra").rglob("*.py")]
    )
    own = {f"WEIR_{name.upper()}" for name in WeirSettings.model_fields}
    for name in set(documented("Variables")) - own:
        assert name in sources, name


@pytest.mark.parametrize(
    ("title", "model"),
    [
        ("Providers", ProviderTable),
        ("Targets", TargetTable),
        ("Guardrails", GuardrailTable),
        ("Routes", RouteTable),
        ("Tenants", TenantTable),
        ("Budgets", BudgetTable),
        ("Limits", LimitTable),
        ("Prices", PriceTable),
        ("Kafka", KafkaTable),
    ],
)
def test_every_field_of_a_table_is_documented(title: str, model: type[BaseModel]) -> None:
    table = documented(title)
    assert set(table) == set(model.model_fields)
    for name, field in model.model_fields.items():
        if table[name] in UNLIKE or name == "dialect":
            continue
        assert code(table[name])[0] == literal(field.default), name


def test_every_strategy_is_documented() -> None:
    told = next(row[2] for row in rows(section(PAGE, "Routes")) if row[0] == "`strategy`")
    assert set(code(told)) == {item.name for item in discover("gateway.strategies", Strategy)}


def test_a_strategy_that_does_not_exist_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "weir.toml"
    file.write_text('[routes.a]\ntargets = [{ target = "x/y" }]\nstrategy = "balancd"\n', "utf-8")
    monkeypatch.setenv("WEIR_CONFIG", str(file))
    with pytest.raises(ConfigurationError, match="balancd"):
        load()


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize("text", [*EXAMPLES, inspect.getdoc(settings).split("\n\n", 1)[1]])
def test_an_example_loads_and_every_part_takes_it(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "weir.toml"
    file.write_text(text, "utf-8")
    monkeypatch.setenv("WEIR_CONFIG", str(file))
    monkeypatch.setenv("WEIR_HOME", str(tmp_path / "home"))
    loaded = load()
    configured_providers(loaded, {})
    for part in ("gateway-0", "streams", "control", "projections", "trainer", "sandbox"):
        settings_of(part, loaded)
    assert loaded.routes or loaded.providers or loaded.kafka.bootstrap or loaded.parts
