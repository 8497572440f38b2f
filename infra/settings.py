"""The operator's settings: environment variables (`WEIR_…`), then `weir.toml`, then defaults.

[providers.my-vllm]                 # any address that speaks a known dialect
base_url = "http://10.0.0.5:8000/v1"
key_env = "MY_VLLM_KEY"
models = ["llama-3.1-8b"]

[routes.support]                    # a name that clients use as `model`
targets = [{ target = "openai/gpt-4o-mini", weight = 3 }, { target = "my-vllm/llama-3.1-8b" }]
durability = "replicated"
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from infra.alert_tables import AlertChannelTable, AlertRuleTable
from infra.presets import PRESETS
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
from infra.vendors import SANDBOX_SECRET, VENDORS, Model, Vendor, fill
from schemas import __version__
from schemas.circuits import CircuitRules
from schemas.errors import ConfigurationError
from schemas.log import Connection
from schemas.optimizer import OptimizerRules

TOML_FILE = "weir.toml"


class KafkaTable(BaseModel):
    """`[kafka]` or `WEIR_KAFKA_…`: an existing cluster instead of the embedded broker."""

    model_config = ConfigDict(extra="forbid")

    bootstrap: str | None = None
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ca_file: str | None = None
    replication_factor: int = Field(default=1, ge=1)


def circuit_rules(table: Mapping[str, float]) -> CircuitRules:
    """`[circuits]` as rules. Raises ConfigurationError for a name or a figure that cannot be."""
    known = CircuitRules.__dataclass_fields__
    if unknown := sorted(set(table) - set(known)):
        raise ConfigurationError(
            f"[circuits] has no {unknown[0]!r}", action=f"Choose among {', '.join(known)}."
        )
    try:
        return msgspec.convert(table, CircuitRules)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"[circuits]: {error}") from error


def optimizer_rules(table: Mapping[str, float | str]) -> OptimizerRules:
    """`[optimizer]` as rules. Raises ConfigurationError for a name or a figure that cannot be."""
    known = OptimizerRules.__dataclass_fields__
    if unknown := sorted(set(table) - set(known)):
        raise ConfigurationError(
            f"[optimizer] has no {unknown[0]!r}", action=f"Choose among {', '.join(known)}."
        )
    try:
        return msgspec.convert(table, OptimizerRules)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"[optimizer]: {error}") from error


class WeirSettings(BaseSettings):
    """Everything an operator may set. `home` holds all data of this installation."""

    model_config = SettingsConfigDict(
        env_prefix="WEIR_",
        env_nested_delimiter="__",
        toml_file=TOML_FILE,
        extra="forbid",
        frozen=True,
    )

    home: Path = Path(".weir")
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=1, le=65_530)
    workers: int = Field(default=2, ge=1, le=64)
    admin_key: SecretStr | None = None
    master_key: SecretStr | None = None
    trainer: Literal["on", "off"] = "on"
    sandbox: Literal["auto", "on", "off"] = "auto"
    sandbox_behaviour: Path | None = None
    sandbox_seed: int = 0
    feedback_threshold: int = Field(default=500, ge=1)
    feedback_window_hours: float = Field(default=24, gt=0, le=48)
    feedback_cooldown_hours: float = Field(default=24, ge=0)
    circuits: dict[str, int | float] = {}
    optimizer: dict[str, int | float | str] = {}
    outbox_bytes_max: int = Field(12 * 1024**3, ge=1024**2)
    body_bytes_max: int = Field(32 * 1024**2, ge=1024)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    kafka: KafkaTable = KafkaTable()
    docs: bool = False
    cors_origins: list[str] = []
    hsts_seconds: int = Field(default=0, ge=0)
    call_timeout_seconds: float = Field(default=600, gt=0)
    preset: Literal["none", "development", "testing", "production"] = "none"
    providers: dict[str, ProviderTable] = {}
    targets: dict[str, TargetTable] = {}
    guardrails: dict[str, GuardrailTable] = {}
    routes: dict[str, RouteTable] = {}
    tenants: dict[str, TenantTable] = {}
    budgets: dict[str, BudgetTable] = {}
    limits: dict[str, LimitTable] = {}
    prices: dict[str, PriceTable] = {}
    alert_channels: dict[str, AlertChannelTable] = {}
    alert_rules: dict[str, AlertRuleTable] = {}
    parts: dict[str, dict[str, Any]] = {}

    @field_validator("circuits")
    @classmethod
    def _known_circuits(cls, table: dict[str, int | float]) -> dict[str, int | float]:
        circuit_rules(table)
        return table

    @field_validator("optimizer")
    @classmethod
    def _known_optimizer(cls, table: dict[str, int | float | str]) -> dict[str, int | float | str]:
        optimizer_rules(table)
        return table

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over the environment, the environment over the file, all over a preset."""
        del dotenv_settings, file_secret_settings
        path = Path(os.environ.get("WEIR_CONFIG", TOML_FILE))
        sources = (init_settings, env_settings, TomlConfigSettingsSource(settings_cls, path))
        named = (source().get("preset") for source in sources)
        preset = PRESETS.get(str(next(filter(None, named), "none")), {})
        return (*sources, InitSettingsSource(settings_cls, init_kwargs=preset))

    # The ports of one installation lie together, so that WEIR_PORT moves them all.
    @property
    def control_port(self) -> int:
        """Control's port, on the loopback."""
        return self.port + 1

    @property
    def models_port(self) -> int:
        """The model server's port, on the loopback."""
        return self.port + 2

    @property
    def sandbox_port(self) -> int:
        """The sandbox's port, on the loopback."""
        return self.port + 3

    @property
    def broker_port(self) -> int:
        """The embedded broker's port, on the loopback; its controller listens one above."""
        return self.port + 4

    @property
    def embedded(self) -> bool:
        """Whether Weir runs its own broker."""
        return self.kafka.bootstrap is None

    def connection(self) -> Connection:
        """How every part reaches Kafka."""
        kafka = self.kafka
        return Connection(
            bootstrap=kafka.bootstrap or f"127.0.0.1:{self.broker_port}",
            security_protocol=kafka.security_protocol,
            sasl_mechanism=kafka.sasl_mechanism,
            sasl_username=kafka.sasl_username,
            sasl_password=kafka.sasl_password.get_secret_value() if kafka.sasl_password else None,
            ca_file=kafka.ca_file,
            replication_factor=kafka.replication_factor,
        )

    def folder(self, name: str) -> Path:
        """One part's folder below `home`, created when missing."""
        path = self.home / name
        path.mkdir(parents=True, exist_ok=True)
        return path


