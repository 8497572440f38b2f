"""One suite for every provider that Weir knows by name: each row of `infra.vendors` × each case.

The sandbox speaks every vendor's wire under the vendor's name. A row is configured as an operator
would, by the vendor's own variables; the client in front speaks OpenAI's chat. A new provider is one
more row: it runs all of this, with a model of the sandbox in `places.MODELS` where the row lists none.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gateway.http1 import Pool
from gateway.probing import Probe, probe
from gateway.upstream import Upstream
from infra.vendors import VENDORS
from schemas.events.changes import ProviderChanged
from tests.gateway.places import HELLO, PIXEL, REASONING, TIME, WEATHER, Place, good, text_of
from tests.gateway.worker import Worker, started
from tests.sandbox.served import Served

# --- the cases -----------------------------------------------------------------------------------


def whole(place: Place) -> None:
    headers, body = good(place.ask())
    assert body["choices"][0]["message"]["content"]
    assert body["choices"][0]["finish_reason"] == "stop"
    response = place.told(headers)
    assert response.target == f"{place.row.name}/{place.model}"
    assert response.usage_basis == "reported"
    assert response.output_tokens == body["usage"]["completion_tokens"] > 0
    assert response.input_tokens == body["usage"]["prompt_tokens"] > 0


def streamed(place: Place) -> None:
    headers, chunks = good(place.ask(stream=True))
    assert chunks[-1] == b"[DONE]"
    _, body = good(place.ask())
    assert text_of(chunks) == body["choices"][0]["message"]["content"]
    response = place.told(headers)
    assert response.usage_basis == "reported"
    assert response.output_tokens == body["usage"]["completion_tokens"]
    assert response.first_token_us is not None


def developer(place: Place) -> None:
    """What newer clients of OpenAI say by default, every vendor gets in its own words."""
    turns = [{"role": "developer", "content": "Be brief."}, *HELLO]
    limits = {"max_completion_tokens": 200, "seed": 7, "user": "u-1", "logit_bias": {"1": 1}}
    headers, body = good(place.ask(messages=turns, **limits))
    assert body["choices"][0]["finish_reason"] == "stop"
    assert place.told(headers).outcome == "success"


def turns(place: Place) -> None:
    """Two turns of one role after another, and thoughts that the client hands back."""
    spoken: Any = {"role": "assistant", "content": "Hello."}
    if place.row.name in REASONING:
        spoken["reasoning_content"] = "I greet."
    again = [*HELLO, {"role": "user", "content": "Please."}, spoken, *HELLO]
    good(place.ask(messages=again))


def tools(place: Place) -> None:
    place.shows("tools")
    wanted: Any = {"tools": [WEATHER], "tool_choice": "required"}
    _, body = good(place.ask(**wanted))
    choice = body["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    [call] = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert "city" in json.loads(call["function"]["arguments"])
    spoken = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": call["id"], "content": "18 °C"}
    _, last = good(place.ask(messages=[*HELLO, spoken, result], tools=[WEATHER]))
    assert last["choices"][0]["finish_reason"] == "stop"


def parallel_tools(place: Place) -> None:
    """A history of two calls at once, with ids of another vendor."""
    place.shows("tools")
    calls = [
        {
            "id": f"call_{'x' * 20}{number}",
            "type": "function",
            "function": {"name": name, "arguments": '{"city": "Rome"}'},
        }
        for number, name in enumerate(("get_weather", "get_time"))
    ]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "x"} for call in calls]
    spoken = {"role": "assistant", "content": None, "tool_calls": calls}
    _, body = good(place.ask(messages=[*HELLO, spoken, *results], tools=[WEATHER, TIME]))
    assert body["choices"][0]["finish_reason"] == "stop"


def streamed_tools(place: Place) -> None:
    place.shows("tools")
    headers, chunks = good(place.ask(tools=[WEATHER], tool_choice="required", stream=True))
    pieces = [
        call
        for chunk in chunks[:-1]
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls") or ()
    ]
    assert pieces[0]["id"]
    assert pieces[0]["function"]["name"] == "get_weather"
    arguments = "".join(piece["function"].get("arguments") or "" for piece in pieces)
    assert "city" in json.loads(arguments)
    assert place.told(headers).finish_reason == "tool_calls"


def structured(place: Place) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}
    headers, body = good(place.ask(response_format=form))
    answer = json.loads(body["choices"][0]["message"]["content"])
    if "structured" in place.row.offers:
        assert list(answer) == ["city"]
    else:  # some JSON object, and the client hears that the schema was only asked for
        assert "response_format" in headers["x-weir-dropped-params"]


def image(place: Place) -> None:
    place.shows("vision")
    parts = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": PIXEL}},
    ]
    good(place.ask(messages=[{"role": "user", "content": parts}]))


def stop(place: Place) -> None:
    _, body = good(place.ask(stop=[":"]))
    assert ":" not in body["choices"][0]["message"]["content"]
    assert body["choices"][0]["finish_reason"] == "stop"


def length(place: Place) -> None:
    _, body = good(place.ask(max_tokens=3))
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 3


def cached(place: Place) -> None:
    if place.row.dialect in {"anthropic", "bedrock", "cohere"}:
        pytest.skip("the vendor caches what a request marks: see its own cassettes")
    long = [{"role": "user", "content": f"{place.row.name} " + "river stone " * 1200}]
    first, _ = good(place.ask(messages=long))
    second, _ = good(place.ask(messages=long))
    assert not place.told(first).cached_input_tokens
    assert (place.told(second).cached_input_tokens or 0) >= 1024


def reasoning(place: Place) -> None:
    model = REASONING.get(place.row.name)
    if model is None:
        pytest.skip(f"{place.row.name} keeps thoughts to itself")
    extra: Any = {}
    if place.row.dialect != "openai":
        extra = {"reasoning_effort": "high", "max_tokens": 8_000}
    _, body = good(place.ask(model, **extra))
    _, chunks = good(place.ask(model, stream=True, **extra))
    message = body["choices"][0]["message"]
    names = ("reasoning_content", "reasoning")
    shown = any(message.get(name) for name in names) or isinstance(message["content"], list)
    assert shown, message
    deltas = [choice["delta"] for chunk in chunks[:-1] for choice in chunk["choices"]]
    assert any(
        delta.get("reasoning_content")
        or delta.get("reasoning")
        or isinstance(delta.get("content"), list)
        for delta in deltas
    )


def translated_reasoning(place: Place) -> None:
    """A client of another dialect gets the thoughts as its own blocks."""
    model = REASONING.get(place.row.name)
    if model is None:
        pytest.skip(f"{place.row.name} keeps thoughts to itself")
    thinking = {"type": "enabled", "budget_tokens": 1024}
    request = {
        "model": f"{place.row.name}/{model}",
        "messages": HELLO,
        "max_tokens": 8_000,
        "thinking": thinking,
    }
    status, _, data = place.worker.request("POST", "/v1/messages", request)
    assert status == 200, data
    kinds = [block["type"] for block in json.loads(data)["content"]]
    assert kinds == ["thinking", "text"]


def bad_request(place: Place) -> None:
    status, _, body = place.ask(messages=[{"role": "user", "content": "x"}], max_tokens=10_000_000)
    assert status == 400, body
    assert body["error"]["message"]


def unauthorized(place: Place) -> None:
    if place.row.key_variable is None:
        pytest.skip(f"{place.row.name} needs no key")
    name = f"{place.row.name}-unkeyed"
    bare = {**place.event().options, "auth": "x-nothing"}
    place.worker.change(place.event(name=name, options=bare))
    request = {"model": f"{name}/{place.model}", "messages": HELLO}
    status, headers, data = place.worker.request("POST", "/v1/chat/completions", request)
    assert status == 502, data
    response = place.told(headers)
    assert response.error_code == "upstream_authentication"


def unknown_model(place: Place) -> None:
    status, _, body = place.ask("nobody-knows-this")
    assert status in {400, 404}, body  # the vendor's own words where its dialect is the client's
    assert body["error"]["message"]


def rate_limited(place: Place) -> None:
    place.behave(faults=[{"kind": "rate_limited", "retry_after_s": 30}])
    # A name of its own: the gateway spares a provider that asked for a rest.
    name = f"{place.row.name}-busy"
    place.worker.change(place.event(name=name))
    request = {"model": f"{name}/{place.model}", "messages": HELLO}
    status, headers, data = place.worker.request("POST", "/v1/chat/completions", request)
    assert status == 429, data
    assert place.told(headers).error_code == "upstream_rate_limited"


def server_error(place: Place) -> None:
    place.behave(faults=[{"kind": "server_error"}])
    status, headers, _ = place.ask()
    assert status >= 500
    assert place.told(headers).error_code == "upstream_error"
    place.behave(faults=[{"kind": "server_error", "count": 1}])
    headers, _ = good(place.ask())
    assert len(place.told(headers).attempts) == 2


def context(place: Place) -> None:
    place.behave(faults=[{"kind": "context_too_long"}])
    status, headers, _ = place.ask()
    assert status == 400
    assert place.told(headers).error_code == "context_length_exceeded"


def content_filter(place: Place) -> None:
    if place.row.dialect == "cohere":
        pytest.skip("the vendor ends such an answer with an error: see its own cassettes")
    place.behave(faults=[{"kind": "content_filtered"}])
    _, body = good(place.ask())
    assert body["choices"][0]["finish_reason"] == "content_filter"


def cut(place: Place) -> None:
    for kind in ("cut", "missing_end_marker", "malformed_frame", "error_event"):
        place.behave(faults=[{"kind": kind}], per_token_ms=1)
        status, headers, chunks = place.ask(stream=True)
        assert status in {200, 502}, kind
        if status == 200:
            assert chunks[-1] != b"[DONE]", kind
            assert chunks[-1]["error"], kind
        assert place.told(headers).outcome == "failed", kind


def connection(place: Place) -> None:
    """The test of a connection is free, says yes with the key and no without."""
    event = place.event()
    before = place.sandbox.rows(f"/{place.row.name}")
    found = asyncio.run(_probed(event, place.model))
    assert found.ok, found
    rows = place.sandbox.rows(f"/{place.row.name}")[len(before) :]
    assert not any(row["output_tokens"] for row in rows)
    if place.row.key_variable is not None:
        bare = place.event(options={**event.options, "auth": "x-nothing"})
        refused = asyncio.run(_probed(bare, place.model))
        assert not refused.ok
        assert refused.error_code == "upstream_authentication"
        assert refused.action


async def _probed(event: ProviderChanged, model: str) -> Probe:
    pool = Pool()
    try:
        return await probe(Upstream(pool), event, model)
    finally:
        pool.close()


def responses(place: Place) -> None:
    """OpenAI's newer form, untouched where the vendor speaks it and translated where not."""
    name = f"{place.row.name}/{place.model}"
    request = {"model": name, "input": "Say hello.", "max_output_tokens": 200}
    status, headers, data = place.worker.request("POST", "/v1/responses", request)
    assert status == 200, data
    [message] = [item for item in json.loads(data)["output"] if item["type"] == "message"]
    assert message["content"][0]["text"]
    assert place.told(headers).outcome == "success"
    assert place.asked(headers).endswith("/responses") == ("openai_responses" in place.row.speaks)


