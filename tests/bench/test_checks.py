"""The verdict of a run: sound when all sides agree, and broken by every single spoilt record."""

import pytest

from bench.checks import ADMITTED, COMPLETED, COST, Gathered, judge, spoil, unexcused
from bench.fault_plan import Death
from bench.load import Row
from bench.rawlog import Raw
from bench.recount import Call

ZERO = ("lost", "doubled", "not_projected", "repeat_rule_broken", "unsettled")


def _row(request: str | None, sent_at_us: int = 0, ended_at_us: int = 10) -> Row:
    return Row(
        client_id=f"client {request}",
        number=0,
        dialect="openai",
        path="/v1/chat/completions",
        model="m",
        stream=False,
        due_at_us=0,
        sent_at_us=sent_at_us,
        ended_at_us=ended_at_us,
        request_id=request,
        complete=request in ("a", "b"),
        error="ServerDisconnectedError",
    )


def _record(kind: str, request: str, sequence: int, **body: object) -> Raw:
    fields = {"event_id": f"{kind} {request}", "request_id": request} | body
    return Raw(kind, 0, sequence, 0, request, kind, "outbox", sequence, fields)


def _gathered() -> Gathered:
    records = []
    for number, request in enumerate("abc"):
        outcome, cost = ("abandoned", 50) if request == "c" else ("success", 10)
        at = number * 3
        records += [
            _record(ADMITTED, request, at, reserved_nano_usd=50),
            _record(COMPLETED, request, at + 1, outcome=outcome),
            _record(COST, request, at + 2, entry="settled", cost_nano_usd=cost),
        ]
    books = {request: Call(calls=1, answered=1, cost_nano_usd=10) for request in "ab"}
    return Gathered(records, books, dict.fromkeys("abc", 1), 70)


ROWS = [_row("a"), _row("b"), _row(None)]


def test_a_sound_run() -> None:
    figures = judge(ROWS, _gathered())
    assert not any(figures[name] for name in ZERO)
    assert figures["drift_nano_usd"] == figures["spend_drift_nano_usd"] == 0
    assert (figures["answers"], figures["abandoned"]) == (2, 1)


@pytest.mark.parametrize("seed", range(12))
def test_one_spoilt_record_breaks_the_verdict(seed: int) -> None:
    gathered = _gathered()
    assert spoil(gathered, seed)
    figures = judge(ROWS, gathered)
    assert any(figures[name] for name in (*ZERO, "drift_nano_usd"))


def test_every_kind_of_sabotage_is_drawn() -> None:
    assert len({spoil(_gathered(), seed) for seed in range(12)}) == 4


def test_a_wrong_spend_is_seen() -> None:
    gathered = _gathered()
    gathered.spend_nano_usd += 1
    assert judge(ROWS, gathered)["spend_drift_nano_usd"] == 1


def test_an_error_is_excused_only_by_the_death_of_its_own_worker() -> None:
    deaths = [Death("gateway-0", 7, 5_000_000), Death("streams", 8, 20_000_000)]
    near, far = _row(None, 4_900_000, 5_000_000), _row(None, 19_900_000, 20_000_000)
    late = _row(None, 4_900_000, 30_000_000)
    answered = _row(None, 4_900_000, 5_000_000)
    answered.status, answered.error = 503, "unavailable"
    assert unexcused([near, far, late, answered], deaths, {}) == [far, late, answered]
    assert unexcused([near], deaths, {near.client_id: "gateway-1"}) == [near]
    assert unexcused([near], deaths, {near.client_id: "gateway-0"}) == []