def load(**overrides: Any) -> WeirSettings:
    """Read the settings; `overrides` (of the command line) win. Raises ConfigurationError."""
    named = os.environ.get("WEIR_CONFIG")
    if named is not None and not Path(named).is_file():
        raise ConfigurationError(f"WEIR_CONFIG names {named}, which is no file")
    try:
        settings = WeirSettings(**overrides)
    except (ValidationError, ValueError) as error:
        raise ConfigurationError(
            f"the settings are wrong: {_explain(error)}",
            action=f"Correct the variable WEIR_… or the line of {TOML_FILE} and start again.",
        ) from error
    require_known_words(settings.providers, settings.routes)
    for name, target in settings.targets.items():
        require_known_quirks(f'[targets."{name}"]', target.quirks)
    paths = {"home": settings.home.expanduser().absolute()}
    if settings.sandbox_behaviour is not None:
        paths["sandbox_behaviour"] = settings.sandbox_behaviour.expanduser().absolute()
    return settings.model_copy(update=paths)


def require_known_words(
    providers: Mapping[str, ProviderTable], routes: Mapping[str, RouteTable]
) -> None:
    """A misspelled dialect, quirk or strategy must not become another one.

    Raises ConfigurationError.
    """
    if not (providers or routes):
        return
    from gateway.dialects.registry import dialects
    from gateway.strategies.base import Strategy
    from schemas.discovery import discover

    strategies = {strategy.name for strategy in discover("gateway.strategies", Strategy)}
    spoken = {dialect.name for dialect in dialects()}
    asked = [(f"[routes.{name}]", "strategy", {it.strategy}) for name, it in routes.items()]
    asked += [
        (f"[providers.{name}]", "dialect", {*([it.dialect] if it.dialect else []), *it.speaks})
        for name, it in providers.items()
    ]
    for table, word, names in asked:
        known = strategies if word == "strategy" else spoken
        for name in sorted(names - known):
            raise ConfigurationError(
                f"{table} asks for the {word} {name!r}; there are: {', '.join(sorted(known))}"
            )
    for name, it in providers.items():
        require_known_quirks(f"[providers.{name}]", it.quirks)