def completions(place: Place) -> None:
    """OpenAI's oldest form, in the same way."""
    spoken = "openai_completions" in place.row.speaks
    if place.row.name == "openai":
        pytest.skip("the vendor's chat models take no completions: see test_responses")
    request = {
        "model": f"{place.row.name}/{place.model}",
        "prompt": "Say hello.",
        "max_tokens": 900,
    }
    status, headers, data = place.worker.request("POST", "/v1/completions", request)
    assert status == 200, data
    assert json.loads(data)["choices"][0]["text"]
    assert place.told(headers).outcome == "success"
    asked = place.asked(headers)
    assert (asked.endswith("/completions") and not asked.endswith("/chat/completions")) == spoken


def listed(place: Place) -> None:
    _, _, data = place.worker.request("GET", "/v1/models")
    found = {entry["id"] for entry in json.loads(data)["data"]}
    assert {f"{place.row.name}/{model.name}" for model in place.row.models} <= found


def vectors(place: Place) -> None:
    """Every listed model of embeddings, by each client that asks for some."""
    models = [one.name for one in place.row.models if "embeddings" in one.capabilities]
    if not models:
        pytest.skip(f"{place.row.name} lists no model of embeddings")
    for model in models:
        place.behave(model)
        name = f"{place.row.name}/{model}"
        body = {"model": name, "input": "a red car", "dimensions": 256, "encoding_format": "float"}
        status, told, data = place.worker.request("POST", "/v1/embeddings", body)
        assert status == 200, data
        answer = json.loads(data)
        assert [len(entry["embedding"]) for entry in answer["data"]] == [256]
        response = place.told(told)
        assert (response.surface, response.usage_basis) == ("embeddings", "reported")
        assert response.input_tokens == answer["usage"]["prompt_tokens"] > 0
        texts = ["a red car"] if "titan" in model else ["a red car", "the blue sea"]
        asked = {"content": {"parts": [{"text": "a red car"}]}, "taskType": "RETRIEVAL_QUERY"}
        path = f"/v1beta/models/{name}:batchEmbedContents"
        status, _, data = place.worker.request("POST", path, {"requests": [asked] * len(texts)})
        assert status == 200, data
        assert len(json.loads(data)["embeddings"]) == len(texts)
        body = {"model": name, "texts": texts, "input_type": "search_query"}
        status, told, data = place.worker.request("POST", "/v2/embed", body)
        assert status == 200, data
        assert len(json.loads(data)["embeddings"]["float"]) == len(texts)
        assert told.get("x-weir-dropped-params", "") in {"", "input_type"}


