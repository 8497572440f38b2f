"""Any call to a provider under the operator's key: as it is, scoped, metered."""

import contextlib
import http.client
import json
import time
from typing import Any

import openai
import pytest

from schemas.events.llm import ContentCaptured
from tests.gateway.worker import SECRET, Worker, key, provider
from tests.sandbox.served import Served

PASS = "weir-pass-key"


@pytest.fixture(scope="module", autouse=True)
def keyed(worker: Worker) -> None:
    worker.change(key(PASS, scopes=["inference", "passthrough"]))


def headers(secret: str = PASS, **more: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}", "content-type": "application/json", **more}


@pytest.mark.req("BEY-18")
@pytest.mark.req("COST-01")
def test_bytes_are_as_they_are_and_usage_is_read(worker: Worker, sandbox: Served) -> None:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}
    status, told, data = worker.request(
        "POST", "/passthrough/openai/chat/completions?x=1", body, headers(cookie="a=b")
    )
    assert status == 200
    answer = json.loads(data)
    assert answer["model"] == "gpt-4o-mini-2024-07-18"
    admitted, response, cost = worker.call(told["x-weir-request-id"])
    row = next(r for r in sandbox.rows() if r["weir_request_id"] == response.request_id)
    assert row["key"] == "sk-…cret"  # the provider's, not the caller's
    assert row["bytes_in"] == len(json.dumps(body))
    assert response.units == {"bytes_in": row["bytes_in"], "bytes_out": len(data)}
    assert (admitted.surface, response.surface, cost.surface) == ("passthrough",) * 3
    assert (response.outcome, response.status) == ("success", 200)
    assert response.usage_basis == "reported"
    assert cost.input_tokens == answer["usage"]["prompt_tokens"]
    assert cost.cost_nano_usd == cost.input_tokens * 150 + response.output_tokens * 600
    assert worker.events(ContentCaptured, response.request_id)


@pytest.mark.req("BEY-18")
def test_a_stream_is_carried_and_unpriced(worker: Worker) -> None:
    body = {"model": "claude-sonnet-4-5", "max_tokens": 20, "stream": True,
            "messages": [{"role": "user", "content": "Hi"}]}  # fmt: skip
    given = headers(**{"anthropic-version": "2023-06-01"})
    status, told, data = worker.request("POST", "/passthrough/anthropic/v1/messages", body, given)
    assert status == 200
    assert told["content-type"].startswith("text/event-stream")
    assert data.rstrip().endswith(b'"message_stop"}')
    _, response, cost = worker.call(told["x-weir-request-id"])
    assert (cost.entry, cost.cost_nano_usd) == ("unpriced", None)
    assert response.units["bytes_out"] == len(data)


@pytest.mark.req("BEY-18")
@pytest.mark.req("SEC-03")
@pytest.mark.parametrize(
    ("secret", "path", "status", "code"),
    [
        (SECRET, "/passthrough/openai/models", 403, "permission_denied"),
        ("nobody", "/passthrough/openai/models", 401, "authentication_failed"),
        (PASS, "/passthrough/nobody/models", 404, "not_found"),
        (PASS, "/passthrough/openai/../a/v1/models", 400, "invalid_request"),
        (PASS, "/passthrough/openai/%2e%2e/models", 400, "invalid_request"),
    ],
)
def test_who_may_not_is_told(
    worker: Worker, secret: str, path: str, status: int, code: str
) -> None:
    answered, _, data = worker.request("GET", path, None, headers(secret))
    assert answered == status
    assert json.loads(data)["error"]["code"] == code


@pytest.mark.req("BEY-18")
def test_a_narrowed_key_stays_narrow(worker: Worker) -> None:
    worker.change(key("narrow", scopes=["passthrough"], models=["openai/gpt-4o-mini"]))
    chat = {"messages": [{"role": "user", "content": "Hi"}]}
    for model, expected in (("gpt-4o-mini", 200), ("gpt-4o", 403)):
        status, _, _ = worker.request(
            "POST",
            "/passthrough/openai/chat/completions",
            {"model": model, **chat},
            headers("narrow"),
        )
        assert status == expected
    assert worker.request("GET", "/passthrough/openai/models", None, headers("narrow"))[0] == 403


