"""Every example of docs/examples is what its product takes."""

from pathlib import Path
from typing import Any

import pytest

from infra.configuration import Document, expanded, parse, read_file
from infra.doctor import _variables as misspelled
from infra.entities import KINDS, PRICE, dated
from infra.settings import configured_providers, effective_providers, load
from infra.words import settings_of
from tests.docs.pages import ROOT, page

FOLDER = ROOT / "docs" / "examples"
SETTINGS = sorted(FOLDER.glob("*.toml"))
FILES = sorted((FOLDER / "apply").iterdir())
PARTS = ("gateway-0", "streams", "control", "projections", "trainer", "sandbox")


def check(tables: Any) -> None:
    """Make the event of every entity that a document names."""
    for kind in KINDS:
        for name, table in getattr(tables, kind.plural).items():
            if kind is PRICE:
                table = dated(name, table, [])
            assert kind.fields(name, table)


def test_there_are_enough_of_them_and_each_is_listed() -> None:
    assert len(SETTINGS) >= 15
    told = page("docs/examples/README.md")
    for file in (*SETTINGS, *FILES):
        assert file.relative_to(FOLDER).as_posix() in told, file


@pytest.mark.req("CFG-02")
@pytest.mark.parametrize("file", SETTINGS, ids=lambda it: it.stem)
def test_settings_load_and_every_part_takes_them(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIR_CONFIG", str(file))
    monkeypatch.setenv("WEIR_HOME", str(tmp_path / "home"))
    loaded = load()
    variables = {f"{name}_API_KEY": "k" for name in ("OPENAI", "ANTHROPIC", "MISTRAL")}
    known = {it.name for it in configured_providers(loaded, variables)}
    known |= {it.name for it in effective_providers(loaded, variables)}
    for part in PARTS:
        settings_of(part, loaded)
    told = {name: getattr(loaded, name) for name in Document.model_fields if hasattr(loaded, name)}
    providers = {name: it for name, it in told.pop("providers").items() if it.base_url}
    check(expanded(Document(providers=providers, **told)))
    for name, route in loaded.routes.items():
        for entry in route.targets:
            assert entry.target.partition("/")[0] in known, (name, entry.target)
        assert set(route.guardrails) <= set(loaded.guardrails)


@pytest.mark.req("CFG-02", "BEY-17")
@pytest.mark.parametrize("file", FILES, ids=lambda it: it.stem)
def test_files_can_be_applied(file: Path) -> None:
    document = parse(read_file(file))
    assert document.name
    check(expanded(document))


@pytest.mark.req("CFG-01")
def test_the_sample_of_variables_is_what_the_settings_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (FOLDER / "weir.env").read_text("utf-8").splitlines()
    told = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WEIR_HOME", str(tmp_path))
    loaded = load()
    assert (loaded.preset, loaded.workers, loaded.embedded) == ("production", 4, False)
    assert "change-me" not in repr(loaded)
    assert {it.name for it in configured_providers(loaded, told)} >= {"openai", "anthropic"}
    assert misspelled() == []
