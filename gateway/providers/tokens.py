"""Access tokens that a vendor issues for an hour or so: fetched once, kept, renewed ahead of time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from urllib.parse import urlencode, urlsplit

import msgspec

from gateway.http1 import Connection, Origin, Pool
from schemas.errors import UpstreamAuthentication, UpstreamError

AHEAD_S = 300.0
"""So long before its end a token is renewed; one that lives shortly, at half its life."""
PATIENCE_S = 10.0
ANSWER_BYTES_MAX = 256 * 1024
RETRY_S = 5.0
"""After a failed renewal a token that is still valid is used so long before the next try."""


class Token(msgspec.Struct, frozen=True):
    """A token and the seconds for which it is valid from now on."""

    value: str
    lives_s: float


class TokenKeeper:
    """Keeps tokens by identity; however many calls wait for one, it is fetched once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: dict[Hashable, tuple[str, float, float]] = {}
        self._fetching: dict[Hashable, asyncio.Task[str]] = {}

    async def get(self, identity: Hashable, fetch: Callable[[], Awaitable[Token]]) -> str:
        """Return a valid token of an identity. Raises UpstreamAuthentication."""
        held = self._held.get(identity)
        now_s = self._clock()
        if held is not None and now_s < held[1]:
            return held[0]
        task = self._fetching.get(identity)
        if task is None:
            task = asyncio.ensure_future(self._renew(identity, fetch))
            self._fetching[identity] = task
            task.add_done_callback(lambda _: self._fetching.pop(identity, None))
        # A caller who leaves must not take the renewal of the others with him.
        return await asyncio.shield(task)

    async def _renew(self, identity: Hashable, fetch: Callable[[], Awaitable[Token]]) -> str:
        try:
            token = await fetch()
        except UpstreamError:
            held = self._held.get(identity)
            if held is None or self._clock() >= held[2]:
                raise
            self._held[identity] = (held[0], self._clock() + RETRY_S, held[2])
            return held[0]
        ends_s = self._clock() + token.lives_s
        renew_s = ends_s - min(AHEAD_S, token.lives_s / 2)
        self._held[identity] = (token.value, renew_s, ends_s)
        return token.value


class _Issued(msgspec.Struct):
    """The answer of a token endpoint. Some write numbers as texts, some give the end (Unix seconds)
    in place of the time to live.
    """

    access_token: str
    expires_in: int | str = 0
    expires_on: int | str = 0

    @property
    def lives_s(self) -> float:
        lives_s = float(self.expires_in) or float(self.expires_on) - time.time()
        if lives_s <= 0:
            raise ValueError("it is not valid any more")
        return lives_s


_read_issued = msgspec.json.Decoder(_Issued).decode


async def post_form(url: str, form: dict[str, str]) -> Token:
    """Return the token that an OAuth endpoint issues for a form. Raises UpstreamAuthentication."""
    headers = {"content-type": "application/x-www-form-urlencoded"}
    return await _issued("POST", url, headers, urlencode(form).encode())


async def get(url: str, headers: dict[str, str]) -> Token:
    """Return the token that an endpoint of the machine gives. Raises UpstreamAuthentication."""
    return await _issued("GET", url, headers, b"")


async def _issued(method: str, url: str, headers: dict[str, str], body: bytes) -> Token:
    place = urlsplit(url)
    where = f"{place.scheme}://{place.netloc}{place.path}"
    try:
        status, answer = await _exchange(method, url, headers, body)
    except (UpstreamError, ValueError, TimeoutError) as error:
        raise UpstreamAuthentication(f"no token from {where}: {error}") from error
    if status != 200:
        told = answer[:500].decode("utf-8", "replace")
        raise UpstreamAuthentication(f"no token from {where}: it answered {status}: {told}")
    try:
        issued = _read_issued(answer)
        return Token(issued.access_token, issued.lives_s)
    except (msgspec.DecodeError, ValueError) as error:
        raise UpstreamAuthentication(f"the answer of {where} is no token: {error}") from error


async def _exchange(
    method: str, url: str, headers: dict[str, str], body: bytes
) -> tuple[int, bytes]:
    origin = Origin.of(url)
    place = urlsplit(url)
    target = (place.path or "/") + (f"?{place.query}" if place.query else "")
    lines = {
        "host": origin.host_header,
        "user-agent": "weir",
        "accept-encoding": "identity",
        **headers,
        "content-length": str(len(body)),
    }
    head = f"{method} {target} HTTP/1.1\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
    pool = Pool()
    try:
        connection = await pool.exchange(
            origin, head.encode("latin-1"), body, connect_s=PATIENCE_S, first_byte_s=PATIENCE_S
        )
        return connection.status, await _read(connection)
    finally:
        pool.close()


async def _read(connection: Connection) -> bytes:
    chunks, size = [], 0
    while chunk := await connection.read(PATIENCE_S):
        chunks.append(chunk)
        size += len(chunk)
        if size > ANSWER_BYTES_MAX:
            raise ValueError(f"the answer exceeds {ANSWER_BYTES_MAX} bytes")
    return b"".join(chunks)
