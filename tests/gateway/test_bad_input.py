"""Bad input gets a clear error in the caller's dialect, and leaves nothing behind."""

import json
import socket
from typing import Any

import pytest

from schemas.events.llm import RequestAdmitted
from tests.gateway.worker import SECRET, Worker, key

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
GENERATE = "/api/v1/generate"
AUTH = {"authorization": f"Bearer {SECRET}", "content-type": "application/json"}
GOOD: Any = {"model": "openai/gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.req("GW-09")
@pytest.mark.req("GW-16")
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{not json", 400),
        (b"[1, 2]", 400),
        (b"", 400),
        (b'{"model": "auto"}', 400),
        (b'{"model": 7, "messages": []}', 400),
        (b'{"model": "auto", "messages": "hello"}', 400),
        (b'{"messages": [{"role": "user", "content": "hi"}]}', 400),
        (b'{"model": "auto", "messages": [{"role": "user", "content": "\xff\xfe"}]}', 400),
        (b'{"model": "nobody/knows", "max_tokens": 5, "messages": []}', 404),
        (b'{"model": "nowhere/x", "max_tokens": 5, "messages": []}', 404),
    ],
)
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_bad_bodies(worker: Worker, path: str, body: bytes, status: int) -> None:
    before = len(worker.recorded)
    answered, headers, answer = worker.request("POST", path, body, AUTH)
    assert answered == status
    error = json.loads(answer)
    if path == CHAT:
        assert error["error"]["type"] == "invalid_request_error"
    else:
        assert error["type"] == "error"
        assert error["request_id"] == headers["x-weir-request-id"]
    assert error["error"]["message"]
    assert len(worker.recorded) == before


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "prompt"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "temperature": 2.1}, "temperature"),
        ({"prompt": "x", "topP": -1}, "top_p"),
        ({"prompt": "x", "timeout_seconds": 0}, "timeout_seconds"),
        ({"prompt": "x", "surprise": 1}, "surprise"),
        ({"prompt": 5}, "prompt"),
    ],
)
@pytest.mark.req("GW-01")
def test_generate_names_what_is_wrong(worker: Worker, body: Any, named: str) -> None:
    status, headers, answer = worker.request("POST", GENERATE, body)
    error = json.loads(answer)["error"]
    assert status == 422
    assert set(error) == {
        "action",
        "code",
        "message",
        "type",
        "details",
        "request_id",
        "retryable",
        "retry_after_seconds",
    }
    assert any(named in detail for detail in error["details"])
    assert error["request_id"] == headers["x-weir-request-id"]


def test_too_large_bodies_are_refused_before_they_are_read(worker: Worker) -> None:
    with socket.create_connection(("127.0.0.1", worker.port), timeout=5) as sock:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {SECRET}\r\n"
        sock.sendall((head + "content-length: 40000000\r\n\r\n").encode())
        assert b" 413 " in sock.recv(4096)


def test_a_chunked_body_is_bounded_too(worker: Worker) -> None:
    with socket.create_connection(("127.0.0.1", worker.port), timeout=10) as sock:
        head = f"POST {MESSAGES} HTTP/1.1\r\nhost: x\r\nx-api-key: {SECRET}\r\n"
        sock.sendall((head + "transfer-encoding: chunked\r\n\r\n").encode())
        chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
        answer = b""
        try:
            for _ in range(34):
                sock.sendall(chunk)
        except OSError:
            pass
        answer = sock.recv(4096)
        assert b" 413 " in answer
        assert b"request_too_large" in answer


@pytest.mark.req("SEC-03")
@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {SECRET}"},
        {"authorization": f"bearer {SECRET}"},
        {"x-api-key": SECRET},
        {"api-key": SECRET},
    ],
)
def test_keys_are_taken_from_three_headers(worker: Worker, headers: dict[str, str]) -> None:
    status, _, _ = worker.request("GET", "/v1/models", headers=headers)
    assert status == 200


