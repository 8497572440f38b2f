"""What browsers ask for: which pages may call from elsewhere (CORS), and how they are to reach us.

Source: the Fetch standard, "CORS protocol"; RFC 6797 for Strict-Transport-Security. Keys travel in
headers that a page must set itself, so no answer allows credentials.
"""

from __future__ import annotations

from gateway.client import Client, Headers
from schemas.errors import PermissionDenied

ANY = "*"
MAX_AGE_S = 600
METHODS = b"GET, POST, PUT, PATCH, DELETE"
HEADERS = (
    b"authorization, x-api-key, api-key, content-type, anthropic-version, anthropic-beta, "
    b"idempotency-key, traceparent, x-goog-api-key, x-weir-metadata, x-weir-session-id, "
    b"x-weir-task-type"
)
EXPOSED = (
    b"x-weir-request-id, x-weir-model, x-weir-route, x-weir-attempts, x-weir-cost-usd, "
    b"x-weir-dropped-params, x-request-id, request-id, retry-after"
)


class Edge:
    """Adds headers to answers, and answers a browser's question whether it may call."""

    def __init__(self, origins: tuple[str, ...] = (), hsts_s: int = 0) -> None:
        self._origins = frozenset(origin.rstrip("/").lower() for origin in origins)
        self._always: Headers = []
        if hsts_s:
            self._always = [(b"strict-transport-security", b"max-age=%d" % hsts_s)]
        self.any = bool(self._origins or self._always)

    def prepare(self, client: Client) -> Headers | None:
        """Set what every answer to this caller carries; return a preflight's answer if it is one.

        Raises PermissionDenied for the preflight of a page that is not on the list.
        """
        client.edge_headers = self._always
        origin = client.headers.get(b"origin")
        if origin is None or not self._origins:
            return None
        preflight = client.method == "OPTIONS" and (
            b"access-control-request-method" in client.headers
        )
        if not self._allows(origin):
            if preflight:
                raise PermissionDenied(
                    "pages of this origin may not call the gateway",
                    action="Add it to cors_origins (WEIR_CORS_ORIGINS).",
                )
            return None
        client.edge_headers = [
            *self._always,
            (b"access-control-allow-origin", origin),
            (b"vary", b"origin"),
        ]
        if not preflight:
            client.edge_headers.append((b"access-control-expose-headers", EXPOSED))
            return None
        return [
            (b"access-control-allow-methods", METHODS),
            (b"access-control-allow-headers", HEADERS),
            (b"access-control-max-age", b"%d" % MAX_AGE_S),
        ]

    def _allows(self, origin: bytes) -> bool:
        return ANY in self._origins or origin.decode("latin-1").lower() in self._origins
