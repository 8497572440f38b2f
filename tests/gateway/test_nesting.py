"""What is nested up to the interpreter's limit and beyond is the caller's mistake, or the provider's."""

import json
from typing import Any

import pytest

from gateway.batches import lines
from gateway.dialects.reading import parse_arguments
from gateway.dialects.registry import dialect
from gateway.streaming import StreamRelay
from schemas.errors import UpstreamProtocol
from schemas.events.changes import GuardrailChanged, RouteTarget
from tests.gateway.worker import META, SECRET, Worker, key, route

AUTH = {"authorization": f"Bearer {SECRET}", "content-type": "application/json"}
FUNCTION = '{"type":"function","function":{"name":"f","parameters":{"type":"object","x":%s}}}'
BODIES = {
    "/v1/chat/completions": '{"model":"%s","max_tokens":5,"tools":['
    + FUNCTION
    + '],"messages":[{"role":"user","content":"x"}]}',
    "/v1/messages": '{"model":"%s","max_tokens":5,"messages":[{"role":"user","content":"x"}],'
    '"tools":[{"name":"f","input_schema":{"type":"object","x":%s}}]}',
    "/v1/responses": '{"model":"%s","max_output_tokens":16,"input":"x","unheard_of":%s}',
    "/api/v1/generate": '{"model_id":"%s","prompt":"x","tags":%s}',
    "/api/v1/generate/batch": '{"model_id":"%s","prompts":["x",%s]}',
    "/api/v1/feedback": '{"model_id":"%s","feedback_type":"thumbs_up","original_prompt":"a",'
    '"model_response":"b","metadata":%s}',
    "/v1/messages/batches": '{"requests":[{"custom_id":"%s","params":%s}]}',
    "/routing/preview": '{"model":"%s","messages":[{"role":"user","content":%s}]}',
}

GUARDED = '{"model":"deep","messages":[{"role":"user","content":%s}]}'


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


@pytest.mark.req("GW-09")
@pytest.mark.parametrize("path", BODIES)
def test_no_depth_breaks_a_request(worker: Worker, path: str) -> None:
    model = "anthropic/claude-sonnet-4-5"
    for depth in (930, 960, 985, 5_000):
        body = BODIES[path] % (model, nested(depth))
        status, _, answer = worker.request("POST", path, body.encode(), AUTH)
        # There is no Kafka here: a batch that could be read is one that cannot be written.
        away = status == 503 and b"the log is away" in answer
        # Compiled code goes deeper than the sandbox, which is interpreted and breaks down then.
        theirs = status == 502 and b"the provider answered 500" in answer
        assert status < 500 or away or theirs, (depth, status, answer[:300])
    assert status in {400, 422}


@pytest.mark.req("GW-09")
def test_guardrails_see_no_deeper_than_they_can(worker: Worker) -> None:
    words = GuardrailChanged(
        **META, name="w", kind="words", action="flag", words=["x"], stages=["request"]
    )
    guarded = route("deep", RouteTarget("openai/gpt-4o-mini"), guardrails=["w"])
    worker.change(words, guarded, key(SECRET, scopes=["inference"]))
    for depth in (300, 600, 900, 5_000):
        body = GUARDED % nested(depth)
        status, _, answer = worker.request("POST", "/v1/chat/completions", body.encode(), AUTH)
        assert (status, b"internal" in answer) == (400, False)
    assert b"nested too deeply" in answer


@pytest.mark.req("GW-03")
def test_a_line_of_a_batch_that_is_nested_too_deeply_is_a_fault_of_the_file() -> None:
    good: dict[str, Any] = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions"}
    content = f'{json.dumps(good)[:-1]}, "body": {nested(5_000)}}}\n'.encode()
    found, faults = lines.read(content, "/v1/chat/completions")
    assert (found, faults) == ([], ["line 1: nested too deeply"])


def test_an_answer_that_cannot_be_read_stands_in_no_line() -> None:
    line = lines.Line(1, "1", b"{}")
    written = json.loads(lines.write(line, "batch_1", 200, "r", nested(5_000).encode()))
    assert (written["response"]["status_code"], written["response"]["body"]) == (200, None)


@pytest.mark.req("RT-08")
def test_a_stream_that_is_nested_too_deeply_is_the_providers_fault() -> None:
    openai = dialect("openai")
    assert openai is not None
    opening = openai.open({"model": b'"m"', "messages": b"[]"})  # type: ignore[dict-item]
    relay = StreamRelay(openai, openai, opening)
    with pytest.raises(UpstreamProtocol, match="nested too deeply"):
        relay.feed(b'data: {"x":%b}\n\n' % nested(5_000).encode())


def test_arguments_that_are_nested_too_deeply_stay_text() -> None:
    assert parse_arguments(nested(5_000)) == {"_raw": nested(5_000)}
