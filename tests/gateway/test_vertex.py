"""Vertex AI: Gemini's dialect behind Google's tokens, which are kept and renewed ahead."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.providers.google import METADATA_PATH, GoogleSigner
from gateway.providers.signer import Unsigned
from gateway.providers.tokens import TokenKeeper
from schemas.errors import UpstreamAuthentication
from tests.gateway.worker import Worker, provider
from tests.sandbox.served import Served

FLASH = "gemini-2.5-flash"
PLACE = "v1/projects/p/locations/europe-west4/publishers/google"


@pytest.fixture
def account(sandbox: Served) -> Any:
    return sandbox.control("GET", "/google/service-account")


def unsigned(secret: str | None, **options: str) -> Unsigned:
    return Unsigned("vertex", "host", "/", {}, b"", secret, options)


@pytest.mark.req("PROV-02")
def test_a_service_account_calls_vertex(
    worker: Worker, sandbox: Served, account: Any, tmp_path: Path
) -> None:
    file = tmp_path / "account.json"
    file.write_text(json.dumps(account))
    sandbox.behave(FLASH, "/vertex")
    worker.change(
        provider(
            "vertex",
            "gemini",
            f"{sandbox.url}/vertex/{PLACE}",
            secret=f"file:{file}",
            options={"auth": "google"},
        )
    )
    before = len(sandbox.rows("/vertex"))
    tokens = sum(row["path"] == "/token" for row in sandbox.rows())
    ask: Any = [{"role": "user", "content": "Say hello."}]
    api = worker.openai()
    for _ in range(2):
        answer = api.chat.completions.create(model=f"vertex/{FLASH}", messages=ask)
        assert answer.choices[0].message.content
    chunks = list(api.chat.completions.create(model=f"vertex/{FLASH}", messages=ask, stream=True))
    assert chunks[-1].choices[0].finish_reason == "stop"
    rows = sandbox.rows("/vertex")[before:]
    assert [row["status"] for row in rows] == [200, 200, 200]
    assert all(row["path"].startswith(f"/vertex/{PLACE}/models/") for row in rows)
    asked = [row for row in sandbox.rows() if row["path"] == "/token"]
    assert len(asked) - tokens <= 1, "one token serves all calls"


@pytest.mark.req("PROV-07")
def test_a_wrong_key_file_says_what_to_do(worker: Worker, sandbox: Served) -> None:
    url, options = f"{sandbox.url}/{PLACE}", {"auth": "google"}
    worker.change(provider("vertex-wrong", "gemini", url, options=options))
    body = {"model": f"vertex-wrong/{FLASH}", "messages": [{"role": "user", "content": "x"}]}
    status, _, answer = worker.request("POST", "/v1/chat/completions", body)
    assert status == 502
    assert "no key file of Google's" in json.loads(answer)["error"]["message"]


async def test_a_token_is_renewed_ahead(sandbox: Served, account: Any) -> None:
    clock = [1_000.0]
    signer = GoogleSigner(TokenKeeper(lambda: clock[0]))
    request = unsigned(json.dumps(account))
    first = await signer.sign(request)
    clock[0] += 3_200
    assert await signer.sign(request) == first
    clock[0] += 101  # less than five minutes are left
    second = await signer.sign(request)
    assert second != first
    assert second["authorization"].startswith("Bearer ya29.")


async def test_the_machines_account_and_the_named_file(
    sandbox: Served, account: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    url = f"{sandbox.url}/metadata{METADATA_PATH}"
    told = await GoogleSigner().sign(unsigned(None, metadata_url=url))
    assert told["authorization"].startswith("Bearer ya29.")
    assert sandbox.rows("/metadata")[-1]["status"] == 200
    file = tmp_path / "account.json"
    file.write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    assert await GoogleSigner().sign(unsigned(None))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"private_key": "no key"}, "holds no private key"),
        ({"client_email": ""}, "cannot sign"),
        ({"client_email": "other@x"}, "invalid_grant"),
        ({"token_uri": "http://127.0.0.1:1/token"}, "no token from"),
    ],
)
async def test_refusals_are_told(
    sandbox: Served, account: Any, change: dict[str, str], words: str
) -> None:
    with pytest.raises(UpstreamAuthentication, match=words):
        await GoogleSigner().sign(unsigned(json.dumps(account | change)))


async def test_a_users_login_is_refreshed(sandbox: Served) -> None:
    user = {
        "type": "authorized_user",
        "client_id": "c",
        "client_secret": "s",
        "refresh_token": "r",
        "token_uri": f"{sandbox.url}/user/token",
    }
    assert await GoogleSigner().sign(unsigned(json.dumps(user)))
    with pytest.raises(UpstreamAuthentication, match="invalid_grant"):
        await GoogleSigner().sign(unsigned(json.dumps({**user, "refresh_token": ""})))
