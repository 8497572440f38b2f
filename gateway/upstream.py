"""Calls to providers: addresses and keys precomputed, every failure classified."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import quote

from gateway.dialects.neutral import ClientDialect, Dialect
from gateway.dialects.registry import dialect
from gateway.http1 import Connection, Origin, Pool
from gateway.keyring import KeyRing
from gateway.providers.signer import Signer, Unsigned
from schemas.discovery import discover
from schemas.errors import (
    ConfigurationError,
    InvalidRequest,
    UpstreamAuthentication,
    UpstreamError,
    UpstreamNetwork,
    UpstreamProtocol,
    UpstreamRejected,
    UpstreamTimeout,
    WeirError,
)
from schemas.events.changes import ProviderChanged

SECRET_TTL_S = 5.0
"""How soon a rotated key is in force."""
ERROR_BYTES_MAX = 256 * 1024
TARGETS_MAX = 10_000
"""Unlisted models pass through, so their paths must not fill the memory."""
KEY_FAULTS = frozenset({"authentication", "rate_limit", "quota"})
"""Errors for which another key of the same provider may do better."""
FORWARDED_HEADERS = (b"anthropic-beta", b"openai-beta")
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


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how a provider is called; `lines` lack only what differs per request.

    `base` is the path of the base URL, where ``{model}`` may stand, and `query` what follows the
    path of every call.
    """

    provider: ProviderChanged
    front: ClientDialect
    dialect: Dialect
    origin: Origin
    base: str
    query: str
    lines: bytes
    headers: dict[str, str]
    names: frozenset[bytes]
    reference: str | None
    secret: str | None
    signer: Signer | None
    targets: dict[tuple[str, bool], bytes]

    def target(self, model: str, *, stream: bool) -> bytes:
        """Return path and query of a call."""
        known = self.targets.get((model, stream))
        if known is not None:
            return known
        base = self.base.replace("{model}", quote(model, safe=""))
        text = base + self.dialect.path_of(model, stream)
        if self.query:
            text += ("&" if "?" in text else "?") + self.query
        target = text.encode("ascii", "xmlcharrefreplace")
        if len(self.targets) >= TARGETS_MAX:
            self.targets.clear()
        self.targets[model, stream] = target
        return target


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits of a route in seconds; `total_s` spans all attempts."""

    connect_s: float
    first_token_s: float
    stall_s: float
    total_s: float


class Upstream:
    """Opens exchanges with providers."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._endpoints: dict[tuple[str, str, str, str | None], tuple[float, Endpoint]] = {}
        self._rings: dict[str, KeyRing] = {}

    def endpoint(self, provider: ProviderChanged, front: ClientDialect) -> Endpoint:
        """Return how a provider is called for a client of `front`, with the next of its keys.

        That is in the client's own dialect where the provider speaks it, so that bytes stay as
        they are. Raises Failed when the provider is misconfigured, has no key, or no such surface.
        """
        if not provider.secrets:
            return self._endpoint(provider, front, provider.secret)
        ring = self._ring(provider)
        reference: str | None = ring.take()
        while True:
            try:
                return self._endpoint(provider, front, reference)
            except Failed as failure:
                reference = _other_key(ring, reference, failure)
                if reference is None:
                    raise

    def _ring(self, provider: ProviderChanged) -> KeyRing:
        first = [provider.secret] if provider.secret else []
        references = (*first, *provider.secrets)
        ring = self._rings.get(provider.name)
        if ring is None or ring.references != references:
            ring = self._rings[provider.name] = KeyRing(references)
        return ring

    def _endpoint(
        self, provider: ProviderChanged, front: ClientDialect, reference: str | None
    ) -> Endpoint:
        place = (provider.name, front.name, front.surface, reference)
        known = self._endpoints.get(place)
        now_s = time.monotonic()
        if known is not None and known[1].provider is provider and now_s - known[0] < SECRET_TTL_S:
            return known[1]
        endpoint = _endpoint(provider, front, reference)
        self._endpoints[place] = (now_s, endpoint)
        return endpoint

    def is_own(self, provider: ProviderChanged, front: ClientDialect) -> bool:
        """Whether a provider is called in the client's own dialect: bytes stay as they are."""
        return _language(provider, front) is front

    def offers(self, provider: ProviderChanged, front: ClientDialect) -> bool:
        """Whether a provider has an endpoint for what clients of `front` ask."""
        return _language(provider, front) is not None

    async def open(
        self,
        endpoint: Endpoint,
        target: bytes,
        body: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        *,
        connect_s: float,
        first_byte_s: float,
    ) -> Connection:
        """Send a request and return its connection at the first byte of a good answer.

        A key that the vendor refuses gives way to the provider's next one while there is time.
        Raises Failed for everything else, with the connection given back or closed.
        """
        until_s = time.monotonic() + first_byte_s
        while True:
            try:
                return await self._open(endpoint, target, body, headers, connect_s, first_byte_s)
            except Failed as failure:
                provider = endpoint.provider
                if not provider.secrets or time.monotonic() > until_s:
                    raise
                other = _other_key(self._ring(provider), endpoint.reference, failure)
                if other is None:
                    raise
                endpoint = self._endpoint(provider, endpoint.front, other)

    async def ask(self, endpoint: Endpoint, path: str, wait_s: float) -> Connection:
        """GET a path below a provider's base URL. Raises Failed for all but a good answer."""
        target = (endpoint.base + path + (f"?{endpoint.query}" if endpoint.query else "")).encode()
        return await self._open(endpoint, target, b"", (), wait_s, wait_s, b"GET")

    async def _open(
        self,
        endpoint: Endpoint,
        target: bytes,
        body: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        connect_s: float,
        first_byte_s: float,
        method: bytes = b"POST",
    ) -> Connection:
        extra = b"".join(
            name + b": " + value + b"\r\n" for name, value in headers if name not in endpoint.names
        )
        if endpoint.signer is not None:
            extra += await _signed(endpoint, endpoint.signer, target, body)
        head = b"%s %s HTTP/1.1\r\n%s%scontent-length: %d\r\n\r\n" % (
            method,
            target,
            endpoint.lines,
            extra,
            len(body),
        )
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
            fault = UpstreamProtocol(f"{endpoint.provider.name} answered {status}")
        if isinstance(fault, UpstreamAuthentication):
            fault.advice = _hint(endpoint)
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


