"""What a call can cost at most, whatever its dialect; and what has no bound."""

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission import Admitted
from gateway.bounds import TOOLS_TOKENS, Bound, bound
from gateway.dialects.neutral import Usage
from gateway.dialects.registry import dialect
from schemas.access import Grant
from schemas.errors import InvalidRequest
from schemas.events.changes import KeyChanged, PriceChanged, PriceTier
from schemas.pricing import cost_of
from schemas.routing import Target
from tests.gateway.worker import META, key

TARGET = Target(provider="p", model="m", max_output_tokens=500, context_length=8_000)
MESSAGES = [{"role": "user", "content": "hello"}]
GEMINI = {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}
BEDROCK = {"messages": [{"role": "user", "content": [{"text": "hello"}]}]}


def price(**fields: Any) -> PriceChanged:
    """A dollar per million tokens in, two out: 1,000 and 2,000 nano-dollars each."""
    fields = {"input_price": 10**9, "output_price": 2 * 10**9, **fields}
    return PriceChanged(
        **META,
        provider="p",
        model="m",
        valid_from_us=0,
        price_version="1",
        source="test",
        **fields,
    )


def asked(name: str, body: dict[str, Any], surface: str = "chat") -> Admitted:
    front = dialect(name, surface)
    assert front is not None
    data = json.dumps(body).encode()
    fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    fields.setdefault("model", msgspec.Raw(b'"m"'))
    who: KeyChanged = key()
    return Admitted(
        request_id="r",
        received_us=1,
        started_ns=1,
        front=front,
        endpoint="/",
        grant=Grant(who),
        body=data,
        fields=fields,
        opening=front.open(fields),
        tags={},
        user_id=None,
        session_id=None,
        task_type=None,
        traceparent=None,
        input_tokens_estimate=1,
    )


def openai(**fields: Any) -> Admitted:
    return asked("openai", {"model": "m", "messages": MESSAGES, **fields})


@pytest.mark.req("BEY-07")
@pytest.mark.parametrize(
    ("admitted", "tokens_out", "sent"),
    [
        (openai(max_tokens=10), 10, None),
        (openai(), 500, 500),
        (openai(max_tokens=10, n=3), 30, None),
        (openai(max_tokens=10, max_completion_tokens=99), 99, None),
        (openai(max_tokens=None, n=None, tools=None, service_tier=None), 500, 500),
        (openai(max_tokens=10, service_tier="flex"), 10, None),
        (asked("gemini", {**GEMINI, "toolConfig": None}), 500, 500),
        (asked("anthropic", {"model": "m", "messages": MESSAGES, "max_tokens": 7}), 7, None),
        (asked("gemini", {**GEMINI, "generationConfig": {"maxOutputTokens": 9}}), 9, None),
        (asked("gemini", {**GEMINI, "generationConfig": {"candidateCount": 2}}), 1_000, 500),
        (asked("bedrock", {**BEDROCK, "inferenceConfig": {"maxTokens": 8}}), 8, None),
    ],
)
def test_bytes_in_and_limits_out(admitted: Admitted, tokens_out: int, sent: int | None) -> None:
    amount = len(admitted.body) * 1_000 + tokens_out * 2_000
    assert bound(admitted, TARGET, price()) == Bound(amount, tokens_out, sent)


@pytest.mark.req("BEY-07")
@pytest.mark.parametrize("name", ["openai", "anthropic", "gemini", "bedrock", "cohere"])
def test_the_limit_that_is_sent_along_is_read_back_by_its_dialect(name: str) -> None:
    bodies = {"gemini": GEMINI, "bedrock": BEDROCK}
    body = bodies.get(name, {"messages": MESSAGES, "max_tokens": 1})
    admitted = asked(name, body)
    limited = admitted.front.limited(admitted.fields, "m", 77)
    assert admitted.front.open(limited).max_tokens == 77


@pytest.mark.req("BEY-07")
def test_the_dearest_of_all_prices_counts() -> None:
    admitted = openai(max_tokens=1)
    dear = price(
        cache_write_input_price=4 * 10**9,
        unit_prices={"cache_write_1h_tokens": 5 * 10**9, "call": 10**6 * 10**6},
    )
    found = bound(admitted, TARGET, dear).amount_nano_usd
    assert found == len(admitted.body) * 5_000 + 2_000 + 10**6


