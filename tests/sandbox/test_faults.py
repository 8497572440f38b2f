"""What the socket shows of every fault, and what the books say of it."""

import http.client
import json
import socket
import time
from typing import Any

import pytest

from tests.sandbox.served import Answered, Served

OPENAI = {"authorization": "Bearer sk-sandbox-test"}
ANTHROPIC = {"x-api-key": "sk-ant-sandbox", "anthropic-version": "2023-06-01"}
MODELS = {"openai": "gpt-4o-mini", "anthropic": "claude-haiku-4-5"}
both = pytest.mark.parametrize("dialect", ["openai", "anthropic"])


def call(
    sandbox: Served, dialect: str, base: str, *, stream: bool = False, timeout_s: float = 5
) -> Answered:
    """One call of the dialect's model under a base path."""
    body: dict[str, Any] = {
        "model": MODELS[dialect],
        "messages": [{"role": "user", "content": "What does a weir do?"}],
        "max_tokens": 200,
        "stream": stream,
    }
    if dialect == "openai":
        return sandbox.post(f"{base}/v1/chat/completions", body, OPENAI, timeout_s)
    return sandbox.post(f"{base}/v1/messages", body, ANTHROPIC, timeout_s)


def faulty(sandbox: Served, dialect: str, kind: str, **fault: Any) -> str:
    """A base path of this test's own, whose model has the fault."""
    base = f"/{kind}-{dialect}-{time.monotonic_ns()}"
    behaviour = {"answer_tokens_min": 40, "faults": [{"kind": kind, **fault}]}
    sandbox.behave(MODELS[dialect], base, **behaviour)
    return base


def row(sandbox: Served, base: str) -> dict[str, Any]:
    """The only row of a base path, once it is there."""
    for _ in range(100):
        rows = sandbox.rows(base)
        if rows:
            assert len(rows) == 1
            return rows[0]
        time.sleep(0.02)
    raise AssertionError("no row")


def events(body: bytes) -> list[str]:
    """The data of the frames of a stream."""
    lines = body.decode().split("\n")
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


def ended(dialect: str, body: bytes) -> bool:
    """Whether a stream shows its dialect's end marker."""
    data = events(body)
    if dialect == "openai":
        return data[-1:] == ["[DONE]"]
    return bool(data) and data[-1] == '{"type":"message_stop"}'


@both
@pytest.mark.parametrize(
    ("kind", "status"),
    [("rate_limited", 429), ("server_error", 500), ("unavailable", 503), ("context_too_long", 400)],
)
def test_error_answers(sandbox: Served, dialect: str, kind: str, status: int) -> None:
    base = faulty(sandbox, dialect, kind)
    answer = call(sandbox, dialect, base, stream=True)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    assert "retry-after" not in answer.headers
    error = answer.json()["error"]
    expected = {
        "rate_limited": ("requests", "rate_limit_error"),
        "server_error": ("server_error", "api_error"),
        "unavailable": ("server_error", "api_error"),
        "context_too_long": ("invalid_request_error", "invalid_request_error"),
    }[kind]
    assert error["type"] == expected[dialect == "anthropic"]
    if (dialect, kind) == ("openai", "context_too_long"):
        assert error["code"] == "context_length_exceeded"
    entry = row(sandbox, base)
    assert (entry["status"], entry["fault"]) == (status, kind)
    assert (entry["input_tokens"], entry["output_tokens"]) == (0, 0)


@both
def test_rate_limit_with_retry_after(sandbox: Served, dialect: str) -> None:
    base = faulty(sandbox, dialect, "rate_limited", retry_after_s=3)
    assert call(sandbox, dialect, base).headers["retry-after"] == "3"


def test_overloaded_has_the_vendors_own_status(sandbox: Served) -> None:
    statuses = [
        call(sandbox, dialect, faulty(sandbox, dialect, "overloaded")).status
        for dialect in ("openai", "anthropic")
    ]
    assert statuses == [503, 529]


