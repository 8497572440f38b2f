"""What clients see, and what is recorded, when providers fail in every way the sandbox knows."""

import itertools
import json
import socket
import threading
import time
from typing import Any

import anthropic
import openai
import pytest

from schemas.events.changes import RouteTarget
from schemas.events.llm import CostEntry, ResponseCompleted
from tests.gateway.worker import SECRET, Worker, route
from tests.sandbox.served import Served

HELLO: Any = [{"role": "user", "content": "Say hello."}]
MODEL = "gpt-4o-mini"
_numbers = itertools.count()
BEFORE_FIRST_TOKEN = [
    {"kind": "rate_limited"},
    {"kind": "server_error"},
    {"kind": "unavailable"},
    {"kind": "overloaded"},
    {"kind": "reset"},
    {"kind": "silence"},
]
MID_STREAM = [
    {"kind": "stall"},
    {"kind": "cut"},
    {"kind": "malformed_frame"},
    {"kind": "missing_end_marker"},
    {"kind": "error_event"},
]


@pytest.fixture
def faulty(worker: Worker, sandbox: Served) -> Any:
    """Return a function that makes a route whose first target has a fault and whose second has none."""

    def make(fault: dict[str, Any] | None, *, model: str = MODEL, **fields: Any) -> str:
        name = f"faulty-{next(_numbers)}"
        bad, good = f"a/{model}", f"b/{model}"
        sandbox.behave(model, "/a", faults=[fault] if fault else [])
        sandbox.behave(model, "/b")
        fields = {
            "strategy": "failover",
            "first_token_timeout_ms": 400,
            "stall_timeout_ms": 400,
            "connect_timeout_ms": 400,
            **fields,
        }
        worker.forget()
        targets = [RouteTarget(bad, priority=1)]
        if fields.pop("alone", False) is False:
            targets.append(RouteTarget(good))
        worker.change(route(name, *targets, **fields))
        return name

    return make


@pytest.mark.req("RT-08")
@pytest.mark.req("BEY-09")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", BEFORE_FIRST_TOKEN, ids=lambda fault: fault["kind"])
def test_fails_over_before_the_first_byte(
    worker: Worker, faulty: Any, fault: dict[str, Any], stream: bool
) -> None:
    name = faulty(fault)
    raw = worker.openai().chat.completions.with_raw_response.create(
        model=name, messages=HELLO, stream=stream, max_tokens=8
    )
    if stream:
        chunks: Any = list(raw.parse())
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    else:
        answer: Any = raw.parse()
        assert answer.choices[0].message.content
    assert raw.headers["x-weir-attempts"] == "2"
    assert raw.headers["x-weir-model"] == f"b/{MODEL}"
    admitted, response, _ = worker.call(raw.headers["x-weir-request-id"])
    assert admitted.target == f"a/{MODEL}"
    assert response.target == f"b/{MODEL}"
    assert [attempt.outcome for attempt in response.attempts] == ["failed", "success"]
    assert response.attempts[0].error_class is not None


@pytest.mark.parametrize("fault", MID_STREAM, ids=lambda fault: fault["kind"])
@pytest.mark.parametrize("front", ["openai", "anthropic"])
@pytest.mark.req("BEY-09")
@pytest.mark.req("GW-04")
def test_a_broken_stream_never_looks_like_success(
    worker: Worker, sandbox: Served, faulty: Any, fault: dict[str, Any], front: str
) -> None:
    name = faulty({**fault, "after_tokens": 5})
    sandbox.behave(MODEL, "/a", faults=[{**fault, "after_tokens": 5}], per_token_ms=8)
    text, request_id = "", ""
    if front == "openai":
        raw = worker.openai().chat.completions.with_raw_response.create(
            model=name, messages=HELLO, stream=True
        )
        request_id = raw.headers["x-weir-request-id"]
        with pytest.raises(openai.APIError):  # noqa: PT012
            for chunk in raw.parse():
                text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
    else:
        with (  # noqa: PT012
            pytest.raises(anthropic.APIError),
            worker.anthropic().messages.stream(model=name, messages=HELLO, max_tokens=99) as stream,
        ):
            request_id = stream.response.headers["x-weir-request-id"]
            for piece in stream.text_stream:
                text += piece
    assert text
    _, response, cost = worker.call(request_id)
    assert response.outcome == "failed"
    assert response.error_code is not None
    assert len(response.attempts) == 1
    assert response.usage_basis == "estimated"
    assert cost.output_tokens


