"""Microsoft Entra: tokens for Azure OpenAI in place of a key.

The identity is, the first that is there: the provider's key as ``TENANT:CLIENT:SECRET``; the
variables `AZURE_TENANT_ID`, `AZURE_CLIENT_ID` and `AZURE_CLIENT_SECRET` (a secret) or
`AZURE_FEDERATED_TOKEN_FILE` (a workload's own token); the managed identity of the machine,
`AZURE_CLIENT_ID` naming one of several. Options: `scope`, `authority`, `identity_endpoint`.

Source: Microsoft identity platform, "OAuth 2.0 client credentials flow"
(https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow); "How to use
managed identities on an Azure VM to acquire an access token"
(https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token);
App Service, "REST endpoint reference" of managed identities.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlencode

from gateway.providers import tokens
from gateway.providers.signer import Signer, Unsigned
from gateway.providers.tokens import Token, TokenKeeper
from schemas.errors import UpstreamAuthentication

SCOPE = "https://cognitiveservices.azure.com/.default"
AUTHORITY = "https://login.microsoftonline.com"
METADATA_SERVICE = "http://169.254.169.254"
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class AzureSigner(Signer):
    """The way of authentication ``azure``."""

    name = "azure"

    def __init__(self, keeper: TokenKeeper | None = None) -> None:
        self._keeper = keeper or TokenKeeper()

    async def sign(self, request: Unsigned) -> dict[str, str]:
        """Return the headers that authenticate a request. Raises UpstreamAuthentication."""
        scope = request.options.get("scope", SCOPE)
        identity = (request.provider, request.secret, scope)
        token = await self._keeper.get(identity, lambda: _fetch(request, scope))
        return {"authorization": f"Bearer {token}"}


async def _fetch(request: Unsigned, scope: str) -> Token:
    known = _client(request)
    if known is None:
        return await _machines(request.options, scope.removesuffix("/.default"))
    tenant, form = known
    authority = request.options.get("authority") or os.environ.get("AZURE_AUTHORITY_HOST")
    url = f"{(authority or AUTHORITY).rstrip('/')}/{tenant}/oauth2/v2.0/token"
    return await tokens.post_form(url, {**form, "scope": scope, "grant_type": "client_credentials"})


def _client(request: Unsigned) -> tuple[str, dict[str, str]] | None:
    """Return (tenant, how the client shows who it is), None where the machine has an identity."""
    if request.secret is not None:
        tenant, _, rest = request.secret.partition(":")
        client_id, _, secret = rest.partition(":")
        if not secret:
            raise UpstreamAuthentication(
                f"the key of provider {request.provider} must be TENANT:CLIENT:SECRET"
            )
        return tenant, {"client_id": client_id, "client_secret": secret}
    found = os.environ.get
    tenant, client_id = found("AZURE_TENANT_ID", ""), found("AZURE_CLIENT_ID", "")
    if not tenant or not client_id:
        return None
    if secret := found("AZURE_CLIENT_SECRET", ""):
        return tenant, {"client_id": client_id, "client_secret": secret}
    if file := found("AZURE_FEDERATED_TOKEN_FILE", ""):
        try:
            # The file is replaced from time to time: it is read anew for each token.
            assertion = Path(file).read_text("utf-8").strip()
        except OSError as error:
            raise UpstreamAuthentication(f"the token file {file} cannot be read") from error
        return tenant, {
            "client_id": client_id,
            "client_assertion_type": _ASSERTION,
            "client_assertion": assertion,
        }
    return None


async def _machines(options: Mapping[str, str], resource: str) -> Token:
    """Return a token of the identity that the machine has."""
    query = {"resource": resource}
    if client_id := os.environ.get("AZURE_CLIENT_ID"):
        query["client_id"] = client_id
    endpoint, header = os.environ.get("IDENTITY_ENDPOINT"), os.environ.get("IDENTITY_HEADER")
    if endpoint and header:
        query["api-version"] = "2019-08-01"
        return await tokens.get(f"{endpoint}?{urlencode(query)}", {"x-identity-header": header})
    host = options.get("identity_endpoint", METADATA_SERVICE).rstrip("/")
    query["api-version"] = "2018-02-01"
    url = f"{host}/metadata/identity/oauth2/token?{urlencode(query)}"
    return await tokens.get(url, {"metadata": "true"})


AZURE = AzureSigner()
