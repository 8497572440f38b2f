"""The tables of `weir.toml`, of an apply file and of the administration API: one form for all three.

Names are snake_case; camelCase is taken too. Money is US dollars as a decimal, times are UTC.
"""

from decimal import Decimal
from math import isfinite
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasGenerator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    model_validator,
)
from pydantic.alias_generators import to_camel

from schemas.encoder import LONG_MAX
from schemas.money import TOKENS_PER_PRICE, from_usd


def _either_case(name: str) -> AliasChoices:
    return AliasChoices(name, to_camel(name))


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _in_nano_usd(amount: Decimal) -> Decimal:
    from_usd(amount)  # raises ValueError where a digit would be lost
    return amount


def _check(name: str, value: Any) -> None:
    """Refuse what no record can hold. Raises ValueError."""
    match value:
        case int() if not -LONG_MAX <= value <= LONG_MAX:
            raise ValueError(f"{name}: a number has at most 64 bits")
        case float() if not isfinite(value):
            raise ValueError(f"{name}: no number without end")
        case str() if any("\ud800" <= sign <= "\udfff" for sign in value):
            raise ValueError(f"{name}: half of a character (a lone surrogate) is no text")
        case list():
            for item in value:
                _check(name, item)
        case dict():
            for key, item in value.items():
                _check(name, key)
                _check(name, item)


def _in_nano_usd_per_million(amount: Decimal) -> Decimal:
    from_usd(amount * TOKENS_PER_PRICE)
    return amount


Names = Annotated[list[str], BeforeValidator(_one_or_more)]
"""One text, or a list of texts."""
Usd = Annotated[
    Decimal,
    Field(ge=0, examples=["12.50"]),
    BeforeValidator(str),
    AfterValidator(_in_nano_usd),
    PlainSerializer(lambda amount: format(amount, "f"), return_type=str, when_used="json"),
]
"""An amount of US dollars."""
UnitUsd = Annotated[
    Decimal,
    Field(ge=0, examples=["0.04"]),
    BeforeValidator(str),
    AfterValidator(_in_nano_usd_per_million),
    PlainSerializer(lambda amount: format(amount, "f"), return_type=str, when_used="json"),
]
"""The price of one unit: kept, like all prices, in nano-USD per million."""
Ratio = Annotated[float, Field(ge=0, le=1)]
PerMinute = Annotated[int, Field(gt=0)]


class Table(BaseModel):
    """A table whose unknown names are errors: a misspelled setting must not be lost in silence."""

    model_config = ConfigDict(
        extra="forbid", alias_generator=AliasGenerator(validation_alias=_either_case)
    )

    @model_validator(mode="after")
    def _fits_the_log(self) -> Self:
        for name in type(self).model_fields:
            _check(name, getattr(self, name))
        return self


class ProviderTable(Table):
    """`[providers.NAME]`: a known vendor's settings, or an address of your own."""

    dialect: str | None = Field(
        default=None, description="what is spoken there", examples=["openai"]
    )
    speaks: list[str] = Field(default=[], description="further dialects beside it")
    base_url: str | None = Field(
        default=None, description="where", examples=["https://api.openai.com/v1"]
    )
    key_env: Names = Field(default=[], description="variables that hold its keys, used in turn")
    key_file: Names = Field(default=[], description="files that hold its keys, used in turn")
    price_provider: str | None = Field(default=None, description="whose price list applies")
    headers: dict[str, str] = Field(default={}, description="sent with every call")
    options: dict[str, str] = Field(default={}, description="what this wire alone needs")
    quirks: list[str] = Field(default=[], description="words for what it does differently")
    models: list[str] | None = Field(default=None, description="models that are listed")
    requests_per_minute: PerMinute | None = Field(
        default=None, description="known limit of the account"
    )
    tokens_per_minute: PerMinute | None = Field(
        default=None, description="known limit of the account"
    )
    concurrency: PerMinute | None = Field(default=None, description="calls at once at most")
    enabled: bool = Field(default=True, description="false leaves it out")


class TargetTable(Table):
    """`[targets."PROVIDER/MODEL"]`: what is known of a model."""

    capabilities: list[str] = Field(
        default=["chat", "stream", "tools"], description="what it can do"
    )
    context_length: int | None = Field(default=None, gt=0, description="tokens")
    max_output_tokens: int | None = Field(default=None, gt=0, description="tokens")
    quality: Ratio | None = Field(default=None, description="0 to 1")
    task_quality: dict[str, Ratio] = Field(default={}, description="0 to 1 by task type")
    quirks: list[str] = Field(default=[], description="words for what it does differently")
    enabled: bool = Field(default=True, description="false takes it out of every choice")


