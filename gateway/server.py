"""The worker's HTTP server: accepts callers, counts them, and lets them end when it stops."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from gateway.caller import CallerConnection, ServerLimits
from gateway.client import Client, Headers
from schemas.errors import ConfigurationError, WeirError

BACKLOG = 2048
CLOSE_STEPS, CLOSE_STEP_S = 200, 0.01
"""How long the last bytes of ended answers may take to be taken when the server stops."""


class Sockets(Protocol):
    """What takes the connections of WebSockets over."""

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """The running connections."""
        ...

    @property
    def connections(self) -> int:
        """How many connections there are."""
        ...

    def protocol(self) -> asyncio.Protocol:
        """Return a protocol for one connection, whose first bytes are the request's head."""
        ...

    def drain(self) -> None:
        """Begin no further call, and close each connection after its running one."""
        ...


class Server:
    """Serves HTTP on a socket until it is closed.

    `handle` serves one request, `refusal` says status, headers and body for what is none.
    """

    def __init__(
        self,
        handle: Callable[[Client], Awaitable[None]],
        refusal: Callable[[WeirError], tuple[int, Headers, bytes]],
        sockets: Sockets,
        limits: ServerLimits | None = None,
    ) -> None:
        self.handle = handle
        self.refusal = refusal
        self.sockets = sockets
        self.limits = limits or ServerLimits()
        self.loop = asyncio.get_running_loop()
        self.connections: set[CallerConnection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Server | None = None

    @property
    def full(self) -> bool:
        """Whether no further connection is taken."""
        count = len(self.connections) + self.sockets.connections
        return count >= self.limits.connections_max

    def start(self, serving: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a request as a task of its own."""
        task = self.loop.create_task(serving)
        self._tasks.add(task)
        return task

    def ended(self, task: asyncio.Task[None]) -> None:
        """Note that a task is at its end."""
        self._tasks.discard(task)

    async def listen(self, sock: socket.socket) -> None:
        """Accept connections on a bound socket."""
        self._listening = await self.loop.create_server(
            lambda: CallerConnection(self), sock=sock, backlog=BACKLOG
        )

    async def close(self, drain_s: float) -> None:
        """Accept nothing more, let running requests end within `drain_s`, then cancel them."""
        if self._listening is not None:
            self._listening.close()
        for connection in list(self.connections):
            connection.drain()
        self.sockets.drain()
        if running := self._tasks | self.sockets.tasks:
            await asyncio.wait(running, timeout=drain_s)
        if left := self._tasks | self.sockets.tasks:
            for task in left:
                task.cancel()
            await asyncio.wait(left)
        for _ in range(CLOSE_STEPS):
            if not self.connections and not self.sockets.connections:
                break
            await asyncio.sleep(CLOSE_STEP_S)
        for connection in list(self.connections):
            connection.abort()


def bound(host: str, port: int) -> socket.socket:
    """Bind a socket that the workers share. Raises ConfigurationError when it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise ConfigurationError(
            f"{host}:{port} cannot be bound: {error.strerror}",
            action="Choose another port with WEIR_PORT, or stop what listens there.",
        ) from error
    sock.setblocking(False)
    return sock
