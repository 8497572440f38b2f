"""Control's front door: request ids, authentication, limits, and errors in one shape (GW-16)."""

import hmac
import http
import logging
import math
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from gateway.access import Refusals
from infra.docs_page import PATHS as DOCS_PATHS
from infra.kinds import UNNAMEABLE
from schemas.access import Access
from schemas.errors import (
    AuthenticationFailed,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    PermissionDenied,
    Unavailable,
    ValidationFailed,
    WeirError,
)
from schemas.events.changes import KeyChanged, TenantChanged
from schemas.identity import uuid7
from schemas.key_view import KeyView
from schemas.table_view import TableView

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST_ID = b"x-weir-request-id"
_OPEN_PATHS = frozenset({"/", "/health", "/ready", "/openapi.json", *DOCS_PATHS})
_SCOPES = {"/sql": "sql", "/api/v1/sql": "sql", "/metrics": "metrics"}
"""Paths for which less than an administrator's key will do."""
_BODY_BYTES_MAX = 1024 * 1024
"""Administration needs no more; model calls never come here."""
_SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
_POLICY = b"content-security-policy"
_NOTHING = b"default-src 'none'; frame-ancestors 'none'"
"""Answers are data: a browser that shows one as a page loads and runs nothing."""

_log = logging.getLogger("infra.control")


class Keys:
    """Who calls: a key of the log by the hash of its secret, or the local operator by a token."""

    def __init__(
        self,
        view: KeyView,
        operator_token: str,
        tenants: TableView[TenantChanged] | None = None,
    ) -> None:
        self._operator = operator_token
        self._view = view
        self._access = Access(view, tenants or TableView(TenantChanged))
        self._refusals = Refusals()

    @property
    def refused(self) -> int:
        """How many callers had no key, or an unknown or invalid one, since the start."""
        return self._refusals.counts[AuthenticationFailed.code]

    def admit(self, headers: dict[bytes, bytes], path: str) -> KeyChanged | None:
        """As `identify`, by the headers of a request; who is refused is counted."""
        try:
            return self.identify(presented_key(headers), path)
        except WeirError as error:
            self._refusals.note(error)
            raise

    def identify(self, secret: str, path: str) -> KeyChanged | None:
        """The key behind a secret, None for the operator.

        Raises AuthenticationFailed for one that is unknown, revoked or expired, PermissionDenied
        for one that lacks the path's scope or whose tenant is disabled; Unavailable while keys are
        read.
        """
        if hmac.compare_digest(secret.encode(), self._operator.encode()):
            return None
        try:
            key = self._access.grant(secret).key
        except AuthenticationFailed as error:
            if self._view.caught_up.is_set():
                raise
            unread = "control has not read its keys yet"
            raise Unavailable(unread, retry_after_seconds=1.0) from error
        wanted = _SCOPES.get(path, "admin")
        if not {wanted, "admin"} & set(key.scopes):
            raise PermissionDenied(f"the key lacks the scope {wanted!r}")
        return key


class Door:
    """ASGI middleware around the whole application."""

    def __init__(self, app: App, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it with an error."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = time.monotonic()
        headers = dict(scope["headers"])
        request_id = headers.get(REQUEST_ID, b"").decode("ascii", "ignore")[:64] or uuid7()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = [(REQUEST_ID, request_id.encode()), *_SECURITY_HEADERS]
                if all(name != _POLICY for name, _ in message["headers"]):
                    extra.append((_POLICY, _NOTHING))
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        try:
            if UNNAMEABLE.search(scope["path"]):
                raise InvalidRequest("the path holds control characters")
            if scope["path"] not in _OPEN_PATHS:
                state["key"] = self._keys.admit(headers, scope["path"])
            if int(headers.get(b"content-length", b"0") or 0) > _BODY_BYTES_MAX:
                raise PayloadTooLarge(f"the body exceeds {_BODY_BYTES_MAX} bytes")
            await self._app(scope, receive, noting)
        except WeirError as error:
            await error_response(error, request_id)(scope, receive, noting)
        except Exception:  # noqa: BLE001 - the last resort of every handler
            _log.exception("a handler failed", extra={"request_id": request_id})
            if not status:
                problem = WeirError("an internal error has occurred")
                await error_response(problem, request_id)(scope, receive, noting)
        _log.info(
            "%s %s",
            scope["method"],
            scope["path"],
            extra={
                "request_id": request_id,
                "status": status,
                "duration_ms": round((time.monotonic() - began_s) * 1000, 1),
            },
        )


def presented_key(headers: dict[bytes, bytes]) -> str:
    """The secret in `Authorization`, `x-api-key` or `api-key`. Raises AuthenticationFailed."""
    bearer = headers.get(b"authorization", b"").decode("latin-1")
    if bearer[:7].lower() == "bearer " and bearer[7:].strip():
        return bearer[7:].strip()
    for name in (b"x-api-key", b"api-key"):
        if value := headers.get(name, b"").decode("latin-1").strip():
            return value
    raise AuthenticationFailed("the request carries no key")


def error_response(error: WeirError, request_id: str) -> JSONResponse:
    """The HTTP answer of an error."""
    headers = {}
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_seconds))
    return JSONResponse({"error": error.told(request_id)}, error.status, headers)


def install_errors(app: FastAPI) -> None:
    """Answer every failure of a handler in our own shape."""

    @app.exception_handler(WeirError)
    async def ours(request: Request, error: WeirError) -> JSONResponse:
        return error_response(error, request.state.request_id)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        details = [
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors()
        ]
        kind = request.headers.get("content-type", "nothing").partition(";")[0]
        if "json" not in kind and any(item["loc"] == ("body",) for item in error.errors()):
            details = [f"the header Content-Type says {kind}: send application/json"]
        problem = ValidationFailed("the request does not have the expected form", details=details)
        return error_response(problem, request.state.request_id)

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> JSONResponse:
        path = f"{request.method} {request.url.path}"
        if error.status_code == http.HTTPStatus.NOT_FOUND:
            problem = NotFound(f"there is no {path}{_hint(request.url.path)}")
            return error_response(problem, request.state.request_id)
        body = {"error": InvalidRequest(f"{path}: {error.detail}").told(request.state.request_id)}
        return JSONResponse(body, error.status_code, error.headers)


def _hint(path: str) -> str:
    """What somebody who asks for this path has most likely set up wrong.

    It belongs to the message: clients of vendors show nothing else of an error.
    """
    if path == "/docs":
        return ": this page is served with WEIR_DOCS=true"
    if path.startswith("/v1/v1/"):
        return ": the base URL of this client ends before /v1"
    if path.startswith(
        ("/chat/", "/completions", "/embeddings", "/responses", "/audio/", "/images/")
    ):
        return ": the base URL of this client ends with /v1"
    return ""