class RouteTargetTable(Table):
    """One entry of a route's `targets`."""

    target: str = Field(
        description="provider/model", examples=["openai/gpt-4o-mini"], pattern="^[^/]+/.+$"
    )
    weight: int = Field(default=1, ge=0, description="its share inside its priority")
    priority: int = Field(default=0, description="higher ones first")
    task_types: list[str] = Field(default=[], description="takes these alone; all when empty")
    complexities: list[str] = Field(default=[], description="takes these alone; all when empty")
    tags: dict[str, str] = Field(default={}, description="takes calls with these tags alone")


class RouteTable(Table):
    """`[routes.NAME]`: see `schemas.events.changes.RouteChanged` for the fields' meaning."""

    targets: list[RouteTargetTable] = Field(min_length=1, description="who may answer")
    strategy: str = Field(default="balanced", description="how one of them is chosen")
    durability: Literal["written", "synced", "replicated"] = Field(
        default="written", description="when an answer may end"
    )
    content_mode: Literal["full", "masked", "none"] = Field(
        default="full", description="what is recorded of the texts"
    )
    buffered: bool = Field(default=False, description="hold a stream back until it is whole")
    attempts: int = Field(default=3, ge=1, le=10, description="upstream calls at most")
    connect_timeout_ms: int = Field(default=5_000, gt=0, description="until connected")
    first_token_timeout_ms: int = Field(default=60_000, gt=0, description="until first content")
    stall_timeout_ms: int = Field(default=30_000, gt=0, description="between two pieces")
    total_timeout_ms: int = Field(default=600_000, gt=0, description="for the whole call")
    unsupported: Literal["drop", "error"] = Field(
        default="drop", description="what becomes of parameters that a target lacks"
    )
    quality_floor: Ratio | None = Field(default=None, description="leaves worse targets out")
    max_cost_usd: Usd | None = Field(
        default=None, description="leaves dearer targets out, per call"
    )
    max_latency_ms: int | None = Field(
        default=None, gt=0, description="leaves slower targets out, p95"
    )
    cache_ttl_s: int = Field(default=0, ge=0, description="seconds; 0 caches nothing")
    guardrails: list[str] = Field(default=[], description="run in this order")
    detect_tasks: bool = Field(default=False, description="detect each call's task type")
    options: dict[str, str] = Field(default={}, description="the strategy's own")
    enabled: bool = Field(default=True, description="false takes the name away")


class GuardrailTable(Table):
    """`[guardrails.NAME]`: a check that routes may name."""

    kind: str = Field(description="the plug-in", examples=["pii"])
    stages: list[Literal["request", "response"]] = Field(
        default=["request", "response"], min_length=1, description="what it looks at"
    )
    action: Literal["block", "mask", "flag"] = Field(
        default="block", description="what it does when it finds something"
    )
    words: list[str] = Field(default=[], description="the plug-in's own")
    options: dict[str, str] = Field(default={}, description="the plug-in's own")
    enabled: bool = Field(default=True, description="false takes it out")


class TenantTable(Table):
    """`[tenants."KIND:ID"]`: an organization, team, project, user or cost_center."""

    name: str | None = Field(default=None, description="for people; the id unless given")
    parent: str | None = Field(
        default=None, description="the tenant above, kind:id", examples=["organization:acme"]
    )
    models: list[str] = Field(
        default=[],
        description="patterns (*, ?) of the names that its keys may ask for; all when empty",
        examples=[["openai/*"]],
    )
    enabled: bool = Field(default=True, description="false refuses its keys")
    metadata: dict[str, str] = Field(default={}, description="your own")


class KeyTable(Table):
    """`[keys.NAME]`: an API key; its secret is made and shown once unless a hash is given."""

    scopes: list[Literal["inference", "passthrough", "sql", "metrics", "admin"]] = Field(
        default=["inference"], min_length=1, description="what it opens"
    )
    models: list[str] = Field(
        default=[],
        description="patterns (*, ?) of the models and routes that it may ask for; all when empty",
        examples=[["openai/gpt-4o-mini", "support"]],
    )
    organization: str | None = Field(default=None, description="on whose behalf it calls")
    team: str | None = Field(default=None, description="on whose behalf it calls")
    project: str | None = Field(default=None, description="on whose behalf it calls")
    user_id: str | None = Field(default=None, description="whose calls they are unless they say")
    cost_center: str | None = Field(default=None, description="who pays")
    content_mode: Literal["full", "masked", "none"] | None = Field(
        default=None, description="what is recorded of its texts; the route's unless given"
    )
    expires_at: AwareDatetime | None = Field(
        default=None, description="when it ends", examples=["2027-01-01T00:00:00Z"]
    )
    tags: dict[str, str] = Field(default={}, description="recorded with each of its calls")
    secret_hash: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of a secret of at least 256 random bits, in hexadecimal",
    )


