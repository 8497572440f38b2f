"""Which statements pass: everything that reads the projections, and nothing else."""

import pytest

from projections.guard import check
from schemas.errors import InvalidRequest, PermissionDenied

TABLES = ["requests", "calls"]

ALLOWED = [
    "SELECT 1",
    "VALUES (1), (2)",
    "FROM requests",
    "SHOW TABLES",
    "DESCRIBE calls",
    "SUMMARIZE requests",
    "SELECT requests.team FROM main.requests",
    "SELECT * FROM REQUESTS LIMIT 3",
    "WITH x AS (SELECT * FROM requests) SELECT * FROM x, calls",
    "WITH a AS (SELECT 1), b AS (FROM a) FROM b",
    "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 5) FROM t",
    "SELECT unnest(candidates) FROM requests",
    "SELECT * FROM requests, unnest(candidates)",
    "SELECT * FROM range(5)",
    "SELECT list_transform([1, 2], lambda x: x + 1)",
    "SELECT x FROM (SELECT 1 AS x) WHERE x IN (SELECT 2)",
    "SELECT count(*) OVER (PARTITION BY team) FROM requests QUALIFY row_number() OVER () = 1",
    "SELECT 1 UNION SELECT 2 EXCEPT SELECT 3",
    "SELECT COLUMNS('t.*') FROM requests",
    "SELECT * FROM requests TABLESAMPLE 10%",
    "SELECT tags['a'], candidates[1].score FROM requests",
    "SELECT CASE WHEN true THEN DATE '2026-01-01' + INTERVAL 1 DAY END",
    (
        "SELECT time_bucket(INTERVAL '1 hour', started_at) AS hour, quantile_cont(latency_us, 0.95) "
        "FROM calls GROUP BY hour HAVING count(*) > 1 ORDER BY hour"
    ),
]

FORBIDDEN = [
    "COPY requests TO '/tmp/x'",
    "COPY requests TO 'weir.duckdb.wal'",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT (SELECT content FROM read_text('/etc/passwd'))",
    "SELECT * FROM read_csv_auto('x')",
    "SELECT * FROM read_parquet('x')",
    "SELECT * FROM parquet_metadata('x')",
    "SELECT * FROM glob('*')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM 'x.csv'",
    'WITH "x.csv" AS (SELECT * FROM \'x.csv\') SELECT * FROM "x.csv"',
    "WITH x AS (INSERT INTO requests VALUES (1) RETURNING *) SELECT * FROM x",
    "SELECT * FROM (WITH q AS (DELETE FROM calls RETURNING *) FROM q)",
    (
        "SELECT * FROM requests WHERE team IN (WITH q AS (UPDATE calls SET team = 'x' RETURNING team) "
        "FROM q)"
    ),
    "INSERT INTO requests SELECT * FROM requests",
    "DELETE FROM requests",
    "UPDATE requests SET team = 'x'",
    "DROP TABLE requests",
    "CREATE TABLE x AS SELECT 1",
    "ALTER TABLE requests ADD COLUMN x INTEGER",
    "ATTACH 'x.db'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET memory_limit = '1TB'",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "EXPORT DATABASE 'x'",
    "EXPLAIN ANALYZE SELECT 1",
    "CHECKPOINT",
    "VACUUM",
    "BEGIN",
    "PREPARE x AS SELECT 1",
    "SELECT * FROM weir.cursor",
    "DESCRIBE weir.cursor",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM sqlite_master",
    "WITH sqlite_master AS (FROM sqlite_master) FROM sqlite_master",
    "SELECT * FROM query('SELECT 1')",
    "SELECT * FROM query_table('weir.cursor')",
    "SELECT * FROM other.main.requests",
    "SELECT getenv('HOME')",
    "SELECT current_setting('memory_limit')",
    "SHOW DATABASES",
    "SHOW ALL TABLES",
]

BROKEN = ["", ";", "SELEC 1", "SELECT 1; SELECT 2", "SELECT 1; DROP TABLE requests", "x" * 200_000]


@pytest.mark.parametrize("statement", ALLOWED)
def test_what_reads_passes(statement: str) -> None:
    check(statement, TABLES)


@pytest.mark.req("GEN-05")
@pytest.mark.parametrize("statement", FORBIDDEN)
def test_what_does_more_is_refused(statement: str) -> None:
    with pytest.raises(PermissionDenied) as caught:
        check(statement, TABLES)
    assert caught.value.advice


@pytest.mark.parametrize("statement", BROKEN)
def test_what_is_no_statement_is_refused(statement: str) -> None:
    with pytest.raises((InvalidRequest, PermissionDenied)):
        check(statement, TABLES)