def test_wrong_missing_revoked_expired_and_narrow_keys(worker: Worker) -> None:
    worker.change(
        key("revoked-key", revoked=True),
        key("expired-key", expires_at_us=1),
        key("sql-only-key", scopes=["sql"]),
    )
    for secret, status in (
        ("", 401),
        ("wrong", 401),
        ("revoked-key", 401),
        ("expired-key", 401),
        ("sql-only-key", 403),
    ):
        headers = {"authorization": f"Bearer {secret}"}
        answered, _, body = worker.request("POST", CHAT, GOOD, headers)
        assert answered == status
        assert secret not in body.decode() or not secret


def test_no_secret_of_a_provider_reaches_a_client_or_an_event(worker: Worker) -> None:
    worker.request("POST", CHAT, GOOD)
    for event in worker.recorded:
        assert "sk-provider-secret" not in repr(event)
    _, headers, body = worker.request("GET", "/v1/models")
    assert b"sk-provider-secret" not in body
    assert "sk-provider-secret" not in repr(headers)


@pytest.mark.req("BEY-01")
def test_unknown_fields_and_metadata_pass(worker: Worker) -> None:
    body = {
        **GOOD,
        "metadata": {"feature": "search"},
        "user": "u-7",
        "seed": 5,
        "max_tokens": 4,
    }
    headers = {**AUTH, "x-weir-metadata": '{"tenant": "t1"}', "x-weir-session-id": "s1"}
    status, answered, _ = worker.request("POST", CHAT, body, headers)
    assert status == 200
    admitted = worker.events(RequestAdmitted, answered["x-weir-request-id"])[0]
    assert admitted.tags == {"feature": "search", "tenant": "t1"}
    assert admitted.user_id == "u-7"
    assert admitted.session_id == "s1"


def test_other_paths_go_to_control_and_say_so_when_it_is_away(worker: Worker) -> None:
    status, headers, body = worker.request("GET", "/api/v1/whatever")
    error = json.loads(body)["error"]
    assert status == 503
    assert error["code"] == "unavailable"
    assert error["retryable"]
    assert headers["retry-after"]
    assert worker.request("GET", "/health")[0] == 200
    assert json.loads(worker.request("GET", "/status")[2])["control"] == "away"


@pytest.mark.req("GW-09")
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", GENERATE])
@pytest.mark.parametrize("member", ["messages", "metadata", "unheard_of"])
def test_a_body_nested_too_deeply_is_refused(worker: Worker, path: str, member: str) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    body = b'{"model":"openai/gpt-4o-mini","prompt":"x","max_tokens":5,"%s":%s}'
    status, _, answer = worker.request("POST", path, body % (member.encode(), deep))
    assert 400 <= status < 500, answer[:300]


@pytest.mark.req("GW-16")
def test_a_named_model_that_takes_no_such_calls_is_the_callers_mistake(worker: Worker) -> None:
    body = json.dumps({"model": "openai/gpt-4o-mini", "input": "x"}).encode()
    status, _, answer = worker.request("POST", "/v1/embeddings", body, AUTH)
    assert status == 400
    message = json.loads(answer)["error"]["message"]
    assert message == "no target of 'openai/gpt-4o-mini' takes embeddings calls"


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/status/worker", "/v1/files"])
def test_every_answer_has_an_id_to_ask_about(worker: Worker, path: str) -> None:
    status, headers, _ = worker.request("GET", path, b"", AUTH)
    assert status == 200
    assert headers["x-weir-request-id"]


@pytest.mark.req("GW-09", "COST-03")
@pytest.mark.parametrize("tokens", [-1, 2**31, 2**64, 10**40])
def test_a_length_that_cannot_be_counted_is_refused(worker: Worker, tokens: int) -> None:
    body = json.dumps({**GOOD, "max_tokens": tokens}).encode()
    status, _, answer = worker.request("POST", CHAT, body, AUTH)
    assert status == 400
    assert str(tokens) in json.loads(answer)["error"]["message"]


def test_a_task_is_a_word_not_a_text(worker: Worker) -> None:
    body = json.dumps(GOOD).encode()
    headers = {**AUTH, "x-weir-task-type": "poetry " * 10}
    status, _, answer = worker.request("POST", CHAT, body, headers)
    assert status == 400
    assert "at most 64" in json.loads(answer)["error"]["message"]
    assert worker.request("POST", CHAT, body, {**AUTH, "x-weir-task-type": "poetry"})[0] == 200
