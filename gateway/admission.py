"""What must be known before a request is let in: who asks, for what, and is it well-formed."""

from __future__ import annotations

import time

import msgspec

from gateway.client import JSON, Client, Header, Headers
from gateway.dialects.neutral import ClientDialect, Fields, Opening
from gateway.dialects.reading import text_tags
from gateway.settings import GatewaySettings
from gateway.state import GatewayState
from schemas.access import Grant
from schemas.clock import now_us
from schemas.errors import AuthenticationFailed, InvalidRequest, PermissionDenied
from schemas.events.changes import KeyChanged
from schemas.identity import uuid7
from schemas.trace import checked

KEY_HEADERS = (b"x-api-key", b"api-key", b"x-goog-api-key", b"x-amz-security-token")
"""What the vendors' clients send a key in, beside ``Authorization: Bearer``."""
CALL_SCOPES = frozenset({"inference", "admin"})
PASS_PREFIX, PASS_SCOPES = "/passthrough/", frozenset({"passthrough", "admin"})
"""Where a call that is meant for a provider by its name comes in, and who may make one."""
BYTES_PER_TOKEN = 4
"""The usual rule of thumb; figures made with it are marked as estimated."""
ANSWER_TOKENS_MAX = 2**31 - 1
"""What vendors take as a number of tokens at most; a larger one fits no price and no record."""
TAGS_MAX, TAG_CHARS_MAX = 32, 512
TASK_CHARS_MAX = 64


class Admitted:
    """A request that was let in. A guardrail that masks gives it other `fields` and another `body`."""

    def __init__(
        self,
        *,
        request_id: str,
        received_us: int,
        started_ns: int,
        front: ClientDialect,
        endpoint: str,
        grant: Grant,
        body: bytes,
        fields: Fields,
        opening: Opening,
        tags: dict[str, str],
        user_id: str | None,
        session_id: str | None,
        task_type: str | None,
        traceparent: str | None,
        input_tokens_estimate: int,
    ) -> None:
        self.request_id = request_id
        self.received_us = received_us
        self.started_ns = started_ns
        self.front = front
        self.endpoint = endpoint
        self.grant = grant
        self.key: KeyChanged = grant.key
        self.body = body
        self.fields = fields
        self.opening = opening
        self.tags = tags
        self.user_id = user_id
        self.session_id = session_id
        self.task_type = task_type
        self.traceparent = traceparent
        self.input_tokens_estimate = input_tokens_estimate


def authenticate(client: Client, state: GatewayState) -> Grant:
    """Return what the caller may do. Raises AuthenticationFailed, PermissionDenied."""
    try:
        if client.on_behalf_of is not None:
            grant = state.access.grant_of(client.on_behalf_of)
        else:
            grant = state.authenticate(secret_of(client))
        passed = client.path.startswith(PASS_PREFIX)
        if (PASS_SCOPES if passed else CALL_SCOPES).isdisjoint(grant.key.scopes):
            raise PermissionDenied(f"the key '{grant.key.name}' may not call models")
    except (AuthenticationFailed, PermissionDenied) as error:
        state.refusals.note(error)
        raise
    return grant


def secret_of(client: Client) -> str:
    """Return the key that the caller presents. Raises AuthenticationFailed for none."""
    authorization = client.header(b"authorization")
    if authorization is not None:
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() == "bearer" and secret.strip():
            return secret.strip()
    for name in KEY_HEADERS:
        secret = (client.header(name) or "").strip()
        if secret:
            return secret
    if authorization is not None and authorization.startswith("AWS4-"):
        raise AuthenticationFailed(
            "a signature of AWS carries no key of this gateway: give one as "
            "AWS_BEARER_TOKEN_BEDROCK (https only), or as AWS_SESSION_TOKEN beside any access key"
        )
    raise AuthenticationFailed("the request carries no API key")


async def admit(
    client: Client,
    front: ClientDialect,
    said: Fields,
    state: GatewayState,
    request_id: str,
    settings: GatewaySettings,
) -> Admitted:
    """Authenticate, read and check a request; `said` are members that its path says.

    Raises the WeirError that says why not.

    The key is checked before the body is read: strangers cannot make the gateway hold bytes.
    """
    received_us, started_ns = now_us(), time.perf_counter_ns()
    grant = authenticate(client, state)
    body = await client.body(settings.body_bytes_max)
    fields = front.read_body(body, client.header(b"content-type"))
    fields.update(said)
    opening = front.open(fields)
    require_countable(opening)
    key = grant.key
    # What the operator has put on a key stands: costs are attributed by it.
    tags = {**opening.tags, **_header_tags(client), **key.tags}
    return Admitted(
        request_id=request_id,
        received_us=received_us,
        started_ns=started_ns,
        front=front,
        endpoint=client.path,
        grant=grant,
        body=body,
        fields=fields,
        opening=opening,
        tags=_bounded(tags),
        user_id=opening.user_id or key.user_id,
        session_id=opening.session_id or client.header(b"x-weir-session-id"),
        task_type=_task(opening.task_type or client.header(b"x-weir-task-type")),
        traceparent=checked(client.header(b"traceparent")),
        input_tokens_estimate=max(1, len(body) // BYTES_PER_TOKEN),
    )


def require_countable(opening: Opening) -> None:
    """Refuse a length of the answer that can be neither reserved nor recorded."""
    asked = opening.max_tokens
    if asked is not None and not 0 <= asked <= ANSWER_TOKENS_MAX:
        raise InvalidRequest(
            f"the answer's most tokens must lie between 0 and {ANSWER_TOKENS_MAX}, not at {asked}"
        )


def new_request_id() -> str:
    """Return an id for a request, which is also its key in the ledger."""
    return uuid7()


def own_headers(request_id: str | None = None, kind: Header = JSON) -> Headers:
    """Return the headers of an answer that no call gives: it has an id to ask about, too."""
    return [kind, (b"x-weir-request-id", (request_id or new_request_id()).encode())]


def _task(name: str | None) -> str | None:
    """Refuse a text in place of a word: it is recorded with every call, and tables are kept by it."""
    if name is not None and len(name) > TASK_CHARS_MAX:
        raise InvalidRequest(
            f"the task type has {len(name)} characters, at most {TASK_CHARS_MAX} are allowed",
            action="Name the task in a word, such as summarization, or leave x-weir-task-type out.",
        )
    return name


def _header_tags(client: Client) -> dict[str, str]:
    raw = client.headers.get(b"x-weir-metadata")
    if raw is None:
        return {}
    try:
        value = msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        raise InvalidRequest("the header x-weir-metadata is not valid JSON") from error
    if not isinstance(value, dict):
        raise InvalidRequest("the header x-weir-metadata is not a JSON object")
    return text_tags(value)


def _bounded(tags: dict[str, str]) -> dict[str, str]:
    if not tags:
        return tags
    kept = list(tags.items())[-TAGS_MAX:]
    return {name[:TAG_CHARS_MAX]: value[:TAG_CHARS_MAX] for name, value in kept}
