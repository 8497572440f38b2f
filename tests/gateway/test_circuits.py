"""Circuits as a worker uses them: its own outcomes, everybody's, and real requests as probes."""

import itertools
import time
from collections.abc import Callable
from typing import Any

import msgspec
import openai
import pytest

from gateway.circuits import Circuits
from gateway.failover import Failover
from gateway.plans import Member
from gateway.routing import REUSE_S, by_circuit
from schemas.circuits import CLOSED, HALF_OPEN, OPEN, RULES
from schemas.clock import now_us
from schemas.errors import (
    UpstreamError,
    UpstreamNetwork,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
)
from schemas.events.changes import RouteTarget
from schemas.events.circuits import CircuitChanged
from schemas.routing import Decision, Target
from tests.gateway.worker import Worker, route
from tests.sandbox.served import Served

S = 1_000_000
NOW = 1_790_000_000 * S
MODEL = "gpt-4o-mini"
HELLO: Any = [{"role": "user", "content": "Say hello."}]
_numbers = itertools.count()


class World:
    """A worker's circuits under a clock of the test's own."""

    def __init__(self) -> None:
        self.now_us = NOW
        self.changes: dict[str, CircuitChanged] = {}
        self.alive = True
        self.circuits = Circuits(self.changes.get, lambda: self.alive, clock_us=lambda: self.now_us)

    def call(self, pattern: str, target: str = "a/m") -> None:
        for mark in pattern:
            trial = self.circuits.begin(target)
            self.now_us += 1_000
            self.circuits.end(trial, {"+": True, "-": False, "?": None}[mark])

    def tell(self, state: str, since_s: float = 0.0, number: int = 1) -> None:
        since_us = NOW + int(since_s * S)
        opened = since_us if state == OPEN else None
        self.changes["a/m"] = CircuitChanged(
            event_id="e",
            occurred_at_us=since_us,
            target="a/m",
            provider="a",
            model="m",
            state=state,
            number=number,
            since_us=since_us,
            openings=int(state == OPEN),
            opened_at_us=opened,
            next_probe_at_us=None if opened is None else opened + 30 * S,
            failure_count=0,
            success_count=0,
            last_failure_at_us=None,
            reason="told",
        )

    @property
    def state(self) -> str:
        return self.circuits.of("a/m").state

    def later(self, seconds: float) -> None:
        self.now_us += int(seconds * S)


@pytest.mark.req("RT-07")
def test_own_failures_count_at_once_and_the_callers_do_not() -> None:
    world = World()
    world.call("----???????")
    assert world.state == CLOSED
    world.call("-")
    assert world.state == OPEN
    world.later(30)
    assert world.state == HALF_OPEN
    world.call("+++")
    assert world.state == CLOSED


@pytest.mark.req("RT-07")
def test_what_others_met_counts_while_the_streams_are_alive() -> None:
    world = World()
    world.tell(OPEN)
    assert world.state == OPEN
    world.alive = False
    assert world.state == CLOSED
    world.alive = True
    world.later(30)
    assert world.state == HALF_OPEN


@pytest.mark.req("RT-07")
def test_a_recovery_that_others_saw_or_a_reset_closes_it_here_too() -> None:
    world = World()
    world.call("-----")
    assert world.state == OPEN
    world.tell(CLOSED, since_s=-5)
    assert world.state == OPEN
    world.tell(CLOSED, since_s=5, number=2)
    assert world.state == CLOSED


@pytest.mark.req("RT-07", "BEY-09")
def test_probes_are_one_at_a_time_per_worker() -> None:
    world = World()
    world.call("-----")
    world.later(30)
    assert world.circuits.may_probe("a/m")
    trial = world.circuits.begin("a/m")
    assert not world.circuits.may_probe("a/m")
    world.circuits.end(trial, None)
    assert world.circuits.may_probe("a/m")


@pytest.mark.req("BEY-09", "RT-07")
def test_there_is_always_somebody_to_choose() -> None:
    world, members = World(), [Member(Target("a", name), 1, 0) for name in "mno"]

    def sorted_out() -> tuple[list[int], str, str]:
        fit, probes, spared = by_circuit([0, 1, 2], members, world.circuits)
        return fit, "".join(one.model for one in probes), "".join(one.model for one in spared)

    assert sorted_out() == ([0, 1, 2], "", "")
    world.call("-----", "a/m")
    world.call("-----", "a/n")
    assert sorted_out() == ([2], "", "mn")
    world.later(20)
    world.call("-----", "a/o")
    assert sorted_out() == ([0, 1, 2], "", "")
    world.later(15)
    assert sorted_out() == ([0, 1], "", "o")
    world.call("+++", "a/m")
    assert sorted_out() == ([0], "n", "no")


