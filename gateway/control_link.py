"""Every path that the gateway does not serve itself goes to control, bytes as they are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from http import HTTPStatus

from gateway.client import Client, Headers
from gateway.http1 import Connection, Origin, Pool
from schemas.errors import (
    AuthenticationFailed,
    PermissionDenied,
    Unavailable,
    UpstreamError,
    WeirError,
)

CONNECT_S = 2.0
ANSWER_S = 120.0
SILENCE_S = 120.0
LIVE_SOCKETS = frozenset(
    f"{prefix}/admin/{path}"
    for prefix in ("", "/api/v1")
    for path in ("dashboard/realtime", "cost/realtime", "alerts/stream")
)
"""Streams of control that are served as WebSockets too."""
_OURS = frozenset(
    {
        b"content-encoding",
        b"date",
        b"referrer-policy",
        b"x-content-type-options",
        b"x-frame-options",
        b"x-weir-request-id",
    }
)
"""The client parsed the coding away, so the answer leaves without it; the rest is in every answer."""
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


class ControlLink:
    """Forwards requests to the control process."""

    def __init__(self, pool: Pool, control_url: str) -> None:
        self._pool = pool
        self._origin = Origin.of(control_url)

    async def forward(self, client: Client, body: bytes, request_id: str) -> None:
        """Answer with what control says, as it comes. Raises Unavailable when it is away."""
        connection = await self._ask(client, body, request_id)
        headers = [
            (name, value) for name, value in connection.headers.items() if name not in HOP_BY_HOP
        ]
        headers = [pair for pair in headers if pair[0] not in _OURS]
        client.watch()
        try:
            await self._copy(
                client, connection, [*headers, (b"x-weir-request-id", request_id.encode())]
            )
        finally:
            client.unwatch()
            connection.done()

    async def events(self, client: Client, request_id: str) -> AsyncIterator[bytes]:
        """Yield the data of the events that control sends for a path, until it ends.

        Raises AuthenticationFailed, PermissionDenied, Unavailable.
        """
        wanted = {b"accept": b"text/event-stream", b"user-agent": b"weir"}
        for name in (b"authorization", b"x-api-key"):
            if name in client.headers:
                wanted[name] = client.headers[name]
        client.header_list = list(wanted.items())
        connection = await self._ask(client, b"", request_id)
        try:
            if connection.status != HTTPStatus.OK:
                raise _refused(connection.status)
            waiting = b""
            while data := await self._more(connection):
                *frames, waiting = (waiting + data).split(b"\n\n")
                for frame in frames:
                    for line in frame.split(b"\n"):
                        if line.startswith(b"data: "):
                            yield line.removeprefix(b"data: ")
        finally:
            connection.done()

    @staticmethod
    async def _more(connection: Connection) -> bytes:
        try:
            return await connection.read(SILENCE_S)
        except (UpstreamError, TimeoutError) as error:
            raise Unavailable("control broke off", retry_after_seconds=2.0) from error

    async def _ask(self, client: Client, body: bytes, request_id: str) -> Connection:
        path = client.path.encode("utf-8")
        target = client.raw_path or path
        if client.query:
            target += b"?" + client.query
        lines = [b"%s %s HTTP/1.1" % (client.method.encode(), target)]
        lines += [
            name + b": " + value
            for name, value in client.header_list
            if name not in HOP_BY_HOP and name != b"accept-encoding"
        ]
        lines += [
            b"host: " + client.headers.get(b"host", self._origin.host_header.encode()),
            b"accept-encoding: identity",
            b"x-weir-request-id: " + request_id.encode(),
            b"content-length: %d" % len(body),
        ]
        head = b"\r\n".join(lines) + b"\r\n\r\n"
        try:
            return await self._pool.exchange(
                self._origin, head, body, connect_s=CONNECT_S, first_byte_s=ANSWER_S
            )
        except UpstreamError as error:
            raise Unavailable(
                "the control process does not answer",
                action="Model calls go on; see `weir status`, it is restarted by itself.",
                retry_after_seconds=2.0,
            ) from error

    async def _copy(self, client: Client, connection: Connection, headers: Headers) -> None:
        await client.start(connection.status, headers)
        await client.write(b"")  # status and headers at once: a stream may begin with silence
        while True:
            try:
                data = await connection.read(SILENCE_S)
            except (UpstreamError, TimeoutError) as error:
                # Headers have left: only a broken connection still tells the caller.
                raise ConnectionAbortedError("control broke off its answer") from error
            if not data:
                await client.end()
                return
            await client.write(data)


def _refused(status: int) -> WeirError:
    """What control's answer to a stream means; its own words are for HTTP callers."""
    if status == HTTPStatus.UNAUTHORIZED:
        return AuthenticationFailed("the key is unknown, revoked or expired")
    if status == HTTPStatus.FORBIDDEN:
        return PermissionDenied("the key lacks the scope 'admin'")
    return Unavailable(f"control answered {status}", retry_after_seconds=5.0)
