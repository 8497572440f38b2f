"""Rows of windows that hold nothing but sums: what the folds that only add up have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from schemas.event import Event
from schemas.events.tables import TableRow
from streams.fold import NOTHING
from streams.windows import Window, bucket

Amounts = tuple[int, tuple[int, ...]]
"""A window's number, and what is added to each of its sums."""
State = dict[int, list[int]]
"""The sums by window."""


@dataclass(frozen=True)
class WindowSums:
    """`apply`, `freeze` and `thaw` of such a fold.

    `kind` is the struct of a window: its start (Unix s), then the sums; the row's field `name` lists
    them.
    """

    window: Window
    kind: type[msgspec.Struct]
    name: str

    def apply(self, state: State, given: Amounts) -> Sequence[Event]:
        """Add to a window that has not expired."""
        index, amounts = given
        sums = bucket(state, index, self.window.keep, lambda: [0] * len(amounts))
        if sums is not None:
            for column, amount in enumerate(amounts):
                sums[column] += amount
        return NOTHING

    def freeze(self, state: State) -> dict[str, Any]:
        """Return the windows, oldest first."""
        start_s = self.window.start_s
        return {self.name: [self.kind(start_s(at), *sums) for at, sums in sorted(state.items())]}

    def thaw(self, row: TableRow) -> State:
        """Return the state that `freeze` gave."""
        held = (msgspec.structs.astuple(window) for window in getattr(row, self.name))
        return {self.window.index_of_start(start_s): sums for start_s, *sums in held}
