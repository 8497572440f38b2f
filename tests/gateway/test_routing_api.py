"""Routing as callers and operators see it: preview, status, RouteInfo, detection on the way."""

import json
from typing import Any

import pytest

from schemas.events.changes import RouteTarget
from tests.gateway.worker import Worker, route

A, B = "a/gpt-4o-mini", "openai/gpt-4o-mini"
CODE = "Write a Python function that parses an ISO date, with unit tests."


def preview(worker: Worker, body: Any, **hints: str) -> tuple[int, Any]:
    headers = {"authorization": "Bearer weir-test-key", "content-type": "application/json"}
    headers |= {name.replace("_", "-"): value for name, value in hints.items()}
    status, _, answer = worker.request("POST", "/routing/preview", body, headers)
    return status, json.loads(answer)


@pytest.mark.req("RT-16")
@pytest.mark.req("RT-03")
@pytest.mark.parametrize(
    "body",
    [
        {"prompt": CODE, "model_id": "auto", "max_tokens": 100},
        {"model": "auto", "messages": [{"role": "user", "content": CODE}], "max_tokens": 100},
    ],
)
def test_a_preview_decides_and_calls_nobody(worker: Worker, body: Any) -> None:
    before = len(worker.recorded)
    status, found = preview(worker, body)
    assert status == 200, found
    assert len(worker.recorded) == before
    assert found["route"] == "auto"
    assert found["strategy"] == "task_type"
    info = found["route_info"]
    assert info["task_type"] == "code"
    assert info["detected"] is True
    assert info["confidence"] > 0.5
    assert info["complexity"] in {"simple", "standard", "complex"}
    assert info["attempts"] == []
    assert info["fallback_used"] is False
    assert {item["target"] for item in found["candidates"]} > {B}
    assert sum(item["score"] for item in found["candidates"]) == pytest.approx(1, abs=1e-3)
    chosen = next(item for item in found["candidates"] if item["target"] == found["target"])
    assert found["propensity"] == pytest.approx(chosen["score"], abs=1e-4)


@pytest.mark.req("RT-05")
def test_a_hint_wins_over_detection(worker: Worker) -> None:
    body = {"prompt": CODE, "model_id": "auto"}
    _, found = preview(worker, body, x_weir_task_type="creative", x_weir_complexity="complex")
    info = found["route_info"]
    assert info["task_type"] == "creative"
    assert info["complexity"] == "complex"
    assert info["detected"] is False
    assert info["confidence"] is None
    _, found = preview(worker, body, x_weir_prefer="cost")
    assert found["strategy"] == "cost_optimized"


@pytest.mark.parametrize(
    ("hint", "value"),
    [("x_weir_prefer", "luck"), ("x_weir_strategy", "best"), ("x_weir_complexity", "hard")],
)
def test_a_hint_that_makes_no_sense_is_refused(worker: Worker, hint: str, value: str) -> None:
    status, found = preview(worker, {"prompt": "hi", "model_id": "auto"}, **{hint: value})
    assert status == 400
    assert value in found["error"]["message"]


def test_a_preview_refuses_what_a_call_would_be_refused(worker: Worker) -> None:
    status, found = preview(worker, {"prompt": "hi", "model_id": "nobody-knows-it"})
    assert status == 404
    assert found["error"]["code"] == "model_not_found"
    status, _, _ = worker.request("POST", "/routing/preview", {"prompt": "hi"}, {})
    assert status == 401


def test_a_preview_knows_the_names_that_only_their_vendor_knows(worker: Worker) -> None:
    name = "gpt-of-tomorrow"
    status, found = preview(
        worker, {"model": name, "messages": [{"role": "user", "content": "hi"}]}
    )
    assert (status, found.get("target")) == (200, f"openai/{name}")


@pytest.mark.req("RT-16")
def test_status_tells_strategies_routes_and_how_targets_fare(worker: Worker) -> None:
    for path in ("/routing/status", "/api/v1/routing/status?limit=2"):
        status, _, answer = worker.request("GET", path)
        assert status == 200
        found = json.loads(answer)
        assert {"task_type", "cost_optimized", "failover", "balanced"} <= set(found["strategies"])
        assert {"circuit", "in_flight", "success", "p95_ms"} <= set(found["targets"][0])
    assert len(found["targets"]) == 2 < found["total"]
    assert worker.request("GET", "/routing/status?limit=0")[0] == 400
    assert worker.request("GET", "/routing/status", None, {})[0] == 401


@pytest.mark.req("RT-03")
def test_who_asks_is_told_how_the_call_was_routed(worker: Worker) -> None:
    body = {"model": B, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    headers = {"authorization": "Bearer weir-test-key", "x-weir-explain": "1"}
    status, told, _ = worker.request("POST", "/v1/chat/completions", body, headers)
    assert status == 200
    info = json.loads(told["x-weir-route-info"])
    assert info["provider"] == "openai"
    assert info["reason"] == "the only target"
    assert info["attempts"][0]["outcome"] == "success"
    assert info["estimated_cost_usd"] is not None
    del headers["x-weir-explain"]
    _, told, _ = worker.request("POST", "/v1/chat/completions", body, headers)
    assert "x-weir-route-info" not in told


@pytest.mark.req("RT-08")
def test_a_fallback_shows_in_the_route_info(own_worker: Worker, sandbox: Any) -> None:
    own_worker.change(
        route("pair", RouteTarget("a/gpt-4o-mini"), RouteTarget(B), strategy="failover")
    )
    sandbox.behave("gpt-4o-mini", "/a", faults=[{"kind": "server_error", "rate": 1.0}])
    try:
        body = {"prompt": "hi", "model_id": "pair", "max_tokens": 5}
        status, _, answer = own_worker.request("POST", "/generate", body)
    finally:
        sandbox.behave("gpt-4o-mini", "/a")
    assert status == 200
    info = json.loads(answer)["metadata"]["route_info"]
    assert info["fallback_used"] is True
    assert [one["outcome"] for one in info["attempts"]] == ["failed", "success"]
    assert info["provider"] == "openai"


@pytest.mark.req("RT-06")
def test_what_was_detected_is_recorded_with_the_reason(worker: Worker) -> None:
    body = {"prompt": CODE, "model_id": "auto", "max_tokens": 5}
    status, _, answer = worker.request("POST", "/generate", body)
    assert status == 200
    admitted, response, _ = worker.call(json.loads(answer)["metadata"]["request_id"])
    assert admitted.task_type == "code"
    assert response.task_type == "code"
    assert admitted.task_confidence is not None
    assert admitted.complexity is not None
    assert admitted.reason
    assert all(item.reason for item in admitted.candidates)
