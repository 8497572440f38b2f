"""Accepted commands: each carries the whole entity, so the last one per key is its state."""

from __future__ import annotations

from typing import Self

import msgspec

from schemas.event import Event, Topic

IDENTITY = Topic("weir.identity.changes.v1", partitions=1)
ROUTING = Topic("weir.routing.changes.v1", partitions=1)
PRICES = Topic("weir.prices.changes.v1", partitions=1)
BUDGETS = Topic("weir.budgets.changes.v1", partitions=1)
DEPLOYMENTS = Topic("weir.deployments.changes.v1", partitions=1)
MODELS = Topic("weir.models.changes.v1", partitions=1)


class Change(Event, frozen=True, kw_only=True):
    """`entity_version` counts the changes of one entity; `actor` is a key id or a part's name.

    Of two changes that were made of the same version the first in partition order is in force; the
    other one follows nothing and every reader passes over it. A deletion ends the count, so what is
    made anew under the same key begins at 1.
    """

    entity_version: int
    actor: str
    deleted: bool = False

    def follows(self, current: Self | None) -> bool:
        """Whether this change was made of the version that is in force."""
        return self.entity_version == (current.entity_version if current else 0) + 1


class KeyChanged(Change, frozen=True, kw_only=True):
    """An API key. Only `secret_hash` (SHA-256 of the key, hex) is ever stored.

    `models` are patterns (``*``, ``?``) of the names that it may ask for, all when empty. After a
    rotation the previous secret stays valid until `previous_expires_at_us`.
    """

    topic = IDENTITY
    type = "weir.identity.key.changed"
    version = 2

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
    organization: str | None = None
    models: list[str] = msgspec.field(default_factory=list)
    previous_secret_hash: str | None = None
    previous_expires_at_us: int | None = None
    tags: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def key(self) -> str:
        return self.key_id


class TenantChanged(Change, frozen=True, kw_only=True):
    """Someone on whose behalf keys call: `kind` is organization, team, project, user or cost_center.

    `parent` names the tenant above, as ``kind:id``. A disabled tenant's keys are refused; `models`
    narrows what they may ask for, as in a key.
    """

    topic = IDENTITY
    type = "weir.identity.tenant.changed"

    kind: str
    tenant_id: str
    name: str
    parent: str | None = None
    models: list[str] = msgspec.field(default_factory=list)
    enabled: bool = True
    metadata: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"tenant:{self.kind}:{self.tenant_id}"


class ProviderChanged(Change, frozen=True, kw_only=True):
    """A vendor's address. `secret` names where the key lies (``env:OPENAI_API_KEY``), never it.

    `secrets` are further keys of the same account, used in turn. `speaks` are further dialects
    beside `dialect`. `base_url` may hold ``{model}``. `options` are what one wire needs and others
    do not (``auth``, ``query``, ``region``…); `quirks` are words for what a vendor does differently.
    The limits are those known beforehand; what the vendor's answers say wins.
    """

    topic = ROUTING
    type = "weir.routing.provider.changed"
    version = 2

    name: str
    dialect: str
    base_url: str
    secret: str | None = None
    price_provider: str | None = None
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    enabled: bool = True
    secrets: list[str] = msgspec.field(default_factory=list)
    speaks: list[str] = msgspec.field(default_factory=list)
    options: dict[str, str] = msgspec.field(default_factory=dict)
    quirks: list[str] = msgspec.field(default_factory=list)
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None

    @property
    def key(self) -> str:
        return f"provider:{self.name}"


class TargetChanged(Change, frozen=True, kw_only=True):
    """A listed model of a provider; its id is ``provider/model``.

    `quality` and `task_quality` (by task type) lie within 0–1.
    """

    topic = ROUTING
    type = "weir.routing.target.changed"
    version = 2

    provider: str
    model: str
    capabilities: list[str]
    context_length: int | None = None
    max_output_tokens: int | None = None
    quality: float | None = None
    enabled: bool = True
    task_quality: dict[str, float] = msgspec.field(default_factory=dict)
    quirks: list[str] = msgspec.field(default_factory=list)

    @property
    def key(self) -> str:
        return f"target:{self.provider}/{self.model}"


class RouteTarget(msgspec.Struct, frozen=True):
    """A target of a route; higher `priority` first, `weight` shares traffic inside it.

    It takes only calls of these task types, complexities and tags; empty takes all.
    """

    target: str
    weight: int = 1
    priority: int = 0
    task_types: list[str] = msgspec.field(default_factory=list)
    complexities: list[str] = msgspec.field(default_factory=list)
    tags: dict[str, str] = msgspec.field(default_factory=dict)