def test_a_buffered_route_answers_whole_from_the_next_target(worker: Worker, faulty: Any) -> None:
    name = faulty({"kind": "cut", "after_tokens": 5}, buffered=True)
    raw = worker.openai().chat.completions.with_raw_response.create(
        model=name, messages=HELLO, stream=True
    )
    chunks = list(raw.parse())
    assert chunks[-1].choices[0].finish_reason == "stop"
    request_id = raw.headers["x-weir-request-id"]
    (response,) = worker.events(ResponseCompleted, request_id)
    assert response.outcome == "success"
    assert response.target == f"b/{MODEL}"
    settled, wasted = worker.events(CostEntry, request_id)
    assert (settled.target, settled.basis) == (f"b/{MODEL}", "reported")
    assert (wasted.entry, wasted.target, wasted.basis) in {
        (entry, f"a/{MODEL}", "estimated") for entry in ("wasted", "unpriced")
    }
    assert 0 < (wasted.output_tokens or 0) < (settled.output_tokens or 0)


@pytest.mark.parametrize("kind", ["cut", "malformed_frame", "stall"])
def test_a_broken_whole_answer_fails_over(worker: Worker, faulty: Any, kind: str) -> None:
    name = faulty({"kind": kind, "after_tokens": 3})
    raw = worker.openai().chat.completions.with_raw_response.create(
        model=name, messages=HELLO, max_tokens=8
    )
    answer = raw.parse()
    assert answer.choices[0].message.content
    assert raw.headers["x-weir-attempts"] == "2"


@pytest.mark.req("PROV-07")
def test_a_request_that_is_wrong_is_not_tried_elsewhere(worker: Worker, faulty: Any) -> None:
    name = faulty({"kind": "context_too_long"})
    with pytest.raises(openai.BadRequestError) as refused:
        worker.openai().chat.completions.create(model=name, messages=HELLO)
    assert refused.value.code == "context_length_exceeded"
    response = worker.responses()[-1]
    assert response.outcome == "failed"
    assert response.status == 400
    assert [attempt.error_class for attempt in response.attempts] == ["context"]


@pytest.mark.req("PROV-07")
@pytest.mark.req("RT-08")
@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_its_provider_lacks_fails_over_and_counts(
    worker: Worker, sandbox: Served, stream: bool
) -> None:
    sandbox.behave(MODEL, "/b")
    missing, name = "a/gpt-gone", f"missing-{next(_numbers)}"
    targets = [RouteTarget(missing, priority=1), RouteTarget(f"b/{MODEL}")]
    worker.forget()
    worker.change(route(name, *targets, strategy="failover"))
    for _ in range(4):
        raw = worker.openai().chat.completions.with_raw_response.create(
            model=name, messages=HELLO, max_tokens=8, stream=stream
        )
        if stream:
            chunks: Any = raw.parse()
            assert list(chunks)
        assert raw.headers["x-weir-model"] == f"b/{MODEL}"
    _, response, _ = worker.call(raw.headers["x-weir-request-id"])
    assert worker.app.proxy.book.standing(missing, 1, 0).success < 0.7
    assert {a.error_class for r in worker.responses()[-4:] for a in r.attempts} == {"model", None}
    assert response.outcome == "success"


