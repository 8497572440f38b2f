"""Server-sent events to a bounded number of listeners; one that is slow is let go, not waited for.

Source of the format: WHATWG HTML, section 9.2 (server-sent events).
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec
from starlette.responses import StreamingResponse
from starlette.types import Send

from schemas.errors import Overloaded

BEHIND_MAX = 256
"""Frames that may wait for a listener."""
SILENCE_S = 15.0
"""A comment is sent after so long without an event: proxies end what is silent."""
TAKE_S = 10.0
"""A listener that takes nothing for so long is let go."""
_COMMENT = b": \n\n"
_Queue = asyncio.Queue[bytes | None]


class Listeners:
    """Who listens to one stream."""

    def __init__(self, name: str, listeners_max: int) -> None:
        self._name = name
        self._max = listeners_max
        self._queues: set[_Queue] = set()
        self._open = 0
        self.dropped = 0

    def __len__(self) -> int:
        return self._open

    def tell(self, frame: bytes) -> None:
        """Give a frame to everybody; who is too far behind is let go."""
        for queue in tuple(self._queues):
            if queue.qsize() < BEHIND_MAX:
                queue.put_nowait(frame)
            else:
                self.dropped += 1
                self._end(queue)

    def response(self, first: Callable[[], list[bytes]]) -> "EventStream":
        """Answer with `first` and then what is told. Raises Overloaded when too many listen."""
        if self._open >= self._max:
            raise Overloaded(
                f"{self._max} listen to {self._name} already", retry_after_seconds=30.0
            )
        return EventStream(self._frames(first), self._let_go)

    def close(self) -> None:
        """End every stream."""
        for queue in tuple(self._queues):
            self._end(queue)

    def _end(self, queue: _Queue) -> None:
        self._queues.discard(queue)
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)

    def _let_go(self) -> None:
        self.dropped += 1

    async def _frames(self, first: Callable[[], list[bytes]]) -> AsyncGenerator[bytes, None]:
        queue: _Queue = asyncio.Queue()
        self._queues.add(queue)
        self._open += 1
        try:
            for frame in first() or [_COMMENT]:
                yield frame
            while True:
                told: bytes | None = _COMMENT
                with contextlib.suppress(TimeoutError):
                    told = await asyncio.wait_for(queue.get(), SILENCE_S)
                if told is None:
                    return
                yield told
        finally:
            self._open -= 1
            self._queues.discard(queue)


class EventStream(StreamingResponse):
    """The answer; `late` is called when the listener takes nothing any more."""

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncGenerator[bytes, None], late: Callable[[], None]) -> None:
        super().__init__(frames, headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        self._frames = frames
        self._late = late

    async def stream_response(self, send: Send) -> None:
        """Send frame by frame, and stop at one that is not taken."""
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        try:
            async with contextlib.aclosing(self._frames) as frames:
                async for frame in frames:
                    message = {"type": "http.response.body", "body": frame, "more_body": True}
                    async with asyncio.timeout(TAKE_S):
                        await send(message)
        except TimeoutError:
            self._late()
            return  # without an end: the server breaks the connection
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def frame(kind: str, data: Any, event_id: str | None = None) -> bytes:
    """One event of a stream, its data as JSON on one line."""
    head = b"" if event_id is None else b"id: " + event_id.encode() + b"\n"
    return head + b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"
