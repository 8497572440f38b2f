"""The tables of `weir.toml`, of an apply file and of the administration API: one form for all three.

Names are snake_case; camelCase is taken too. Money is US dollars as a decimal, times are UTC.
"""

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasGenerator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)
from pydantic.alias_generators import to_camel

from schemas.money import from_usd


def _either_case(name: str) -> AliasChoices:
    return AliasChoices(name, to_camel(name))


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _in_nano_usd(amount: Decimal) -> Decimal:
    from_usd(amount)  # raises ValueError where a digit would be lost
    return amount


Names = Annotated[list[str], BeforeValidator(_one_or_more)]
"""One text, or a list of texts."""
Usd = Annotated[
    Decimal, Field(ge=0, examples=["12.50"]), BeforeValidator(str), AfterValidator(_in_nano_usd)
]
"""An amount of US dollars."""
Ratio = Annotated[float, Field(ge=0, le=1)]
PerMinute = Annotated[int, Field(gt=0)]


class Table(BaseModel):
    """A table whose unknown names are errors: a misspelled setting must not be lost in silence."""

    model_config = ConfigDict(
        extra="forbid", alias_generator=AliasGenerator(validation_alias=_either_case)
    )


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

    target: str = Field(description="provider/model", examples=["openai/gpt-4o-mini"])
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
