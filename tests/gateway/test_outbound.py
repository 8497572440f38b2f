"""Providers at their vendors' pace: learned, queued fairly, never beyond."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.call import Call
from gateway.outbound import Outbound, read_quota
from gateway.outbox import Outbox
from gateway.upstream import Failed
from schemas.errors import UpstreamRateLimited
from schemas.event import Event
from schemas.events.changes import ProviderChanged, RouteTarget
from schemas.events.operations import AlertChanged
from schemas.routing import Target
from tests.gateway.worker import SECRET, Worker, key, provider, route, started
from tests.sandbox.served import Served

MODEL = "gpt-4o-mini"
TARGET = Target(provider="p", model="m")


class Kept:
    """An outbox that keeps events in a list."""

    id = "outbox-1"

    def __init__(self) -> None:
        self.events: list[Event] = []

    def append(self, *events: Event, settles: bool = False) -> int:
        assert settles
        self.events.extend(events)
        return len(self.events)


def outbound(
    workers: int = 1, providers: dict[str, ProviderChanged] | None = None
) -> tuple[Outbound, Kept]:
    kept = Kept()
    return Outbound(lambda: providers or {}, cast("Outbox", kept), workers), kept


def call(caller: str = "k", tokens: int = 10, patience_s: float = 60.0) -> Call:
    opening = SimpleNamespace(max_tokens=None)
    who = SimpleNamespace(key_id=caller)
    admitted = SimpleNamespace(input_tokens_estimate=tokens, opening=opening, key=who)
    deadline_s = asyncio.get_running_loop().time() + patience_s
    return cast("Call", SimpleNamespace(admitted=admitted, deadline_s=deadline_s, turn=None))


def told(limit: int, left: int, reset: str = "1m0s") -> dict[bytes, bytes]:
    return {
        b"x-ratelimit-limit-requests": b"%d" % limit,
        b"x-ratelimit-remaining-requests": b"%d" % left,
        b"x-ratelimit-reset-requests": reset.encode(),
    }


async def learn(lanes: Outbound, limit: int, left: int) -> None:
    one = call()
    async with lanes.turn(one, TARGET):
        assert one.turn is not None
        one.turn.hear(told(limit, left))


@pytest.mark.req("PROV-06")
@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, None),
        (told(60, 59, "1s"), (60, 59, 1.0)),
        (told(60, 0, "6m0s"), (60, 0, 360.0)),
        (told(60, 0, "12ms"), (60, 0, 0.012)),
        ({b"x-ratelimit-limit-requests": b"x", b"x-ratelimit-remaining-requests": b"1"}, None),
    ],
)
def test_what_vendors_say(headers: dict[bytes, bytes], found: Any) -> None:
    assert read_quota(headers, "requests") == found


@pytest.mark.req("PROV-06")
def test_what_anthropic_says() -> None:
    names = b"anthropic-ratelimit-requests-"
    headers = {names + b"limit": b"50", names + b"remaining": b"49"}
    headers[names + b"reset"] = b"2020-01-01T00:00:00Z"
    assert read_quota(headers, "requests") == (50, 49, 0.001)


@pytest.mark.interpreted("stand-ins for a call and an outbox")
@pytest.mark.req("PROV-06")
async def test_callers_are_served_in_turn() -> None:
    lanes, _ = outbound()
    await learn(lanes, 600, 0)  # ten a second, none left
    order: list[str] = []

    async def one(caller: str) -> None:
        async with lanes.turn(call(caller), TARGET):
            order.append(caller)

    greedy = [asyncio.create_task(one("greedy")) for _ in range(5)]
    await asyncio.sleep(0)
    await asyncio.gather(one("modest"), *greedy)
    assert order.index("modest") <= 1


@pytest.mark.interpreted("stand-ins for a call and an outbox")
@pytest.mark.req("PROV-06")
async def test_who_would_wait_beyond_its_deadline_hears_how_long_at_once() -> None:
    lanes, kept = outbound()
    await learn(lanes, 6, 0)  # one in ten seconds
    began_s = time.monotonic()
    with pytest.raises(Failed) as refused:
        async with lanes.turn(call(patience_s=2.0), TARGET):
            pytest.fail("there was no place")
    assert time.monotonic() - began_s < 1.0
    assert 8 <= (refused.value.error.retry_after_seconds or 0) <= 11
    (alert,) = kept.events
    assert isinstance(alert, AlertChanged)
    assert (alert.alert_type, alert.status) == ("provider_saturated", "open")


@pytest.mark.interpreted("stand-ins for a call and an outbox")
@pytest.mark.req("PROV-06")
async def test_a_refusal_of_the_vendor_closes_the_lane_as_long_as_it_says() -> None:
    lanes, _ = outbound()
    with pytest.raises(Failed):
        async with lanes.turn(call(), TARGET):
            raise Failed(UpstreamRateLimited("slow down", retry_after_seconds=0.3), 429)
    began_s = time.monotonic()
    async with lanes.turn(call(), TARGET):
        assert time.monotonic() - began_s > 0.25


@pytest.mark.interpreted("stand-ins for a call and an outbox")
@pytest.mark.req("PROV-06", "RT-08")
async def test_who_has_another_target_does_not_wait_for_a_closed_lane() -> None:
    lanes, _ = outbound()
    with pytest.raises(Failed):
        async with lanes.turn(call(), TARGET):
            raise Failed(UpstreamRateLimited("slow down"), 429)
    with pytest.raises(Failed):
        async with lanes.turn(call(), TARGET, hasty=True):
            pytest.fail("it has waited for the lane")
    async with lanes.turn(call(), TARGET):
        pass  # the last one waits


@pytest.mark.interpreted("stand-ins for a call and an outbox")
@pytest.mark.req("PROV-06")
async def test_what_the_operator_states_holds_before_the_first_answer() -> None:
    stated = provider("p", "openai", "http://x", requests_per_minute=60, concurrency=1)
    lanes, _ = outbound(2, {"p": stated})
    inside = call()
    async with lanes.turn(inside, TARGET):
        waiting = asyncio.create_task(lanes.turn(call(), TARGET).__aenter__())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        (lane,) = lanes.status()
        assert (lane["running"], lane["waiting"], lane["requests_left"]) == (1, 1, 29)
    await waiting


@pytest.mark.interpreted("stand-ins for a call and an outbox")
@pytest.mark.req("PROV-06")
async def test_who_gives_up_leaves_no_trace_in_the_queue() -> None:
    lanes, _ = outbound()
    await learn(lanes, 60, 0)
    waiting = asyncio.create_task(lanes.turn(call(), TARGET).__aenter__())
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    (lane,) = lanes.status()
    assert (lane["running"], lane["waiting"]) == (0, 0)


@pytest.mark.interpreted("stand-ins for a call and an outbox")
@pytest.mark.req("PROV-06")
@pytest.mark.parametrize("counted", ["543210", "501234", "250413"])
@pytest.mark.parametrize("heard", ["543210", "012345", "250413"])
async def test_answers_that_overtake_each_other_hide_no_call(counted: str, heard: str) -> None:
    """Six at once, which the vendor counts in an order of its own, and which is heard in another."""
    lanes, _ = outbound()
    calls = [call() for _ in range(6)]
    for one in calls:
        await lanes.turn(one, TARGET).__aenter__()
    for number in heard:
        turn = calls[int(number)].turn
        assert turn is not None
        turn.hear(told(30, 29 - counted.index(number), "1h"))
        assert lanes.status()[0]["requests_left"] <= 24
        await turn.__aexit__(None, None, None)
    (lane,) = lanes.status()
    assert lane["requests_left"] == 24


def ask(worker: Worker, model: str, secret: str = SECRET) -> tuple[int, dict[str, str], Any]:
    body = {"model": model, "messages": [{"role": "user", "content": "a word"}], "max_tokens": 5}
    headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
    status, told_headers, answer = worker.request(
        "POST", "/v1/chat/completions", body, headers, timeout_s=90
    )
    return status, told_headers, json.loads(answer)


@pytest.mark.req("PROV-06", "PERF-04")
def test_a_vendors_limit_is_used_up_and_never_hit(
    sandbox: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """34 calls against a vendor that takes 30 and one every two seconds: scaled from 60 a minute."""
    monkeypatch.setattr("gateway.outbound.WAIT_S_MAX", 60.0)  # whatever else the machine does
    with started(sandbox, tmp_path) as worker:
        worker.change(
            key("other", key_id="other"), provider("slow", "openai", f"{sandbox.url}/slow/v1")
        )
        sandbox.behave(MODEL, "/slow", requests_per_minute=30)
        with ThreadPoolExecutor(6) as pool:
            found = list(
                pool.map(
                    lambda n: ask(worker, f"slow/{MODEL}", ["other", SECRET][n % 2])[0], range(34)
                )
            )
        status, _, body = worker.request("GET", "/status/worker")
    assert found == [200] * 34
    assert {row["status"] for row in sandbox.rows("/slow")} == {200}
    assert status == 200
    (lane,) = [lane for lane in json.loads(body)["providers"] if lane["target"] == f"slow/{MODEL}"]
    assert lane["requests_per_minute"] == 30


@pytest.mark.req("PROV-06")
def test_a_saturated_target_gives_way_to_the_next(sandbox: Served, tmp_path: Path) -> None:
    with started(sandbox, tmp_path) as worker:
        worker.change(
            provider("tiny", "openai", f"{sandbox.url}/tiny/v1"),
            route(
                "both",
                RouteTarget(f"tiny/{MODEL}", priority=1),
                RouteTarget(f"openai/{MODEL}"),
                strategy="failover",
            ),
        )
        sandbox.behave(MODEL, "/tiny", requests_per_minute=1)
        models = [ask(worker, "both")[1]["x-weir-model"] for _ in range(2)]
        alone = ask(worker, f"tiny/{MODEL}")
    assert models == [f"tiny/{MODEL}", f"openai/{MODEL}"]
    assert alone[0] == 429
    assert int(alone[1]["retry-after"]) > 10
    assert {row["status"] for row in sandbox.rows("/tiny")} == {200}
