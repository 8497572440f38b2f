"""Guardrails: what they find, on whole texts and on streams cut anywhere, and on real calls."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.neutral import END, Delta
from gateway.guardrails.guard import Guard, Guardrails
from schemas.errors import ConfigurationError, GuardrailBlocked
from schemas.events.changes import GuardrailChanged, RouteTarget
from schemas.events.llm import ResponseCompleted
from tests.gateway.worker import META, Worker, route
from tests.sandbox.served import Served

TELLING = (
    "Write to jane.doe@example.org or call +44 20 7946 0958, card 4111 1111 1111 1111, "
    "IBAN GB82 WEST 1234 5698 7654 32 and server 192.168.10.20, thank you very much."
)
MASKED = (
    "Write to [EMAIL] or call [PHONE], card [CARD], "
    "IBAN [IBAN] and server [IP], thank you very much."
)


def rule(name: str, kind: str, action: str = "mask", **fields: Any) -> GuardrailChanged:
    fields = {"stages": ["request", "response"], **fields}
    return GuardrailChanged(**META, name=name, kind=kind, action=action, **fields)


def guard(*rules: GuardrailChanged) -> Guard:
    known = {item.name: item for item in rules}
    return Guardrails(lambda: known).of(list(known))


def streamed(guarded: Guard, pieces: list[str]) -> str:
    stream = guarded.stream()
    assert stream is not None
    deltas = [Delta("text", piece) for piece in pieces]
    out = [passed for delta in [*deltas, END] for passed in stream.passing(delta)]
    assert out[-1] is END
    return "".join(delta.text for delta in out)


@pytest.mark.req("BEY-16")
@settings(max_examples=200)
@given(st.lists(st.integers(0, len(TELLING)), max_size=40))
def test_a_stream_is_masked_the_same_wherever_it_is_cut(cuts: list[int]) -> None:
    places = sorted({0, *cuts, len(TELLING)})
    pieces = [TELLING[a:b] for a, b in itertools.pairwise(places)]
    assert streamed(guard(rule("pii", "pii")), pieces) == MASKED


@pytest.mark.req("BEY-16")
@settings(max_examples=100)
@given(st.integers(1, 7))
def test_a_phrase_cannot_hide_between_two_pieces(size: int) -> None:
    text = "we speak of Project Blue Heron and of no other project"
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    words = rule("names", "words", words=["project blue heron"])
    assert streamed(guard(words), pieces) == "we speak of [BLOCKED] and of no other project"


def test_words_are_whole_words() -> None:
    words = guard(rule("w", "words", words=["ass"]))
    assert words.text("a class of glass", words.at("request")) == "a class of glass"


def test_structure_is_never_masked() -> None:
    masked = guard(rule("w", "words", words=["user", "text", "hello"]))
    value = {"role": "user", "content": [{"type": "text", "text": "hello"}]}
    passed = masked.walk(value, masked.at("request"))
    assert passed == {"role": "user", "content": [{"type": "text", "text": "[BLOCKED]"}]}


@pytest.mark.req("BEY-16")
def test_a_tools_data_is_no_structure() -> None:
    masked = guard(rule("w", "words", words=["jane"]))
    value = [{"type": "tool_use", "name": "jane", "input": {"name": "jane", "id": ["jane"]}}]
    passed = masked.walk(value, masked.at("request"))
    told = {"name": "[BLOCKED]", "id": ["[BLOCKED]"]}
    assert passed == [{"type": "tool_use", "name": "jane", "input": told}]


def test_a_schema_names_places_and_no_values() -> None:
    schema = json.dumps({"type": "object", "properties": {"age": {"type": "integer"}}})
    judged = guard(rule("s", "schema", "block", options={"schema": schema}))
    judged.said('{"age": 7}')
    with pytest.raises(GuardrailBlocked) as blocked:
        judged.said('{"age": "secret"}')
    assert blocked.value.details == ["/age: type"]


@pytest.mark.parametrize(
    "broken",
    [
        rule("r", "nonsense"),
        rule("r", "words"),
        rule("r", "pii", options={"types": "SHOE_SIZE"}),
        rule("r", "schema", "block", options={"schema": "{"}),
        rule("r", "schema", "mask", options={"schema": "{}"}),
    ],
)
def test_a_rule_that_cannot_run_is_an_error_and_no_pass(broken: GuardrailChanged) -> None:
    with pytest.raises(ConfigurationError) as error:
        guard(broken)
    assert error.value.advice


def test_a_route_with_a_missing_rule_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        Guardrails(dict).of(["gone"])


# --- on real calls ---------------------------------------------------------------------------


TARGETS = {"openai": "openai/gpt-4o-mini", "anthropic": "anthropic/claude-sonnet-4-5"}
TOLD = "Ask jane.doe@example.org about 192.168.10.20 today."
"""What the sandbox has to say when the schema of its answer allows nothing else."""
ONLY = {
    "type": "json_schema",
    "json_schema": {
        "name": "only",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"said": {"type": "string", "enum": [TOLD]}},
            "required": ["said"],
            "additionalProperties": False,
        },
    },
}


def guarded_route(worker: Worker, name: str, target: str, guardrail: GuardrailChanged) -> None:
    entry = RouteTarget(TARGETS[target])
    worker.change(guardrail, route(name, entry, guardrails=[guardrail.name]))


def ask(worker: Worker, text: str, model: str, **more: Any) -> tuple[int, dict[str, str], bytes]:
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    return worker.request("POST", "/v1/chat/completions", json.dumps(body).encode())


@pytest.mark.req("BEY-16")
def test_a_blocked_request_is_refused_recorded_and_costs_nothing(worker: Worker) -> None:
    guarded_route(
        worker, "guarded", "openai", rule("secrets", "words", "block", words=["launch code"])
    )
    status, headers, body = ask(worker, "the Launch  Code please", "guarded")
    assert status == 400
    assert json.loads(body)["error"]["code"] == "guardrail_blocked"
    _, response, cost = worker.call(headers["x-weir-request-id"])
    assert (response.outcome, response.attempts, cost.cost_nano_usd) == ("failed", [], 0)
    assert response.guardrails == {"secrets": "blocked: words"}
    status, _, _ = ask(worker, "the weather please", "guarded")
    assert status == 200


@pytest.mark.req("BEY-16")
def test_a_masked_request_reaches_the_provider_masked(worker: Worker, sandbox: Served) -> None:
    guarded_route(worker, "hiding", "openai", rule("hide", "pii", stages=["request"]))
    status, headers, _ = ask(worker, "write to jane.doe@example.org " * 40, "hiding")
    assert status == 200
    _, response, _ = worker.call(headers["x-weir-request-id"])
    assert response.guardrails == {"hide": "masked: EMAIL"}
    plain, _, body = ask(worker, "write to jane.doe@example.org " * 40, "openai/gpt-4o-mini")
    assert plain == 200
    assert response.input_tokens is not None
    assert response.input_tokens < json.loads(body)["usage"]["prompt_tokens"]


@pytest.mark.req("BEY-16")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("target", TARGETS)
def test_answers_are_masked_whole_and_streamed(worker: Worker, target: str, stream: bool) -> None:
    guarded_route(worker, f"masked-{target}", target, rule("mail", "pii", stages=["response"]))
    model = f"masked-{target}"
    status, headers, body = ask(worker, "x", model, stream=stream, response_format=ONLY)
    assert status == 200
    assert json.loads(_said(body, stream)) == {"said": "Ask [EMAIL] about [IP] today."}
    response = worker.events(ResponseCompleted, headers["x-weir-request-id"])[0]
    assert response.guardrails["mail"].startswith("masked: ")


@pytest.mark.req("BEY-16")
@pytest.mark.parametrize("stream", [False, True])
def test_a_blocked_answer_is_paid_for_and_never_told(worker: Worker, stream: bool) -> None:
    guarded_route(worker, "strict", "openai", rule("out", "pii", "block", stages=["response"]))
    status, headers, body = ask(worker, "x", "strict", stream=stream, response_format=ONLY)
    assert status == (200 if b"data:" in body else 400)
    assert b"jane" not in body
    assert b"guardrail_blocked" in body
    assert b"[DONE]" not in body
    _, response, cost = worker.call(headers["x-weir-request-id"])
    assert response.outcome == "failed"
    assert len(response.attempts) == 1, "what a guardrail refuses is not tried elsewhere"
    assert cost.cost_nano_usd


def _said(body: bytes, stream: bool) -> str:
    if not stream:
        return str(json.loads(body)["choices"][0]["message"]["content"])
    frames = [line[6:] for line in body.splitlines() if line.startswith(b"data: {")]
    choices = [choice for frame in frames for choice in json.loads(frame)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)
