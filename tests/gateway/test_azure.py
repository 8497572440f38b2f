"""Tokens of Microsoft Entra: whose they are, how often they are fetched, and what goes wrong."""

import asyncio
import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from gateway.providers.azure import AzureSigner
from gateway.providers.signer import Unsigned
from gateway.providers.tokens import Token, TokenKeeper
from schemas.errors import UpstreamAuthentication

VARIABLES = (
    "AZURE_TENANT_ID",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_AUTHORITY_HOST",
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
)


class Entra:
    """A token endpoint on a real socket: it keeps what it was asked and counts."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answer: dict[str, Any] = {"token_type": "Bearer", "expires_in": 3599}
        self.status = 200
        handler = self._handler()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def _handler(entra: Any) -> Any:  # noqa: N805 - the handler's own self is another
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                size = int(self.headers.get("content-length") or 0)
                form = dict(parse_qsl(self.rfile.read(size).decode()))
                place = urlsplit(self.path)
                entra.asked.append(
                    {
                        "method": self.command,
                        "path": place.path,
                        "query": dict(parse_qsl(place.query)),
                        "form": form,
                        "headers": {k.lower(): v for k, v in self.headers.items()},
                    }
                )
                token = {"access_token": f"token-{len(entra.asked)}", **entra.answer}
                data = json.dumps(token if entra.status == 200 else entra.answer).encode()
                self.send_response(entra.status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


@pytest.fixture
def entra(monkeypatch: pytest.MonkeyPatch) -> Iterator[Entra]:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    running = Entra()
    yield running
    running.server.shutdown()


def unsigned(entra: Entra, secret: str | None = None, **options: str) -> Unsigned:
    places = {"authority": entra.url, "identity_endpoint": entra.url}
    return Unsigned("azure", "h", "/", {}, b"", secret, {**places, **options})


@pytest.mark.req("PROV-04")
async def test_client_credentials_are_exchanged_for_a_token_once(entra: Entra) -> None:
    signer = AzureSigner()
    request = unsigned(entra, "tenant:client:sec:ret")
    found = await asyncio.gather(*(signer.sign(request) for _ in range(20)))
    assert {headers["authorization"] for headers in found} == {"Bearer token-1"}
    [asked] = entra.asked
    assert (asked["method"], asked["path"]) == ("POST", "/tenant/oauth2/v2.0/token")
    assert asked["form"] == {
        "client_id": "client",
        "client_secret": "sec:ret",
        "scope": "https://cognitiveservices.azure.com/.default",
        "grant_type": "client_credentials",
    }


@pytest.mark.req("PROV-04")
async def test_the_usual_variables_are_the_identity(
    entra: Entra, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AZURE_TENANT_ID", "t")
    monkeypatch.setenv("AZURE_CLIENT_ID", "c")
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "s")
    await AzureSigner().sign(unsigned(entra, scope="https://ai.azure.com/.default"))
    monkeypatch.delenv("AZURE_CLIENT_SECRET")
    (tmp_path / "token").write_text("a.jwt\n")
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "token"))
    await AzureSigner().sign(unsigned(entra))
    by_secret, by_assertion = (asked["form"] for asked in entra.asked)
    assert by_secret["client_secret"] == "s"
    assert by_secret["scope"] == "https://ai.azure.com/.default"
    assert by_assertion["client_assertion"] == "a.jwt"
    assert by_assertion["client_assertion_type"].endswith("jwt-bearer")


@pytest.mark.req("PROV-04")
async def test_the_machines_identity(entra: Entra, monkeypatch: pytest.MonkeyPatch) -> None:
    entra.answer = {"expires_in": "3599", "resource": "x"}
    headers = await AzureSigner().sign(unsigned(entra))
    assert headers == {"authorization": "Bearer token-1"}
    [asked] = entra.asked
    assert (asked["method"], asked["path"]) == ("GET", "/metadata/identity/oauth2/token")
    assert asked["headers"]["metadata"] == "true"
    resource = "https://cognitiveservices.azure.com"
    assert asked["query"] == {"resource": resource, "api-version": "2018-02-01"}
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"{entra.url}/msi/token")
    monkeypatch.setenv("IDENTITY_HEADER", "proof")
    monkeypatch.setenv("AZURE_CLIENT_ID", "one-of-several")
    entra.answer = {"expires_on": str(int(time.time()) + 3600)}
    await AzureSigner().sign(unsigned(entra))
    assert entra.asked[1]["headers"]["x-identity-header"] == "proof"
    assert entra.asked[1]["query"]["client_id"] == "one-of-several"


async def test_a_token_is_renewed_ahead_and_an_old_one_bridges_a_fault() -> None:
    now_s = 0.0
    fetched = 0
    broken = False

    async def fetch() -> Token:
        nonlocal fetched
        fetched += 1
        if broken:
            raise UpstreamAuthentication("away")
        return Token(f"t{fetched}", 1000.0)

    keeper = TokenKeeper(lambda: now_s)
    assert await keeper.get("a", fetch) == "t1"
    now_s = 699.0
    assert await keeper.get("a", fetch) == "t1"
    now_s = 701.0
    broken = True
    assert await keeper.get("a", fetch) == "t1"
    assert await keeper.get("a", fetch) == "t1"
    assert fetched == 2
    now_s = 1001.0
    with pytest.raises(UpstreamAuthentication):
        await keeper.get("a", fetch)
    broken = False
    assert await keeper.get("a", fetch) == "t4"


@pytest.mark.req("PROV-07")
@pytest.mark.parametrize(
    ("status", "answer", "told"),
    [
        (401, {"error": "invalid_client", "error_description": "AADSTS7000215"}, "AADSTS7000215"),
        (200, {"access_token": 5}, "no token"),
        (200, {"expires_in": 0}, "no token"),
    ],
)
async def test_faults_of_the_endpoint_are_told(
    entra: Entra, status: int, answer: dict[str, Any], told: str
) -> None:
    entra.status, entra.answer = status, answer
    with pytest.raises(UpstreamAuthentication, match=told):
        await AzureSigner().sign(unsigned(entra, "t:c:s"))


async def test_what_is_no_identity_is_named(entra: Entra) -> None:
    with pytest.raises(UpstreamAuthentication, match="TENANT:CLIENT:SECRET"):
        await AzureSigner().sign(unsigned(entra, "just-a-key"))
    request = unsigned(entra, "t:c:s", authority="http://127.0.0.1:9")
    with pytest.raises(UpstreamAuthentication, match="no token from"):
        await AzureSigner().sign(request)
