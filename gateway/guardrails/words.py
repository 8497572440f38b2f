"""Words and phrases that must not pass, whole words only, whatever their case."""

from __future__ import annotations

import re

from gateway.guardrails.base import Check, Found, Kind
from schemas.errors import ConfigurationError
from schemas.events.changes import GuardrailChanged

WORDS_MAX = 10_000
_WORD = re.compile(r"\S+")


class Words:
    """Looks for the words of one list."""

    whole = False

    def __init__(self, words: list[str]) -> None:
        # The longest first: alternatives are tried in order.
        parts = [r"\s+".join(map(re.escape, word.split())) for word in sorted(words, key=len)[::-1]]
        self._pattern = re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)", re.IGNORECASE)
        self._phrase_words = max(len(word.split()) for word in words)

    def check(self, text: str) -> Found:
        """Return the text with each find replaced by ``[BLOCKED]``; which words is not told."""
        masked, count = self._pattern.subn("[BLOCKED]", text)
        return Found(masked, ["words"] if count else [])

    def hold(self, text: str) -> int:
        """Hold as many words as the longest phrase has, and no part of one without the rest."""
        starts = [word.start() for word in _WORD.finditer(text)]
        cut = starts[-self._phrase_words] if len(starts) >= self._phrase_words else 0
        crossing = (f for f in self._pattern.finditer(text) if f.start() < cut < f.end())
        return next((found.start() for found in crossing), cut)


def build(rule: GuardrailChanged) -> Check:
    """Return the check of a rule. Raises ConfigurationError without words."""
    words = [word for word in rule.words if word.strip()]
    if not words or len(words) > WORDS_MAX:
        raise ConfigurationError(
            f"guardrail {rule.name} has {len(words)} words",
            action=f"List between 1 and {WORDS_MAX} words.",
        )
    return Words(words)


WORDS = Kind("words", build)
