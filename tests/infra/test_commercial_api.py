"""`GET /commercial/test` and `/commercial/models`: real calls to the vendors that the log knows."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from infra.commercial_api import MODELS_PATHS, TEST_PATHS, Commerce, commercial_router
from infra.control import build
from infra.door import Keys
from schemas.events.changes import TenantChanged
from schemas.key_view import KeyView
from schemas.table_view import TableView
from tests.gateway.worker import provider, target
from tests.sandbox.served import Served, sandbox

__all__ = ["sandbox"]


@pytest.fixture
def client(sandbox: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("TEST_PROVIDER_KEY", "sk-commercial")
    monkeypatch.delenv("TEST_NO_KEY", raising=False)
    commerce = Commerce()
    views: dict[Any, TableView[Any]] = {view.event_type: view for view in commerce.views}
    events = [
        provider("openai", "openai", f"{sandbox.url}/v1"),
        provider("anthropic", "anthropic", sandbox.url),
        provider("bedrock", "bedrock", f"{sandbox.url}/b", options={"auth": "aws", "region": "x"}),
        provider("unkeyed", "openai", f"{sandbox.url}/v1", secret="env:TEST_NO_KEY"),
        provider("away", "openai", "http://127.0.0.1:9/v1"),
        provider("bare", "bedrock", f"{sandbox.url}/b", options={"auth": "aws", "region": "x"}),
        provider("off", "openai", "http://127.0.0.1:9/v1", enabled=False),
        provider("local", "openai", "http://127.0.0.1:9/v1", secret=None),
        target("openai", "gpt-4o-mini", context_length=128_000),
        target("bedrock", "amazon.nova-lite-v1:0"),
        target("off", "x"),
        target("local", "tuned"),
    ]
    for event in events:
        views[type(event)].entries[event.key] = event
    known = KeyView()
    known.caught_up.set()
    keys = Keys(known, "operator", TableView(TenantChanged))
    app = build(keys, [commercial_router(commerce)])
    with TestClient(app, headers={"authorization": "Bearer operator"}) as running:
        yield running


@pytest.mark.req("GW-06", "PROV-02", "PROV-07")
@pytest.mark.parametrize("path", TEST_PATHS)
def test_every_vendor_is_asked(client: TestClient, path: str) -> None:
    body = client.get(path).json()
    found = {one["provider"]: one for one in body["results"]}
    assert body["ok"] is False
    assert set(found) == {"openai", "anthropic", "bedrock", "unkeyed", "away", "bare"}
    for name in ("openai", "anthropic", "bedrock"):
        assert found[name]["ok"], found[name]
        assert found[name]["latency_ms"] > 0
        assert found[name]["error"] is None
    assert "gpt-4o-mini" in found["openai"]["models"]
    assert any(model.startswith("claude") for model in found["anthropic"]["models"])
    assert found["unkeyed"]["error_code"] == "upstream_authentication"
    assert "TEST_NO_KEY" in found["unkeyed"]["error"]
    assert found["unkeyed"]["latency_ms"] is None
    assert found["away"]["error_code"] == "upstream_network"
    assert "no model of it is listed" in found["bare"]["error"]
    assert found["bare"]["action"]


@pytest.mark.req("GW-06")
def test_one_vendor_is_asked(client: TestClient) -> None:
    body = client.get(TEST_PATHS[0], params={"provider": "openai"}).json()
    assert body["ok"] is True
    assert [one["provider"] for one in body["results"]] == ["openai"]
    missing = client.get(TEST_PATHS[0], params={"provider": "opnai"})
    assert missing.status_code == 404
    assert "openai" in missing.json()["error"]["action"]


def test_strangers_are_refused(client: TestClient) -> None:
    path = TEST_PATHS[0]
    assert client.get(path, headers={"authorization": "Bearer nobody"}).status_code == 401


@pytest.mark.req("GW-06", "GEN-06")
@pytest.mark.parametrize("path", MODELS_PATHS)
def test_the_vendors_models(client: TestClient, path: str) -> None:
    body = client.get(path).json()
    assert [model["id"] for model in body["models"]] == [
        "bedrock/amazon.nova-lite-v1:0",
        "openai/gpt-4o-mini",
    ]
    assert body["models"][1] == {
        "id": "openai/gpt-4o-mini",
        "name": "gpt-4o-mini",
        "provider": "openai",
        "capabilities": ["chat", "stream", "tools"],
        "context_length": 128_000,
        "max_output_tokens": None,
    }
    assert (body["total"], body["limit"], body["offset"]) == (2, 100, 0)
    assert client.get(path, params={"provider": "openai"}).json()["total"] == 1
    assert client.get(path, params={"offset": 1}).json()["models"] == body["models"][1:]
