from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.call import plausible
from gateway.dialects.neutral import Usage
from gateway.ledger import cost_entry
from infra.entities import PRICE as PRICE_KIND
from infra.tables import PriceTable
from schemas.events.changes import PriceChanged, PriceTier
from schemas.events.llm import Attempt, ResponseCompleted
from schemas.pricing import cost_of
from tests.gateway_durability.support import PRICE, request, response

TOKENS = st.integers(0, 10**9)
PRICES = st.integers(0, 10**12)


@pytest.mark.req("COST-01")
@pytest.mark.req("PROV-08")
def test_cached_tokens_are_part_of_input_and_cost_their_own_price() -> None:
    entry = cost_entry(response(request()), PRICE, 7)
    # 60 at 2 USD, 40 cached at 0.50 USD, 10 out at 8 USD per million.
    assert entry.cost_nano_usd == 60 * 2_000 + 40 * 500 + 10 * 8_000
    assert entry.entry == "settled"
    assert (entry.input_price, entry.cached_input_price) == (2_000_000_000, 500_000_000)
    assert entry.price_version == PRICE.price_version
    assert (entry.price_list, entry.priced_at_us) == (PRICE.provider, 7)
    assert entry.basis == "reported"


@pytest.mark.req("BEY-08")
@pytest.mark.req("COST-01")
@pytest.mark.parametrize(
    ("price", "changes"),
    [
        (None, {}),
        (PRICE, {"output_tokens": None}),
        (PRICE, {"input_tokens": None, "usage_basis": "none"}),
        (msgspec.structs.replace(PRICE, output_price=None), {}),
        (msgspec.structs.replace(PRICE, input_price=None), {}),
    ],
)
def test_what_is_unknown_is_unpriced_and_never_zero(price, changes) -> None:
    answer = response(request(), attempts=[Attempt("t", "success", None, 200, 5, None)], **changes)
    entry = cost_entry(answer, price, 7)
    assert entry.entry == "unpriced"
    assert entry.cost_nano_usd is None


def test_a_call_that_never_got_an_answer_costs_nothing() -> None:
    failed = Attempt("t", "failed", "server", 500, 5, None)
    answer: ResponseCompleted = response(
        request(), usage_basis="none", input_tokens=None, output_tokens=None, attempts=[failed]
    )
    entry = cost_entry(answer, PRICE, 7)
    assert (entry.entry, entry.cost_nano_usd) == ("settled", 0)


def test_without_a_cached_price_cached_tokens_cost_the_full_one() -> None:
    price = msgspec.structs.replace(PRICE, cached_input_price=None)
    assert cost_of(price, Usage(100, 40, 0)) == 100 * 2_000


LONG = PriceTier(above_input_tokens=1_000, input_price=4_000_000_000, output_price=9_000_000_000)
LONGER = PriceTier(above_input_tokens=5_000, input_price=1_000_000_000, output_price=1_000_000_000)
TIERED = msgspec.structs.replace(PRICE, tiers=[LONG, LONGER])


@pytest.mark.req("PROV-08")
@pytest.mark.parametrize(
    ("tokens_in", "input_rate", "output_rate"),
    [(1_000, 2_000, 8_000), (1_001, 4_000, 9_000), (5_000, 4_000, 9_000), (5_001, 1_000, 1_000)],
)
def test_a_longer_input_costs_its_tier_all_of_it(
    tokens_in: int, input_rate: int, output_rate: int
) -> None:
    answer = response(
        request(), input_tokens=tokens_in, cached_input_tokens=0, output_tokens=10, units={}
    )
    entry = cost_entry(answer, TIERED, 7)
    assert entry.cost_nano_usd == tokens_in * input_rate + 10 * output_rate
    told = (entry.input_price, entry.output_price)
    assert told == (input_rate * 10**6, output_rate * 10**6), "the line tells what it was priced by"


def test_a_tier_has_its_own_price_of_everything() -> None:
    tier = PriceTier(
        above_input_tokens=1_000,
        input_price=4_000_000_000,
        cached_input_price=None,
        output_price=0,
        unit_prices={"call": 7_000_000},
    )
    price = msgspec.structs.replace(PRICE, tiers=[tier], unit_prices={"call": 5_000_000})
    assert cost_of(price, Usage(1_000, 1_000, 0), {"call": 1}) == 1_000 * 500 + 5
    assert cost_of(price, Usage(2_000, 1_000, 0), {"call": 1}) == 2_000 * 4_000 + 7


