import hashlib
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from genai_prices import Usage, calc_price
from pydantic import SecretStr

from gateway.dialects.neutral import Usage as Counted
from infra.kafka import KafkaLog
from infra.prices import price_events
from infra.secret_files import master_key
from infra.seeding import read_now, seed
from infra.settings import WeirSettings
from infra.state import InstallationState
from infra.tables import ProviderTable, RouteTable, RouteTargetTable
from schemas.errors import ConfigurationError
from schemas.events.changes import (
    BudgetChanged,
    GuardrailChanged,
    KeyChanged,
    LimitChanged,
    PriceChanged,
    ProviderChanged,
    RouteChanged,
    TargetChanged,
    TenantChanged,
)
from schemas.identity import uuid7
from schemas.money import NANO_USD
from schemas.prices import PriceBook
from schemas.pricing import cost_of
from schemas.table_view import TableView


@pytest.mark.req("EVT-01")
async def test_a_start_publishes_only_what_the_log_does_not_say(
    fresh_log: KafkaLog, tmp_path: Path
) -> None:
    settings = WeirSettings(home=tmp_path)
    first = await seed(fresh_log, settings, {})
    assert first.admin_key is not None
    assert first.published > 100
    second = await seed(fresh_log, settings, {})
    assert (second.admin_key, second.published) == (None, 0)

    keys, providers = TableView(KeyChanged), TableView(ProviderChanged)
    await read_now(fresh_log, [keys, providers])
    [key] = keys.entries.values()
    assert key.secret_hash == hashlib.sha256(first.admin_key.encode()).hexdigest()
    assert "admin" in key.scopes
    assert set(providers.entries) == {"provider:openai", "provider:anthropic", "provider:local"}


@pytest.mark.req("PROV-04")
async def test_what_one_runs_oneself_costs_nothing(fresh_log: KafkaLog, tmp_path: Path) -> None:
    settings = WeirSettings(home=tmp_path)
    environment = {"OLLAMA_BASE_URL": "http://127.0.0.1:11434/v1"}
    await seed(fresh_log, settings, environment)
    assert (await seed(fresh_log, settings, environment)).published == 0
    prices = TableView(PriceChanged)
    await read_now(fresh_log, [prices])
    found = PriceBook(prices.entries.values()).find("ollama", "llama3.2", 1)
    assert found is not None
    assert (found.input_price, found.output_price) == (0, 0)
    assert PriceBook(prices.entries.values()).find("openai", "llama3.2", 1) is None


async def test_changed_settings_become_events_and_removed_ones_deletions(
    fresh_log: KafkaLog, tmp_path: Path
) -> None:
    table = ProviderTable(base_url="http://one/v1", models=["m"])
    route = RouteTable(targets=[RouteTargetTable(target="mine/m")])
    settings = WeirSettings(
        home=tmp_path, sandbox="on", providers={"mine": table}, routes={"r": route}
    )
    await seed(fresh_log, settings, {})
    moved = settings.model_copy(
        update={"providers": {"mine": ProviderTable(base_url="http://two/v1", models=["m"])}}
    )
    assert (await seed(fresh_log, moved, {})).published == 1
    providers, routes = TableView(ProviderChanged), TableView(RouteChanged)
    await read_now(fresh_log, [providers, routes])
    changed = providers.entries["provider:mine"]
    assert (changed.base_url, changed.entity_version) == ("http://two/v1", 2)
    assert "route:r" in routes.entries

    gone = settings.model_copy(update={"providers": {}, "routes": {}})
    assert (await seed(fresh_log, gone, {})).published == 3  # provider, its target, route
    providers, routes = TableView(ProviderChanged), TableView(RouteChanged)
    await read_now(fresh_log, [providers, routes])
    assert "provider:mine" not in providers.entries
    assert not routes.entries


async def test_what_follows_from_the_environment_alone_is_left_as_somebody_changed_it(
    fresh_log: KafkaLog, tmp_path: Path
) -> None:
    settings, environment = WeirSettings(home=tmp_path, sandbox="off"), {"GROQ_API_KEY": "k"}
    await seed(fresh_log, settings, environment)
    providers = TableView(ProviderChanged)
    await read_now(fresh_log, [providers])
    current = providers.entries["provider:groq"]
    change = {"entity_version": current.entity_version + 1, "actor": "apply:x", "event_id": uuid7()}
    changed = msgspec.structs.replace(current, requests_per_minute=7, **change)
    await fresh_log.publish(changed)
    assert (await seed(fresh_log, settings, environment)).published == 0
    named = settings.model_copy(update={"providers": {"groq": ProviderTable(concurrency=3)}})
    assert (await seed(fresh_log, named, environment)).published == 1
    providers = TableView(ProviderChanged)
    await read_now(fresh_log, [providers])
    groq = providers.entries["provider:groq"]
    assert (groq.requests_per_minute, groq.concurrency) == (None, 3)