def _has_owner(scope: str, scope_id: str | None) -> None:
    """Raise ValueError for an owner that nobody can be: such a limit would hold for no call."""
    if scope == "global" and scope_id is not None:
        raise ValueError("scope_id: the scope global has none")
    if scope_id is not None and not scope_id.strip():
        raise ValueError("scope_id: name somebody, or leave it out: then each has his own")


class BudgetTable(Table):
    """`[budgets.ID]`: a limit on what is spent (COST-02); periods are UTC days and months."""

    name: str | None = Field(default=None, description="for people")
    scope: Literal[
        "global", "provider", "user", "team", "project", "cost_center", "organization", "key"
    ] = Field(default="global", description="whose spending")
    scope_id: str | None = Field(
        default=None, description="which one; each of them by itself when null"
    )
    daily_limit_usd: Usd | None = Field(default=None, description="per UTC day")
    monthly_limit_usd: Usd | None = Field(default=None, description="per UTC month")
    total_limit_usd: Usd | None = Field(default=None, description="for ever")
    warning_threshold: Ratio = Field(default=0.8, description="share at which it warns")
    on_exceeded: Literal["reroute", "block", "alert_only"] = Field(
        default="reroute", description="to targets that cost nothing; 402; or only told"
    )
    enabled: bool = Field(default=True, description="false lets everything through")

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.daily_limit_usd is self.monthly_limit_usd is self.total_limit_usd is None:
            raise ValueError("give daily_limit_usd, monthly_limit_usd or total_limit_usd")
        _has_owner(self.scope, self.scope_id)
        return self


class LimitTable(Table):
    """`[limits.ID]`: a limit on the pace of calls, shared by all workers."""

    scope: Literal["global", "key", "user", "team", "project", "organization", "model", "ip"] = (
        Field(default="key", description="whose calls")
    )
    scope_id: str | None = Field(
        default=None, description="which one; each of them by itself when null"
    )
    endpoint: str | None = Field(
        default=None,
        description="a pattern of paths; all of them when null",
        examples=["/v1/chat/*"],
    )
    requests_per_minute: PerMinute | None = Field(default=None, description="calls")
    tokens_per_minute: PerMinute | None = Field(default=None, description="tokens in and out")
    concurrency: PerMinute | None = Field(default=None, description="calls at once")
    enabled: bool = Field(default=True, description="false lets everything through")

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.requests_per_minute is self.tokens_per_minute is self.concurrency is None:
            raise ValueError("give requests_per_minute, tokens_per_minute or concurrency")
        _has_owner(self.scope, self.scope_id)
        return self


class RatesTable(Table):
    """What a call costs, per million tokens and per unit."""

    input_usd_per_million: Usd | None = Field(default=None, description="null: unknown")
    cached_input_usd_per_million: Usd | None = Field(default=None, description="from its cache")
    cache_write_input_usd_per_million: Usd | None = Field(default=None, description="to its cache")
    output_usd_per_million: Usd | None = Field(default=None, description="null: unknown")
    unit_usd: dict[str, UnitUsd] = Field(
        default={},
        description="per unit of what is not counted in tokens, or of a kind that costs otherwise",
        examples=[{"image": "0.04", "image/high/1024x1024": "0.17", "character": "0.000015"}],
    )


class TierTable(RatesTable):
    """What a call with a longer input costs, all of it; what is left out costs as for a shorter one."""

    above_input_tokens: int = Field(gt=0, examples=[200_000])


class PriceTable(RatesTable):
    """`[prices."PROVIDER/MODEL"]`: what a model costs from a time on."""

    valid_from: AwareDatetime | None = Field(
        default=None, description="since when; now unless given", examples=["2026-01-01T00:00:00Z"]
    )
    tiers: list[TierTable] = Field(
        default=[], max_length=16, description="for longer inputs, the shortest first"
    )
    price_version: str = Field(default="custom", description="recorded with each cost")

    @model_validator(mode="after")
    def _ascend(self) -> Self:
        starts = [tier.above_input_tokens for tier in self.tiers]
        if starts != sorted(set(starts)):
            raise ValueError("tiers: name them by ascending above_input_tokens, each once")
        return self
