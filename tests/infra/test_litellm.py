"""A LiteLLM proxy's configuration becomes a file for `weir apply`."""

from pathlib import Path
from typing import Any

import pytest

from infra.cli_config import lean
from infra.configuration import Document, expanded, parse, read_file
from infra.entities import KINDS, provider_fields
from infra.litellm import take_over
from schemas.errors import ValidationFailed

CONFIG = Path(__file__).with_name("litellm_config.yaml")


@pytest.fixture(scope="module")
def taken() -> tuple[Document, list[str]]:
    return take_over(read_file(CONFIG))


@pytest.mark.req("BEY-01")
def test_deployments_of_one_name_are_a_route_with_weights(
    taken: tuple[Document, list[str]],
) -> None:
    document, _ = taken
    route = document.routes["gpt-4o"]
    first = [(it.target, it.weight) for it in route.targets if it.priority == 0]
    assert first == [
        ("azure-deployments/gpt-4o-eu", 6),
        ("azure-deployments-2/gpt-4o-ca", 12),
    ]
    eu = document.providers["azure-deployments"]
    assert eu.base_url == "https://my-endpoint-europe.openai.azure.com/openai/deployments/{model}"
    assert eu.options["auth"] == "api-key"
    assert eu.options["query"] == "api-version=2024-08-01-preview"
    assert (eu.key_env, eu.requests_per_minute) == (["AZURE_API_KEY_EU"], 6)


@pytest.mark.req("BEY-01")
def test_fallbacks_follow_with_lower_priorities(taken: tuple[Document, list[str]]) -> None:
    document, _ = taken
    route = document.routes["gpt-4o"]
    order = [it.target for it in sorted(route.targets, key=lambda it: -it.priority)]
    assert order[2:] == [
        "anthropic/claude-3-5-sonnet-20241022",
        "bedrock/anthropic.claude-3-5-sonnet-20241022-v2:0",
        "openai/gpt-4o-mini",
    ]
    assert (route.strategy, route.attempts, route.unsupported) == ("weighted", 5, "drop")
    assert (route.total_timeout_ms, route.cache_ttl_s) == (10_000, 300)
    assert document.routes["gpt-4"] == route
    assert document.routes["claude"].total_timeout_ms == 120_000
    assert [it.priority for it in document.routes["claude"].targets] == [0, -2]


def test_an_address_of_ones_own_does_not_become_the_vendors(
    taken: tuple[Document, list[str]],
) -> None:
    document, _ = taken
    own = document.providers["openai-own"]
    assert (own.base_url, own.dialect, own.key_env) == ("http://0.0.0.0:4000/v1", "openai", [])
    assert own.price_provider is None
    assert document.providers["openai"].base_url == "https://api.openai.com/v1"
    assert document.routes["vllm-models"].targets[0].target == "openai-own/facebook/opt-125m"
    assert document.providers["bedrock"].options == {"region": "us-east-1", "auth": "aws"}
    assert document.prices["openai/gpt-4o-mini"].input_usd_per_million is not None
    assert document.limits["litellm-global"].concurrency == 100


@pytest.mark.req("BEY-01", "GEN-05")
def test_everything_that_is_left_out_is_told(taken: tuple[Document, list[str]]) -> None:
    notes = "\n".join(taken[1])
    for said in (
        "model_list[1] (gpt-4o): litellm_params.temperature",
        "model_list[7] (plain): the key stands in the file",
        "model_list[9] (strange)",
        "local falls back to missing",
        "context_window_fallbacks: taken as fallbacks",
        "litellm_settings.success_callback: every call is an event",
        "general_settings.master_key: WEIR_ADMIN_KEY",
        "router_settings.redis_host",
        "environment_variables",
    ):
        assert said in notes, said
    assert "sk-in-the-file" not in notes
    assert "sk-1234" not in notes


def test_what_is_written_can_be_applied(taken: tuple[Document, list[str]], tmp_path: Path) -> None:
    import tomli_w

    told = lean(taken[0].model_dump(mode="json", exclude_defaults=True))
    (tmp_path / "out.toml").write_text(tomli_w.dumps(told), "utf-8")
    read = parse(read_file(tmp_path / "out.toml"))
    assert read.routes == taken[0].routes
    for kind in KINDS:
        if kind.plural != "prices":
            for name, table in getattr(expanded(read), kind.plural).items():
                assert kind.fields(name, table)
    assert "sk-" not in (tmp_path / "out.toml").read_text("utf-8")


@pytest.mark.req("BEY-01")
def test_a_deployment_without_a_key_uses_the_vendors_variable() -> None:
    named = {"model": "openai/gpt-4o", "api_key": "os.environ/OPENAI_API_KEY"}
    document, _ = take_over(
        {
            "model_list": [
                {"model_name": "any", "litellm_params": {"model": "openai/gpt-4o-mini"}},
                {"model_name": "gpt-4o", "litellm_params": named},
            ]
        }
    )
    assert [*document.providers] == ["openai"]
    assert document.providers["openai"].key_env == ["OPENAI_API_KEY"]


def _fields(document: Document, name: str) -> dict[str, Any]:
    return provider_fields(name, document.providers[name])


@pytest.mark.req("BEY-01")
def test_a_provider_lives_where_its_entry_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOOGLE_CLOUD_LOCATION", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    place = {"vertex_project": "p", "vertex_location": "europe-west1"}
    azure = {"model": "azure/gpt-4o", "api_base": "https://r.openai.azure.com"}
    entries: list[dict[str, Any]] = [
        {"model": "vertex_ai/gemini-2.5-pro", **place},
        {"model": "vertex_ai/gemini-2.5-pro", **place, "vertex_location": "us-east1"},
        {**azure, "api_version": "2024-10-21"},
        {**azure, "api_version": "preview"},
    ]
    models = [{"model_name": f"m{n}", "litellm_params": it} for n, it in enumerate(entries)]
    document, notes = take_over({"model_list": models})
    assert notes == []
    first, second = _fields(document, "vertex"), _fields(document, "vertex-2")
    assert "europe-west1-aiplatform" in first["base_url"]
    assert "/projects/p/locations/us-east1/" in second["base_url"]
    assert first["options"]["auth"] == second["options"]["auth"] == "google"
    # What Azure serves at its newer path alone is not asked for at a deployment's.
    assert _fields(document, "azure-deployments")["speaks"] == []
    newer = _fields(document, "azure")
    assert (newer["base_url"], newer["speaks"]) == (
        "https://r.openai.azure.com/openai/v1",
        ["openai_responses"],
    )


def test_an_address_that_nobody_says_is_missed_when_it_is_applied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("GOOGLE_CLOUD_LOCATION", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    entry = {"model_name": "m", "litellm_params": {"model": "vertex_ai/gemini-2.5-pro"}}
    document, _ = take_over({"model_list": [entry]})
    with pytest.raises(ValidationFailed, match="needs a base_url"):
        _fields(document, "vertex")