# --- the attempts of one call ------------------------------------------------------------------


def attempts(
    order: str, spare: str, *errors: UpstreamError, budget: int = 3, deadline_s: float = 100.0
) -> list[tuple[str, float]]:
    """Who is tried, and after how long, when the attempts end so; every draw is the longest."""
    targets = [Target("t", name) for name in order]
    decision = Decision(
        targets[0], targets, [], 1.0, "s", "r", [Target("t", name) for name in spare]
    )
    draw: Callable[[float, float], float] = max
    failover, tried = Failover(decision, budget, deadline_s, lambda: 0.0, draw), []
    for error in [*errors, *([errors[-1]] * 10)]:
        step = failover.next()
        if step is None:
            return tried
        tried.append((step[0].model, round(step[1], 3)))
        failover.failed(step[0], error)
    raise AssertionError("the budget has no end")


@pytest.mark.req("RT-08", "RT-07")
@pytest.mark.parametrize(
    ("order", "spare", "errors", "budget", "tried"),
    [
        ("ab", "", [UpstreamNetwork("x")], 2, [("a", 0), ("b", 0)]),
        ("a", "", [UpstreamNetwork("x")], 4, [("a", 0), ("a", 0.2), ("a", 0.4), ("a", 0.8)]),
        ("a", "", [UpstreamTimeout("x")], 3, [("a", 0)]),
        (
            "ab",
            "",
            [UpstreamTimeout("x"), UpstreamNetwork("x")],
            3,
            [("a", 0), ("b", 0), ("b", 0.2)],
        ),
        ("a", "z", [UpstreamNetwork("x")], 3, [("a", 0), ("a", 0.2), ("z", 0)]),
        ("a", "z", [UpstreamNetwork("x")], 2, [("a", 0), ("z", 0)]),
        ("a", "z", [UpstreamTimeout("x")], 3, [("a", 0), ("z", 0)]),
        ("a", "", [UpstreamRejected("x")], 3, [("a", 0)]),
        ("a", "", [UpstreamRateLimited("x", retry_after_seconds=2)], 2, [("a", 0), ("a", 2.2)]),
        ("a", "", [UpstreamRateLimited("x", retry_after_seconds=9)], 3, [("a", 0)]),
        (
            "ab",
            "",
            [UpstreamRateLimited("x", retry_after_seconds=2), UpstreamNetwork("x")],
            3,
            [("a", 0), ("b", 0), ("b", 0.2)],
        ),
    ],
)
def test_one_budget_for_retries_and_fallbacks(
    order: str,
    spare: str,
    errors: list[UpstreamError],
    budget: int,
    tried: list[tuple[str, float]],
) -> None:
    assert attempts(order, spare, *errors, budget=budget) == tried


@pytest.mark.req("RT-08")
def test_no_wait_goes_beyond_the_deadline() -> None:
    error = UpstreamRateLimited("x", retry_after_seconds=2)
    assert attempts("a", "", error, deadline_s=2.1) == [("a", 0)]


# --- a worker in front of the sandbox ------------------------------------------------------------


def pair(worker: Worker, **fields: Any) -> str:
    name = f"circuit-{next(_numbers)}"
    targets = [RouteTarget(f"a/{MODEL}", priority=1), RouteTarget(f"b/{MODEL}")]
    worker.forget()
    worker.change(route(name, *targets, strategy="weighted", **fields))
    return name


def ask(worker: Worker, name: str) -> Any:
    return worker.openai().chat.completions.with_raw_response.create(
        model=name, messages=HELLO, max_tokens=8
    )


def open_no_longer(worker: Worker) -> None:
    """Let the time of the worker's open circuits be over now."""
    for own in worker.app.proxy.circuits._own.values():
        if own.circuit.state == OPEN:
            own.circuit = msgspec.structs.replace(own.circuit, next_probe_at_us=now_us())
    time.sleep(2 * REUSE_S)


