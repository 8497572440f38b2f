"""Browsers: who may call from elsewhere, and what every answer says."""

import pytest

from gateway.edge import Edge
from tests.gateway.worker import Worker

PAGE = "https://app.example"


@pytest.fixture
def open_worker(own_worker: Worker) -> Worker:
    own_worker.app._edge = Edge((PAGE + "/",), hsts_s=3600)
    return own_worker


def ask(
    worker: Worker, origin: str | None, method: str = "GET", **more: str
) -> tuple[int, dict[str, str]]:
    headers = {"authorization": "Bearer weir-test-key", **more}
    if origin:
        headers["origin"] = origin
    status, answer, _ = worker.request(method, "/v1/models", headers=headers)
    return status, answer


@pytest.mark.req("SEC-04", "GW-08")
def test_a_page_on_the_list_may_call(open_worker: Worker) -> None:
    preflight = {"access-control-request-method": "POST"}
    status, headers = ask(open_worker, PAGE, "OPTIONS", **preflight)
    assert (status, headers["access-control-allow-origin"]) == (204, PAGE)
    assert "x-api-key" in headers["access-control-allow-headers"]
    status, headers = ask(open_worker, PAGE)
    assert (status, headers["access-control-allow-origin"], headers["vary"]) == (
        200,
        PAGE,
        "origin",
    )
    assert "x-weir-request-id" in headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in headers
    _, refused, _ = open_worker.request("GET", "/v1/models", headers={"origin": PAGE})
    assert refused["access-control-allow-origin"] == PAGE  # or the page could not read the error


@pytest.mark.req("SEC-04", "GW-08")
def test_a_page_that_is_not_on_the_list_may_not(open_worker: Worker) -> None:
    for origin in ("https://evil.example", "null", PAGE + ".evil.example"):
        preflight = {"access-control-request-method": "POST"}
        status, headers = ask(open_worker, origin, "OPTIONS", **preflight)
        assert (status, "access-control-allow-origin" in headers) == (403, False)
        assert "access-control-allow-origin" not in ask(open_worker, origin)[1]


@pytest.mark.req("SEC-04")
def test_every_answer_carries_the_security_headers(open_worker: Worker, worker: Worker) -> None:
    for path, status in (("/v1/models", 200), ("/health", 200), ("/v1/models/none", 404)):
        given = {"authorization": "Bearer weir-test-key"}
        code, headers, _ = open_worker.request("GET", path, headers=given)
        assert code == status
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["strict-transport-security"] == "max-age=3600"
    assert "strict-transport-security" not in worker.request("GET", "/health")[1]
    assert "vary" not in ask(worker, PAGE)[1]
