"""The product's own endpoint and model list."""

import json
from decimal import Decimal
from typing import Any

import pytest

from gateway.dialects.reading import read_object
from gateway.generate import read_generate
from schemas.errors import ValidationFailed
from tests.gateway.worker import Worker


@pytest.mark.req("GW-01")
@pytest.mark.req("GW-02")
@pytest.mark.parametrize("path", ["/generate", "/api/v1/generate"])
@pytest.mark.parametrize("model", ["openai/gpt-4o-mini", "anthropic/claude-sonnet-4-5"])
def test_one_shape_for_all_models(worker: Worker, path: str, model: str) -> None:
    body: Any = {"prompt": "Say hello.", "modelId": model, "maxTokens": 30, "tags": {"a": "b"}}
    status, headers, answer = worker.request("POST", path, body)
    assert status == 200
    found = json.loads(answer)
    assert found["text"]
    assert found["model_id"] == model
    assert set(found) == {"text", "model_id", "metrics", "metadata", "timestamp"}
    metrics, metadata = found["metrics"], found["metadata"]
    assert metrics["total_tokens"] == metrics["input_tokens"] + metrics["output_tokens"]
    assert metadata["model_type"] == "commercial"
    assert metadata["provider"] == model.split("/")[0]
    assert metadata["cache_hit"] is False
    admitted, response, cost = worker.call(metadata["request_id"])
    assert cost.cost_nano_usd is not None
    assert Decimal(metadata["cost_usd"]).scaleb(9) == cost.cost_nano_usd
    assert response.output_tokens == metrics["output_tokens"]
    assert admitted.tags == {"a": "b"}
    assert admitted.dialect == "weir"
    assert headers["x-weir-route"] == metadata["route"]


def test_an_unknown_price_is_null_and_never_zero(worker: Worker) -> None:
    body = {"prompt": "hi", "model_id": "a/gpt-4o", "max_tokens": 3}
    status, headers, answer = worker.request("POST", "/generate", body)
    assert status == 200
    metadata = json.loads(answer)["metadata"]
    assert metadata["cost_usd"] is None
    assert "x-weir-cost-usd" not in headers
    _, _, cost = worker.call(metadata["request_id"])
    assert cost.entry == "unpriced"
    assert cost.cost_nano_usd is None


@pytest.mark.req("GW-04")
def test_the_last_event_of_a_stream_has_usage_cost_and_route(worker: Worker) -> None:
    body = {"prompt": "Say hello.", "model_id": "anthropic/claude-sonnet-4-5", "stream": True}
    status, _, answer = worker.request("POST", "/generate", body)
    assert status == 200
    frames = [frame for frame in answer.decode().split("\n\n") if frame]
    data = [frame.partition("data: ")[2] for frame in frames]
    assert data[-1] == "[DONE]"
    last = json.loads(data[-2])
    assert last["type"] == "completed"
    assert last["metadata"]["route"] == "anthropic/claude-sonnet-4-5"
    assert last["metrics"]["output_tokens"] > 0
    assert Decimal(last["metadata"]["cost_usd"]) > 0
    assert "".join(json.loads(item)["text"] for item in data[:-2])


def test_auto_and_a_system_prompt(worker: Worker) -> None:
    body = {
        "prompt": "Say hello.",
        "system_prompt": "Be brief.",
        "messages": [{"role": "user", "content": "One."}, {"role": "assistant", "content": "1"}],
        "max_tokens": 5,
    }
    status, _, answer = worker.request("POST", "/generate", body)
    assert status == 200
    assert json.loads(answer)["metadata"]["route"] == "auto"


def test_both_spellings_are_read() -> None:
    snake = read_generate(read_object(b'{"prompt": "x", "max_tokens": 7, "system_prompt": "s"}'))
    camel = read_generate(read_object(b'{"prompt": "x", "maxTokens": 7, "systemPrompt": "s"}'))
    assert snake == camel
    assert snake.temperature == 0.7
    assert read_generate(read_object(b'{"prompt": "x"}')).max_tokens == 1024


@pytest.mark.req("GEN-02")
@pytest.mark.parametrize("written", ["30", '"00:00:30"', '"PT30S"'])
def test_a_duration_is_read_in_each_form(written: str) -> None:
    body = f'{{"prompt": "x", "timeoutSeconds": {written}}}'.encode()
    assert read_generate(read_object(body)).timeout_s == 30


@pytest.mark.req("GEN-02")
@pytest.mark.parametrize("written", ["0", "-1", "1e-90", "0.0009"])
def test_a_duration_in_which_nobody_answers_is_refused(written: str) -> None:
    body = f'{{"prompt": "x", "timeoutSeconds": {written}}}'.encode()
    with pytest.raises(ValidationFailed) as refused:
        read_generate(read_object(body))
    assert refused.value.details == ["timeout_seconds: must be at least 0.001"]


@pytest.mark.req("GW-09")
@pytest.mark.parametrize("sign", [r"\u0000", r"\u001B", r"\b", r"\u007f", "\x7f"])
def test_control_characters_are_refused_by_field(worker: Worker, sign: str) -> None:
    body = f'{{"prompt": "ok", "messages": [{{"role": "user", "content": "a{sign}b"}}]}}'.encode()
    status, _, answer = worker.request("POST", "/generate", body)
    assert status == 422
    [fault] = json.loads(answer)["error"]["details"]
    assert fault.startswith("messages: holds the control character ")
    read_generate(read_object(rb'{"prompt": "a\ttab\nand \\u0000 in words\f"}'))


@pytest.mark.req("GW-05")
def test_own_model_list_and_filters(worker: Worker) -> None:
    status, _, answer = worker.request("GET", "/api/v1/models?provider=openai&capability=tools")
    page = json.loads(answer)
    assert status == 200
    assert page["total"] == 2
    row = next(item for item in page["items"] if item["id"] == "openai/gpt-4o-mini")
    assert row["prices"]["input_usd_per_million"] == "0.15"
    assert row["type"] == "commercial"
    status, _, answer = worker.request("GET", "/api/v1/models/openai/gpt-4o-mini")
    assert json.loads(answer)["id"] == "openai/gpt-4o-mini"
    assert worker.request("GET", "/api/v1/models/nobody")[0] == 404
    assert worker.request("GET", "/api/v1/models?limit=x")[0] == 400
    assert worker.request("GET", "/api/v1/models?colour=red")[0] == 400
