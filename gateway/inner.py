"""A call that the gateway makes to itself on somebody's behalf: no connection, the same path."""

from __future__ import annotations

import asyncio

from gateway.client import Client, Headers
from schemas.errors import PayloadTooLarge


class InnerCall(Client):
    """One whole call; its answer stays here. Cancelling its task is how its caller leaves."""

    def __init__(
        self, path: str, header_list: Headers, body: bytes, on_behalf_of: str | None = None
    ) -> None:
        super().__init__("POST", path, header_list, b"", path.encode())
        self.on_behalf_of = on_behalf_of
        self.status = 0
        self.answer_headers: Headers = []
        self.answer = b""
        self._body = body
        self._patience: asyncio.TimerHandle | None = None

    def give_up_after(self, wait_s: float) -> None:
        """Leave when the answer is not there by then."""
        self._patience = asyncio.get_running_loop().call_later(wait_s, self.leave)

    def done(self) -> None:
        """Stop looking after the call."""
        super().done()
        if self._patience is not None:
            self._patience.cancel()

    async def body(self, bytes_max: int) -> bytes:
        """Return the body. Raises PayloadTooLarge."""
        if len(self._body) > bytes_max:
            raise PayloadTooLarge(f"the body exceeds the limit of {bytes_max} bytes")
        return self._body

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Keep the answer."""
        await self.start(status, headers)
        self.answer += body

    async def start(self, status: int, headers: Headers) -> None:
        """Keep status and headers."""
        self.started = True
        self.status, self.answer_headers = status, headers

    async def write(self, data: bytes) -> None:
        """Keep a piece."""
        self.answer += data

    async def end(self, data: bytes = b"") -> None:
        """Keep the last piece."""
        self.answer += data
