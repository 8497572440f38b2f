"""Amazon's Signature Version 4, and its API keys.

The provider's key is one of: a Bedrock API key (a bearer token); ``AKID:SECRET`` or
``AKID:SECRET:TOKEN``; the JSON that a credential process prints. Without any, the signer takes
`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`, as the vendor's own clients do.
`options["region"]` names the region, `options["service"]` the service (bedrock).

Source: AWS IAM user guide, "Create a signed AWS API request"
(https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html);
AWS SDKs and tools reference, "Process credential provider".
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from urllib.parse import quote, unquote

import msgspec

from gateway.providers.signer import Signer, Unsigned
from schemas.errors import UpstreamAuthentication

ALGORITHM = "AWS4-HMAC-SHA256"
SERVICE = "bedrock"
_PATH_SAFE = "/-_.~"
_SAFE = "-_.~"
_SPACES = re.compile(r" +")
_NEVER_SIGNED = frozenset({"authorization", "user-agent", "connection", "x-amzn-trace-id"})
"""What proxies on the way may change."""


class Credentials(msgspec.Struct, frozen=True):
    """An identity of the vendor; the names are those of a credential process."""

    access_key_id: str = msgspec.field(name="AccessKeyId")
    secret: str = msgspec.field(name="SecretAccessKey")
    token: str | None = msgspec.field(name="SessionToken", default=None)


_read_credentials = msgspec.json.Decoder(Credentials).decode


class AwsSigner(Signer):
    """The way of authentication ``aws``."""

    name = "aws"

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock

    async def sign(self, request: Unsigned) -> dict[str, str]:
        """Return the headers that authenticate a request. Raises UpstreamAuthentication."""
        credentials = _credentials(request)
        if isinstance(credentials, str):
            return {"authorization": f"Bearer {credentials}"}
        region = request.options.get("region")
        if not region:
            raise UpstreamAuthentication(
                f"the provider {request.provider} names no region",
                action=f'Set options = {{ region = "us-east-1" }} in [providers.{request.provider}].',
            )
        headers = {**request.headers, "host": request.host}
        service = request.options.get("service", SERVICE)
        return signed(headers, request, credentials, (region, service), self._clock())


def _credentials(request: Unsigned) -> Credentials | str:
    """Return an identity, or an API key as it is. Raises UpstreamAuthentication."""
    secret = request.secret
    if secret is None:
        return _of_environment(request.provider)
    if secret.startswith("{"):
        try:
            return _read_credentials(secret.encode())
        except msgspec.DecodeError as error:
            raise UpstreamAuthentication(
                f"the key of provider {request.provider} is JSON without AccessKeyId and "
                "SecretAccessKey"
            ) from error
    access_key_id, _, rest = secret.partition(":")
    if not rest:
        return secret
    own, _, token = rest.partition(":")
    return Credentials(access_key_id, own, token or None)


def _of_environment(provider: str) -> Credentials:
    access_key_id = os.environ.get("AWS_ACCESS_KEY_ID")
    secret = os.environ.get("AWS_SECRET_ACCESS_KEY")
    if not access_key_id or not secret:
        raise UpstreamAuthentication(
            f"the provider {provider} has neither a key nor AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )
    return Credentials(access_key_id, secret, os.environ.get("AWS_SESSION_TOKEN") or None)


def signed(
    headers: Mapping[str, str],
    request: Unsigned,
    credentials: Credentials,
    scope: tuple[str, str],
    now_s: float,
) -> dict[str, str]:
    """Return the headers that sign a POST for (region, service) at a time in Unix seconds."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))
    own = {"x-amz-date": stamp}
    if credentials.token is not None:
        own["x-amz-security-token"] = credentials.token
    kept = {name: text for name, text in headers.items() if name not in _NEVER_SIGNED}
    canonical, names = canonical_request("POST", request.target, {**kept, **own}, request.body)
    region, service = scope
    place = f"{stamp[:8]}/{region}/{service}/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"{ALGORITHM}\n{stamp}\n{place}\n{digest}"
    key = _signing_key(credentials.secret, stamp[:8], region, service)
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    own["authorization"] = (
        f"{ALGORITHM} Credential={credentials.access_key_id}/{place}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return own


def canonical_request(
    method: str, target: str, headers: Mapping[str, str], body: bytes
) -> tuple[str, str]:
    """Return the canonical form of a request, and the names of its signed headers."""
    path, _, query = target.partition("?")
    lines = sorted((name.lower(), _SPACES.sub(" ", text.strip())) for name, text in headers.items())
    names = ";".join(name for name, _ in lines)
    written = "".join(f"{name}:{text}\n" for name, text in lines)
    digest = hashlib.sha256(body).hexdigest()
    parts = (method, canonical_path(path), _canonical_query(query), written, names, digest)
    return "\n".join(parts), names


def canonical_path(path: str) -> str:
    """Return a path as it is signed: normalised, and encoded once more than it is sent.

    All services but S3 sign the path that is on the wire encoded again, so the colon of a model id,
    ``%3A`` on the wire, is ``%253A`` here.
    """
    kept: list[str] = []
    for step in path.split("/"):
        if step == "..":
            kept[-1:] = []
        elif step not in {"", "."}:
            kept.append(step)
    slash = "/" if kept and path.endswith("/") else ""
    return quote(f"/{'/'.join(kept)}{slash}", safe=_PATH_SAFE)


def _canonical_query(query: str) -> str:
    pairs = []
    for pair in query.split("&") if query else []:
        name, _, value = pair.partition("=")
        pairs.append((quote(unquote(name), safe=_SAFE), quote(unquote(value), safe=_SAFE)))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


@lru_cache(maxsize=64)
def _signing_key(secret: str, day: str, region: str, service: str) -> bytes:
    """Return the key of a day, region and service; it stays the same for thousands of calls."""
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


AWS = AwsSigner()