class RouteChanged(Change, frozen=True, kw_only=True):
    """A name that clients may use as `model`: an alias (one target) or a route (several).

    Limits are milliseconds; `attempts` bounds upstream calls per request. `durability` is
    written, synced or replicated; `content_mode` full, masked or none; `buffered` holds a stream
    back until it is whole, so that a broken one can be answered by the next target.

    `unsupported` says what becomes of parameters that a target lacks: drop or error. Targets
    below `quality_floor`, above `max_cost_nano_usd` (expected, per call) or slower than
    `max_latency_ms` (p95) are left out while others remain. `cache_ttl_s` 0 caches nothing;
    `guardrails` run in this order; `options` are the strategy's own.
    """

    topic = ROUTING
    type = "weir.routing.route.changed"
    version = 2

    name: str
    targets: list[RouteTarget]
    strategy: str = "balanced"
    durability: str = "written"
    content_mode: str = "full"
    buffered: bool = False
    attempts: int = 3
    connect_timeout_ms: int = 5_000
    first_token_timeout_ms: int = 60_000
    stall_timeout_ms: int = 30_000
    total_timeout_ms: int = 600_000
    enabled: bool = True
    unsupported: str = "drop"
    quality_floor: float | None = None
    max_cost_nano_usd: int | None = None
    max_latency_ms: int | None = None
    cache_ttl_s: int = 0
    guardrails: list[str] = msgspec.field(default_factory=list)
    detect_tasks: bool = False
    options: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"route:{self.name}"


class GuardrailChanged(Change, frozen=True, kw_only=True):
    """A check that routes may name: `kind` is a plug-in's name (pii, words, schema…).

    `stages` are request and response; `action` is block, mask or flag; `words` and `options` are
    the plug-in's own.
    """

    topic = ROUTING
    type = "weir.routing.guardrail.changed"

    name: str
    kind: str
    stages: list[str]
    action: str = "block"
    words: list[str] = msgspec.field(default_factory=list)
    options: dict[str, str] = msgspec.field(default_factory=dict)
    enabled: bool = True

    @property
    def key(self) -> str:
        return f"guardrail:{self.name}"


class PriceTier(msgspec.Struct, frozen=True, kw_only=True):
    """What a call costs whose input is longer than this: all of it, not only what is beyond.

    Prices as in `PriceChanged`, each in place of the one there.
    """

    above_input_tokens: int
    input_price: int | None
    cached_input_price: int | None = None
    output_price: int | None
    cache_write_input_price: int | None = None
    unit_prices: dict[str, int] = msgspec.field(default_factory=dict)


class PriceChanged(Change, frozen=True, kw_only=True):
    """Prices of a model from `valid_from_us` on, in nano-USD per million tokens.

    `unit_prices` are nano-USD per million of what is not counted in tokens, or of tokens that cost
    otherwise: image, character, audio_ms, search, call, input_audio_tokens…
    `tiers` hold for calls with a longer input, the shortest first.
    """

    topic = PRICES
    type = "weir.prices.price.changed"
    version = 3

    provider: str
    model: str
    valid_from_us: int
    input_price: int | None
    cached_input_price: int | None = None
    output_price: int | None
    price_version: str
    source: str
    cache_write_input_price: int | None = None
    unit_prices: dict[str, int] = msgspec.field(default_factory=dict)
    tiers: list[PriceTier] = msgspec.field(default_factory=list)

    @property
    def key(self) -> str:
        return f"{self.provider}/{self.model}@{self.valid_from_us}"


class BudgetChanged(Change, frozen=True, kw_only=True):
    """A spending limit (COST-02). Limits in nano-USD; periods are UTC days and months, or for ever.

    `on_exceeded` is reroute (to targets that cost nothing), block or alert_only.
    """

    topic = BUDGETS
    type = "weir.budgets.budget.changed"
    version = 2

    budget_id: str
    scope: str
    scope_id: str | None = None
    daily_limit_nano_usd: int | None = None
    monthly_limit_nano_usd: int | None = None
    warning_threshold: float = 0.8
    on_exceeded: str = "reroute"
    total_limit_nano_usd: int | None = None
    name: str | None = None
    enabled: bool = True

    @property
    def key(self) -> str:
        return self.budget_id


class LimitChanged(Change, frozen=True, kw_only=True):
    """A limit on the pace of calls, shared by all workers.

    `scope` is global, key, user, team, project, organization, model or ip; `scope_id` None holds
    for each of them by itself. `endpoint` is a pattern (``*``) of the paths that it holds for, all
    when None.
    """

    topic = BUDGETS
    type = "weir.budgets.limit.changed"

    limit_id: str
    scope: str
    scope_id: str | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    enabled: bool = True
    endpoint: str | None = None

    @property
    def key(self) -> str:
        return f"limit:{self.limit_id}"


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
