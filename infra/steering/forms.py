"""What `/api/ai/health`, `/api/phase3/status` and the insights tell."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from infra.savings_api import Saving


class ProviderHealth(BaseModel):
    """A provider now, over the last 15 minutes, and what it did in 24 hours; rates are null without calls."""

    name: str = Field(examples=["openai"])
    status: str = Field(description="healthy, degraded, unhealthy, idle or disabled")
    circuit: str = Field(description="the worst of its targets: closed, half_open or open")
    success_rate: float | None = Field(
        description="of what it was asked in the last 15 minutes, retries too", examples=[0.998]
    )
    latency_ms: float | None = Field(description="mean of the same")
    cost_usd: str = Field(description="of its calls of 24 hours, as settled", examples=["1.25"])
    tasks: int = Field(description="calls that it answered in 24 hours")
    share: float = Field(description="of all calls of 24 hours", examples=[0.4])


class TaskHour(BaseModel):
    """One hour of calls."""

    hour: datetime
    calls: int
    failures: int


class Tasks(BaseModel):
    """What was asked in 24 hours."""

    distribution: dict[str, int] = Field(description="calls by task type")
    history: list[TaskHour] = Field(description="by hour, oldest first")


class BudgetState(BaseModel):
    """A budget in short."""

    id: str
    status: str = Field(examples=["ok"])
    limit_usd: str
    spent_usd: str
    percent: float


class RuleState(BaseModel):
    """A rule of the optimizer and whose calls it shifts now."""

    rule: str = Field(examples=["high_latency"])
    mode: str = Field(description="on, propose or off")
    targets: list[str]


class Action(BaseModel):
    """A change of the optimizer."""

    id: str
    rule: str
    target: str
    alternative: str | None
    state: str = Field(examples=["active"])
    keeps: float = Field(description="the part of its calls that the target keeps")
    reason: str
    metric: str
    before: float | None
    after: float | None
    verdict: str = Field(description="unclear, helped or worse")
    step: int
    share_before: float | None
    share_after: float | None
    at: datetime
    expires_at: datetime | None
    actor: str


class Optimization(BaseModel):
    """The optimizer in short."""

    running: bool = Field(description="it looked within the last two minutes")
    last_run: datetime | None
    active: list[Action]


class Preference(BaseModel):
    """What a tuned model has gained over its canary's baseline, and whether routing goes by it."""

    target: str
    baseline: str
    model_version_id: str
    state: str = Field(description="proposed, active or withdrawn")
    gains: dict[str, float] = Field(
        description="of quality, by task type", examples=[{"code": 0.2}]
    )
    reason: str
    metric: str
    before: float | None
    after: float | None
    at: datetime


class FineTuning(BaseModel):
    """Training in short."""

    active: int
    completed: int
    failed: int
    gain: dict[str, float] = Field(
        description="by model version: the tuned score less the base's, where it was measured"
    )
    preferences: list[Preference] = Field(description="by target; each one's last change")


class AlertState(BaseModel):
    """An alert that stands."""

    id: str
    severity: str
    status: str
    message: str


class Insight(BaseModel):
    """Something worth doing, with its reason in figures; `apply` is the action that does it."""

    id: str
    kind: str = Field(examples=["proposal"])
    title: str
    effect: float = Field(description="what it is about, relative: insights are ranked by it")
    data: dict[str, Any]
    action: str
    params: dict[str, Any]


class Variant(BaseModel):
    """One side of a canary's trial: the calls that were drawn for it."""

    target: str
    calls: int
    failures: int
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    cost_per_call_usd: str | None = Field(description="the mean, of the calls with a price")
    feedback: int = Field(description="pieces of feedback on the target meanwhile")
    liked: float | None = Field(description="their mean satisfaction, 0 to 1")


class Comparison(BaseModel):
    """One metric of both sides."""

    metric: str = Field(
        description="failures (share of calls), latency_ms and cost_usd (of the typical call: "
        "geometric means), satisfaction (0 to 1)"
    )
    canary: float
    baseline: float
    p_value: float = Field(description="always valid")
    verdict: str = Field(description="better, worse or undecided")


class CanaryState(BaseModel):
    """A canary that runs, at its present share."""

    deployment_id: str
    model_version_id: str
    state: str
    percentage: int
    since: datetime
    canary: Variant
    baseline: Variant
    comparisons: list[Comparison]


class CanaryPage(BaseModel):
    """Canaries by deployment."""

    items: list[CanaryState]
    total: int
    limit: int
    offset: int


class AiHealth(BaseModel):
    """The state of the whole (ANA-13)."""

    status: str = Field(description="healthy, degraded or unhealthy")
    reasons: list[str] = Field(description="why it is not healthy")
    as_of: datetime
    refresh_seconds: int = 30
    success_rate: float | None = Field(
        description="of the calls of the last 15 minutes: what callers saw, after failover"
    )
    total_cost_usd: str = Field(description="of 24 hours, as settled")
    average_latency_ms: float | None = Field(
        description="mean duration of the calls of the last 15 minutes that succeeded"
    )
    providers: list[ProviderHealth]
    tasks: Tasks
    budgets: list[BudgetState]
    rules: list[RuleState]
    optimization: Optimization
    fine_tuning: FineTuning
    canaries: list[CanaryState]
    recommendations: list[Insight]
    alerts: list[AlertState]


class OptimizerStatus(BaseModel):
    """The optimizer with its effect."""

    running: bool
    last_run: datetime | None
    active_rules: list[str]
    changes: dict[str, int] = Field(description="by state, each target's last")
    gain: dict[str, float] = Field(
        description="by rule: by how much its metric fell where it helped, median, relative"
    )


class CostStatus(BaseModel):
    """Budgets, and what was saved: by all means this month, and by preferring cheaper targets now."""

    budgets: list[BudgetState]
    month: Saving | None = Field(
        description="this UTC month against the dearest model that is listed, as `/admin/cost/savings` has it"
    )
    savings: dict[str, float] = Field(
        description="by target: what a call costs less at the alternative, relative"
    )


class Phase3Status(BaseModel):
    """ANA-15."""

    optimizer: OptimizerStatus
    fine_tuning: FineTuning
    cost: CostStatus
    monitoring: dict[str, Any]


class ActionPage(BaseModel):
    """Changes of the optimizer, newest first."""

    rules: list[RuleState]
    preferences: list[Preference]
    items: list[Action]
    total: int
    limit: int
    offset: int


class InsightPage(BaseModel):
    """Insights, the one with the greatest effect first."""

    items: list[Insight]
    total: int
    limit: int
    offset: int


class Command(BaseModel):
    """Something to be done."""

    action: str = Field(examples=["disable_rule"])
    params: dict[str, Any] = Field(default={}, examples=[{"rule": "cost"}])


class Done(BaseModel):
    """What was done."""

    action: str
    status: str = Field(description="done, or accepted where the log has it and we wait")
    result: dict[str, Any]