@pytest.mark.req("BEY-18", "SEC-03")
def test_the_model_of_the_path_counts(worker: Worker, sandbox: Served) -> None:
    worker.change(
        provider("gem", "gemini", f"{sandbox.url}/gem/v1beta"),
        key("narrow", scopes=["passthrough"], models=["gem/gemini-2.5-flash"]),
    )
    # What the body calls itself opens no other model.
    chat = {"contents": [{"parts": [{"text": "Hi"}]}]}
    for path, expected in (
        ("gemini-2.5-flash:generateContent", 200),
        ("gemini-2.5-pro:generateContent", 403),
        ("gemini-2.5-pro:countTokens", 403),
        ("gemini-2.5-pro:predict", 403),
    ):
        place = f"/passthrough/gem/models/{path}"
        body = chat if expected == 200 else {"model": "gemini-2.5-flash", **chat}
        status, told, _ = worker.request("POST", place, body, headers("narrow"))
        assert status == expected
        if status == 200:
            assert worker.call(told["x-weir-request-id"])[1].model == "gemini-2.5-flash"


@pytest.mark.req("BEY-18")
def test_refusals_of_the_vendor_are_its_own_words(worker: Worker) -> None:
    status, told, data = worker.request("GET", "/passthrough/openai/models/nobody", None, headers())
    assert status == 404
    assert "nobody" in json.loads(data)["error"]["message"]
    _, response, cost = worker.call(told["x-weir-request-id"])
    assert (response.outcome, response.status) == ("failed", 404)
    assert (cost.entry, cost.cost_nano_usd) == ("settled", 0)


@pytest.mark.req("BEY-18")
@pytest.mark.parametrize("kind", ["cut", "reset", "silence"])
def test_faults_are_settled_once(worker: Worker, sandbox: Served, kind: str) -> None:
    base = f"pass-{kind}"
    sandbox.behave("gpt-4o-mini", f"/{base}", per_token_ms=1, faults=[{"kind": kind}])
    worker.change(provider(base, "openai", f"{sandbox.url}/{base}/v1"))
    body = {"model": "gpt-4o-mini", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    seen = len(worker.responses())
    with contextlib.suppress(OSError, http.client.HTTPException):
        worker.request("POST", f"/passthrough/{base}/chat/completions", body, headers(), 1.5)
    found: list[Any] = []
    for _ in range(300):
        found = [r for r in worker.responses()[seen:] if r.provider == base]
        if found:
            break
        time.sleep(0.01)
    assert [r.outcome for r in found] == ["cancelled" if kind == "silence" else "failed"]


@pytest.mark.req("BEY-01")
def test_openais_files_and_jobs_with_its_own_client(worker: Worker) -> None:
    client = worker.openai(api_key=PASS)
    lines = b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}\n'
    file = client.files.create(file=("train.jsonl", lines * 10), purpose="fine-tune")
    assert client.files.retrieve(file.id).bytes == len(lines) * 10
    assert client.files.content(file.id).content == lines * 10
    assert file.id in [item.id for item in client.files.list(purpose="fine-tune")]
    job = client.fine_tuning.jobs.create(model="gpt-4o-mini-2024-07-18", training_file=file.id)
    assert client.fine_tuning.jobs.retrieve(job.id).id == job.id
    client.fine_tuning.jobs.cancel(job.id)
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.PermissionDeniedError):
        worker.openai().files.list(purpose="fine-tune")


@pytest.mark.req("BEY-01")
def test_kept_responses_are_read_and_deleted(worker: Worker) -> None:
    client = worker.openai(api_key=PASS)
    made = client.responses.create(model="openai/gpt-4o-mini", input="One.")
    assert client.responses.retrieve(made.id).output_text == made.output_text
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)