def require_known_quirks(table: str, words: Sequence[str]) -> None:
    """A misspelled quirk must not be lost. Raises ConfigurationError."""
    from gateway.dialects import quirks

    for word in quirks.unknown(words):
        known = ", ".join([*sorted(quirks.WORDS), f"{quirks.DROP}PARAMETER"])
        raise ConfigurationError(f"{table} asks for the quirk {word!r}; there are: {known}")


def as_environment(settings: WeirSettings, overrides: Mapping[str, Any]) -> dict[str, str]:
    """The variables by which a child process, in whatever folder, reads the same settings."""
    variables: dict[str, str] = {}
    for name, value in overrides.items():
        if isinstance(value, Mapping):
            prefix = f"WEIR_{name.upper()}__"
            variables |= {f"{prefix}{key.upper()}": str(item) for key, item in value.items()}
        else:
            variables[f"WEIR_{name.upper()}"] = str(value)
    variables["WEIR_HOME"] = str(settings.home)
    if settings.sandbox_behaviour is not None:
        variables["WEIR_SANDBOX_BEHAVIOUR"] = str(settings.sandbox_behaviour)
    file = Path(os.environ.get("WEIR_CONFIG", TOML_FILE)).absolute()
    if file.is_file():
        variables["WEIR_CONFIG"] = str(file)
    return variables


def _explain(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()
    )


@dataclass(frozen=True)
class ConfiguredProvider:
    """A provider that the settings ask for."""

    name: str
    dialect: str
    base_url: str
    secrets: tuple[str, ...]
    price_provider: str | None
    models: tuple[Model, ...] = ()
    table: ProviderTable = field(default_factory=ProviderTable)


def configured_providers(
    settings: WeirSettings, environment: Mapping[str, str]
) -> list[ConfiguredProvider]:
    """The providers by the vendors' usual variables and by `weir.toml`; may be none."""
    vendors = {vendor.name: vendor for vendor in VENDORS}
    found = [
        provider
        for vendor in VENDORS
        if (table := settings.providers.get(vendor.name, ProviderTable())).enabled
        and (
            provider := _of_vendor(
                vendor, table, environment, asked=vendor.name in settings.providers
            )
        )
    ]
    for name, table in settings.providers.items():
        if name in vendors or not table.enabled:
            continue
        if table.base_url is None:
            raise ConfigurationError(f"[providers.{name}] of {TOML_FILE} needs a base_url")
        models = tuple(Model(model) for model in table.models or [])
        found.append(
            ConfiguredProvider(
                name,
                table.dialect or "openai",
                table.base_url,
                secrets_of(table),
                table.price_provider,
                models,
                table,
            )
        )
    return found


