"""Accepted commands: each carries the whole entity, so the last one per key is its state."""

from __future__ import annotations

import msgspec

from schemas.event import Event, Topic

IDENTITY = Topic("weir.identity.changes.v1", partitions=1)
ROUTING = Topic("weir.routing.changes.v1", partitions=1)
PRICES = Topic("weir.prices.changes.v1", partitions=1)
BUDGETS = Topic("weir.budgets.changes.v1", partitions=1)
DEPLOYMENTS = Topic("weir.deployments.changes.v1", partitions=1)
MODELS = Topic("weir.models.changes.v1", partitions=1)


class Change(Event, frozen=True, kw_only=True):
    """`entity_version` counts the changes of one entity; `actor` is a key id or a part's name."""

    entity_version: int
    actor: str
    deleted: bool = False


class KeyChanged(Change, frozen=True, kw_only=True):
    """An API key. Only `secret_hash` (SHA-256 of the key, hex) is ever stored."""

    topic = IDENTITY
    type = "weir.identity.key.changed"

    key_id: str
    name: str
    secret_hash: str
    scopes: list[str]
    team: str | None = None
    project: str | None = None
    user_id: str | None = None
    cost_center: str | None = None
    content_mode: str | None = None
    expires_at_us: int | None = None
    revoked: bool = False

    @property
    def key(self) -> str:
        return self.key_id


class ProviderChanged(Change, frozen=True, kw_only=True):
    """A vendor's address. `secret` names where the key lies (``env:OPENAI_API_KEY``), never it."""

    topic = ROUTING
    type = "weir.routing.provider.changed"

    name: str
    dialect: str
    base_url: str
    secret: str | None = None
    price_provider: str | None = None
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    enabled: bool = True

    @property
    def key(self) -> str:
        return f"provider:{self.name}"


class TargetChanged(Change, frozen=True, kw_only=True):
    """A listed model of a provider; its id is ``provider/model``."""

    topic = ROUTING
    type = "weir.routing.target.changed"

    provider: str
    model: str
    capabilities: list[str]
    context_length: int | None = None
    max_output_tokens: int | None = None
    quality: float | None = None
    enabled: bool = True

    @property
    def key(self) -> str:
        return f"target:{self.provider}/{self.model}"


class RouteTarget(msgspec.Struct, frozen=True):
    """A target of a route; higher `priority` first, `weight` shares traffic inside it."""

    target: str
    weight: int = 1
    priority: int = 0


class RouteChanged(Change, frozen=True, kw_only=True):
    """A name that clients may use as `model`: an alias (one target) or a route (several).

    Limits are milliseconds; `attempts` bounds upstream calls per request. `durability` is
    written, synced or replicated; `content_mode` full, masked or none; `buffered` holds a stream
    back until it is whole, so that a broken one can be answered by the next target.
    """

    topic = ROUTING
    type = "weir.routing.route.changed"

    name: str
    targets: list[RouteTarget]
    strategy: str = "balanced"
    durability: str = "written"
    content_mode: str = "full"
    buffered: bool = False
    attempts: int = 2
    connect_timeout_ms: int = 5_000
    first_token_timeout_ms: int = 60_000
    stall_timeout_ms: int = 30_000
    total_timeout_ms: int = 600_000
    enabled: bool = True

    @property
    def key(self) -> str:
        return f"route:{self.name}"


class PriceChanged(Change, frozen=True, kw_only=True):
    """Prices of a model from `valid_from_us` on, in nano-USD per million tokens."""

    topic = PRICES
    type = "weir.prices.price.changed"

    provider: str
    model: str
    valid_from_us: int
    input_price: int | None
    cached_input_price: int | None = None
    output_price: int | None
    price_version: str
    source: str

    @property
    def key(self) -> str:
        return f"{self.provider}/{self.model}@{self.valid_from_us}"


class BudgetChanged(Change, frozen=True, kw_only=True):
    """A spending limit (COST-02). Limits in nano-USD; periods are UTC days and months."""

    topic = BUDGETS
    type = "weir.budgets.budget.changed"

    budget_id: str
    scope: str
    scope_id: str | None = None
    daily_limit_nano_usd: int | None = None
    monthly_limit_nano_usd: int | None = None
    warning_threshold: float = 0.8
    on_exceeded: str = "reroute"

    @property
    def key(self) -> str:
        return self.budget_id


class ModelVersionChanged(Change, frozen=True, kw_only=True):
    """A version in the registry (REG-01); `status` moves as the registry's state machine says."""

    topic = MODELS
    type = "weir.models.version.changed"

    model_version_id: str
    name: str
    status: str
    base_model: str
    run_id: str | None = None
    dataset_id: str | None = None
    files: dict[str, str] = msgspec.field(default_factory=dict)
    metrics: dict[str, float] = msgspec.field(default_factory=dict)
    metadata: dict[str, str] = msgspec.field(default_factory=dict)
    reason: str | None = None

    @property
    def key(self) -> str:
        return self.model_version_id


class DeploymentChanged(Change, frozen=True, kw_only=True):
    """A version served under `model`; `percentage` of its baseline's traffic goes to it.

    `state` is a word of CANARY-02; a direct deployment has percentage 0 and is used by name.
    """

    topic = DEPLOYMENTS
    type = "weir.deployments.deployment.changed"

    deployment_id: str
    model_version_id: str
    model: str
    provider: str
    environment: str = "production"
    state: str
    percentage: int = 0
    baseline_deployment_id: str | None = None
    reason: str | None = None

    @property
    def key(self) -> str:
        return self.deployment_id
