"""What routing knows of a call."""

from __future__ import annotations

import msgspec


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What routing knows of a call.

    `needs` are capabilities beside the surface (tools, vision, structured…), `input_tokens` an
    estimate. `sticky` is who stays on one side of a canary's split; None draws anew.
    `detected`: the task was found out, not said.
    """

    surface: str = "chat"
    needs: frozenset[str] = frozenset()
    input_tokens: int = 0
    max_tokens: int | None = None
    task_type: str | None = None
    confidence: float | None = None
    complexity: str | None = None
    detected: bool = False
    strategy: str | None = None
    tags: dict[str, str] = {}
    sticky: str | None = None
