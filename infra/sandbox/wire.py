"""A vendor's own protocol behind the sandbox's front: one file each, named in `WIRES` of the server."""

from typing import Protocol

from infra.sandbox.behaviour import Behaviours, Lane
from infra.sandbox.errors import ApiError
from infra.sandbox.exchange import Exchange
from infra.sandbox.models import Catalogue, Dialect, Model
from infra.sandbox.prompts import PromptCache
from infra.sandbox.requests import BadBody
from infra.sandbox.settings import SandboxSettings


class Desk(Protocol):
    """What a wire finds at the sandbox."""

    settings: SandboxSettings
    catalogue: Catalogue
    behaviours: Behaviours
    cache: PromptCache

    def model(self, exchange: Exchange, name: str, dialect: Dialect) -> Model:
        """The model that a call names.

        Raises:
            ApiError: 404 when there is none.
        """
        ...


class Wire(Protocol):
    """A vendor's protocol."""

    name: Dialect

    def find(self, path: str) -> str | None:
        """The base path (``""``, ``/a``) when this path is the vendor's, None for any other."""
        ...

    async def serve(self, exchange: Exchange, desk: Desk) -> None:
        """Serve one call.

        Raises:
            ApiError: the vendor would refuse it, or a fault says so.
            BadBody: the body is not what the vendor documents.
            Disconnected: the client left.
        """
        ...

    def explain(self, bad: BadBody) -> ApiError:
        """A body's fault in the words of the vendor."""
        ...

    async def refuse(self, exchange: Exchange, error: ApiError, lane: Lane | None) -> None:
        """Send an error in the vendor's body."""
        ...
