"""What a guardrail is: a pure check of text, made from a rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from schemas.events.changes import GuardrailChanged


class Found(msgspec.Struct, frozen=True):
    """What a check found: `text` has it masked; `what` names it in bounded words, never its text."""

    text: str
    what: list[str]


class Check(Protocol):
    """One rule, ready to run."""

    whole: bool
    """Whether only a whole answer can be judged: a stream is then held back until its end."""

    def check(self, text: str) -> Found:
        """Return what is in a text; its `text` is the same where nothing was found."""
        ...

    def hold(self, text: str) -> int:
        """Return from which index on a growing text must wait: a find may still begin there."""
        ...


class Kind(msgspec.Struct, frozen=True):
    """A plug-in: `build` makes a check of a rule, or raises ConfigurationError."""

    name: str
    build: Callable[[GuardrailChanged], Check]
