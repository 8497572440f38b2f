"""What a worker records, read back from its outbox whenever it has written there."""

from collections.abc import Callable
from pathlib import Path

from gateway.outbox import Outbox
from gateway.segment import CARRY_TOPIC, frames
from schemas.codec import decode
from schemas.event import Event


def follow(outbox: Outbox, hear: Callable[[list[Event]], None]) -> None:
    """Call `hear` with the events of every write, in the worker's own thread."""
    read: dict[Path, int] = {segment.path: segment.end for segment in outbox.segments}
    former = outbox.wake

    def written() -> None:
        for segment in list(outbox.segments):
            start = read.get(segment.path, 0)
            if segment.end > start:
                with segment.path.open("rb") as file:
                    file.seek(start)
                    data = file.read(segment.end - start)
                read[segment.path] = segment.end
                entries = [entry for frame in frames(data) for entry in frame.entries]
                hear([decode(entry.value) for entry in entries if entry.topic != CARRY_TOPIC])
        former()

    outbox.wake = written
