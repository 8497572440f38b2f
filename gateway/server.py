"""The worker's HTTP server: accepts callers, counts them, and lets them end when it stops."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from gateway.caller import CallerConnection, ServerLimits
from gateway.client import Client, Headers
from schemas.errors import ConfigurationError, WeirError

BACKLOG = 2048
RUNNERS_MAX = 256
"""Tasks kept for further requests."""
HANDSHAKE_S = 0.25
"""How long connections that were begun may take to stand when the server stops."""
CLOSE_S, CLOSE_STEP_S = 2.0, 0.01
"""How long the last bytes of ended answers may take to be taken when the server stops."""
_ATTACH_FILTER = 26
"""SO_ATTACH_FILTER of Linux, which Python's `socket` does not name."""
_DROP_SYN = [
    (0x30, 0, 0, 13),  # load the flags of the TCP header
    (0x54, 0, 0, 0x12),  # of them SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone:
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # all else: keep
]
"""A classic BPF program: (code, jump if true, jump if false, operand) each."""


class Sockets(Protocol):
    """What takes the connections of WebSockets over."""

    ready: bool
    """Whether `protocol` answers at once."""

    async def prepare(self) -> None:
        """Make ready what the first connection has to wait for."""
        ...

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


class Runner:
    """A task that serves one request after another, whichever connection they come on.

    A task of its own for each request would cost it 8 us more: asyncio keeps all tasks in a weak set.
    """

    def __init__(self, server: Server, serving: Coroutine[Any, Any, None]) -> None:
        self._server = server
        self._next = serving
        self._waiter: asyncio.Future[None] | None = None
        self.task = server.loop.create_task(self._run())

    def start(self, serving: Coroutine[Any, Any, None]) -> None:
        """Serve this next; only for one that rests."""
        self._next = serving
        if self._waiter is not None:
            self._waiter.set_result(None)

    async def _run(self) -> None:
        task = self.task
        while True:
            await self._next
            # Whoever was cancelled has that for good: what comes next must not inherit it.
            if task.cancelling() or not self._server.rest(self):
                return
            self._waiter = self._server.loop.create_future()
            await self._waiter


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
        self._resting: list[Runner] = []
        self._listening: asyncio.Server | None = None
        self._sock: socket.socket | None = None
        self.draining = False

    @property
    def full(self) -> bool:
        """Whether no further connection is taken."""
        count = len(self.connections) + self.sockets.connections
        return count >= self.limits.connections_max

    def start(self, serving: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a request in a task that serves no other until it has ended."""
        if self._resting:
            runner = self._resting.pop()
            runner.start(serving)
        else:
            runner = Runner(self, serving)
        self._tasks.add(runner.task)
        return runner.task

    def rest(self, runner: Runner) -> bool:
        """Keep a runner for the next request; False when there are enough."""
        if self.draining or len(self._resting) >= RUNNERS_MAX:
            return False
        self._resting.append(runner)
        return True

    def ended(self, task: asyncio.Task[None]) -> None:
        """Note that a task is done with its request."""
        self._tasks.discard(task)

    async def listen(self, sock: socket.socket) -> None:
        """Accept connections on a bound socket."""
        self._sock = sock
        self._listening = await self.loop.create_server(
            lambda: CallerConnection(self), sock=sock, backlog=BACKLOG
        )

    async def close(self, drain_s: float) -> None:
        """Stop without losing a request: what `drain_s` does not suffice for is cancelled.

        New connections go to other workers of the port, those that were begun are accepted. Kept
        ones are told to close by their next answer, or are closed when no request comes.
        """
        until_s = self.loop.time() + drain_s
        self.draining = True
        for runner in self._resting:
            runner.task.cancel()
        self._resting.clear()
        self.sockets.drain()
        for connection in list(self.connections):
            connection.drain()
        if self._listening is not None and self._sock is not None:
            refuse_handshakes(self._sock)
            await asyncio.sleep(min(HANDSHAKE_S, drain_s))
            self._listening.close()
        # Requests that are on their way on kept connections still arrive, and are served.
        await self._gone(min(until_s, self.loop.time() + self.limits.drain_idle_s + CLOSE_STEP_S))
        if running := self._tasks | self.sockets.tasks:
            await asyncio.wait(running, timeout=max(0.0, until_s - self.loop.time()))
        if left := self._tasks | self.sockets.tasks:
            for task in left:
                task.cancel()
            await asyncio.wait(left)
        await self._gone(self.loop.time() + CLOSE_S)
        for connection in list(self.connections):
            connection.abort()

    async def _gone(self, until_s: float) -> None:
        """Wait until no connection is left, at most until then."""
        for _ in range(int((until_s - self.loop.time()) / CLOSE_STEP_S)):
            if not self.connections and not self.sockets.connections:
                break
            await asyncio.sleep(CLOSE_STEP_S)


def refuse_handshakes(sock: socket.socket) -> None:
    """Let a listening socket begin no further connection; those that are begun still stand up.

    The kernel shares new connections out over the sockets of a port until one is closed, and
    resets what lies in the queue of a closed one. So its first packets are dropped for a moment:
    their senders send them again after a second, and by then another worker gets them. Where the
    kernel has no such filter, the few connections of the last milliseconds are reset.
    """
    program = b"".join(struct.pack("HBBI", *line) for line in _DROP_SYN)
    buffer = ctypes.create_string_buffer(program)
    option = struct.pack("HL", len(_DROP_SYN), ctypes.addressof(buffer))
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, option)


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
