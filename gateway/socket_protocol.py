"""The WebSocket protocol itself: uvicorn's implementation, which ends its connections as we want it."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from gateway.websocket import DRAIN

PING_TIMEOUT_S = 60.0
"""How long a caller may leave a ping unanswered: as long as a slow one may take its answer."""


class SocketProtocol(WebSocketsSansIOProtocol):
    """The server's side of a connection; a stop lets the running call end, and begins no other."""

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
