"""The digest of a projection: the same for the same rows, in whatever order they came.

Every row is written as JSON with its columns in alphabetical order, hashed with MD5 to 128 bits,
and the hashes are summed modulo 2^128. A sum of hashes is order-free and counts a doubled row
twice, which exclusive-or would not. MD5 because it is the same in every version of DuckDB; this
finds accidents and bugs, it is no defence against somebody who forges rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from projections.projection import INGEST_COLUMN, Projection

Query = Callable[[str], list[tuple[Any, ...]]]


class Digest(msgspec.Struct, frozen=True):
    """Of how many rows, and their sum of hashes as 32 hexadecimal digits."""

    rows: int
    value: str


def digest_of(query: Query, name: str) -> Digest:
    """Return the digest of a table or view over all its columns but the time of ingestion."""
    columns = sorted(row[0] for row in query(f'DESCRIBE "{name}"') if row[0] != INGEST_COLUMN)
    packed = ", ".join(f'"{column}" := "{column}"' for column in columns)
    rows, low, high = query(
        "SELECT count(*), sum((hash & 18446744073709551615::UHUGEINT)::UBIGINT), "
        "sum((hash >> 64)::UBIGINT) FROM (SELECT "
        f'md5_number(to_json(struct_pack({packed}))::VARCHAR) AS hash FROM "{name}")'
    )[0]
    total = (int(low or 0) + (int(high or 0) << 64)) % (1 << 128)
    return Digest(rows, f"{total:032x}")


def digests(query: Query, chosen: Sequence[Projection]) -> dict[str, Digest]:
    """Return the digest of each projection by name."""
    return {projection.name: digest_of(query, projection.name) for projection in chosen}


def failed_audits(query: Query, chosen: Sequence[Projection]) -> list[str]:
    """Return a line for each audit that found rows; none is the only good answer."""
    complaints = []
    for projection in chosen:
        for audit in projection.audits:
            (found,) = query(f"SELECT count(*) FROM ({audit.query})")[0]
            if found:
                complaints.append(f"{projection.name}.{audit.name}: {found} rows")
    return complaints