@pytest.mark.req("PROV-07")
def test_whose_fault_a_missing_model_is(worker: Worker) -> None:
    name = f"missing-{next(_numbers)}"
    worker.change(route(name, RouteTarget("a/gpt-gone")))
    with pytest.raises(openai.InternalServerError) as operators:
        worker.openai().chat.completions.create(model=name, messages=HELLO)
    assert operators.value.status_code == 502
    assert operators.value.code == "upstream_model_missing"
    worker.forget()
    for model in ("a/gpt-gone", "anthropic/claude-gone"):
        with pytest.raises(openai.NotFoundError) as callers:
            worker.openai().chat.completions.create(model=model, messages=HELLO)
        assert callers.value.code == "model_not_found"
        with pytest.raises(anthropic.NotFoundError):
            worker.anthropic().messages.create(model=model, messages=HELLO, max_tokens=5)
        assert worker.responses()[-1].attempts[0].error_class == "request"
        assert worker.app.proxy.book.standing(model, 1, 0).success == 1


def test_a_single_target_is_tried_again_within_the_budget(worker: Worker, faulty: Any) -> None:
    name = faulty({"kind": "server_error", "count": 1}, alone=True)
    raw = worker.openai().chat.completions.with_raw_response.create(
        model=name, messages=HELLO, max_tokens=8
    )
    assert raw.headers["x-weir-attempts"] == "2"
    name = faulty({"kind": "server_error"}, alone=True, attempts=3)
    with pytest.raises(openai.InternalServerError):
        worker.openai().chat.completions.create(model=name, messages=HELLO)
    response = worker.responses()[-1]
    assert len(response.attempts) == 3
    assert response.cost_nano_usd == 0


def test_silence_of_a_single_target_ends_with_a_timeout(worker: Worker, faulty: Any) -> None:
    name = faulty({"kind": "silence"}, alone=True)
    started_s = time.monotonic()
    with pytest.raises(openai.InternalServerError) as late:
        worker.openai().chat.completions.create(model=name, messages=HELLO, stream=True)
    assert late.value.status_code == 504
    assert time.monotonic() - started_s < 3


@pytest.mark.req("RT-08", "PROV-06")
@pytest.mark.parametrize("stream", [False, True])
def test_a_closed_lane_is_passed_by_while_another_target_is_untried(
    worker: Worker, sandbox: Served, faulty: Any, stream: bool
) -> None:
    name = faulty({"kind": "rate_limited"})
    client = worker.openai().chat.completions.with_raw_response
    client.create(model=name, messages=HELLO, max_tokens=8)
    refused = len(sandbox.rows("/a"))
    worker.forget(lanes=False)
    raw = client.create(model=name, messages=HELLO, max_tokens=8, stream=stream)
    assert raw.headers["x-weir-model"] == f"b/{MODEL}"
    assert raw.headers["x-weir-attempts"] == "1"
    assert len(sandbox.rows("/a")) == refused


def test_rate_limit_and_its_wait_reach_the_client(worker: Worker, faulty: Any) -> None:
    name = faulty({"kind": "rate_limited", "retry_after_s": 30}, alone=True)
    with pytest.raises(openai.RateLimitError) as limited:
        worker.openai().chat.completions.create(model=name, messages=HELLO)
    assert limited.value.response.headers["retry-after"] == "30"
    with pytest.raises(anthropic.RateLimitError) as other:
        worker.anthropic().messages.create(model=name, messages=HELLO, max_tokens=5)
    body: Any = other.value.body
    assert body["error"]["type"] == "rate_limit_error"


