"""Google's access tokens: by a service account's signed assertion, or from the metadata server.

Written from developers.google.com/identity/protocols/oauth2/service-account (HTTP/REST) and
cloud.google.com/compute/docs/access/authenticate-workloads.
"""

import base64
import json
import os
import time
from typing import Any
from urllib.parse import parse_qs

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from infra.sandbox.behaviour import Lane
from infra.sandbox.errors import ApiError, invalid
from infra.sandbox.exchange import Exchange
from infra.sandbox.models import Dialect
from infra.sandbox.requests import BadBody
from infra.sandbox.wire import Desk

TOKEN_PATH = "/token"  # noqa: S105 - a path
METADATA_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"
ACCOUNT_PATH = "/google/service-account"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ACCOUNT = "sandbox@weir-sandbox.iam.gserviceaccount.com"
AUDIENCE = "https://oauth2.googleapis.com/token"
LIFETIME_S = 3_600


class Tokens:
    """Hands out tokens and knows them again.

    Its paths:

    - `POST {base}/token`: an assertion for a token
    - `GET {base}/computeMetadata/v1/instance/service-accounts/default/token`
    - `GET {base}/google/service-account`: a service account's key file for this sandbox, which the
      vendor would let an owner download
    """

    name: Dialect = "gemini"

    def __init__(self) -> None:
        self._key: rsa.RSAPrivateKey | None = None
        self._until_s: dict[str, float] = {}
        self.lifetime_s = float(LIFETIME_S)

    def knows(self, token: str) -> bool:
        """Whether a token was handed out here and is still good."""
        return self._until_s.get(token, 0.0) > time.monotonic()

    def find(self, path: str) -> str | None:
        """Base path."""
        for tail in (METADATA_PATH, TOKEN_PATH, ACCOUNT_PATH):
            if path.endswith(tail):
                return path.removesuffix(tail)
        return None

    async def serve(self, exchange: Exchange, desk: Desk) -> None:
        """Serve one call."""
        del desk
        body = await exchange.body(1 << 20)
        match exchange.row.method, exchange.rest:
            case "POST", path if path == TOKEN_PATH:
                self._check(parse_qs(body.decode("utf-8", "replace")), exchange)
                await exchange.answer_json(self._new())
            case "GET", path if path == METADATA_PATH:
                if exchange.header(b"metadata-flavor") != "Google":
                    raise ApiError(403, "authentication", "Missing Metadata-Flavor:Google header.")
                await exchange.answer_json(self._new(), [(b"metadata-flavor", b"Google")])
            case "GET", _:
                self.lifetime_s = float(exchange.query.get("expires_in", LIFETIME_S))
                await exchange.answer_json(self._account(exchange))
            case _:
                raise ApiError(404, "not_found", "Not Found")

    async def refuse(self, exchange: Exchange, error: ApiError, lane: Lane | None) -> None:
        """Send an error in the form of OAuth 2."""
        del lane
        exchange.row.error_code = error.code or error.kind
        body = {"error": error.code or "invalid_request", "error_description": error.message}
        await exchange.answer(error.status, msgspec.json.encode(body))

    def explain(self, bad: BadBody) -> ApiError:
        """A body's fault in the vendor's words."""
        return invalid(bad.message)

    def _new(self) -> dict[str, Any]:
        token = "ya29." + os.urandom(24).hex()
        self._until_s[token] = time.monotonic() + self.lifetime_s
        return {
            "access_token": token,
            "expires_in": int(self.lifetime_s),
            "token_type": "Bearer",
        }

    def _private(self) -> rsa.RSAPrivateKey:
        if self._key is None:
            self._key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
        return self._key

    def _account(self, exchange: Exchange) -> dict[str, str]:
        pem = self._private().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        host = exchange.header(b"host") or ""
        return {
            "type": "service_account",
            "project_id": "weir-sandbox",
            "private_key_id": "sandbox-1",
            "private_key": pem.decode(),
            "client_email": ACCOUNT,
            "client_id": "100000000000000000000",
            "token_uri": f"http://{host}{exchange.row.base}{TOKEN_PATH}",
        }

    def _check(self, form: dict[str, list[str]], exchange: Exchange) -> None:
        """Check an assertion.

        Raises:
            ApiError: 400 with OAuth's code.
        """
        if form.get("grant_type") == ["refresh_token"]:
            if not form.get("refresh_token"):
                raise invalid("Bad Request", code="invalid_grant")
            return
        if form.get("grant_type") != [GRANT]:
            raise invalid("Invalid grant_type", code="unsupported_grant_type")
        try:
            signed, _, signature = form["assertion"][0].rpartition(".")
            header, claims = (json.loads(_plain(part)) for part in signed.split("."))
            self._private().public_key().verify(
                _plain(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256()
            )
        except InvalidSignature as error:
            raise invalid("Invalid JWT Signature.", code="invalid_grant") from error
        except (KeyError, ValueError) as error:
            raise invalid("Bad Request", code="invalid_request") from error
        now_s = time.time()
        timely = claims["iat"] <= now_s + 60 and now_s < claims["exp"] <= claims["iat"] + 3_600
        host = exchange.header(b"host") or ""
        if header.get("alg") != "RS256" or claims.get("iss") != ACCOUNT or not timely:
            raise invalid("Invalid JWT: check your iat and exp values.", code="invalid_grant")
        # The vendor's own library names the vendor's address, wherever it sends the assertion.
        if claims.get("aud") not in (AUDIENCE, f"http://{host}{exchange.row.base}{TOKEN_PATH}"):
            raise invalid("Invalid JWT: Failed audience check.", code="invalid_grant")
        if "https://www.googleapis.com/auth/cloud-platform" not in claims.get("scope", ""):
            raise invalid("Invalid OAuth scope or ID token audience.", code="invalid_scope")


def _plain(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


GOOGLE_TOKENS = Tokens()
