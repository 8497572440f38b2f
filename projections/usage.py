"""`GET /commercial/usage` (GW-06): what the vendors were asked, gave, cost and refused, from the log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from projections.database import Database
from projections.moments import Moment, naive, utc
from schemas.errors import InvalidRequest
from schemas.money import to_usd

PATHS = ("/commercial/usage", "/api/v1/commercial/usage")
SPAN = timedelta(days=30)
"""What is told when nobody says from when on."""
PERIODS_MAX = 1_000
_PERIOD_S = {"hour": 3_600, "day": 86_400, "week": 7 * 86_400, "month": 28 * 86_400}

Period = Literal["hour", "day", "week", "month"]

# A call is counted where it ended, a refusal of a vendor's limit where it was met: a call that was
# refused by one vendor and answered by another counts one wait there and one request here. What calls
# cost is unknown until a line of the ledger says it.
_STATEMENT = """
WITH figures AS (
    SELECT
        occurred_at, provider, model,
        1 AS requests,
        CAST(outcome IN ('failed', 'abandoned') AS INTEGER) AS errors,
        coalesce(input_tokens, 0) AS input_tokens,
        coalesce(cached_input_tokens, 0) AS cached_input_tokens,
        coalesce(output_tokens, 0) AS output_tokens,
        NULL AS cost_nano_usd,
        0 AS limit_waits,
        latency_us
    FROM responses
    UNION ALL
    SELECT occurred_at, provider, model, 0, 0, 0, 0, 0, cost_nano_usd, 0, NULL
    FROM costs
    WHERE entry <> 'admitted'
    UNION ALL
    SELECT
        occurred_at,
        split_part(attempt.target, '/', 1),
        substr(attempt.target, strpos(attempt.target, '/') + 1),
        0, 0, 0, 0, 0, NULL, 1, NULL
    FROM (SELECT occurred_at, unnest(attempts) AS attempt FROM responses)
    WHERE attempt.error_class = 'rate_limit'
)
SELECT
    $GROUP,
    CAST(coalesce(sum(requests), 0) AS BIGINT) AS requests,
    CAST(coalesce(sum(errors), 0) AS BIGINT) AS errors,
    CAST(coalesce(sum(limit_waits), 0) AS BIGINT) AS limit_waits,
    CAST(coalesce(sum(input_tokens), 0) AS BIGINT) AS input_tokens,
    CAST(coalesce(sum(cached_input_tokens), 0) AS BIGINT) AS cached_input_tokens,
    CAST(coalesce(sum(output_tokens), 0) AS BIGINT) AS output_tokens,
    CASE WHEN sum(requests) > 0 THEN sum(cost_nano_usd) ELSE coalesce(sum(cost_nano_usd), 0) END
        AS cost_nano_usd,
    quantile_cont(latency_us, 0.5) AS latency_p50_us,
    quantile_cont(latency_us, 0.95) AS latency_p95_us
FROM figures
WHERE occurred_at >= ? AND occurred_at < ? AND $FILTERS
GROUP BY ALL
ORDER BY ALL
"""


class Figures(BaseModel):
    """What calls came to."""

    requests: int = Field(description="calls that ended")
    errors: int = Field(description="of them, those that failed or were abandoned")
    error_rate: float = Field(description="errors of requests, 0 to 1")
    limit_waits: int = Field(description="attempts that a vendor refused for its rate limit")
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost_usd: str | None = Field(
        description="as the ledger has it; null while it has a price of none of the calls",
        examples=["0.012345"],
    )
    latency_p50_ms: float | None = Field(description="half of the calls took at most so long")
    latency_p95_ms: float | None = Field(description="of twenty calls, nineteen")


class ModelUsage(Figures):
    """A model's figures in one period."""

    period: datetime = Field(description="when the period begins (UTC)")
    provider: str | None = Field(description="null for calls that no vendor was chosen for")
    model: str | None


class PeriodUsage(Figures):
    """All figures of one period."""

    period: datetime = Field(description="when the period begins (UTC)")


class ProviderUsage(Figures):
    """A provider beside the others."""

    provider: str | None
    request_share: float = Field(description="its part of all requests, 0 to 1")
    cost_share: float = Field(description="its part of all costs, 0 to 1")
    cost_per_request_usd: str | None = Field(description="null without requests or their cost")


class Trend(BaseModel):
    """The periods, and how the whole compares with as long a time before."""

    periods: list[PeriodUsage]
    before: Figures = Field(description="the time of the same length that ended at `since`")
    requests_change: float | None = Field(description="0.5: half as many again; null: none before")
    cost_change: float | None = Field(description="likewise, of the cost; null while it is unknown")


class CommercialUsage(BaseModel):
    """The vendors' use from `since` until before `until`."""

    since: datetime
    until: datetime
    period: Period
    total: Figures
    usage: list[ModelUsage] = Field(description="by period, provider and model")
    trend: Trend
    providers: list[ProviderUsage] = Field(description="the dearest first")


