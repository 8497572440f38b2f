"""What a signer is: `options["auth"]` of a provider names one, or the header that carries its key."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import msgspec


class Unsigned(msgspec.Struct, frozen=True):
    """A request that is ready but for its authentication.

    `target` is path and query as they will be sent, `headers` are lower-case. `secret` is the
    provider's key, None where it names none; `options` are the provider's.
    """

    provider: str
    host: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    secret: str | None
    options: Mapping[str, str]


class Signer(ABC):
    """Authenticates requests; its instances are found by discovery."""

    name: str

    @abstractmethod
    async def sign(self, request: Unsigned) -> dict[str, str]:
        """Return the headers that authenticate a request. Raises UpstreamAuthentication."""