@pytest.mark.req("BEY-07", "PROV-08")
@given(
    st.lists(st.tuples(*[st.integers(0, 9 * 10**9)] * 3), min_size=1, max_size=4),
    st.integers(0, 400),
    st.integers(0, 5),
)
def test_no_length_of_the_input_costs_more_than_the_bound(rates, tokens_in, tokens_out) -> None:
    base, *above = rates
    tiers = [
        PriceTier(
            above_input_tokens=20 * number,
            input_price=tier[0],
            cached_input_price=tier[1],
            output_price=tier[2],
        )
        for number, tier in enumerate(above, 1)
    ]
    tiered = price(
        input_price=base[0], cached_input_price=base[1], output_price=base[2], tiers=tiers
    )
    admitted = openai(max_tokens=5)
    tokens_in = min(tokens_in, len(admitted.body))
    cost = cost_of(tiered, Usage(tokens_in, tokens_in // 2, tokens_out))
    assert cost is not None
    assert cost <= bound(admitted, TARGET, tiered).amount_nano_usd


@pytest.mark.req("BEY-07")
def test_tools_of_the_caller_add_what_the_vendor_says_of_them() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    admitted = openai(max_tokens=1, tools=tools)
    amount = (len(admitted.body) + TOOLS_TOKENS) * 1_000 + 2_000
    assert bound(admitted, TARGET, price()).amount_nano_usd == amount


@pytest.mark.req("BEY-07")
@pytest.mark.parametrize(
    "hidden", [b'"image_url":', b'"\\u0069mage_url":', b'"type": "image"', b'"file_id" :']
)
def test_a_context_bounds_what_bytes_do_not(hidden: bytes) -> None:
    admitted = openai(max_tokens=1)
    body = admitted.body.replace(b'"messages"', hidden.split(b":")[0] + b': "image", "messages"')
    admitted.body = body
    assert bound(admitted, TARGET, price()).amount_nano_usd == 8_000 * 1_000 + 2_000
    with pytest.raises(InvalidRequest):
        bound(admitted, replace(TARGET, context_length=None), price())


@pytest.mark.req("BEY-07")
def test_what_people_write_about_is_no_picture() -> None:
    words = 'tell me of "image_url": and "type": "image"'
    admitted = openai(max_tokens=1, messages=[{"role": "user", "content": words}])
    assert bound(admitted, TARGET, price()).amount_nano_usd < 8_000 * 1_000


@pytest.mark.req("BEY-07")
@pytest.mark.parametrize(
    ("admitted", "target", "rates"),
    [
        (openai(max_tokens=-5), TARGET, price()),
        (openai(max_tokens=5, best_of="many"), TARGET, price()),
        (openai(), replace(TARGET, max_output_tokens=None), price()),
        (openai(max_tokens=5), TARGET, None),
        (openai(max_tokens=5), TARGET, price(output_price=None)),
        (openai(max_tokens=5, tools=[{"type": "web_search_preview"}]), TARGET, price()),
        (openai(max_tokens=5, tools=["odd"]), TARGET, price()),
        (openai(max_tokens=5, service_tier="priority"), TARGET, price()),
        (openai(max_tokens=5, service_tier=["auto"]), TARGET, price()),
        (asked("bedrock", {**BEDROCK, "serviceTier": {"type": "priority"}}), TARGET, price()),
        (asked("gemini", {**GEMINI, "tools": [{"googleSearch": {}}]}), TARGET, price()),
        (
            asked("gemini", {**GEMINI, "tools": [{"functionDeclarations": [], "urlContext": {}}]}),
            TARGET,
            price(),
        ),
        (
            asked("bedrock", {**BEDROCK, "toolConfig": {"tools": [{"systemTool": {}}]}}),
            TARGET,
            price(),
        ),
    ],
)
def test_what_has_no_bound_is_refused(
    admitted: Admitted, target: Target, rates: PriceChanged | None
) -> None:
    with pytest.raises(InvalidRequest):
        bound(admitted, target, rates)


@pytest.mark.req("BEY-07")
def test_what_costs_nothing_needs_no_bound() -> None:
    assert bound(openai(), TARGET, price(input_price=0, output_price=0)) == Bound(0)
    assert bound(openai(), replace(TARGET, provider="local"), None) == Bound(0)


@pytest.mark.req("BEY-07")
def test_pieces_that_the_request_counts_itself() -> None:
    spoken = asked("openai", {"model": "m", "input": "hello", "voice": "alloy"}, "speech")
    rates = price(input_price=None, output_price=None, unit_prices={"character": 15 * 10**9})
    assert bound(spoken, TARGET, rates).amount_nano_usd == 5 * 15_000
    with pytest.raises(InvalidRequest):
        bound(spoken, TARGET, price())
    embedded = asked("openai", {"model": "m", "input": "hello"}, "embeddings")
    assert bound(embedded, TARGET, price()).amount_nano_usd == len(embedded.body) * 1_000
