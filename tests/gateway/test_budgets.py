"""Hard budgets on the path of a call: reserved beforehand, settled exactly, never overdrawn."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from schemas.events.changes import GuardrailChanged, RouteTarget
from schemas.events.llm import CostEntry, RequestAdmitted, ResponseCompleted
from tests.gateway.keeper import MODEL, USD, Keeper, ask, budget
from tests.gateway.worker import META, Worker, key, price, provider, route, started, target
from tests.sandbox.served import Served


@pytest.fixture
def kept(sandbox: Served, tmp_path: Path) -> Iterator[tuple[Worker, Keeper]]:
    with started(sandbox, tmp_path) as worker:
        yield worker, Keeper(worker)


def costs(worker: Worker) -> int:
    entries = [event for event in worker.recorded if isinstance(event, CostEntry)]
    return sum(entry.cost_nano_usd or 0 for entry in entries)


@pytest.mark.req("BEY-07", "COST-02")
def test_a_call_is_reserved_settled_and_counted_to_the_nano_dollar(
    kept: tuple[Worker, Keeper],
) -> None:
    worker, keeper = kept
    worker.change(budget(1.0))
    status, headers, _ = ask(worker, max_tokens=50)
    assert status == 200
    admitted, _, cost = worker.call(headers["x-weir-request-id"])
    assert admitted.budgets == cost.budgets
    assert admitted.budgets[0].startswith("b@20")
    assert admitted.reserved_nano_usd is not None
    assert cost.cost_nano_usd is not None
    assert cost.cost_nano_usd <= admitted.reserved_nano_usd
    assert keeper.spends(cost.cost_nano_usd)
    (node,) = keeper.row().days[0].nodes
    assert node.granted - node.returned >= node.spent == cost.cost_nano_usd


@pytest.mark.req("BEY-07")
def test_many_at_once_never_spend_more_than_the_limit(kept: tuple[Worker, Keeper]) -> None:
    worker, _ = kept
    limit = 60_000  # 100 tokens of output at 600 nano-dollars each
    worker.change(budget(limit / USD))
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda _: ask(worker, max_tokens=20), range(40)))
    statuses = {status for status, _, _ in found}
    assert statuses == {200, 402}
    assert costs(worker) <= limit
    refused = next(body for status, _, body in found if status == 402)
    assert refused["error"]["code"] == "budget_exceeded"


@pytest.mark.req("COST-02", "OPS-01")
def test_a_budget_that_refuses_every_call_is_told_of_once(kept: tuple[Worker, Keeper]) -> None:
    worker, keeper = kept
    worker.change(budget(0.000001))
    assert [ask(worker, max_tokens=50)[0] for _ in range(5)] == [402] * 5
    assert keeper.waits(lambda: keeper.row().alerts != [])
    assert [name.rpartition("|")[2] for name in keeper.row().alerts] == ["exceeded"]
    assert ask(worker, max_tokens=50)[0] == 402
    assert [move.kind for move in keeper.moves].count("refused") == 1


@pytest.mark.req("COST-02")
def test_a_spent_budget_says_what_and_when_in_the_callers_dialect(
    kept: tuple[Worker, Keeper],
) -> None:
    worker, _ = kept
    worker.change(budget(0.000001, name="pocket money"))
    status, _, body = ask(worker, max_tokens=50)
    assert status == 402
    assert "pocket money" in body["error"]["message"]
    assert "USD" in body["error"]["message"]
    headers = {"x-api-key": "weir-test-key", "content-type": "application/json"}
    said = {
        "model": MODEL,
        "max_tokens": 50,
        "messages": [{"role": "user", "content": "say a word"}],
    }
    status, _, answer = worker.request("POST", "/v1/messages", said, headers)
    assert status == 402
    assert json.loads(answer)["type"] == "error"
    assert not [event for event in worker.recorded if isinstance(event, RequestAdmitted)]


@pytest.mark.req("COST-02")
def test_a_call_moves_to_a_target_that_costs_nothing(kept: tuple[Worker, Keeper]) -> None:
    worker, _ = kept
    targets = [RouteTarget(MODEL, priority=1), RouteTarget("a/gpt-4o-mini")]
    worker.change(
        budget(0.000001, on_exceeded="reroute"),
        price("a", "gpt-4o-mini", 0, 0),
        route("cheap", *targets, strategy="failover"),
    )
    status, headers, _ = ask(worker, "cheap", max_tokens=50)
    assert (status, headers["x-weir-model"]) == (200, "a/gpt-4o-mini")
    admitted, _, cost = worker.call(headers["x-weir-request-id"])
    assert (admitted.target, admitted.propensity, cost.cost_nano_usd) == ("a/gpt-4o-mini", 1.0, 0)
    assert ask(worker, MODEL, max_tokens=50)[0] == 402


@pytest.mark.req("COST-02")
def test_a_budget_that_only_alerts_counts_and_blocks_nobody(kept: tuple[Worker, Keeper]) -> None:
    worker, keeper = kept
    worker.change(budget(0.000001, on_exceeded="alert_only", scope="team", scope_id=None))
    assert ask(worker)[0] == 200  # the key has no team
    before = costs(worker)
    worker.change(budget(0.000001, on_exceeded="alert_only"))
    for _ in range(2):
        assert ask(worker)[0] == 200
    assert keeper.spends(costs(worker) - before)
    assert [name.rpartition("|")[2] for name in keeper.row().alerts] == ["exceeded", "warning"]


@pytest.mark.req("BEY-07")
@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "max_tokens"),
        ({"max_tokens": 5, "model": "openai/gpt-4o"}, "no price"),
        ({"max_tokens": 5, "tools": [{"type": "web_search"}]}, "run by the vendor"),
        (
            {
                "max_tokens": 5,
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}],
                    }
                ],
            },
            "more than text",
        ),
    ],
)
def test_what_cannot_be_bounded_is_refused_with_the_reason(
    kept: tuple[Worker, Keeper], fields: dict[str, Any], why: str
) -> None:
    worker, _ = kept
    worker.change(budget(1.0))
    status, _, body = ask(worker, **fields)
    assert status == 400
    assert why in body["error"]["message"]


@pytest.fixture
def passing(kept: tuple[Worker, Keeper]) -> Worker:
    worker, _ = kept
    worker.change(key("pass", scopes=["passthrough"]), budget(1.0))
    return worker


def pass_through(
    worker: Worker, path: str, body: Any, method: str = "POST"
) -> tuple[int, dict[str, str], bytes]:
    headers = {"authorization": "Bearer pass", "content-type": "application/json"}
    return worker.request(method, f"/passthrough/{path}", body, headers)


@pytest.mark.req("BEY-07", "BEY-18")
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_passed_through_and_known_is_reserved_and_settled(
    passing: Worker, kept: tuple[Worker, Keeper], sandbox: Served, stream: bool
) -> None:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "say a word"}],
            "max_tokens": 40, "stream": stream}  # fmt: skip
    status, headers, answer = pass_through(passing, "openai/chat/completions", body)
    assert status == 200
    assert (b"data: [DONE]" in answer) == stream
    admitted, response, cost = passing.call(headers["x-weir-request-id"])
    # Every byte could be a token; the output goes to its limit.
    assert admitted.reserved_nano_usd == len(json.dumps(body)) * 150 + 40 * 600
    assert admitted.budgets == cost.budgets
    assert [name.partition("@")[0] for name in admitted.budgets] == ["b"]
    assert (response.usage_basis, response.surface) == ("reported", "chat")
    assert response.target == "openai/gpt-4o-mini"
    assert cost.cost_nano_usd == response.input_tokens * 150 + response.output_tokens * 600
    assert kept[1].spends(cost.cost_nano_usd)
    (row,) = [it for it in sandbox.rows() if it["weir_request_id"] == response.request_id]
    assert row["path"].endswith("/chat/completions")


@pytest.mark.req("BEY-07", "BEY-18")
def test_a_model_in_the_path_is_the_one_that_is_reserved_for(
    passing: Worker, kept: tuple[Worker, Keeper], sandbox: Served
) -> None:
    passing.change(
        provider("gemini", "gemini", f"{sandbox.url}/gem/v1beta"),
        price("gemini", "gemini-2.5-flash", 100_000_000, 500_000_000),
    )
    body = {"model": "free", "contents": [{"parts": [{"text": "say a word"}]}],
            "generationConfig": {"maxOutputTokens": 30}}  # fmt: skip
    path = "gemini/models/gemini-2.5-flash:streamGenerateContent"
    status, headers, answer = pass_through(passing, path, body)
    assert (status, answer[:5]) == (200, b"data:")
    admitted, response, cost = passing.call(headers["x-weir-request-id"])
    assert admitted.reserved_nano_usd == len(json.dumps(body)) * 100 + 30 * 500
    assert response.target == "gemini/gemini-2.5-flash"
    assert kept[1].spends(cost.cost_nano_usd)


@pytest.mark.req("BEY-07", "BEY-18")
@pytest.mark.parametrize(
    ("path", "fields", "why"),
    [
        ("openai/chat/completions", {"model": None}, b"it names no model"),
        ("openai/chat/completions", {"model": "gpt-9"}, b"has no price"),
        ("openai/chat/completions", {"n": 2}, b"names no max_tokens"),
        ("openai/fine_tuning/jobs", {}, b"its epochs"),
        ("openai/vector_stores", {}, b"by size and day"),
        ("openai/unheard/of", {}, b"does not know what /unheard/of is"),
        ("openai/chat/completions/", {}, b"does not know what"),
        ("openai/chat%2Fcompletions", {}, b"does not know what"),
    ],
)
def test_what_is_passed_through_and_cannot_be_bounded_is_refused_with_the_reason(
    passing: Worker, path: str, fields: dict[str, Any], why: bytes
) -> None:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}], **fields}
    status, _, answer = pass_through(passing, path, body)
    assert (status, why in answer) == (400, True)
    assert passing.responses() == []


@pytest.mark.req("BEY-07", "BEY-18")
def test_what_carries_nothing_is_passed_through_under_a_hard_budget(passing: Worker) -> None:
    assert pass_through(passing, "openai/models", None, "GET")[0] == 200
    # Some vendors take a POST in another method's clothes.
    status, _, answer = pass_through(passing, "openai/unheard/of", {"model": "x"}, "PUT")
    assert (status, b"not known beforehand" in answer) == (400, True)


@pytest.mark.req("BEY-07", "BEY-18")
def test_a_passed_through_call_beyond_the_budget_is_refused(passing: Worker) -> None:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}],
            "max_tokens": 2_000_000}  # fmt: skip
    status, _, answer = pass_through(passing, "openai/chat/completions", body)
    assert (status, b"has 1 USD left" in answer) == (402, True)


@pytest.mark.req("BEY-07")
def test_the_targets_limit_is_sent_where_the_caller_names_none(
    kept: tuple[Worker, Keeper], sandbox: Served
) -> None:
    worker, _ = kept
    worker.change(budget(1.0), target("openai", "gpt-4o-mini", max_output_tokens=7))
    status, headers, body = ask(worker)
    assert status == 200
    assert body["usage"]["completion_tokens"] <= 7
    admitted, _, _ = worker.call(headers["x-weir-request-id"])
    assert admitted.max_output_tokens == 7


@pytest.mark.req("BEY-07")
def test_choices_multiply_what_is_reserved(kept: tuple[Worker, Keeper]) -> None:
    worker, _ = kept
    worker.change(budget(1.0))
    reserved = []
    for count in (1, 3):
        _, headers, _ = ask(worker, max_tokens=10, n=count)
        reserved.append(worker.call(headers["x-weir-request-id"])[0].reserved_nano_usd or 0)
    assert reserved[1] - reserved[0] >= 2 * 10 * 600


@pytest.mark.req("BEY-07", "BEY-19")
def test_a_worker_that_has_just_started_waits_for_a_fold_that_starts_too(
    kept: tuple[Worker, Keeper],
) -> None:
    worker, keeper = kept
    keeper.away = True
    worker.change(budget(1.0))
    threading.Timer(2.5, lambda: setattr(keeper, "away", False)).start()
    assert ask(worker, max_tokens=5)[0] == 200


@pytest.mark.req("BEY-07", "BEY-19")
def test_without_an_answer_from_the_fold_nothing_is_spent(kept: tuple[Worker, Keeper]) -> None:
    worker, keeper = kept
    keeper.away = True
    worker.change(budget(1.0))
    worker.app.proxy.budgets._began_s = float("-inf")  # it has been up for long
    status, headers, body = ask(worker, max_tokens=5)
    assert status == 503
    assert "retry-after" in headers
    assert "nobody answers" in body["error"]["message"]


@pytest.mark.req("BEY-07")
def test_what_failed_and_what_the_caller_left_give_their_reservation_back(
    kept: tuple[Worker, Keeper], sandbox: Served
) -> None:
    worker, keeper = kept
    worker.change(budget(1.0))
    sandbox.behave("gpt-4o-mini", faults=[{"kind": "server_error"}])
    try:
        status, headers, _ = ask(worker, max_tokens=5)
        assert status >= 500
    finally:
        sandbox.behave("gpt-4o-mini")
    worker.call(headers["x-weir-request-id"])
    lease = next(iter(worker.app.proxy.budgets._escrow._leases.values()))
    assert (lease.reserved, lease.spent) == (0, 0)
    assert keeper.spends(0)


@pytest.mark.req("BEY-07")
def test_a_dearer_target_is_reserved_anew_and_the_log_says_so(
    kept: tuple[Worker, Keeper], sandbox: Served
) -> None:
    worker, _ = kept
    targets = [RouteTarget("a/gpt-4o-mini", priority=1), RouteTarget(MODEL)]
    worker.change(
        budget(1.0),
        price("a", "gpt-4o-mini", 1_000_000, 1_000_000),
        route("dear", *targets, strategy="failover"),
    )
    sandbox.behave("gpt-4o-mini", "/a", faults=[{"kind": "server_error"}])
    try:
        status, headers, _ = ask(worker, "dear", max_tokens=50)
    finally:
        sandbox.behave("gpt-4o-mini", "/a")
    assert (status, headers["x-weir-model"]) == (200, MODEL)
    request_id = headers["x-weir-request-id"]
    (admitted,) = worker.events(RequestAdmitted, request_id)
    again, settled = worker.events(CostEntry, request_id)
    assert (again.entry, again.target, settled.entry) == ("admitted", MODEL, "settled")
    assert (again.cost_nano_usd or 0) > (admitted.reserved_nano_usd or 0)
    assert (again.cost_nano_usd or 0) >= (settled.cost_nano_usd or 0)


@pytest.mark.req("BEY-07", "COST-02")
def test_what_a_provider_wasted_is_charged_to_its_own_budget(
    kept: tuple[Worker, Keeper], sandbox: Served
) -> None:
    """The answer of `a` breaks off and another provider's is told: each budget counts its own."""
    worker, keeper = kept
    targets = [RouteTarget("a/gpt-4o-mini", priority=1), RouteTarget(MODEL)]
    worker.change(
        budget(1.0),
        budget(1.0, "of-a", scope="provider", scope_id="a"),
        budget(1.0, "of-openai", scope="provider", scope_id="openai", on_exceeded="alert_only"),
        price("a", "gpt-4o-mini", 10**9, 10**9),
        route("cut", *targets, strategy="failover", buffered=True),
    )
    sandbox.behave("gpt-4o-mini", "/a", faults=[{"kind": "cut", "after_tokens": 5}])
    body = {"model": "cut", "messages": [{"role": "user", "content": "say"}], "max_tokens": 50}
    try:
        _, headers, _ = worker.request("POST", "/v1/chat/completions", {**body, "stream": True})
    finally:
        sandbox.behave("gpt-4o-mini", "/a")
    request_id = headers["x-weir-request-id"]
    worker.events(ResponseCompleted, request_id)
    lines = worker.events(CostEntry, request_id)
    spent = {line.entry: line.cost_nano_usd or 0 for line in lines if line.entry != "admitted"}
    assert spent.keys() == {"settled", "wasted"}
    assert min(spent.values()) > 0
    assert keeper.spends(spent["settled"] + spent["wasted"], "b")
    assert keeper.spends(spent["wasted"], "of-a")
    assert keeper.spends(spent["settled"], "of-openai")
    leases = worker.app.proxy.budgets._escrow._leases.values()
    assert [lease.reserved for lease in leases] == [0, 0, 0]


