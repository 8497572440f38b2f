"""Cohere as the sandbox speaks it, read by the official client and held against its types."""

import json
from typing import Any

import cohere
import pytest
from cohere.types import EmbedByTypeResponse
from cohere.v2.types.v2chat_response import V2ChatResponse
from cohere.v2.types.v2chat_stream_response import V2ChatStreamResponse
from cohere.v2.types.v2rerank_response import V2RerankResponse

from tests.gateway.strict import check
from tests.sandbox.served import Served

KEY = {"authorization": "Bearer sk-sandbox-test"}
COMMAND = "command-a-03-2025"
REASONING = "command-a-reasoning-08-2025"
HELLO: Any = {"model": COMMAND, "messages": [{"role": "user", "content": "Say hello."}]}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@pytest.fixture(autouse=True)
def quick(sandbox: Served) -> None:
    for model in (COMMAND, REASONING, "rerank-v3.5", "embed-v4.0"):
        sandbox.behave(model)


def client(sandbox: Served) -> cohere.ClientV2:
    return cohere.ClientV2("sk-sandbox-test", base_url=sandbox.url)


def chat(sandbox: Served, body: Any, base: str = "") -> Any:
    return sandbox.post(f"{base}/v2/chat", body, KEY)


def streamed(answer: bytes) -> list[Any]:
    lines = [line for line in answer.split(b"\n") if line.startswith(b"data: {")]
    return [json.loads(line[6:]) for line in lines]


@pytest.mark.parametrize("model", [COMMAND, REASONING])
def test_whole_and_streamed_are_what_the_client_knows(sandbox: Served, model: str) -> None:
    whole = chat(sandbox, {**HELLO, "model": model}).json()
    check(whole, V2ChatResponse)
    answer = chat(sandbox, {**HELLO, "model": model, "stream": True})
    events = streamed(answer.body)
    for event in events[1:]:
        check(event, V2ChatStreamResponse)
    pieces = [e["delta"]["message"]["content"] for e in events if e["type"] == "content-delta"]
    texts = [block for block in whole["message"]["content"] if block["type"] == "text"]
    assert "".join(piece.get("text", "") for piece in pieces) == texts[0]["text"]
    assert events[-1]["type"] == "message-end"
    assert events[-1]["delta"]["usage"] == whole["usage"]
    row = sandbox.rows()[-1]
    assert row["output_tokens"] == whole["usage"]["billed_units"]["output_tokens"]
    assert row["input_tokens"] == whole["usage"]["billed_units"]["input_tokens"]
    assert bool(row["reasoning_tokens"]) == (model == REASONING)
    assert row["complete"]


def test_tools(sandbox: Served) -> None:
    api = client(sandbox)
    messages: Any = [{"role": "user", "content": "Rome?"}]
    answer = api.chat(model=COMMAND, messages=messages, tools=[WEATHER])
    assert answer.finish_reason == "TOOL_CALL"
    assert answer.message.tool_plan
    called: Any = (answer.message.tool_calls or [])[0]
    events = list(api.chat_stream(model=COMMAND, messages=messages, tools=[WEATHER]))
    kinds = {event.type for event in events}
    assert {"tool-plan-delta", "tool-call-start", "tool-call-delta", "tool-call-end"} <= kinds
    messages += [
        answer.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": called.id, "content": "18 °C"},
    ]
    final = api.chat(model=COMMAND, messages=messages, tools=[WEATHER])
    assert final.finish_reason == "COMPLETE"


def test_documents_are_cited_and_schemas_followed(sandbox: Served) -> None:
    cited = chat(sandbox, {**HELLO, "documents": [{"data": {"text": "x"}}]}).json()
    check(cited, V2ChatResponse)
    assert cited["message"]["citations"]
    form = {"type": "json_object", "json_schema": WEATHER["function"]["parameters"]}
    shaped = chat(sandbox, {**HELLO, "response_format": form}).json()
    assert "city" in json.loads(shaped["message"]["content"][0]["text"])


def test_embeddings_and_rerank(sandbox: Served) -> None:
    body: Any = {
        "model": "embed-v4.0",
        "input_type": "search_query",
        "texts": ["a", "b"],
        "embedding_types": ["float", "int8", "ubinary", "base64"],
        "output_dimension": 256,
    }
    answer = sandbox.post("/v2/embed", body, KEY).json()
    check(answer, EmbedByTypeResponse)
    assert len(answer["embeddings"]["float"][0]) == 256
    assert len(answer["embeddings"]["ubinary"][0]) == 32
    body = {"model": "rerank-v3.5", "query": "red car", "documents": ["blue sea", "a red car"]}
    ranked = sandbox.post("/v2/rerank", body, KEY).json()
    check(ranked, V2RerankResponse)
    assert [result["index"] for result in ranked["results"]] == [1, 0]
    assert ranked["meta"]["billed_units"] == {"search_units": 1}
    assert sandbox.rows()[-1]["units"] == {"search": 1}
    first = sandbox.post("/v1/rerank", {**body, "return_documents": True, "top_n": 1}, KEY).json()
    assert first["results"][0]["document"] == {"text": "a red car"}
    assert client(sandbox).rerank(model="rerank-v3.5", query="x", documents=["x y"]).results


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"model": COMMAND, "messages": []}, 400, "messages must not be empty"),
        ({**HELLO, "temperature": 1.5}, 400, "temperature"),
        ({**HELLO, "colour": 1}, 422, "unknown field"),
        ({**HELLO, "model": "nobody"}, 404, "model 'nobody' not found"),
        ({"model": COMMAND}, 400, "messages is required"),
        ({**HELLO, "frequency_penalty": 1, "presence_penalty": 1}, 400, "cannot specify both"),
        ({**HELLO, "tool_choice": "REQUIRED"}, 400, "with tools"),
    ],
)
def test_what_the_vendor_refuses(sandbox: Served, body: Any, status: int, words: str) -> None:
    answer = chat(sandbox, body)
    assert answer.status == status
    assert words in answer.json()["message"]
    assert sandbox.post("/v2/chat", HELLO, {}).status == 401


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ({"kind": "rate_limited", "retry_after_s": 7}, 429),
        ({"kind": "server_error"}, 500),
        ({"kind": "overloaded"}, 503),
        ({"kind": "context_too_long"}, 400),
    ],
)
def test_faults_in_the_vendors_words(sandbox: Served, fault: Any, status: int) -> None:
    base = f"/c-{fault['kind']}"
    sandbox.behave(COMMAND, base, faults=[fault])
    answer = chat(sandbox, HELLO, base)
    assert answer.status == status
    assert set(answer.json()) == {"id", "message"}
    assert "x-trial-endpoint-call-limit" in answer.headers


@pytest.mark.parametrize("kind", ["cut", "missing_end_marker", "error_event"])
def test_broken_streams(sandbox: Served, kind: str) -> None:
    base = f"/cs-{kind}"
    sandbox.behave(COMMAND, base, faults=[{"kind": kind}])
    answer = chat(sandbox, {**HELLO, "stream": True}, base)
    assert answer.whole is (kind != "cut")
    assert b"COMPLETE" not in answer.body
    assert (b'"ERROR"' in answer.body) == (kind == "error_event")
    assert sandbox.rows(base)[-1]["complete"] is False
