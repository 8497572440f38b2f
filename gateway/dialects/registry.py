"""The dialects that providers speak, by name. A new file in this package is a new dialect."""

from __future__ import annotations

from gateway.dialects.anthropic_messages import ANTHROPIC
from gateway.dialects.neutral import Dialect
from gateway.dialects.openai_chat import OPENAI

_DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (OPENAI, ANTHROPIC)}


def dialect(name: str) -> Dialect | None:
    """Return a dialect by name."""
    return _DIALECTS.get(name)
