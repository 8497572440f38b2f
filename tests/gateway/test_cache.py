"""The exact cache: the same answer for the same tenant and request, and for nobody else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from schemas.events.changes import GuardrailChanged, RouteTarget
from tests.gateway.worker import META, Worker, key, route
from tests.sandbox.served import Served

OTHER = "weir-other-tenant"


@pytest.fixture
def cached(own_worker: Worker) -> Worker:
    own_worker.change(
        route("cached", RouteTarget("openai/gpt-4o-mini"), cache_ttl_s=600),
        key(OTHER, key_id="other", team="other"),
    )
    return own_worker


def ask(
    worker: Worker, text: str, secret: str = "weir-test-key", control: str = "", **more: Any
) -> tuple[int, dict[str, str], bytes]:
    body = {"model": "cached", "messages": [{"role": "user", "content": text}], **more}
    headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
    if control:
        headers["cache-control"] = control
    return worker.request("POST", "/v1/chat/completions", body, headers)


def hit(answer: tuple[int, dict[str, str], bytes]) -> bool:
    assert answer[0] == 200
    return answer[1].get("x-weir-cache") == "hit"


@pytest.mark.req("GW-12")
def test_the_same_request_is_answered_without_a_provider(cached: Worker, sandbox: Served) -> None:
    first = ask(cached, "What is a weir?")
    before = len(sandbox.rows())
    again = ask(cached, "What is a weir?", metadata={"step": "2"}, user="jane")
    assert (hit(first), hit(again)) == (False, True)
    assert again[2] == first[2]
    assert len(sandbox.rows()) == before
    _, paid, cost = cached.call(first[1]["x-weir-request-id"])
    _, free, saved = cached.call(again[1]["x-weir-request-id"])
    assert cost.cost_nano_usd
    assert paid.cache is None
    assert (free.cache, free.attempts, free.input_tokens) == ("hit", [], None)
    assert (saved.cost_nano_usd, saved.cache_saved_nano_usd) == (0, cost.cost_nano_usd)


@pytest.mark.req("GW-12")
def test_whole_answers_serve_streams_and_the_other_way_round(cached: Worker) -> None:
    whole = ask(cached, "Whole first.")
    stream = ask(cached, "Whole first.", stream=True)
    assert hit(stream)
    assert stream[2].endswith(b"data: [DONE]\n\n")
    assert _said(stream[2]) == json.loads(whole[2])["choices"][0]["message"]["content"]
    stream = ask(cached, "Stream first.", stream=True)
    whole = ask(cached, "Stream first.")
    assert hit(whole)
    assert _said(stream[2]) == json.loads(whole[2])["choices"][0]["message"]["content"]


@pytest.mark.req("GW-12")
def test_nothing_is_shared_between_tenants_parameters_or_prompts(cached: Worker) -> None:
    assert not hit(ask(cached, "Mine."))
    assert not hit(ask(cached, "Mine.", OTHER))
    assert not hit(ask(cached, "Mine.", temperature=0.1))
    assert not hit(ask(cached, "Yours."))
    assert hit(ask(cached, "Mine."))


@pytest.mark.req("GW-12")
def test_a_team_named_like_an_organization_is_another_tenant(cached: Worker) -> None:
    cached.change(key("weir-of-acme", key_id="a", organization="acme"))
    cached.change(key("weir-team-acme", key_id="b", team="acme"))
    assert not hit(ask(cached, "Whose?", "weir-of-acme"))
    assert not hit(ask(cached, "Whose?", "weir-team-acme"))
    assert hit(ask(cached, "Whose?", "weir-of-acme"))


@pytest.mark.req("GW-12")
def test_a_caller_may_opt_out_and_a_route_that_says_nothing_caches_nothing(cached: Worker) -> None:
    ask(cached, "Fresh?")
    assert not hit(ask(cached, "Fresh?", control="no-cache"))
    assert hit(ask(cached, "Fresh?"))
    assert not hit(ask(cached, "Plain.", model="openai/gpt-4o-mini"))
    assert not hit(ask(cached, "Plain.", model="openai/gpt-4o-mini"))


@pytest.mark.req("GW-12")
def test_a_changed_route_or_a_cut_answer_is_never_served(cached: Worker, sandbox: Served) -> None:
    ask(cached, "Before.")
    entry = RouteTarget("openai/gpt-4o")
    cached.change(route("cached", entry, cache_ttl_s=600))
    assert not hit(ask(cached, "Before."))


@pytest.mark.req("GW-12", "BEY-16")
def test_an_answer_from_before_a_guardrail_changed_is_not_served(cached: Worker) -> None:
    def rule(word: str) -> GuardrailChanged:
        changed = {**META, "event_id": word}
        return GuardrailChanged(
            **changed, name="w", kind="words", stages=["response"], action="mask", words=[word]
        )

    entry = RouteTarget("openai/gpt-4o-mini")
    cached.change(rule("one"), route("cached", entry, cache_ttl_s=600, guardrails=["w"]))
    assert not hit(ask(cached, "Guarded."))
    assert hit(ask(cached, "Guarded."))
    cached.change(rule("two"))
    assert not hit(ask(cached, "Guarded."))


@pytest.mark.req("GW-12")
def test_the_cache_is_bounded_by_bytes_and_forgets_the_least_used(cached: Worker) -> None:
    cache = cached.app.proxy.cache
    cache._bytes_max = 6_000
    for number in range(12):
        ask(cached, f"Question {number}.")
        assert hit(ask(cached, "Question 0.")) or number == 0
        assert cache.size_bytes <= 6_000
    assert hit(ask(cached, "Question 11."))
    assert not hit(ask(cached, "Question 1."))
    shown = json.loads(cached.request("GET", "/status/worker")[2])["cache"]
    assert shown == {"hits": cache.hits, "misses": cache.misses, "bytes": cache.size_bytes}


def _said(stream: bytes) -> str:
    frames = [line[6:] for line in stream.splitlines() if line.startswith(b"data: {")]
    choices = [choice for frame in frames for choice in json.loads(frame)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)