CASES: list[Callable[[Place], None]] = [
    whole,
    streamed,
    developer,
    turns,
    tools,
    parallel_tools,
    streamed_tools,
    structured,
    image,
    stop,
    length,
    cached,
    reasoning,
    translated_reasoning,
    bad_request,
    unauthorized,
    unknown_model,
    rate_limited,
    server_error,
    context,
    content_filter,
    cut,
    listed,
    connection,
    responses,
    completions,
    vectors,
]


@pytest.fixture(scope="module")
def environment() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def worker(sandbox: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker of its own: here the vendors' usual names are other providers."""
    with started(sandbox, tmp_path_factory.mktemp("conformance")) as running:
        yield running


@pytest.fixture(scope="module", params=VENDORS, ids=lambda row: row.name)
def place(
    request: pytest.FixtureRequest,
    worker: Worker,
    sandbox: Served,
    environment: pytest.MonkeyPatch,
) -> Place:
    made = Place(request.param, worker, sandbox, environment)
    made.ready()
    return made


@pytest.mark.req("PROV-01", "PROV-02", "PROV-05", "PROV-07", "BEY-01", "BEY-02")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_conformance(place: Place, case: Callable[[Place], None]) -> None:
    place.worker.app.proxy.book._book.clear()
    place.behave()
    model = REASONING.get(place.row.name)
    if model is not None:
        place.behave(model)
    case(place)


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("mistral", developer),
        ("mistral", parallel_tools),
        ("mistral", turns),
        ("groq", developer),
        ("groq", turns),
        ("deepseek", structured),
        ("perplexity", turns),
        ("nvidia", developer),
    ],
)
def test_without_its_quirks_a_vendor_refuses(
    name: str,
    case: Callable[[Place], None],
    worker: Worker,
    sandbox: Served,
    environment: pytest.MonkeyPatch,
) -> None:
    row = next(row for row in VENDORS if row.name == name)
    place = Place(row, worker, sandbox, environment)
    place.behave()
    worker.change(place.event(quirks=[]))
    with pytest.raises(AssertionError):
        case(place)
    worker.change(place.event())
    case(place)