async def _signed(endpoint: Endpoint, signer: Signer, target: bytes, body: bytes) -> bytes:
    provider = endpoint.provider
    unsigned = Unsigned(
        provider.name,
        endpoint.origin.host_header,
        target.decode("ascii"),
        endpoint.headers,
        body,
        endpoint.secret,
        provider.options,
    )
    try:
        headers = await signer.sign(unsigned)
    except UpstreamError as error:
        raise Failed(error) from error
    return lines_of(provider, headers)


def _other_key(ring: KeyRing, reference: str | None, failure: Failed) -> str | None:
    """Another key of the provider, where the one that was used is to blame."""
    error = failure.error
    if reference is None or error.error_class not in KEY_FAULTS:
        return None
    return ring.set_aside(reference, error.message, error.retry_after_seconds)


def _hint(endpoint: Endpoint) -> str:
    """How to mend a key that the vendor refused (PROV-07)."""
    name, reference = endpoint.provider.name, endpoint.reference
    if reference is None:
        return f"Give the provider {name} a key: key_env or key_file in [providers.{name}]."
    kind, _, place = reference.partition(":")
    where = "the variable" if kind == "env" else "the file"
    return f"Set a valid key for {name} in {where} {place} (see `weir doctor`)."


def _endpoint(provider: ProviderChanged, front: ClientDialect, reference: str | None) -> Endpoint:
    language = _language(provider, front)
    if language is None:
        text = f"the provider {provider.name} offers no {front.surface}"
        told = InvalidRequest(
            text, action=f"Name a model of a provider that offers {front.surface}."
        )
        raise Failed(UpstreamRejected(text), told=told)
    try:
        origin = Origin.of(provider.base_url)
        secret = read_secret(reference)
    except (ConfigurationError, ValueError) as error:
        raise Failed(UpstreamAuthentication(str(error))) from error
    auth = provider.options.get("auth")
    signer = _signers().get(auth or "")
    headers = {
        "host": origin.host_header,
        "user-agent": "weir",
        "content-type": "application/json",
        "accept-encoding": "identity",
        **language.default_headers,
        **{name.lower(): value for name, value in provider.headers.items()},
    }
    if secret is not None and signer is None:
        headers |= language.authorization(secret) if auth is None else {auth: secret}
    return Endpoint(
        provider=provider,
        front=front,
        dialect=language,
        origin=origin,
        base=_base_path(provider.base_url),
        query=provider.options.get("query", ""),
        lines=lines_of(provider, headers),
        headers=headers,
        names=frozenset(name.encode("latin-1") for name in headers),
        reference=reference,
        secret=secret,
        signer=signer,
        targets={},
    )


def _language(provider: ProviderChanged, front: ClientDialect) -> Dialect | None:
    """The dialect to call a provider in: the one that its options name for what is asked, else the
    client's own where the provider speaks it.
    """
    named = provider.options.get(front.surface)
    spoken = [provider.dialect, *provider.speaks] if named is None else [named]
    names = [front.name, *spoken] if front.name in spoken else spoken
    found = (dialect(name, front.surface) for name in names)
    return next((language for language in found if language is not None), None)


def _base_path(url: str) -> str:
    path = url.split("://", 1)[1].partition("/")[2].rstrip("/")
    return f"/{path}" if path else ""


def lines_of(provider: ProviderChanged, headers: Mapping[str, str]) -> bytes:
    """Return headers as they are sent. Raises Failed for one that would be two, or that cannot be sent."""
    if any(_UNSAFE.search(value) for value in headers.values()):
        raise Failed(UpstreamNetwork(f"a header of provider {provider.name} holds a line break"))
    try:
        return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")
    except UnicodeEncodeError as error:
        told = f"a header of provider {provider.name} holds a letter that no header can"
        raise Failed(UpstreamNetwork(told)) from error


@cache
def _signers() -> dict[str, Signer]:
    # Nobody makes an instance of the abstract class here, which is what mypy guards against.
    found = discover("gateway.providers", Signer)  # type: ignore[type-abstract]
    return {signer.name: signer for signer in found}


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
