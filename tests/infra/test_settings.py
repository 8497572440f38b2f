from pathlib import Path

import pytest

from infra.settings import (
    KafkaTable,
    WeirSettings,
    as_environment,
    configured_providers,
    effective_providers,
    fingerprint,
    load,
    uses_sandbox,
)
from infra.tables import ProviderTable
from infra.words import fill, settings_of
from schemas.errors import ConfigurationError


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEIR_HOME", str(tmp_path / "home"))


def test_the_vendors_usual_variables_configure_providers() -> None:
    environment = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://x/v1", "OLLAMA_BASE_URL": "u"}
    openai, ollama = configured_providers(load(), environment)
    assert (openai.name, openai.base_url, openai.secrets) == (
        "openai",
        "http://x/v1",
        ("env:OPENAI_API_KEY",),
    )
    assert (ollama.name, ollama.dialect, ollama.secrets) == ("ollama", "openai", ())


@pytest.mark.req("PROV-05", "GEN-05")
def test_without_any_provider_the_sandbox_stands_in_for_both_vendors() -> None:
    settings = load(port=9000)
    assert uses_sandbox(settings, {})
    assert not uses_sandbox(settings, {"ANTHROPIC_API_KEY": "k"})
    found = {provider.name: provider.base_url for provider in effective_providers(settings, {})}
    spoken = {
        provider.name: provider.table.speaks for provider in effective_providers(settings, {})
    }
    assert spoken["openai"] == ["openai_responses", "openai_completions"], "as its vendor does"
    assert found == {"openai": "http://127.0.0.1:9003/v1", "anthropic": "http://127.0.0.1:9003"}


def test_a_table_of_the_file_is_a_provider_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "weir.toml").write_text(
        """
        port = 8123
        [providers.mine]
        base_url = "http://10.0.0.5:8000/v1"
        key_env = "MINE"
        models = ["llama"]
        [routes.support]
        targets = [{ target = "mine/llama", weight = 3 }]
        durability = "replicated"
        """
    )
    settings = load()
    assert settings.port == 8123
    assert settings.routes["support"].targets[0].weight == 3
    [mine] = configured_providers(settings, {})
    assert (mine.secrets, mine.models[0].name) == (("env:MINE",), "llama")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("port = 'x'", "port"),
        ("prot = 1", "prot"),
        ("[routes.a]\ntargets = []", "routes.a.targets"),
        ("[kafka]\nsecurity_protocol = 'TLS'", "security_protocol"),
        ("port = [", "port|TOML|value"),
    ],
)
def test_a_wrong_setting_is_named_with_the_way_out(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "weir.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=named) as caught:
        load()
    assert "weir.toml" in caught.value.advice


def test_overrides_and_the_file_reach_the_parts_in_another_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "weir.toml").write_text("workers = 3\nsandbox_behaviour = 'slow.toml'")
    kafka = {"bootstrap": "k:9092", "security_protocol": "SASL_SSL"}
    overrides = {"port": 9100, "home": "data", "kafka": kafka}
    settings = load(**overrides)
    for name, value in as_environment(settings, overrides).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = load()
    assert again.workers == 3
    assert again.home == tmp_path / "data"
    assert again == settings
    assert again.connection().bootstrap == "k:9092"
    assert not again.embedded


def test_the_fingerprint_tells_other_settings_and_shows_no_secret() -> None:
    one = WeirSettings(kafka=KafkaTable(sasl_password="geheim"))  # type: ignore[arg-type]
    other = WeirSettings(kafka=KafkaTable(sasl_password="anders"))  # type: ignore[arg-type]
    prints = {
        fingerprint(one, {}),
        fingerprint(other, {}),
        fingerprint(one, {"OPENAI_API_KEY": "x"}),
    }
    assert len(prints) == 3
    assert "geheim" not in str(one.model_dump(mode="json"))


def test_a_disabled_vendor_is_left_out() -> None:
    settings = WeirSettings(providers={"openai": ProviderTable(enabled=False)})
    assert configured_providers(settings, {"OPENAI_API_KEY": "k"}) == []


@pytest.mark.parametrize(
    "part", ["gateway-1", "streams", "control", "projections", "trainer", "models", "sandbox"]
)
def test_every_part_finds_the_words_that_it_asks_for(part: str) -> None:
    settings = load()
    assert settings_of(part, settings) is not None


