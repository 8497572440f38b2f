"""The forms of what happens right now. Money is exact, in USD, times are UTC."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field


class Spend(BaseModel):
    """What was spent, by window."""

    last_minute: str = Field(description="of 50 to 60 s back", examples=["0.0125"])
    last_5_minutes: str
    last_hour: str = Field(description="of 59 to 60 minutes back, of the ledger")
    day: str = Field(description="the UTC day so far, of the ledger")
    month: str = Field(description="the UTC month so far, of the ledger")


class Top(BaseModel):
    """One of those who spent most in the last hour."""

    name: str = Field(examples=["ada"])
    spent: str = Field(description="US dollars as the calls ended, without later corrections")
    calls: int
    tokens: int


class Budget(BaseModel):
    """A budget in its tightest window."""

    id: str
    scope: str
    limit: str
    spent: str
    percent: float
    projected: str | None = Field(description="by the window's end at the pace so far")
    status: str = Field(description="ok, warning or exceeded")


class CostNow(BaseModel):
    """What is spent now."""

    at: datetime
    day: str = Field(examples=["2026-11-21"])
    month: str = Field(examples=["2026-11"])
    spend: Spend
    burn_rate_usd_per_hour: str = Field(description="at the pace of the last five minutes")
    burn_rate_usd_per_day: str
    tokens_last_minute: int
    top_users: list[Top]
    top_models: list[Top]
    top_teams: list[Top]
    budgets: list[Budget] = Field(description="those spent most first, 100 at most")


class Provider(BaseModel):
    """A target in the last five minutes."""

    provider: str
    model: str
    circuit: str = Field(description="closed, open or half_open")
    calls: int
    failure_rate: float | None = Field(description="0 to 1; null without calls")
    latency_ms: float | None = Field(description="the average of what succeeded")
    latency_p95_ms: float | None = Field(description="of the last minute's attempts")
    spent: str


class Standing(BaseModel):
    """An alert that stands."""

    id: str
    type: str
    severity: str
    status: str
    message: str


class DashboardNow(BaseModel):
    """What happens now; rates are of the last minute."""

    at: datetime
    refresh_seconds: int = Field(default=30, description="how often to ask who does not listen")
    health: str = Field(description="ok, or degraded: a part is silent, or an error stands")
    silent_parts: list[str] = Field(description="parts without a heartbeat for 15 s")
    requests_per_second: float
    failure_rate: float | None = Field(description="0 to 1; null without calls")
    latency_ms: float | None = Field(description="the average of calls that succeeded")
    latency_p95_ms: float | None = Field(description="of attempts at providers")
    cost_usd_per_hour: str
    active_users: int = Field(description="in the last ten to twenty minutes")
    active_calls: int = Field(description="in flight at this machine's workers")
    active_jobs: int = Field(description="runs of the trainer that have not ended")
    providers: list[Provider]
    alerts_standing: int
    alerts: list[Standing] = Field(description="the newest 20")
    resources: dict[str, Any] = Field(description="of control's machine")
