"""What a stream came to, told at its end to who asks; and paths under the common prefix."""

from typing import Any

import pytest

from tests.gateway.worker import SECRET, Worker

ASKS = {"x-weir-explain": "1"}
HELLO: Any = [{"role": "user", "content": "Say hello."}]
MODELS = ["openai/gpt-4o-mini", "anthropic/claude-sonnet-4-5"]


def same(worker: Worker, told: Any) -> None:
    """Hold a receipt against the ledger."""
    _, response, cost = worker.call(told["metadata"]["request_id"])
    assert told["model_id"] == response.target
    assert told["metrics"]["output_tokens"] == response.output_tokens > 0
    assert round(float(told["metadata"]["cost_usd"]) * 1e9) == cost.cost_nano_usd
    assert told["metadata"]["attempts"] == 1


@pytest.mark.req("BEY-01")
@pytest.mark.parametrize("model", MODELS)
def test_openais_client_is_told_by_a_chunk(worker: Worker, model: str) -> None:
    api = worker.openai()
    ask: Any = {"model": model, "messages": HELLO, "stream": True}
    chunks = list(api.chat.completions.create(**ask, extra_headers=ASKS))
    assert chunks[-1].choices == []
    same(worker, (chunks[-1].model_extra or {})["weir"])
    assert any(chunk.choices for chunk in chunks)
    assert not any(
        (chunk.model_extra or {}).get("weir") for chunk in api.chat.completions.create(**ask)
    )


@pytest.mark.req("BEY-01")
@pytest.mark.parametrize("model", MODELS)
def test_clients_of_typed_events_are_told_by_one(worker: Worker, model: str) -> None:
    events = list(
        worker.openai().responses.create(
            model=model, input="Say hello.", stream=True, extra_headers=ASKS
        )
    )
    assert events[-1].type == "response.completed"
    [told] = [event.model_dump() for event in events if str(event.type) == "weir.receipt"]
    same(worker, told)
    with worker.anthropic().messages.stream(
        model=model, max_tokens=50, messages=HELLO, extra_headers=ASKS
    ) as stream:
        assert stream.get_final_message().content
    body = {"model": model, "max_tokens": 50, "messages": HELLO, "stream": True}
    for headers, count in ((ASKS, 1), ({}, 0)):
        given = {"authorization": f"Bearer {SECRET}", **headers}
        _, _, data = worker.request("POST", "/v1/messages", body, given)
        assert data.count(b"event: weir.receipt\n") == count


@pytest.mark.req("GEN-03")
def test_what_has_a_bare_path_has_the_prefix_too(worker: Worker) -> None:
    for path in ("/health", "/ready", "/status", "/metrics"):
        bare, prefixed = (worker.request("GET", place) for place in (path, f"/api/v1{path}"))
        assert bare[0] == prefixed[0] != 404