@both
def test_reset_shows_no_header(sandbox: Served, dialect: str) -> None:
    base = faulty(sandbox, dialect, "reset")
    answer = call(sandbox, dialect, base)
    assert (answer.status, answer.headers["error"]) == (0, "ConnectionResetError")
    entry = row(sandbox, base)
    assert (entry["status"], entry["fault"], entry["bytes_out"]) == (0, "reset", 0)


@both
def test_silence_never_answers(sandbox: Served, dialect: str) -> None:
    base = faulty(sandbox, dialect, "silence")
    with pytest.raises(TimeoutError):
        call(sandbox, dialect, base, timeout_s=0.4)
    entry = row(sandbox, base)
    assert (entry["status"], entry["client_disconnected"]) == (0, True)
    assert entry["output_tokens"] == 0


def _first_bytes(sandbox: Served, base: str) -> tuple[float, float, bytes]:
    """Seconds to the headers and to the first byte of the body of a streamed OpenAI call."""
    body = json.dumps(
        {
            "model": MODELS["openai"],
            "messages": [{"role": "user", "content": "x"}],
            "stream": True,
        }
    )
    connection = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=5)
    begun = time.monotonic()
    connection.request("POST", f"{base}/v1/chat/completions", body, OPENAI)
    answer = connection.getresponse()
    headers_s = time.monotonic() - begun
    first = answer.read(1)
    first_s = time.monotonic() - begun
    rest = answer.read()
    connection.close()
    return headers_s, first_s, first + rest


def test_slow_first_token_comes_after_prompt_headers(sandbox: Served) -> None:
    base = faulty(sandbox, "openai", "slow_first_token", delay_ms=600)
    headers_s, first_s, body = _first_bytes(sandbox, base)
    assert headers_s < 0.5 < first_s
    assert ended("openai", body)


@both
def test_stall_holds_the_middle_back(sandbox: Served, dialect: str) -> None:
    base = faulty(sandbox, dialect, "stall", delay_ms=500)
    begun = time.monotonic()
    answer = call(sandbox, dialect, base, stream=True)
    assert time.monotonic() - begun >= 0.5
    assert answer.whole
    assert ended(dialect, answer.body)
    entry = row(sandbox, base)
    assert entry["complete"] is True
    assert entry["usage_sent"] is (dialect == "anthropic")  # OpenAI's was not asked for


@both
def test_cut_stream_ends_without_end(sandbox: Served, dialect: str) -> None:
    base = faulty(sandbox, dialect, "cut", after_tokens=5)
    answer = call(sandbox, dialect, base, stream=True)
    assert answer.status == 200
    assert not answer.whole
    assert not ended(dialect, answer.body)
    entry = row(sandbox, base)
    assert entry["output_tokens"] == 5
    assert entry["input_tokens"] > 0
    assert (entry["complete"], entry["usage_sent"], entry["client_disconnected"]) == (
        False,
        False,
        False,
    )


@both
def test_cut_whole_answer_is_shorter_than_promised(sandbox: Served, dialect: str) -> None:
    base = faulty(sandbox, dialect, "cut")
    answer = call(sandbox, dialect, base)
    assert not answer.whole
    assert len(answer.body) < int(answer.headers["content-length"])
    assert row(sandbox, base)["complete"] is False


@both
def test_malformed_frame_in_an_otherwise_complete_stream(sandbox: Served, dialect: str) -> None:
    base = faulty(sandbox, dialect, "malformed_frame")
    answer = call(sandbox, dialect, base, stream=True)
    assert answer.whole
    assert ended(dialect, answer.body)
    bad = 0
    for data in events(answer.body):
        try:
            json.loads(data)
        except json.JSONDecodeError:
            bad += data != "[DONE]"
    assert bad == 1


@both
def test_malformed_whole_answer_is_no_json(sandbox: Served, dialect: str) -> None:
    answer = call(sandbox, dialect, faulty(sandbox, dialect, "malformed_frame"))
    assert answer.whole
    with pytest.raises(ValueError):
        answer.json()


@both
def test_missing_end_marker_after_all_content(sandbox: Served, dialect: str) -> None:
    base = faulty(sandbox, dialect, "missing_end_marker")
    answer = call(sandbox, dialect, base, stream=True)
    assert answer.whole
    assert not ended(dialect, answer.body)
    entry = row(sandbox, base)
    assert entry["output_tokens"] > 0
    assert entry["complete"] is False