@pytest.mark.req("GW-04")
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_cancels_the_provider(
    worker: Worker, sandbox: Served, faulty: Any, stream: bool
) -> None:
    model = "gpt-4o"
    name = faulty(None, model=model, first_token_timeout_ms=20_000, stall_timeout_ms=20_000)
    sandbox.behave(model, "/a", per_token_ms=50, answer_tokens_min=150)
    before = len(worker.responses())
    client = worker.openai(timeout=0.5)
    with pytest.raises(openai.APITimeoutError):  # noqa: PT012
        if stream:
            leaving = client.with_options(timeout=5).chat.completions.create(
                model=name, messages=HELLO, stream=True
            )
            for number, _ in enumerate(leaving):
                if number == 4:
                    leaving.close()
                    break
            raise openai.APITimeoutError(leaving.response.request)
        client.chat.completions.create(model=name, messages=HELLO)
    until_s = time.monotonic() + 3
    while len(worker.responses()) == before and time.monotonic() < until_s:
        time.sleep(0.02)
    response = worker.responses()[-1]
    assert response.outcome == "cancelled"
    assert response.attempts[-1].outcome == "cancelled"
    assert response.usage_basis == ("estimated" if stream else "none")
    assert (response.output_tokens is not None) == stream
    time.sleep(0.3)
    row = [row for row in sandbox.rows("/a") if row["weir_request_id"] == response.request_id][-1]
    assert not row["complete"]


def test_a_client_that_takes_nothing_is_given_up(
    worker: Worker, sandbox: Served, faulty: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.proxy.PATIENCE_S", 0.3)
    for total_ms in (3_000, 12_000, 48_000):  # a busy machine may need longer for the first token
        response = _answered_to_nobody(worker, sandbox, faulty, total_ms)
        if response.first_token_us is not None:
            break
    assert response.outcome in {"cancelled", "failed"}
    assert response.usage_basis == "estimated"


def _answered_to_nobody(
    worker: Worker, sandbox: Served, faulty: Any, total_ms: int
) -> ResponseCompleted:
    """Ask for more than the kernel's buffers on the way take (4 MiB), and read nothing of it."""
    model = "gpt-4o"
    fields = {"total_timeout_ms": total_ms, "stall_timeout_ms": 60_000}
    name = faulty(None, model=model, first_token_timeout_ms=total_ms, alone=True, **fields)
    sandbox.behave(model, "/a", answer_tokens_min=100_000, answer_tokens_max=100_000)
    body = json.dumps({"model": name, "messages": HELLO, "stream": True}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {SECRET}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", worker.port))
        sock.sendall(head.encode() + body)
        while not (found := [one for one in worker.responses() if one.route == name]):
            time.sleep(0.02)
    (response,) = found
    return response


def test_heartbeats_while_the_first_token_is_awaited(
    worker: Worker, sandbox: Served, faulty: Any
) -> None:
    name = faulty(None, first_token_timeout_ms=5_000)
    sandbox.behave(MODEL, "/a", first_token_ms=1_200)
    body = {"model": name, "messages": HELLO, "stream": True}
    status, _, answer = worker.request("POST", "/v1/chat/completions", body)
    assert status == 200
    assert answer.startswith(b": heartbeat\n\n")
    assert answer.endswith(b"data: [DONE]\n\n")


def test_an_error_after_a_heartbeat_is_an_event(worker: Worker, faulty: Any) -> None:
    name = faulty({"kind": "silence"}, alone=True, first_token_timeout_ms=1_000)
    body = {"model": name, "messages": HELLO, "stream": True}
    status, _, answer = worker.request("POST", "/v1/chat/completions", body)
    assert status == 200
    assert b"upstream_timeout" in answer
    assert b"[DONE]" not in answer


def test_total_limit_spans_all_attempts(worker: Worker, faulty: Any) -> None:
    name = faulty({"kind": "silence"}, first_token_timeout_ms=5_000, total_timeout_ms=600)
    started_s = time.monotonic()
    with pytest.raises(openai.InternalServerError) as late:
        worker.openai().chat.completions.create(model=name, messages=HELLO, stream=True)
    assert late.value.status_code == 504
    assert time.monotonic() - started_s < 2


def test_many_calls_at_once_share_connections(worker: Worker, faulty: Any) -> None:
    name = faulty(None)
    failures: list[BaseException] = []

    def some() -> None:
        try:
            client = worker.openai()
            for _ in range(10):
                client.chat.completions.create(model=name, messages=HELLO, max_tokens=4)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=some) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    recent = worker.responses()[-80:]
    assert all(isinstance(item, ResponseCompleted) and item.outcome == "success" for item in recent)