def _of_vendor(
    vendor: Vendor, table: ProviderTable, environment: Mapping[str, str], *, asked: bool
) -> ConfiguredProvider | None:
    """The vendor as configured, None where nothing asks for it.

    A vendor that needs a key is asked for by its key, one that needs none by its address or by
    a table in the file; one with identities (of a machine, of an account) by a table too.

    Raises ConfigurationError for a table that lacks what the vendor's address needs.
    """
    usual = [name for name in (vendor.key_variable, *vendor.more_keys) if name]
    named = secrets_of(table, next((name for name in usual if environment.get(name)), None))
    secrets = tuple(
        secret
        for secret in named
        if not secret.startswith("env:") or environment.get(secret.removeprefix("env:"))
    )
    given = table.base_url or environment.get(vendor.url_variable)
    unkeyed = vendor.key_variable is None and (given or table.model_fields_set)
    if not (secrets or unkeyed or (asked and vendor.identity)):
        return None
    base_url = given or fill(vendor.base_url, environment)
    options = {name: fill(text, environment) for name, text in vendor.options.items()}
    if not secrets and vendor.identity:
        options["auth"] = vendor.identity
    options |= table.options
    missing = [name for name, text in (("base_url", base_url), *options.items()) if text is None]
    if base_url is None or missing:
        if not asked:
            return None  # a key that other programs use too
        raise ConfigurationError(
            f"[providers.{vendor.name}] of {TOML_FILE} needs {missing[0]}, or one of the variables "
            f"{', '.join(sorted(vendor.variables))}"
        )
    names = table.models
    models = vendor.models if names is None else tuple(Model(name) for name in names)
    merged = {
        "options": options,
        "quirks": [*vendor.quirks, *(word for word in table.quirks if word not in vendor.quirks)],
        "speaks": [*vendor.speaks, *(name for name in table.speaks if name not in vendor.speaks)],
    }
    return ConfiguredProvider(
        vendor.name,
        table.dialect or vendor.dialect,
        base_url,
        secrets,
        table.price_provider or vendor.price_provider,
        models,
        table.model_copy(update=merged),
    )


def secrets_of(table: ProviderTable, usual_variable: str | None = None) -> tuple[str, ...]:
    """Where a provider's keys lie (``env:NAME``, ``file:PATH``); the vendor's variable unless said."""
    variables = table.key_env or ([usual_variable] if usual_variable and not table.key_file else [])
    files = [str(Path(name).expanduser().absolute()) for name in table.key_file]
    return (*(f"env:{name}" for name in variables), *(f"file:{name}" for name in files))


def uses_sandbox(settings: WeirSettings, environment: Mapping[str, str]) -> bool:
    """Whether the sandbox stands in for the vendors: asked for, or nothing else is configured."""
    if settings.sandbox == "auto":
        return not configured_providers(settings, environment)
    return settings.sandbox == "on"


def effective_providers(
    settings: WeirSettings, environment: Mapping[str, str]
) -> list[ConfiguredProvider]:
    """What the gateway shall know: the configured providers, with the sandbox in their place."""
    if not uses_sandbox(settings, environment):
        return configured_providers(settings, environment)
    origin = f"http://127.0.0.1:{settings.sandbox_port}"
    own = [
        provider
        for provider in configured_providers(settings, environment)
        if provider.name not in {"openai", "anthropic"}
    ]
    stand_ins = [
        ConfiguredProvider(
            vendor.name,
            vendor.dialect,
            f"{origin}/v1" if vendor.dialect == "openai" else origin,
            (f"env:{SANDBOX_SECRET}",),
            vendor.price_provider,
            vendor.models,
            ProviderTable(speaks=list(vendor.speaks)),
        )
        for vendor in VENDORS
        if vendor.name in {"openai", "anthropic"}
    ]
    return [*stand_ins, *own]


def fingerprint(settings: WeirSettings, environment: Mapping[str, str]) -> str:
    """A digest of all that running parts were started with; secrets enter it hashed only."""
    relevant = {
        name: value
        for name, value in environment.items()
        if name.startswith("WEIR_") or any(name in vendor.variables for vendor in VENDORS)
    }
    facts = [__version__, settings.model_dump(mode="json"), sorted(relevant.items())]
    text = msgspec.json.encode(facts)
    secrets = [settings.kafka.sasl_password, settings.master_key]
    plain = "".join(secret.get_secret_value() for secret in secrets if secret)
    return hashlib.sha256(text + plain.encode()).hexdigest()[:16]