def test_a_price_is_needed_only_for_what_was_used() -> None:
    embedding = msgspec.structs.replace(PRICE, output_price=None)
    assert cost_of(embedding, Usage(100, 0, 0)) == 100 * 2_000


@pytest.mark.req("COST-01")
def test_what_was_written_to_the_cache_costs_its_own_price() -> None:
    usage = Usage(100, 30, 0, None, 20)
    price = msgspec.structs.replace(PRICE, cache_write_input_price=2_500_000_000)
    assert cost_of(price, usage) == 50 * 2_000 + 30 * 500 + 20 * 2_500
    longer = msgspec.structs.replace(price, unit_prices={"cache_write_1h_tokens": 4_000_000_000})
    units = {"cache_write_1h_tokens": 5}
    assert cost_of(longer, usage, units) == 50 * 2_000 + 30 * 500 + 15 * 2_500 + 5 * 4_000
    unknown = msgspec.structs.replace(PRICE, cache_write_input_price=None, unit_prices={})
    assert cost_of(unknown, usage) == 70 * 2_000 + 30 * 500


@pytest.mark.req("COST-01")
@pytest.mark.parametrize(
    ("units", "prices", "usage", "cost"),
    [
        ({"image/high/1024x1024": 2}, {"image": 40_000_000_000_000}, Usage(), 80_000_000),
        ({"image/hd/9x9": 1}, {"image": 1, "image/hd/9x9": 7_000_000}, Usage(), 7),
        ({"character": 100}, {"character": 15_000_000_000}, Usage(), 1_500_000),
        ({"audio_ms": 1_500}, {"audio_ms": 100_000_000}, Usage(), 150_000),
        ({"call": 1}, {"call": 0}, Usage(), 0),
        ({"call": 1}, {}, Usage(), None),
        ({"input_audio_tokens": 4}, {"input_audio_tokens": 6_000_000}, Usage(10, None, 0), 12_024),
        ({"input_audio_tokens": 4}, {}, Usage(10, None, 0), None),
        ({"input_image_tokens": 4}, {}, Usage(10, None, 0), 20_000),
        ({"search": 1}, {"search": 2_000_000_000_000}, Usage(10, None, 0), 2_020_000),
    ],
)
def test_units_are_priced_and_never_guessed(units, prices, usage, cost) -> None:
    assert cost_of(msgspec.structs.replace(PRICE, unit_prices=prices), usage, units) == cost


@given(TOKENS, TOKENS, TOKENS, PRICES, PRICES, PRICES)
def test_cost_is_the_exact_sum_rounded_once(
    uncached, cached, output, p_in, p_cached, p_out
) -> None:
    price = msgspec.structs.replace(
        PRICE, input_price=p_in, cached_input_price=p_cached, output_price=p_out
    )
    cost = cost_of(price, Usage(uncached + cached, cached, output))
    exact = uncached * p_in + cached * p_cached + output * p_out
    assert cost is not None
    assert abs(cost * 1_000_000 - exact) <= 500_000


def test_the_line_repeats_who_and_what(tmp_path: Path) -> None:
    answer = response(request())
    entry = cost_entry(answer, PRICE, 7)
    for name in ("request_id", "key_id", "team", "project", "user_id", "cost_center", "route",
                 "task_type", "target", "provider", "model", "deployment_id", "input_tokens",
                 "cached_input_tokens", "output_tokens", "occurred_at_us"):  # fmt: skip
        assert getattr(entry, name) == getattr(answer, name)


@pytest.mark.req("COST-01")
@pytest.mark.parametrize("count", [-1, 10**30])
def test_a_count_that_cannot_be_true_is_unknown(count: int) -> None:
    assert plausible(Usage(count, 5, 7, None)) == Usage(None, 5, 7, None)
    assert plausible(Usage(3, None, count, 1)) == Usage(3, None, None, 1)
    good = Usage(3, 0, 4, None)
    assert plausible(good) is good


@pytest.mark.req("COST-01")
def test_a_price_that_an_operator_writes_is_the_price_of_a_unit() -> None:
    units = {"image": Decimal("0.04"), "character": Decimal("0.000015")}
    table = PriceTable(unit_usd=units, valid_from=datetime(2026, 1, 1, tzinfo=UTC))
    fields = PRICE_KIND.fields("openai/dall-e-3", table)
    event = PriceChanged(event_id="e", occurred_at_us=1, entity_version=1, actor="x", **fields)
    assert PRICE_KIND.table(event).unit_usd == units
    assert cost_of(event, Usage(), {"image/hd": 2, "character": 100}) == 80_000_000 + 1_500_000