def test_a_parts_own_settings_may_be_given_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weir.toml").write_text("[parts.streams]\nheartbeat_s = 3")
    monkeypatch.setenv("WEIR_PARTS__GATEWAY__DRAIN_S", "7.5")
    settings = load()
    assert settings_of("streams", settings).heartbeat_s == 3.0
    assert settings_of("gateway-0", settings).drain_s == 7.5
    wrong = settings.model_copy(update={"parts": {"gateway": {"drane_s": 1}}})
    with pytest.raises(ConfigurationError, match="drane_s"):
        settings_of("gateway-0", wrong)
    wrong = settings.model_copy(update={"parts": {"gateway": {"drain_s": "long"}}})
    with pytest.raises(ConfigurationError, match="drain_s"):
        settings_of("gateway-0", wrong)


def test_an_unknown_word_is_an_error_and_never_a_guess() -> None:
    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class Wanting:
        port: int
        moon_phase: str

    with pytest.raises(ConfigurationError, match="moon_phase"):
        fill(Wanting, {"port": 1})


@pytest.mark.req("PROV-04")
def test_a_vendors_address_is_filled_from_its_variables(tmp_path: Path) -> None:
    key = {"AWS_BEARER_TOKEN_BEDROCK": "k"}
    assert configured_providers(load(), key) == []  # a key alone may be another program's
    [bedrock] = configured_providers(load(), {**key, "AWS_DEFAULT_REGION": "eu-west-1"})
    assert bedrock.base_url == "https://bedrock-runtime.eu-west-1.amazonaws.com"
    assert bedrock.table.options == {"auth": "aws", "region": "eu-west-1"}
    azure = {"AZURE_OPENAI_API_KEY": "k", "AZURE_OPENAI_ENDPOINT": "https://r.openai.azure.com/"}
    [by_v1] = configured_providers(load(), azure)
    assert by_v1.base_url == "https://r.openai.azure.com/openai/v1"
    both = configured_providers(load(), {**azure, "OPENAI_API_VERSION": "2024-10-21"})
    assert both[1].base_url == "https://r.openai.azure.com/openai/deployments/{model}"
    assert both[1].table.options["query"] == "api-version=2024-10-21"


@pytest.mark.req("PROV-04")
def test_an_identity_is_asked_for_by_a_table(tmp_path: Path) -> None:
    account = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "eu-west-1"}
    assert configured_providers(load(), account) == []
    (tmp_path / "weir.toml").write_text('[providers.bedrock]\nmodels = ["m"]\n')
    [bedrock] = configured_providers(load(), account)
    assert (bedrock.secrets, bedrock.table.options["auth"]) == ((), "aws")
    with pytest.raises(ConfigurationError, match="AWS_REGION"):
        configured_providers(load(), {})


def test_quirks_of_a_table_are_known_and_join_the_vendors(tmp_path: Path) -> None:
    (tmp_path / "weir.toml").write_text('[providers.ollama]\nquirks = ["no_names"]\n')
    [ollama] = configured_providers(load(), {})
    assert ollama.table.quirks == ["max_tokens", "system_role", "no_names"]
    (tmp_path / "weir.toml").write_text('[providers.ollama]\nquirks = ["no_name"]\n')
    with pytest.raises(ConfigurationError, match="no_names"):
        load()


@pytest.mark.req("CFG-01")
def test_a_preset_lies_below_everything_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load().limits == {}
    monkeypatch.setenv("WEIR_PRESET", "production")
    loaded = load()
    assert (loaded.limits["preset"].requests_per_minute, loaded.limits["preset"].scope) == (
        30,
        "ip",
    )
    assert (loaded.call_timeout_seconds, loaded.log_level, loaded.docs) == (60.0, "info", False)
    file = tmp_path / "weir.toml"
    file.write_text(
        'preset = "development"\nlog_level = "error"\n[limits.preset]\nrequests_per_minute = 600\n',
        "utf-8",
    )
    monkeypatch.delenv("WEIR_PRESET")
    monkeypatch.setenv("WEIR_CONFIG", str(file))
    loaded = load()
    assert (loaded.log_level, loaded.docs) == ("error", True)
    assert (loaded.limits["preset"].requests_per_minute, loaded.limits["preset"].scope) == (
        600,
        "ip",
    )
    assert settings_of("gateway-0", load(preset="production")).call_timeout_s == 60.0
    assert (load(preset="testing").workers, load(preset="testing").limits.keys()) == (
        1,
        {"preset"},
    )
