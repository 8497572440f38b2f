"""What routing talks about: targets, their live health, and the decision."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from schemas.events.llm import Candidate
from schemas.events.tables import HealthBucket, HealthRow
from schemas.histogram import merge, quantile

LOCAL: Final = "local"
"""The provider of our own models, which cost nothing."""
BUCKET_SECONDS: Final = 10


@dataclass(frozen=True, slots=True)
class Target:
    """A model at a provider, ready to be called."""

    provider: str
    model: str
    capabilities: frozenset[str] = frozenset()
    context_length: int | None = None
    max_output_tokens: int | None = None
    quality: float | None = None
    deployment_id: str | None = None
    task_quality: dict[str, float] = field(default_factory=dict)
    quirks: list[str] = field(default_factory=list)
    id: str = ""
    """``provider/model``; made from these where it is not given."""

    def __post_init__(self) -> None:
        # Asked for a dozen times in every call: a name worth keeping.
        if not self.id:
            object.__setattr__(self, "id", f"{self.provider}/{self.model}")


@dataclass(frozen=True, slots=True)
class TargetHealth:
    """A target over a recent window: counts, and latency quantiles in microseconds."""

    target: str
    calls: int = 0
    failures: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    latency_p50_us: float | None = None
    latency_p95_us: float | None = None
    first_token_p95_us: float | None = None

    @property
    def success_rate(self) -> float | None:
        """Share of calls that succeeded, None without calls."""
        return None if self.calls == 0 else 1 - self.failures / self.calls


@dataclass(frozen=True, slots=True)
class Decision:
    """The choice of a first target, with all that explains it.

    `order` is the failover order, `last_resort` what is tried when it brought no answer: models
    of one's own, then targets that were left out for their circuits. `trials` are the canaries'
    that the call was drawn into, with its side.
    """

    chosen: Target
    order: list[Target]
    candidates: list[Candidate]
    propensity: float
    strategy: str
    reason: str
    last_resort: list[Target] = field(default_factory=list)
    trials: dict[str, str] = field(default_factory=dict)


def health_of(target: str, rows: Iterable[HealthRow], since_s: int) -> TargetHealth:
    """Sum the partials of one target over the buckets that start at or after `since_s`."""
    buckets = [bucket for row in rows for bucket in row.buckets if bucket.start_s >= since_s]
    latency = merge(bucket.latency for bucket in buckets)
    first_token = merge(bucket.first_token for bucket in buckets)
    return TargetHealth(
        target=target,
        calls=sum(bucket.calls for bucket in buckets),
        failures=sum(bucket.failures for bucket in buckets),
        errors=merge(bucket.errors for bucket in buckets),
        latency_p50_us=quantile(latency, 0.5),
        latency_p95_us=quantile(latency, 0.95),
        first_token_p95_us=quantile(first_token, 0.95),
    )


def bucket_start_s(time_us: int) -> int:
    """Return the start of the health bucket that a moment falls into, in Unix seconds."""
    return time_us // 1_000_000 // BUCKET_SECONDS * BUCKET_SECONDS


__all__ = [
    "BUCKET_SECONDS",
    "Decision",
    "HealthBucket",
    "Target",
    "TargetHealth",
    "bucket_start_s",
    "health_of",
]
