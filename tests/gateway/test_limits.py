"""Limits on callers: 429 with the way out, in the caller's dialect, and nothing where none is set."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.events.changes import LimitChanged
from schemas.events.limits import LimitUsage
from schemas.events.llm import RequestAdmitted
from schemas.events.operations import AlertChanged
from tests.gateway.worker import META, Worker, started
from tests.sandbox.served import Served

MODEL = "openai/gpt-4o-mini"
MESSAGES = [{"role": "user", "content": "say a word"}]


@pytest.fixture
def limited(sandbox: Served, tmp_path: Path) -> Iterator[Worker]:
    with started(sandbox, tmp_path) as worker:
        yield worker


def limit(**fields: Any) -> LimitChanged:
    fields = {"limit_id": "l", "scope": "key", **fields}
    return LimitChanged(**META, **fields)


def ask(worker: Worker, **fields: Any) -> tuple[int, dict[str, str], Any]:
    body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 10, **fields}
    status, headers, answer = worker.request("POST", "/v1/chat/completions", body)
    return status, headers, json.loads(answer)


@pytest.mark.req("GW-10")
def test_by_default_there_is_no_limit_and_no_word_of_one(limited: Worker) -> None:
    status, headers, _ = ask(limited)
    assert status == 200
    assert not [name for name in headers if name.startswith("ratelimit")]
    assert not [event for event in limited.recorded if isinstance(event, LimitUsage)]


@pytest.mark.req("GW-08")
def test_a_key_a_valid_body_and_room_are_asked_for_in_this_order(limited: Worker) -> None:
    limited.change(limit(requests_per_minute=1))
    path, broken = "/v1/chat/completions", b'{"model": 1}'
    given = {"content-type": "application/json"}
    answers = [limited.request("POST", path, broken, given)]  # nobody: not even told what is wrong
    answers += [limited.request("POST", path, broken) for _ in range(2)]  # counted by no limit
    body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 10}
    answers += [limited.request("POST", path, body) for _ in range(2)]
    answers.append(limited.request("POST", path, broken))
    assert [status for status, _, _ in answers] == [401, 400, 400, 200, 429, 400]
    for _, headers, _ in answers:
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-request-id"]


@pytest.mark.req("GW-10", "BEY-01")
def test_requests_a_minute(limited: Worker) -> None:
    limited.change(limit(requests_per_minute=2))
    told = [ask(limited)[1] for _ in range(2)]
    assert [headers["x-ratelimit-remaining-requests"] for headers in told] == ["1", "0"]
    assert told[0]["x-ratelimit-limit-requests"] == "2"
    assert told[0]["ratelimit-policy"] == '"requests";q=2;w=60'
    assert told[1]["ratelimit"].startswith('"requests";r=0;t=')
    status, headers, body = ask(limited)
    assert status == 429
    assert 1 <= int(headers["retry-after"]) <= 66
    assert body["error"]["code"] == "rate_limited"
    assert "2 requests a minute" in body["error"]["message"]
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert len([e for e in limited.recorded if isinstance(e, RequestAdmitted)]) == 2


@pytest.mark.req("GW-10")
def test_anthropics_clients_read_their_own_words(limited: Worker) -> None:
    limited.change(limit(requests_per_minute=1, tokens_per_minute=10_000))
    headers = {"x-api-key": "weir-test-key", "content-type": "application/json"}
    body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 10}
    status, told, _ = limited.request("POST", "/v1/messages", body, headers)
    assert status == 200
    assert told["anthropic-ratelimit-requests-remaining"] == "0"
    assert told["anthropic-ratelimit-tokens-limit"] == "10000"
    assert told["anthropic-ratelimit-requests-reset"].endswith("Z")
    status, _, answer = limited.request("POST", "/v1/messages", body, headers)
    assert status == 429
    assert json.loads(answer)["error"]["type"] == "rate_limit_error"


@pytest.mark.req("GW-10")
def test_tokens_are_counted_as_they_were(limited: Worker, sandbox: Served) -> None:
    limited.change(limit(tokens_per_minute=400))
    sandbox.behave("gpt-4o-mini", "/b", answer_tokens_min=20, answer_tokens_max=20)
    status, before, body = ask(limited, model="b/gpt-4o-mini", max_tokens=300)
    sandbox.behave("gpt-4o-mini", "/b")
    assert status == 200
    assert int(before["x-ratelimit-remaining-tokens"]) <= 100  # by what it may take
    used = body["usage"]["total_tokens"]
    status, headers, _ = ask(limited, max_tokens=10)
    assert status == 200
    assert 400 - used - 50 <= int(headers["x-ratelimit-remaining-tokens"]) <= 400 - used
    assert ask(limited, max_tokens=400)[0] == 429


@pytest.mark.req("GW-10")
@pytest.mark.parametrize(
    ("scope", "scope_id"),
    [("global", None), ("model", MODEL), ("ip", "127.0.0.1"), ("ip", None), ("user", "ann")],
)
def test_scopes(limited: Worker, scope: str, scope_id: str | None) -> None:
    limited.change(limit(scope=scope, scope_id=scope_id, requests_per_minute=1))
    assert [ask(limited, user="ann")[0] for _ in range(2)] == [200, 429]
    other = ask(limited, user="bob", model="a/gpt-4o-mini")[0]
    assert other == (200 if scope in {"model", "user"} else 429)


@pytest.mark.req("GW-10")
def test_a_limit_of_one_endpoint_leaves_the_others_alone(limited: Worker) -> None:
    limited.change(limit(requests_per_minute=1, endpoint="/v1/chat/*"))
    assert [ask(limited)[0] for _ in range(2)] == [200, 429]
    body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 10}
    assert limited.request("POST", "/v1/messages", body)[0] == 200


@pytest.mark.req("GW-10")
def test_calls_at_a_time_are_freed_when_they_end(limited: Worker, sandbox: Served) -> None:
    limited.change(limit(concurrency=1))
    sandbox.behave("gpt-4o-mini", "/b", first_token_ms=1_500)
    found: list[int] = []
    slow = threading.Thread(target=lambda: found.append(ask(limited, model="b/gpt-4o-mini")[0]))
    slow.start()
    threading.Event().wait(0.4)
    status, headers, body = ask(limited)
    slow.join()
    sandbox.behave("gpt-4o-mini", "/b")
    assert (found, status) == ([200], 429)
    assert "1 calls at a time" in body["error"]["message"]
    assert headers["retry-after"] == "1"
    assert ask(limited)[0] == 200


@pytest.mark.req("GW-10")
def test_a_silent_log_is_told_in_an_alert_and_limits_hold_locally(limited: Worker) -> None:
    limited.change(limit(requests_per_minute=3))
    assert ask(limited)[0] == 200
    for _ in range(160):
        alerts = [event for event in limited.recorded if isinstance(event, AlertChanged)]
        if alerts:
            break
        threading.Event().wait(0.05)
    assert [(alert.alert_type, alert.status) for alert in alerts][:1] == [("limits_local", "open")]
    assert [ask(limited)[0] for _ in range(3)] == [200, 200, 429]


@pytest.mark.req("GW-10", "GEN-02")
def test_workers_that_are_gone_are_forgotten(limited: Worker) -> None:
    limited.change(limit(requests_per_minute=100))
    ask(limited)
    heard = limited.app.proxy.limits._heard_s
    heard |= dict.fromkeys(("gone", "long gone"), limited.loop.time() - 1_000.0)
    for _ in range(40):
        if not {"gone", "long gone"} & limited.app.proxy.limits._heard_s.keys():
            return
        time.sleep(0.1)
    raise AssertionError("workers that are gone are kept for ever")


FEEDBACK = {"request_id": "r", "feedback_type": "thumbs_up"}


@pytest.mark.req("GW-10")
@pytest.mark.parametrize("scope", ["key", "ip"])
def test_feedback_counts_as_a_request(limited: Worker, scope: str) -> None:
    limited.change(limit(scope=scope, requests_per_minute=2))
    answers = [limited.request("POST", "/api/v1/feedback", FEEDBACK) for _ in range(3)]
    statuses = [status for status, _, _ in answers]
    assert statuses[2] == 429
    assert 429 not in statuses[:2]
    assert "retry-after" in answers[2][1]
    assert ask(limited)[0] == 429


@pytest.mark.req("GW-10")
def test_administration_is_limited_where_a_limit_names_it(limited: Worker) -> None:
    limited.change(limit(scope="ip", requests_per_minute=1))
    told = [limited.request("GET", "/api/v1/admin/keys")[0] for _ in range(3)]
    assert 429 not in told  # control is away here
    limited.change(limit(scope="ip", requests_per_minute=2, endpoint="*/admin/*"))
    nobody = {"authorization": "Bearer nobody"}
    told = [limited.request("GET", "/api/v1/admin/keys", None, nobody)[0] for _ in range(3)]
    assert [status == 429 for status in told] == [False, False, True]
    assert limited.request("GET", "/api/v1/admin/limits")[0] != 429
    assert limited.request("GET", "/health")[0] == 200
