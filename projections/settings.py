"""What the projections may be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024


@dataclass(frozen=True)
class ProjectionsSettings:
    """`data_dir` holds the database, its snapshots and replays; everything in it can be rebuilt.
    Without `master_key` the texts of feedback stay sealed.

    Rows wait at most `commit_interval_s` for their commit unless `commit_records` are there
    sooner; reading waits while `pending_records_max` or `pending_bytes_max` are held in memory.
    The write-ahead log is folded into the database when it exceeds `wal_quiet_bytes` and nothing
    arrives, or `wal_bytes_max`.

    Analysts' statements see a snapshot at most `snapshot_age_s` old, or older while no row has
    been committed since; taking one may use at most `snapshot_share` of the time, so a large
    database is copied less often, but never less than every `snapshot_age_max_s` that somebody asks.
    """

    data_dir: Path
    master_key: bytes | None = None
    commit_interval_s: float = 0.2
    commit_records: int = 5_000
    pending_records_max: int = 40_000
    pending_bytes_max: int = 64 * MIB
    wal_quiet_bytes: int = 16 * MIB
    wal_bytes_max: int = 256 * MIB
    snapshot_age_s: float = 0.5
    snapshot_age_max_s: float = 2.5
    snapshot_share: float = 0.5
    sql_workers: int = 2
    sql_queue_s: float = 10.0
    sql_timeout_s: float = 30.0
    sql_timeout_max_s: float = 300.0
    sql_rows: int = 1_000
    sql_rows_max: int = 100_000
    sql_result_bytes_max: int = 16 * MIB
    sql_memory_bytes: int = 1024 * MIB
    sql_threads: int = 2
