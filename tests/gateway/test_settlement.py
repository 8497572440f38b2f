"""Faults of our own: a call that was admitted is settled once, and nothing of it stays held."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway import proxy
from gateway.call import Call
from gateway.dialects.neutral import Answer
from gateway.idempotency import GONE, Idempotency
from gateway.ledger import Recorder
from gateway.runs import Runs, Ticket
from schemas.events.changes import BudgetChanged
from schemas.events.llm import CostEntry, RequestAdmitted, ResponseCompleted
from schemas.log import Log
from schemas.privacy import MasterKey
from tests.gateway.worker import META, Worker, key, provider

PASS = "weir-settlement-pass"
HELLO = {"model": "openai/gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}


def outcome(worker: Worker, request_id: str) -> tuple[str, int | None, int]:
    """Return how a call ended, what it cost, and how many settlements it has."""
    response = worker.events(ResponseCompleted, request_id)
    cost = worker.events(CostEntry, request_id)
    return response[0].outcome, cost[0].cost_nano_usd, len(response) + len(cost)


@pytest.mark.interpreted("a function replaced, to break down")
@pytest.mark.req("BEY-03", "BEY-07")
def test_a_fault_while_settling_leaves_nothing_unsettled(
    own_worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = BudgetChanged(
        **META,
        budget_id="watched",
        scope="global",
        daily_limit_nano_usd=10**9,
        on_exceeded="alert_only",
    )
    own_worker.change(budget)
    whole = proxy.content_of

    def broken(call: Call, answer: Answer | None, told: bytes | None) -> bytes:
        if call.record is None:
            raise RuntimeError("the answer cannot be written")
        return whole(call, answer, told)

    monkeypatch.setattr(proxy, "content_of", broken)
    status, told, _ = own_worker.request("POST", "/v1/chat/completions", HELLO)
    assert status == 500
    how, cost, settlements = outcome(own_worker, told["x-weir-request-id"])
    assert (how, settlements) == ("failed", 2)
    assert cost is not None
    assert cost > 0  # the provider did answer
    assert not own_worker.app.proxy._recorder._admitted


@pytest.mark.req("BEY-18")
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_call_that_cannot_be_passed_through_is_settled(
    own_worker: Worker, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """A provider whose calls are signed takes no GET; a POST meets a fault of ours."""
    options = {"auth": "aws", "region": "eu-west-1"}
    monkeypatch.setenv("TEST_PROVIDER_KEY", "AKID:secret")
    own_worker.change(
        key(PASS, scopes=["passthrough"]),
        provider("signed", "bedrock", "http://127.0.0.1:1", options=options),
    )

    def broken(*_: object) -> Any:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("gateway.passthrough.Unsigned", broken)
    given = {"authorization": f"Bearer {PASS}"}
    status, _, _ = own_worker.request(method, "/passthrough/signed/model/x", b"", given)
    assert status == (400 if method == "GET" else 500)
    request_id = next(e.request_id for e in own_worker.recorded if isinstance(e, RequestAdmitted))
    assert outcome(own_worker, request_id)[::2] == ("failed", 2)
    assert not own_worker.app.proxy._recorder._admitted


@pytest.fixture
def runs() -> Idempotency:
    nothing: Any = None
    return Idempotency(
        Runs(),
        lambda _: False,
        cast("Recorder", nothing),
        cast("Log", nothing),
        cast("MasterKey", nothing),
    )


@pytest.mark.interpreted("stand-ins for a call and a recorder")
@pytest.mark.req("BEY-13")
@pytest.mark.parametrize(("status", "told"), [(200, 200), (None, GONE)])
def test_an_answer_that_cannot_be_repeated_is_not_paid_twice(
    runs: Idempotency, status: int | None, told: int
) -> None:
    """Of sound only its hash is kept: who asks again hears so, and does not run it again."""
    admitted = SimpleNamespace(request_id="r", front=None, user_id="u", key=None)
    call = SimpleNamespace(
        ticket=Ticket("k"),
        admitted=admitted,
        record=b"{}",
        answer_type=(b"content-type", b"audio/mpeg"),
    )
    event = runs.of(cast("Call", call), status, Answer(id="", model=""), None, None)
    assert event is not None
    assert (event.status, event.ciphertext) == (told, None)