@pytest.mark.req("CFG-03")
async def test_budgets_limits_tenants_and_prices_of_the_file_become_events(
    fresh_log: KafkaLog, tmp_path: Path
) -> None:
    settings = WeirSettings.model_validate(
        {
            "home": tmp_path,
            "sandbox": "on",
            "targets": {"own/m": {"context_length": 100}},
            "budgets": {"b": {"daily_limit_usd": 1}},
            "limits": {"l": {"requests_per_minute": 5}},
            "tenants": {"team:t": {"enabled": False}},
            "guardrails": {"g": {"kind": "words", "words": ["x"]}},
            "prices": {"own/m": {"input_usd_per_million": 1, "output_usd_per_million": 1}},
        }
    )
    await seed(fresh_log, settings, {})
    assert (await seed(fresh_log, settings, {})).published == 0
    kinds = (BudgetChanged, LimitChanged, TenantChanged, TargetChanged, GuardrailChanged)
    views = [TableView(kind) for kind in (*kinds, PriceChanged)]
    await read_now(fresh_log, views)
    keys = ("b", "limit:l", "tenant:team:t", "target:own/m", "guardrail:g")
    assert all(key in view.entries for key, view in zip(keys, views, strict=False))
    assert [it for it in views[-1].entries if it.startswith("own/m@")]


async def test_a_revoked_admin_key_does_not_come_back(fresh_log: KafkaLog, tmp_path: Path) -> None:
    settings = WeirSettings(home=tmp_path, admin_key="weir-ended")  # type: ignore[arg-type]
    await seed(fresh_log, settings, {})
    keys = TableView(KeyChanged)
    await read_now(fresh_log, [keys])
    digest = hashlib.sha256(b"weir-ended").hexdigest()
    [key] = [it for it in keys.entries.values() if it.secret_hash == digest]
    version = key.entity_version + 1
    await fresh_log.publish(msgspec.structs.replace(key, revoked=True, entity_version=version))
    assert (await seed(fresh_log, settings, {})).published == 0


async def test_the_chosen_admin_key_is_never_shown_twice(
    fresh_log: KafkaLog, tmp_path: Path
) -> None:
    settings = WeirSettings(home=tmp_path, admin_key="weir-chosen")  # type: ignore[arg-type]
    assert (await seed(fresh_log, settings, {})).admin_key == "weir-chosen"
    assert (await seed(fresh_log, settings, {})).admin_key is None


@pytest.mark.req("PROV-08")
@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-4o-mini"),
        ("openai", "gpt-4.1-nano-2025-04-14"),
        ("anthropic", "claude-haiku-4-5"),
        ("anthropic", "claude-sonnet-4-5"),
        ("openai", "gpt-5.4"),
        ("google", "gemini-2.5-pro"),
        ("x-ai", "grok-4.5"),
    ],
)
@pytest.mark.parametrize("input_tokens", [1_000, 199_999, 200_000, 200_001, 272_001, 900_000])
def test_imported_prices_cost_what_the_list_says(
    provider: str, model: str, input_tokens: int
) -> None:
    now = datetime.now(UTC)
    dated = [
        event
        for event in price_events([provider], "test")
        if event.model == model and event.valid_from_us <= now.timestamp() * 1e6
    ]
    price = max(dated, key=lambda event: event.valid_from_us)
    ours = cost_of(price, Counted(input_tokens, 300, 200))
    assert ours is not None
    usage = Usage(input_tokens=input_tokens, cache_read_tokens=300, output_tokens=200)
    theirs = calc_price(usage, model, provider_id=provider, genai_request_timestamp=now)
    assert abs(Decimal(ours) / NANO_USD - theirs.total_price) <= Decimal(1) / NANO_USD


def test_the_master_key_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    settings = WeirSettings(home=tmp_path)
    key = master_key(settings)
    assert len(key) == 32
    assert master_key(settings) == key
    assert (tmp_path / "master.key").stat().st_mode & 0o777 == 0o600


def test_a_master_key_that_is_lost_is_not_replaced_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WEIR_MASTER_KEY", raising=False)
    settings = WeirSettings(home=tmp_path)
    master_key(settings)
    (tmp_path / "master.key").unlink()
    InstallationState(
        version="1",
        supervisor_pid=1,
        fingerprint="",
        port=1,
        public_url="",
        kafka="",
        embedded=True,
        started_at_us=0,
    ).save(tmp_path)
    with pytest.raises(ConfigurationError, match="is missing") as caught:
        master_key(settings)
    assert "WEIR_MASTER_KEY" in caught.value.advice
    assert not (tmp_path / "master.key").exists()
    given = WeirSettings(home=tmp_path, master_key=SecretStr("ab" * 32))
    assert master_key(given) == bytes.fromhex("ab" * 32)
