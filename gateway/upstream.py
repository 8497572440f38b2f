"""Calls to providers: addresses and keys precomputed, every failure classified."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from gateway.dialects.neutral import Dialect
from gateway.dialects.registry import dialect
from gateway.http1 import Connection, Origin, Pool
from schemas.errors import (
    ConfigurationError,
    UpstreamAuthentication,
    UpstreamError,
    UpstreamNetwork,
    UpstreamProtocol,
    UpstreamTimeout,
    WeirError,
)
from schemas.events.changes import ProviderChanged

SECRET_TTL_S = 5.0
"""How soon a rotated key is in force."""
ERROR_BYTES_MAX = 256 * 1024
FORWARDED_HEADERS = (b"anthropic-beta", b"openai-beta", b"traceparent")
_UNSAFE = re.compile(r"[\r\n\0]")


class Failed(Exception):
    """An attempt failed. `status` and `body` are the provider's own, when it gave any; `told` is
    what the caller hears in place of `error`, where the fault is his.
    """

    def __init__(
        self,
        error: UpstreamError,
        status: int | None = None,
        body: bytes = b"",
        dialect_name: str = "",
        told: WeirError | None = None,
    ) -> None:
        super().__init__(error.message)
        self.error = error
        self.status = status
        self.body = body
        self.dialect_name = dialect_name
        self.told = told


class Endpoint(msgspec.Struct, frozen=True):
    """Where and how a provider is called; `head` lacks only what differs per request."""

    provider: str
    dialect: Dialect
    origin: Origin
    head: bytes
    head_names: frozenset[bytes]


class Limits(msgspec.Struct, frozen=True):
    """Time limits of a route in seconds; `total_s` spans all attempts."""

    connect_s: float
    first_token_s: float
    stall_s: float
    total_s: float


class Upstream:
    """Opens exchanges with providers."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._endpoints: dict[str, tuple[ProviderChanged, float, Endpoint]] = {}

    def endpoint(self, provider: ProviderChanged) -> Endpoint:
        """Return a provider's endpoint. Raises Failed when it is misconfigured or has no key."""
        known = self._endpoints.get(provider.name)
        now_s = time.monotonic()
        if known is not None and known[0] is provider and now_s - known[1] < SECRET_TTL_S:
            return known[2]
        endpoint = _endpoint(provider)
        self._endpoints[provider.name] = (provider, now_s, endpoint)
        return endpoint

    async def open(
        self,
        endpoint: Endpoint,
        body: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        *,
        connect_s: float,
        first_byte_s: float,
    ) -> Connection:
        """Send a request and return its connection at the first byte of a good answer.

        Raises Failed for everything else, with the connection given back or closed.
        """
        extra = b"".join(
            name + b": " + value + b"\r\n"
            for name, value in headers
            if name not in endpoint.head_names
        )
        head = endpoint.head + extra + b"content-length: %d\r\n\r\n" % len(body)
        try:
            connection = await self.pool.exchange(
                endpoint.origin, head, body, connect_s=connect_s, first_byte_s=first_byte_s
            )
        except UpstreamError as error:
            raise Failed(error) from error
        if connection.status == 200:
            return connection
        status, answer_headers = connection.status, dict(connection.headers)
        reason = await _error_body(connection, first_byte_s)
        fault = endpoint.dialect.read_error(status, answer_headers, reason)
        if status < 400:
            fault = UpstreamProtocol(f"{endpoint.provider} answered {status}")
        raise Failed(fault, status, reason, endpoint.dialect.name)


async def read_whole(connection: Connection, wait_s: float, bytes_max: int) -> bytes:
    """Return a whole body. Raises Failed for one that is cut, stalls, or is too large."""
    chunks, size = [], 0
    try:
        while chunk := await connection.read(wait_s):
            chunks.append(chunk)
            size += len(chunk)
            if size > bytes_max:
                raise UpstreamProtocol(f"the answer exceeds {bytes_max} bytes")
    except TimeoutError:
        connection.abort()
        silence = UpstreamTimeout(f"the answer stopped for {wait_s:.1f} s")
        raise Failed(silence, connection.status) from None
    except UpstreamError as error:
        connection.abort()
        raise Failed(error, connection.status) from error
    except BaseException:
        connection.abort()
        raise
    connection.done()
    return b"".join(chunks)


async def _error_body(connection: Connection, wait_s: float) -> bytes:
    try:
        return await read_whole(connection, wait_s, ERROR_BYTES_MAX)
    except Failed:
        return b""  # the status alone has to do


def _endpoint(provider: ProviderChanged) -> Endpoint:
    language = dialect(provider.dialect)
    try:
        if language is None:
            raise ConfigurationError(
                f"provider {provider.name}: unknown dialect {provider.dialect}"
            )
        origin = Origin.of(provider.base_url)
        headers = {
            **language.default_headers,
            **{name.lower(): value for name, value in provider.headers.items()},
        }
        secret = read_secret(provider.secret)
    except (ConfigurationError, ValueError) as error:
        raise Failed(UpstreamAuthentication(str(error))) from error
    if secret is not None:
        headers |= language.authorization(secret)
    path = "/" + provider.base_url.split("://", 1)[1].partition("/")[2].rstrip("/")
    lines = {
        "host": origin.host_header,
        "user-agent": "weir",
        "content-type": "application/json",
        "accept-encoding": "identity",
        **headers,
    }
    if any(_UNSAFE.search(value) for value in lines.values()):
        raise Failed(UpstreamNetwork(f"a header of provider {provider.name} holds a line break"))
    head = f"POST {path.rstrip('/')}{language.path} HTTP/1.1\r\n" + "".join(
        f"{name}: {value}\r\n" for name, value in lines.items()
    )
    names = frozenset(name.encode() for name in lines)
    return Endpoint(provider.name, language, origin, head.encode("latin-1"), names)


def read_secret(reference: str | None) -> str | None:
    """Return the secret behind ``env:NAME`` or ``file:PATH``, None for no reference.

    Raises ConfigurationError when it is not there.
    """
    if reference is None:
        return None
    kind, _, place = reference.partition(":")
    if kind == "env":
        value = os.environ.get(place, "")
    elif kind == "file":
        try:
            value = Path(place).read_text("utf-8").strip()
        except OSError as error:
            raise ConfigurationError(f"the key file {place} cannot be read") from error
    else:
        raise ConfigurationError(f"a secret must be env:NAME or file:PATH, not {kind}:…")
    if not value:
        raise ConfigurationError(f"the key {reference} is not set")
    return value
