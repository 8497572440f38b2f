"""The WebSocket protocol itself: uvicorn's implementation, which ends its connections as we want it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode

from gateway.websocket import DRAIN, POLICY_VIOLATION

INVALID_DATA = 1007
PING_TIMEOUT_S = 60.0
"""How long a caller may leave a ping unanswered: as long as a slow one may take its answer."""


FRAMES_AHEAD, FRAMES_PER_S = 1_000, 100
"""Frames that a caller may send at once, and for how long: each costs a worker's time, however small."""
FRAME_BYTES = 64
"""A frame with so many bytes is worth its own time: long messages in many frames are none too many."""
LINGER_S = 20.0
"""How long a connection that was closed may take to take its last bytes, and to say goodbye."""
LATE_BYTES_MAX = 64 * 1024
"""What may still come on it: a message that was on its way, and the goodbye."""
SLICE_BYTES = 4 * 1024
"""What is parsed before the frames are counted: some hundred frames at most."""
_CONTROL = frozenset({Opcode.PING, Opcode.PONG, Opcode.CLOSE})
_log = logging.getLogger(__name__)
_log.setLevel(logging.WARNING)  # uvicorn tells of every connection: strangers could fill the log


class SocketProtocol(WebSocketsSansIOProtocol):
    """The server's side of a connection; a stop lets the running call end, and begins no other.

    Who sends nearly nothing but framing (a message in a million pieces, pings without end) is refused.
    Whoever takes nothing of what is sent, or goes on sending after the end, is cut off.
    """

    def __init__(
        self, config: uvicorn.Config, state: ServerState, app_state: dict[str, Any]
    ) -> None:
        super().__init__(config, state, app_state)
        self.logger = _log
        self._frames_left = float(FRAMES_AHEAD)
        self._counted_s = self.loop.time()
        self._late_bytes = 0

    def data_received(self, data: bytes) -> None:
        if self.close_sent:
            self._late_bytes += len(data)
            if self._late_bytes > LATE_BYTES_MAX:
                self.transport.abort()
                return
        now_s = self.loop.time()
        earned = (now_s - self._counted_s) * FRAMES_PER_S
        self._counted_s = now_s
        self._frames_left = min(FRAMES_AHEAD, self._frames_left + earned)
        for begin in range(0, len(data), SLICE_BYTES):
            if self._frames_left < 0 or self.transport.is_closing():
                return
            super().data_received(data[begin : begin + SLICE_BYTES])

    def handle_events(self) -> None:
        for event in self.conn.events:
            if isinstance(event, Frame):
                # Every ping is answered, and who reads no answers lets them pile up.
                worth = 0.0 if event.opcode in _CONTROL else len(event.data) / FRAME_BYTES
                self._frames_left -= max(0.0, 1.0 - worth)
        if self._frames_left >= 0:
            super().handle_events()
        else:
            self._refuse(POLICY_VIOLATION, "too many small frames")

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.frames = []
                self._refuse(INVALID_DATA, "a text message is not UTF-8")
                return
        super().send_receive_event_to_app()

    def _refuse(self, code: int, reason: str) -> None:
        """Close the connection, whatever else comes on it."""
        self.stop_keepalive()
        self.conn.send_close(code, reason)
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.transport.close()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()  # who answers no ping takes no goodbye either

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        self.loop.call_later(LINGER_S, self.transport.abort)

    def shutdown(self) -> None:
        if self.handshake_complete and not self.close_sent:
            drain: Any = {"type": DRAIN}
            self.queue.put_nowait(drain)
        else:
            super().shutdown()


class House:
    """The connections, and what they share. `application` is ASGI's."""

    def __init__(self, application: Any, message_bytes_max: int, ping_s: float) -> None:
        self._state = ServerState()
        self._config = uvicorn.Config(
            application,
            ws_max_size=message_bytes_max,
            ws_ping_interval=ping_s,
            ws_ping_timeout=PING_TIMEOUT_S,
            ws_per_message_deflate=False,  # small messages at once, and no bombs
            interface="asgi3",
            lifespan="off",
            log_config=None,
        )
        self._config.load()

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """The running connections."""
        return self._state.tasks

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._state.connections)

    def protocol(self) -> SocketProtocol:
        """Return a protocol for one connection."""
        return SocketProtocol(self._config, self._state, {})

    def drain(self) -> None:
        """Begin no further call, and close each connection after its running one."""
        for connection in list(self._state.connections):
            connection.shutdown()