@pytest.mark.req("RT-07", "BEY-09", "RT-01")
def test_an_open_circuit_is_left_out_probed_by_real_requests_and_closed(
    worker: Worker, sandbox: Served
) -> None:
    sandbox.behave(MODEL, "/a", faults=[{"kind": "server_error"}])
    sandbox.behave(MODEL, "/b")
    name = pair(worker)
    for _ in range(3):  # by its own name, each call tries it twice
        with pytest.raises(openai.InternalServerError):
            ask(worker, f"a/{MODEL}")
    raw = ask(worker, name)
    assert raw.headers["x-weir-attempts"] == "1"
    admitted, _, _ = worker.call(raw.headers["x-weir-request-id"])
    spared = {one.target: one for one in admitted.candidates}[f"a/{MODEL}"]
    assert not spared.eligible
    assert "its circuit is open: 5 failures in a row" in spared.reason
    heedless = f"{name}-heedless"
    targets = [RouteTarget(f"a/{MODEL}"), RouteTarget(f"b/{MODEL}")]
    worker.change(route(heedless, *targets, strategy="weighted", options={"circuits": "off"}))
    admitted, _, _ = worker.call(ask(worker, heedless).headers["x-weir-request-id"])
    assert all(one.eligible for one in admitted.candidates)
    sandbox.behave(MODEL, "/a")
    open_no_longer(worker)
    for _ in range(RULES.probes):
        raw = ask(worker, name)
        assert raw.headers["x-weir-model"] == f"a/{MODEL}"
        assert raw.headers["x-weir-circuit"] == HALF_OPEN
        admitted, _, _ = worker.call(raw.headers["x-weir-request-id"])
        assert admitted.propensity == 1
        assert "half open" in (admitted.reason or "")
    assert "x-weir-circuit" not in ask(worker, name).headers
    assert worker.app.proxy.circuits.of(f"a/{MODEL}").state == CLOSED


@pytest.mark.req("BEY-09")
def test_the_only_target_is_served_with_an_open_circuit_and_says_so(
    worker: Worker, sandbox: Served
) -> None:
    name = f"circuit-{next(_numbers)}"
    worker.forget()
    worker.change(route(name, RouteTarget(f"a/{MODEL}"), attempts=1))
    sandbox.behave(MODEL, "/a", faults=[{"kind": "server_error"}])
    for _ in range(RULES.failures):
        with pytest.raises(openai.InternalServerError):
            ask(worker, name)
    sandbox.behave(MODEL, "/a")
    raw = ask(worker, name)
    assert raw.headers["x-weir-circuit"] == OPEN
    admitted, _, _ = worker.call(raw.headers["x-weir-request-id"])
    assert "the only target, its circuit is open" in (admitted.reason or "")
    ask(worker, name)
    ask(worker, name)
    assert worker.app.proxy.circuits.of(f"a/{MODEL}").state == CLOSED


@pytest.mark.req("RT-08")
def test_when_every_target_has_failed_the_caller_is_told_when_to_come_back(
    worker: Worker, sandbox: Served
) -> None:
    name = pair(worker, attempts=3)
    for base in ("/a", "/b"):
        sandbox.behave(MODEL, base, faults=[{"kind": "unavailable"}])
    with pytest.raises(openai.InternalServerError) as refused:
        ask(worker, name)
    assert refused.value.status_code == 503
    assert refused.value.code == "no_target_available"
    assert refused.value.response.headers["retry-after"] == "1"
    sandbox.behave(MODEL, "/a")
    sandbox.behave(MODEL, "/b")


@pytest.mark.req("RT-08", "PERF-10")
def test_providers_that_fail_in_turn_cost_no_answer(worker: Worker, sandbox: Served) -> None:
    name = pair(worker, attempts=3)
    sandbox.behave(MODEL, "/b")
    for turn in range(6):
        failing, well = ("/a", "/b") if turn % 2 == 0 else ("/b", "/a")
        sandbox.behave(MODEL, well)
        sandbox.behave(MODEL, failing, faults=[{"kind": "reset"}])
        for _ in range(8):
            assert ask(worker, name).headers["x-weir-model"] == f"{well[1:]}/{MODEL}"
    sandbox.behave(MODEL, "/a")
    sandbox.behave(MODEL, "/b")