@both
def test_error_event_in_the_middle(sandbox: Served, dialect: str) -> None:
    base = faulty(sandbox, dialect, "error_event", after_tokens=3)
    answer = call(sandbox, dialect, base, stream=True)
    last = json.loads(events(answer.body)[-1])
    assert last["error"]["type"] == ("server_error" if dialect == "openai" else "overloaded_error")
    assert row(sandbox, base)["output_tokens"] == 3


@both
def test_filtered_content_says_so(sandbox: Served, dialect: str) -> None:
    answer = call(sandbox, dialect, faulty(sandbox, dialect, "content_filtered")).json()
    if dialect == "openai":
        assert answer["choices"][0]["finish_reason"] == "content_filter"
    else:
        assert answer["stop_reason"] == "refusal"
        assert answer["stop_details"]["type"] == "refusal"


def test_rate_count_and_skip_pick_the_calls(sandbox: Served) -> None:
    base = faulty(sandbox, "openai", "server_error", count=2, skip=1)
    statuses = [call(sandbox, "openai", base).status for _ in range(5)]
    assert statuses == [200, 500, 500, 200, 200]
    base = faulty(sandbox, "openai", "server_error", rate=0.5)
    failed = sum(call(sandbox, "openai", base).status == 500 for _ in range(100))
    assert 30 <= failed <= 70


def test_lanes_of_one_model_are_independent_and_recover(sandbox: Served) -> None:
    base = faulty(sandbox, "openai", "server_error")
    assert call(sandbox, "openai", base).status == 500
    assert call(sandbox, "openai", base + "-twin").status == 200
    sandbox.control("DELETE", f"{base}/sandbox/models/{MODELS['openai']}/behaviour")
    assert call(sandbox, "openai", base).status == 200


def test_a_rule_for_all_models_of_a_base(sandbox: Served) -> None:
    sandbox.behave("*", "/all", faults=[{"kind": "unavailable"}])
    assert call(sandbox, "openai", "/all").status == 503
    assert call(sandbox, "anthropic", "/all").status == 503
    assert "/all" in [rule["base"] for rule in sandbox.control("GET", "/sandbox/behaviour")]


@both
def test_vendor_limits_per_minute(sandbox: Served, dialect: str) -> None:
    sandbox.behave(MODELS[dialect], "/limited", requests_per_minute=2)
    answers = [call(sandbox, dialect, "/limited") for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 30


def test_a_behaviour_that_cannot_be_is_refused(sandbox: Served) -> None:
    for body in ('{"faults":[{"kind":"nonsense"}]}', '{"jitter":2}', "{", '{"colour":1}'):
        connection = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=5)
        connection.request("PUT", "/sandbox/models/gpt-4o/behaviour", body)
        assert connection.getresponse().status == 400
        connection.close()


@both
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_is_billed_for_what_was_produced(
    sandbox: Served, dialect: str, stream: bool
) -> None:
    base = f"/leaving-{dialect}-{stream}"
    sandbox.behave(
        MODELS[dialect], base, per_token_ms=20, answer_tokens_min=100, answer_tokens_max=100
    )
    path = "/v1/chat/completions" if dialect == "openai" else "/v1/messages"
    body = json.dumps(
        {
            "model": MODELS[dialect],
            "messages": [{"role": "user", "content": "x"}],
            "max_tokens": 200,
            "stream": stream,
        }
    )
    headers = OPENAI if dialect == "openai" else ANTHROPIC
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection(("127.0.0.1", sandbox.port)) as connection:
        connection.sendall(
            f"POST {base}{path} HTTP/1.1\r\nhost: x\r\n{lines}content-length: {len(body)}\r\n\r\n{body}".encode()
        )
        time.sleep(0.5)
    entry = row(sandbox, base)
    assert entry["client_disconnected"] is True
    assert entry["complete"] is False
    assert entry["usage_sent"] is False
    assert entry["input_tokens"] > 0
    assert 5 < entry["output_tokens"] < 60