class Usage:
    """Questions to the database about a span of time and, if wanted, one provider or model."""

    def __init__(self, database: Database, provider: str | None, model: str | None) -> None:
        wanted = {"provider": provider, "model": model}
        given = {name: value for name, value in wanted.items() if value is not None}
        self._database = database
        self._filters = " AND ".join(f"{name} = ?" for name in given) or "true"
        self._values = list(given.values())

    def by(self, group: str, since: datetime, until: datetime) -> list[dict[str, Any]]:
        """Return figures by an expression of columns of ours; times are UTC."""
        statement = _STATEMENT.replace("$GROUP", group).replace("$FILTERS", self._filters)
        span = [naive(moment) for moment in (since, until)]
        return self._database.records(statement, [*span, *self._values])

    def total(self, since: datetime, until: datetime) -> dict[str, Any]:
        """Return the figures of a whole span."""
        [row] = self.by("true AS whole", since, until)  # nothing to group by: one row, always
        return row


def router(live: Callable[[], Database]) -> APIRouter:
    """Return the routes; `live` gives the database of now."""
    routes = APIRouter(tags=["providers"])

    def usage(
        since: Annotated[
            Moment | None, Query(description="30 days before `until` unless said; UTC")
        ] = None,
        until: Annotated[Moment | None, Query(description="now unless said; UTC")] = None,
        period: Annotated[Period, Query(description="how long a period is")] = "day",
        provider: Annotated[str | None, Query(description="of one provider")] = None,
        model: Annotated[str | None, Query(description="of one model")] = None,
    ) -> CommercialUsage:
        end = utc(until) if until else datetime.now(UTC)
        begin = utc(since) if since else end - SPAN
        _check(begin, end, period)
        return _answer(Usage(live(), provider, model), begin, end, period)

    for path in PATHS:
        routes.get(path, summary="Requests, tokens, cost, errors and limits met, by vendor")(usage)
    return routes


def _answer(usage: Usage, since: datetime, until: datetime, period: Period) -> CommercialUsage:
    start = f"date_trunc('{period}', occurred_at) AS period"
    total = usage.total(since, until)
    before = usage.total(since - (until - since), since)
    models = usage.by(f"{start}, provider, model", since, until)
    providers = usage.by("provider", since, until)
    return CommercialUsage(
        since=since,
        until=until,
        period=period,
        total=Figures(**_figures(total)),
        usage=[
            ModelUsage(
                period=utc(row["period"]),
                provider=row["provider"],
                model=row["model"],
                **_figures(row),
            )
            for row in models
        ],
        trend=Trend(
            periods=[
                PeriodUsage(period=utc(row["period"]), **_figures(row))
                for row in usage.by(start, since, until)
            ],
            before=Figures(**_figures(before)),
            requests_change=_change(before["requests"], total["requests"]),
            cost_change=_change(before["cost_nano_usd"], total["cost_nano_usd"]),
        ),
        providers=_compared(providers, total),
    )


def _compared(rows: Sequence[dict[str, Any]], total: dict[str, Any]) -> list[ProviderUsage]:
    dearest = sorted(rows, key=lambda row: (-(row["cost_nano_usd"] or 0), -row["requests"]))
    return [
        ProviderUsage(
            provider=row["provider"],
            request_share=_share(row["requests"], total["requests"]),
            cost_share=_share(row["cost_nano_usd"] or 0, total["cost_nano_usd"] or 0),
            cost_per_request_usd=(
                to_usd(int(row["cost_nano_usd"]) // row["requests"])
                if row["requests"] and row["cost_nano_usd"] is not None
                else None
            ),
            **_figures(row),
        )
        for row in dearest
    ]


def _figures(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row's figures as they go out: money as decimal text, durations in milliseconds."""
    counts = ("requests", "errors", "limit_waits")
    tokens = ("input_tokens", "cached_input_tokens", "output_tokens")
    found: dict[str, Any] = {name: row[name] for name in (*counts, *tokens)}
    for name in ("latency_p50", "latency_p95"):
        latency_us = row[f"{name}_us"]
        found[f"{name}_ms"] = None if latency_us is None else round(latency_us / 1000, 3)
    cost = row["cost_nano_usd"]
    found["cost_usd"] = None if cost is None else to_usd(int(cost))
    found["error_rate"] = _share(found["errors"], found["requests"])
    return found


def _check(since: datetime, until: datetime, period: Period) -> None:
    if since >= until:
        raise InvalidRequest("'since' is not before 'until'", action="Name a span that has begun.")
    if (until - since).total_seconds() / _PERIOD_S[period] > PERIODS_MAX:
        raise InvalidRequest(
            f"that are more than {PERIODS_MAX} periods",
            action="Ask for a longer period, or a shorter span.",
        )


def _share(part: float, whole: float) -> float:
    return round(float(part) / float(whole), 6) if whole else 0.0


def _change(before: float | None, now: float | None) -> float | None:
    return round(float(now) / float(before) - 1, 6) if before and now is not None else None
