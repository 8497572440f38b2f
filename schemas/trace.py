"""Trace context of calls (W3C Trace Context, level 1): one trace from the caller to the provider.

Nothing about it is stored but what the caller sent: all ids of ours follow from the request id, so
that the gateway, which writes headers, and whoever reads the log, which writes spans, agree.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_NONE = {"0" * 32, "0" * 16}


class Trace(NamedTuple):
    """Ids in lower-case hexadecimal; `parent_id` None begins a trace."""

    trace_id: str
    span_id: str
    parent_id: str | None

    def attempt(self, number: int) -> str:
        """Return the span id of the attempt `number`, from 1."""
        return f"{(int(self.span_id, 16) + number) % 2**64:016x}"

    def header(self, number: int) -> str:
        """Return the ``traceparent`` that the attempt `number` is sent with."""
        return f"00-{self.trace_id}-{self.attempt(number)}-01"


def checked(traceparent: str | None) -> str | None:
    """Return a caller's ``traceparent`` if it is one: a wrong one is ignored, as the standard asks."""
    if traceparent is None:
        return None
    found = _TRACEPARENT.fullmatch(traceparent)
    return None if found is None or _NONE & set(found.groups()) else traceparent


def trace_of(request_id: str, traceparent: str | None) -> Trace:
    """Return the ids of a request; `traceparent` is one that `checked` let pass."""
    own = request_id.replace("-", "")
    if traceparent is None:
        return Trace(own, own[16:], None)
    _, trace_id, parent_id, _ = traceparent.split("-")
    return Trace(trace_id, own[16:], parent_id)
