"""How a Claude model is told to think, which depends on its version.

Source: Anthropic, "Adaptive thinking"
(https://platform.claude.com/docs/en/build-with-claude/adaptive-thinking): from Claude 4.6 on models
take ``adaptive`` with an effort, those from 4.7 on nothing else, and no sampling parameters; earlier
ones take a budget of tokens.
"""

from __future__ import annotations

import re

_VERSION = re.compile(r"claude-(?:[a-z]+-)?(\d+)(?:[-.](\d{1,2})(?!\d))?")


def claude_version(model: str) -> tuple[int, int]:
    """Return (major, minor) of a Claude model, (0, 0) for a name without a version."""
    found = _VERSION.search(model)
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)


def takes_adaptive(model: str) -> bool:
    """Whether a Claude model decides by itself how much to think, guided by an effort."""
    return claude_version(model) >= (4, 6)


def takes_strict(model: str) -> bool:
    """Whether a Claude model holds its tool calls strictly to their schemas (structured outputs:
    https://platform.claude.com/docs/en/build-with-claude/structured-outputs).
    """
    return claude_version(model) >= (4, 5)


def takes_sampling(model: str) -> bool:
    """Whether a Claude model takes temperature, top_p and top_k."""
    return claude_version(model) < (4, 7)
