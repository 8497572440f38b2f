"""The recount: its price list against the vendors', and arithmetic that notices one lost record."""

from decimal import Decimal

import pytest
from genai_prices import Usage, calc_price

from bench.rawlog import Raw
from bench.recount import Price, drift_nano_usd, ledger, price_list, recount, spend_total
from infra.sandbox.models import MODELS

HAIKU = "claude-haiku-4-5"


def _row(request: str | None, model: str = HAIKU, **fields: object) -> dict[str, object]:
    return {
        "weir_request_id": request,
        "model": model,
        "status": 200,
        "usage_sent": True,
        "input_tokens": 1_000,
        "cached_input_tokens": 0,
        "output_tokens": 10,
    } | fields


def _cost(event: str, request: str, nano: int | None) -> Raw:
    body = {"event_id": event, "request_id": request, "cost_nano_usd": nano}
    return Raw("c", 0, 0, 0, request, "weir.llm.cost.entered", "o", 1, body)


BY_TOKEN = [
    model
    for model in MODELS
    if model.kind in {"chat", "embedding"} and model.dialect in {"openai", "anthropic"}
]


@pytest.mark.parametrize("model", BY_TOKEN, ids=lambda model: model.name)
def test_the_price_list_is_the_vendors(model) -> None:
    for name in {model.name, model.reported}:
        price = price_list()[name]

        def usd(name: str = name, **usage: int) -> Decimal:
            usd = calc_price(Usage(**usage), name, provider_id=model.dialect).total_price
            return usd * 1_000  # of a thousand tokens: per million

        assert price.input == usd(input_tokens=1_000)
        assert price.output == usd(output_tokens=1_000)
        assert price.cached_input == usd(input_tokens=1_000, cache_read_tokens=1_000)
        if price.cache_write is not None:
            assert price.cache_write == usd(input_tokens=1_000, cache_write_tokens=1_000)


def test_cached_tokens_have_their_own_price() -> None:
    price = Price(Decimal("0.40"), Decimal("0.10"), Decimal("1.60"))
    row = _row("a", input_tokens=1_536, cached_input_tokens=1_024, output_tokens=7)
    assert price.nano_usd(row) == 512 * 400 + 1_024 * 100 + 7 * 1_600


def test_half_a_nano_is_rounded_to_even() -> None:
    price = Price(Decimal("0.0005"), Decimal(0), Decimal(0))
    costs = [price.nano_usd(_row("a", input_tokens=n, output_tokens=0)) for n in (1, 3, 5)]
    assert costs == [0, 2, 2]


def test_failed_attempts_cost_nothing_and_probes_are_seen() -> None:
    rows = [_row("a", status=503, usage_sent=False), _row("a"), _row(None)]
    found = recount(rows, price_list())
    assert found["a"].calls == 2
    assert found["a"].cost_nano_usd == 1_000 * 1_000 + 10 * 5_000
    assert found[""].calls == 1


def test_one_lost_or_doubled_line_is_a_drift() -> None:
    expected = {"a": 5, "b": 7}
    lines = [_cost("1", "a", 5), _cost("2", "b", 9), _cost("3", "b", -2), _cost("4", "b", None)]
    assert drift_nano_usd(expected, ledger(lines)) == 0
    assert drift_nano_usd(expected, ledger(lines[1:])) == 5
    assert drift_nano_usd(expected, ledger([*lines, lines[0]])) == 5


def test_spend_adds_the_last_row_of_each_partition() -> None:
    def row(partition: int, cost: int, entity: str = "total:") -> Raw:
        windows = [{"window": w, "cost_nano_usd": cost} for w in ("minute", "day")]
        body = {"event_id": "x", "entity": entity, "windows": windows}
        return Raw(
            "s", partition, 0, 0, f"{entity}|{partition}", "weir.spend.row", None, None, body
        )

    assert spend_total([row(0, 1), row(0, 5), row(1, 7), row(0, 100, "key:k")]) == 12
