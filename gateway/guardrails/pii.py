"""Personal data and secrets by checked patterns: e-mail, card, IBAN, IP, phone, keys.

Names are not recognised, so a masked text is not anonymous. `options["types"]` narrows the types.
"""

from __future__ import annotations

import re

from gateway.content import RECOGNISERS
from gateway.content import Check as RecogniserCheck
from gateway.guardrails.base import Check, Found, Kind
from schemas.errors import ConfigurationError
from schemas.events.changes import GuardrailChanged

HELD_CHARS_MAX = 256
"""The longest find; longer runs without a break are let go."""
_WORD = re.compile(r"\S+")
_GROUP = re.compile(r"[A-Z0-9().+-]+")
"""A group of an IBAN, a card or a phone number: these alone may hold spaces."""


class Pii:
    """Looks for some of the types of `gateway.content`."""

    whole = False

    def __init__(self, types: frozenset[str]) -> None:
        self._recognisers = [item for item in RECOGNISERS if item[0] in types]

    def check(self, text: str) -> Found:
        """Return the text with each find replaced by its type in brackets."""
        what: list[str] = []
        for name, pattern, accept in self._recognisers:
            text, count = _replaced(text, name, pattern, accept)
            if count:
                what.append(name)
        return Found(text, what)

    def hold(self, text: str) -> int:
        """Hold an unfinished word, and words before it that could be groups of one number."""
        tail = text[-HELD_CHARS_MAX:]
        start = len(tail)
        for word in reversed(list(_WORD.finditer(tail))):
            unfinished = word.end() == len(tail)
            if not unfinished and not _GROUP.fullmatch(word[0]):
                break
            start = word.start()
        return len(text) - len(tail) + start


def _replaced(
    text: str, name: str, pattern: re.Pattern[str], accept: RecogniserCheck
) -> tuple[str, int]:
    count = 0

    def replace(found: re.Match[str]) -> str:
        nonlocal count
        if not accept(found[0]):
            return found[0]
        count += 1
        return f"[{name}]"

    return pattern.sub(replace, text), count


def build(rule: GuardrailChanged) -> Check:
    """Return the check of a rule. Raises ConfigurationError for an unknown type."""
    known = {name for name, _, _ in RECOGNISERS}
    asked = {name.strip().upper() for name in rule.options.get("types", "").split(",") if name}
    if unknown := asked - known:
        raise ConfigurationError(
            f"guardrail {rule.name}: unknown type {min(unknown)}",
            action=f"Choose among {', '.join(sorted(known))}.",
        )
    return Pii(frozenset(asked or known))


PII = Kind("pii", build)
