"""BEY-19: Kafka away for a minute, an hour, eight hours, a day. Time is an argument, not waited for."""

import json
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.circuits import Circuits
from gateway.freshness import STALE_S_MAX, Freshness
from gateway.health import HealthBook
from gateway.outbox import OUTBOX_BYTES_MAX
from gateway.state import GatewayState
from schemas.codec import encode
from schemas.errors import AuthenticationFailed, StateTooOld
from schemas.events.circuits import CircuitChanged
from schemas.events.operations import Heartbeat
from schemas.log import Record
from schemas.publish import sample
from schemas.routing import TargetHealth
from tests.gateway.states import key, price, put, route
from tests.gateway.test_budgets import USD, Keeper, budget, costs
from tests.gateway.worker import Worker
from tests.sandbox.served import Served

S = 1_000_000
MINUTE, HOUR = 60, 3600
AGES = pytest.mark.parametrize("age_s", [MINUTE, HOUR, 8 * HOUR], ids=["1min", "1h", "8h"])
HELLO: Any = [{"role": "user", "content": "Say hello."}]


class Away:
    """A state that heard the log at a moment, and a clock that goes on without it."""

    def __init__(self, cache: Path | None = None) -> None:
        self.began_us = self.now_us = time.time_ns() // 1_000
        self.freshness = Freshness(clock_us=lambda: self.now_us)
        self.state = GatewayState(cache, self.freshness)
        put(
            self.state,
            key("good"),
            key("gone", revoked=True),
            key("brief", expires_at_us=self.began_us + 30 * S),
            route("r"),
            price("p", "m", 1, 1),
        )

    def later(self, seconds: float) -> None:
        self.now_us = self.began_us + int(seconds * S)


@pytest.mark.interpreted("another clock takes the place of the keys' own")
@pytest.mark.req("BEY-19", "EVT-05")
@AGES
def test_keys_serve_and_revoked_or_expired_ones_do_not(
    age_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Away()
    monkeypatch.setattr("schemas.access.now_us", lambda: away.now_us)
    assert away.state.authenticate("brief")
    away.later(age_s)
    assert away.state.authenticate("good")
    with pytest.raises(AuthenticationFailed, match="expired"):
        away.state.authenticate("brief")
    with pytest.raises(AuthenticationFailed, match="revoked"):
        away.state.authenticate("gone")
    assert away.state.routes["r"].name == "r"
    assert away.state.price("p", "m", away.now_us) is not None


@pytest.mark.req("BEY-19")
def test_beyond_the_stated_age_nobody_is_let_in_and_no_key_is_called_bad() -> None:
    away = Away()
    away.later(STALE_S_MAX)
    assert away.state.authenticate("good")
    away.later(STALE_S_MAX + 1)
    for secret in ("good", "gone", "unknown"):
        with pytest.raises(StateTooOld, match=r"24\.0 h ago") as refused:
            away.state.authenticate(secret)
        assert refused.value.status == 503
        assert refused.value.retry_after_seconds == 30
    heard = msgspec.structs.replace(sample(Heartbeat), occurred_at_us=away.now_us - 5 * S)
    record = Record(heard.topic.name, 0, 0, 0, b"streams", encode(heard), ())
    away.state._heartbeats.apply(record)
    assert away.freshness.age_s == 5
    assert away.state.authenticate("good")


@pytest.mark.req("BEY-19")
async def test_a_restart_makes_nothing_younger(tmp_path: Path) -> None:
    before = Away(tmp_path / "views.cache")
    await before.state._keep()
    after = Away(tmp_path / "views.cache")
    assert after.state.load()
    after.later(STALE_S_MAX - 60)
    assert after.state.authenticate("good")
    old_ns = (after.now_us - (STALE_S_MAX + 60) * S) * 1_000
    os.utime(tmp_path / "views.cache", ns=(old_ns, old_ns))
    again = GatewayState(tmp_path / "views.cache", Freshness(clock_us=lambda: after.now_us))
    assert again.load()
    with pytest.raises(StateTooOld):
        again.authenticate("good")
    again.freshness.heard()
    assert again.authenticate("good")


@pytest.mark.req("BEY-19", "RT-07")
@AGES
def test_routing_relies_on_the_workers_own_outcomes(age_s: int) -> None:
    del age_s  # after five seconds of silence it is the same for ever
    opened = CircuitChanged(
        event_id="e",
        occurred_at_us=0,
        target="a/m",
        provider="a",
        model="m",
        state="open",
        number=1,
        since_us=0,
        openings=1,
        opened_at_us=0,
        next_probe_at_us=2**62,
        failure_count=5,
        success_count=0,
        last_failure_at_us=0,
        reason="told",
    )
    circuits = Circuits({"a/m": opened}.get, lambda: False)
    assert circuits.of("a/m").state == "closed"
    for _ in range(5):
        circuits.end(circuits.begin("a/m"), good=False)
    assert circuits.of("a/m").state == "open"
    bad = TargetHealth("a/m", calls=100, failures=100)
    assert HealthBook(lambda _: bad, lambda: False).standing("a/m", 1, 0).success == 1


@pytest.mark.req("BEY-19", "BEY-07")
def test_a_hard_budget_is_spent_as_far_as_it_was_granted_and_never_beyond(
    own_worker: Worker,
) -> None:
    keeper = Keeper(own_worker)
    own_worker.change(budget(0.002))
    body = {"model": "openai/gpt-4o-mini", "messages": HELLO, "max_tokens": 50}
    assert own_worker.request("POST", "/v1/chat/completions", body)[0] == 200
    keeper.away = True
    limit = round(0.002 * USD)
    statuses = []
    for _ in range(200):
        # A worker that has just started gives the streams part some time to grant.
        status, _, answer = own_worker.request("POST", "/v1/chat/completions", body, timeout_s=20)
        statuses.append(status)
        if status != 200:
            break
    assert statuses[-1] == 503
    assert b"Kafka or the streams part is away" in answer
    assert 0 < costs(own_worker) <= limit


@pytest.mark.req("BEY-19")
def test_the_default_outbox_holds_eight_hours_at_fifty_requests_a_second(
    worker: Worker, sandbox: Served
) -> None:
    sandbox.behave("gpt-4o", "", answer_tokens_min=150, answer_tokens_max=150, per_token_ms=0)
    outbox = worker.app.proxy._recorder.outbox
    text = "the quick brown fox jumps over the lazy dog and rests for a while in the shade " * 22
    body = {"model": "openai/gpt-4o", "messages": [{"role": "user", "content": text}]}
    assert 1_700 < len(json.dumps(body)) < 1_900

    def size() -> int:
        return sum(segment.end for segment in outbox.segments) + outbox._pending_bytes

    before = size()
    for _ in range(20):
        assert worker.request("POST", "/v1/chat/completions", body)[0] == 200
    per_request = (size() - before) / 20
    assert per_request > 3_000
    assert per_request * 50 * 8 * HOUR < OUTBOX_BYTES_MAX
