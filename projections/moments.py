"""Times that callers ask for, as the database has them: UTC, without saying so."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator

YEARS = range(1970, 2262)
"""Whose microseconds since 1970 fit into 64 bits; spans of them stay within what `datetime` holds."""


def _in_range(moment: datetime) -> datetime:
    if moment.year not in YEARS:
        raise ValueError(f"a year from {YEARS[0]} to {YEARS[-1]}")
    return moment


Moment = Annotated[datetime, AfterValidator(_in_range)]
"""A parameter: other years are refused, since arithmetic with them ends outside of the calendar."""


def utc(moment: datetime) -> datetime:
    """The moment in UTC; one without a zone is in UTC already."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def naive(moment: datetime) -> datetime:
    """The moment as the database's columns have it."""
    return utc(moment).replace(tzinfo=None)
