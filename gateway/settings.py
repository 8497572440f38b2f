"""Settings of a gateway worker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateway.freshness import STALE_S_MAX
from gateway.outbox import OUTBOX_BYTES_MAX
from schemas.circuits import RULES, CircuitRules


@dataclass(frozen=True)
class GatewaySettings:
    """Sizes in bytes, times in seconds. `data_dir` holds the view cache, shared by the workers."""

    host: str
    port: int
    worker: int
    control_url: str
    data_dir: Path
    outbox_dir: Path
    master_key: bytes
    workers: int = 1
    """How many share the providers' limits on this host."""
    body_bytes_max: int = 32 * 1024 * 1024
    outbox_bytes_max: int = OUTBOX_BYTES_MAX
    answer_bytes_max: int = 64 * 1024 * 1024
    connections_max: int = 1024
    ca_file: str | None = None
    cache_bytes_max: int = 16 * 1024 * 1024
    """Answers that a worker keeps in memory for routes with a `cache_ttl_s`."""
    cors_origins: tuple[str, ...] = ()
    hsts_s: int = 0
    """Which pages may call, and for how long browsers are to come by TLS alone."""
    heartbeat_s: float = 15.0
    stale_s_max: float = STALE_S_MAX
    """With keys and routes older than this, because Kafka is away, nobody is let in."""
    call_timeout_s: float = 600.0
    """No call takes longer, whatever its route says."""
    calls_max: int = 4096
    lag_s_max: float = 0.5
    """A worker refuses calls beyond so many at once, and while its loop is so late throughout."""
    circuits: CircuitRules = RULES
    drain_s: float = 30.0
    """How long running requests may go on after the order to stop."""

    @property
    def name(self) -> str:
        """The worker as events and logs name it."""
        return f"gateway-{self.worker}"
