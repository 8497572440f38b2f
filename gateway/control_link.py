"""Every path that the gateway does not serve itself goes to control, bytes as they are."""

from __future__ import annotations

from gateway.client import Client, Headers
from gateway.http1 import Connection, Origin, Pool
from schemas.errors import Unavailable, UpstreamError

CONNECT_S = 2.0
ANSWER_S = 120.0
SILENCE_S = 120.0
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
