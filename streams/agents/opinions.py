"""What people say of each target, in the slots of `performance`: how well it answers (RT-14).

Feedback counts for the target that it names as its model (``provider/model``, as answers carry it).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from schemas.event import Event
from schemas.events.feedback import FeedbackRecorded
from schemas.events.opinions import OpinionCursor, OpinionRow
from streams.agents.liking import satisfaction_of
from streams.agents.performance import Slot, slots
from streams.fold import NOTHING, Fold

MIDDLE = 500


class Contribution(NamedTuple):
    """A satisfaction (0–1000), and the block that it counts in."""

    slot: Slot
    satisfaction: int


@dataclass(slots=True)
class Block:
    """The changeable form of a row; `start_s` -1 while nothing was counted."""

    target: str = ""
    seconds: int = 0
    start_s: int = -1
    opinions: int = 0
    disliked: int = 0
    satisfaction: int = 0
    satisfaction_squared: int = 0


def split(event: FeedbackRecorded) -> Iterator[tuple[str, Contribution]]:
    """Yield the slots of the target that the feedback falls into."""
    if event.model_id is None or "/" not in event.model_id or not event.model_known:
        return
    satisfaction = satisfaction_of(event)
    for name, slot in slots(event.model_id, event.occurred_at_us):
        yield name, Contribution(slot, satisfaction)


def apply(state: Block, given: Contribution) -> Sequence[Event]:
    """Count one piece of feedback, unless a later block has taken its slot."""
    slot, satisfaction = given
    if slot.start_s < state.start_s:
        return NOTHING
    if slot.start_s > state.start_s:
        state.target, state.seconds, state.start_s = slot
        state.opinions = state.disliked = state.satisfaction = state.satisfaction_squared = 0
    state.opinions += 1
    state.disliked += satisfaction < MIDDLE
    state.satisfaction += satisfaction
    state.satisfaction_squared += satisfaction**2
    return NOTHING


def freeze(state: Block) -> dict[str, Any]:
    """Return the block."""
    return asdict(state)


def thaw(row: OpinionRow) -> Block:
    """Return the block that `freeze` gave."""
    return Block(**{name: getattr(row, name) for name in Block.__slots__})


OPINIONS = Fold(
    name="opinions",
    event=FeedbackRecorded,
    row=OpinionRow,
    cursor=OpinionCursor,
    split=split,
    new=Block,
    apply=apply,
    freeze=freeze,
    thaw=thaw,
)
