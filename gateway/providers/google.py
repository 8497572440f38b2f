"""Google's identities: tokens for Vertex AI in place of a key.

The identity is, the first that is there: the provider's key, which is the JSON of a key file; the
key file that `GOOGLE_APPLICATION_CREDENTIALS` names; the service account of the machine, asked of its
metadata server (`GCE_METADATA_HOST`). A key file is a service account's, or the one that
``gcloud auth application-default login`` writes. Options: `scope`, `token_uri`, `metadata_url`.

Sources: "Using OAuth 2.0 for Server to Server Applications", HTTP/REST
(https://developers.google.com/identity/protocols/oauth2/service-account); "Authenticate workloads to
Google Cloud APIs using service accounts"
(https://cloud.google.com/compute/docs/access/authenticate-workloads).
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from gateway.providers import tokens
from gateway.providers.signer import Signer, Unsigned
from gateway.providers.tokens import Token, TokenKeeper
from schemas.errors import UpstreamAuthentication

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
TOKEN_URI = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
METADATA_HOST = "metadata.google.internal"
METADATA_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"
LIFETIME_S = 3_600
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_HEADERS = {"metadata-flavor": "Google"}


class KeyFile(msgspec.Struct, frozen=True):
    """A key file: of a service account, or of a user who has logged in."""

    type: str
    client_email: str = ""
    private_key: str = ""
    private_key_id: str = ""
    token_uri: str = TOKEN_URI
    client_id: str = ""
    client_secret: str = ""
    refresh_token: str = ""


_read_key_file = msgspec.json.Decoder(KeyFile).decode


class GoogleSigner(Signer):
    """The way of authentication ``google``."""

    name = "google"

    def __init__(
        self, keeper: TokenKeeper | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._keeper = keeper or TokenKeeper()
        self._clock = clock

    async def sign(self, request: Unsigned) -> dict[str, str]:
        """Return the headers that authenticate a request. Raises UpstreamAuthentication."""
        scope = request.options.get("scope", SCOPE)
        identity = (request.provider, request.secret, scope)
        token = await self._keeper.get(identity, lambda: self._fetch(request, scope))
        return {"authorization": f"Bearer {token}"}

    async def _fetch(self, request: Unsigned, scope: str) -> Token:
        text = request.secret or _file_of_the_machine()
        if text is None:
            host = os.environ.get("GCE_METADATA_HOST", METADATA_HOST)
            url = request.options.get("metadata_url", f"http://{host}{METADATA_PATH}")
            return await tokens.get(f"{url}?scopes={scope}", _HEADERS)
        try:
            key = _read_key_file(text)
        except msgspec.DecodeError as error:
            raise UpstreamAuthentication(
                f"the key of provider {request.provider} is no key file of Google's",
                action="Give the JSON of a service account's key, by file:PATH.",
            ) from error
        url = request.options.get("token_uri", key.token_uri)
        if key.type == "authorized_user":
            form = {
                "grant_type": "refresh_token",
                "client_id": key.client_id,
                "client_secret": key.client_secret,
                "refresh_token": key.refresh_token,
            }
            return await tokens.post_form(url, form)
        assertion = signed_assertion(key, url, scope, self._clock())
        return await tokens.post_form(url, {"grant_type": _GRANT, "assertion": assertion})


def signed_assertion(key: KeyFile, audience: str, scope: str, now_s: float) -> str:
    """Return the JWT by which a service account shows who it is. Raises UpstreamAuthentication."""
    try:
        private = serialization.load_pem_private_key(key.private_key.encode(), None)
    except ValueError as error:
        raise UpstreamAuthentication("the key file holds no private key") from error
    if not isinstance(private, rsa.RSAPrivateKey) or not key.client_email:
        raise UpstreamAuthentication(f"a key file of type '{key.type}' cannot sign")
    header = {"alg": "RS256", "typ": "JWT", "kid": key.private_key_id}
    claims = {
        "iss": key.client_email,
        "scope": scope,
        "aud": audience,
        "iat": int(now_s),
        "exp": int(now_s) + LIFETIME_S,
    }
    signed = b".".join(_base64(msgspec.json.encode(part)) for part in (header, claims))
    signature = private.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    return (signed + b"." + _base64(signature)).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _file_of_the_machine() -> str | None:
    path = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if not path:
        return None
    try:
        return Path(path).read_text("utf-8")
    except OSError as error:
        raise UpstreamAuthentication(f"the key file {path} cannot be read") from error


GOOGLE = GoogleSigner()