@pytest.mark.req("GW-12", "COST-02")
def test_an_answer_from_the_cache_needs_no_budget(kept: tuple[Worker, Keeper]) -> None:
    worker, _ = kept
    worker.change(budget(1.0), route("cached", RouteTarget(MODEL), cache_ttl_s=600))
    assert ask(worker, "cached", max_tokens=5)[0] == 200
    worker.change(budget(0.000000001, "spent"))
    status, headers, _ = ask(worker, "cached", max_tokens=5)
    assert (status, headers.get("x-weir-cache")) == (200, "hit")
    assert ask(worker, "cached", max_tokens=6)[0] == 402


@pytest.mark.req("BEY-07", "BEY-16")
def test_what_a_mask_adds_to_a_request_is_reserved_too(kept: tuple[Worker, Keeper]) -> None:
    worker, _ = kept
    words = GuardrailChanged(
        **META, name="short", kind="words", stages=["request"], action="mask", words=["a"]
    )
    worker.change(budget(1.0), words, route("masked", RouteTarget(MODEL), guardrails=["short"]))
    said = [{"role": "user", "content": "a " * 500}]
    status, headers, _ = ask(worker, "masked", max_tokens=5, messages=said)
    assert status == 200
    admitted, response, _ = worker.call(headers["x-weir-request-id"])
    longer = 500 * len("[BLOCKED] ") * 150  # of a token at most, at 150 nano-dollars each
    assert response.guardrails
    assert (admitted.reserved_nano_usd or 0) >= longer
