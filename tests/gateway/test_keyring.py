"""Several keys of one provider, against a vendor that refuses some of them."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from gateway import upstream
from gateway.keyring import ASIDE_S, ASIDE_S_MAX, KeyRing
from infra.broker import free_port
from infra.sandbox.server import run
from infra.sandbox.settings import SandboxSettings
from tests.gateway.worker import Worker, provider, target
from tests.sandbox.served import Served

GOOD = ("sk-vendor-key-number-one1", "sk-vendor-key-number-two2")
REVOKED = "sk-vendor-key-revoked-9999"


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.req("PROV-09")
def test_keys_are_taken_in_turn_and_come_back_after_a_rest() -> None:
    clock = Clock()
    ring = KeyRing(["env:A", "env:B", "env:C"], clock)
    assert sorted(ring.take() for _ in range(6)) == sorted(["env:A", "env:B", "env:C"] * 2)
    assert ring.set_aside("env:B", "401") == "env:A"
    assert {ring.take() for _ in range(6)} == {"env:A", "env:C"}
    clock.now_s += ASIDE_S
    assert {ring.take() for _ in range(6)} == {"env:A", "env:B", "env:C"}


@pytest.mark.req("PROV-09")
def test_the_last_key_is_never_given_up() -> None:
    clock = Clock()
    ring = KeyRing(["env:A", "env:B"], clock)
    assert ring.set_aside("env:A", "429", 5.0) == "env:B"
    assert ring.set_aside("env:B", "429", 1e9) is None
    assert ring.take() == "env:A"
    clock.now_s += 5.0
    assert {ring.take() for _ in range(4)} == {"env:A"}
    clock.now_s += ASIDE_S_MAX
    assert {ring.take() for _ in range(4)} == {"env:A", "env:B"}
    assert ring.set_aside("env:other", "401") is None


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A vendor that knows two keys."""
    served = Served(free_port(), tmp_path_factory.mktemp("vendor") / "books.jsonl")
    loop, stop = uvloop.new_event_loop(), asyncio.Event()
    settings = SandboxSettings(port=served.port, books=served.books, keys=frozenset(GOOD))
    thread = threading.Thread(target=lambda: loop.run_until_complete(run(settings, stop)))
    thread.start()
    for _ in range(100):
        try:
            served.control("GET", "/sandbox/health")
            break
        except OSError:
            threading.Event().wait(0.05)
    yield served
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)


def ask(worker: Worker) -> tuple[int, dict[str, object]]:
    body = {"model": "v/gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}
    status, _, raw = worker.request("POST", "/v1/chat/completions", body)
    return status, json.loads(raw)


@pytest.mark.req("PROV-09", "PROV-07")
def test_a_refused_key_gives_way_and_a_replaced_file_is_read(
    own_worker: Worker, vendor: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "SECRET_TTL_S", 0.0)
    monkeypatch.setenv("V_REVOKED", REVOKED)
    file = tmp_path / "key"
    file.write_text(GOOD[0] + "\n", "utf-8")
    fields = {"secret": "env:V_REVOKED", "secrets": [f"file:{file}"]}
    row = provider("v", "openai", f"{vendor.url}/v1", **fields)
    own_worker.change(row, target("v", "gpt-4o-mini"))
    assert [ask(own_worker)[0] for _ in range(4)] == [200] * 4
    seen = [entry["key"] for entry in vendor.rows()]
    assert seen.count(f"sk-…{REVOKED[-4:]}") == 1  # refused once, then it rests
    assert seen.count(f"sk-…{GOOD[0][-4:]}") == 4

    file.write_text(GOOD[1], "utf-8")
    assert ask(own_worker)[0] == 200
    assert vendor.rows()[-1]["key"] == f"sk-…{GOOD[1][-4:]}"


@pytest.mark.req("PROV-09")
def test_a_variable_that_is_not_set_gives_way_too(
    own_worker: Worker, vendor: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("V_UNSET", raising=False)
    monkeypatch.setenv("V_GOOD", GOOD[0])
    fields = {"secret": "env:V_UNSET", "secrets": ["env:V_GOOD"]}
    own_worker.change(provider("v", "openai", f"{vendor.url}/v1", **fields))
    assert [ask(own_worker)[0] for _ in range(3)] == [200] * 3


@pytest.mark.req("PROV-07")
def test_the_error_of_a_bad_key_names_where_to_mend_it(
    own_worker: Worker, vendor: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("V_REVOKED", REVOKED)
    own_worker.change(provider("v", "openai", f"{vendor.url}/v1", secret="env:V_REVOKED"))
    body = {"prompt": "Hi", "modelId": "v/gpt-4o-mini"}
    status, _, raw = own_worker.request("POST", "/api/v1/generate", body)
    error = json.loads(raw)["error"]
    assert (status, error["code"]) == (502, "upstream_authentication")
    assert "the variable V_REVOKED" in error["action"]
    assert REVOKED not in raw.decode()
