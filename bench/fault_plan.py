"""Which process dies when: drawn from a seed, and carried out by signals.

Kills are -9. "Away" suspends the broker (SIGSTOP): connections stay open and nothing answers, which
is what a partition or a stalled disk looks like; a broker that is started anew meanwhile is
suspended as well, so that it stays away for the whole time.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from bench.stack import Stack

AWAY_SHARE = 1 / 3
"""The broker is away for this share of the load: 20 of 60 seconds."""
MARGIN = 0.05
"""Nothing dies in the first and the last twentieth of the load."""
SPACING = 0.18
"""Shortest distance between the deaths of two gateway workers, as a share of the load."""
TAKEOVER_S = 2.0
POLL_S = 0.05
PATIENCE_S = 40.0

Kind = Literal["kill", "away", "takeover"]


class Fault(msgspec.Struct, frozen=True):
    """One fault: `at_s` after the start of the load."""

    at_s: float
    kind: Kind
    part: str
    lasts_s: float = 0.0


class Death(msgspec.Struct, frozen=True):
    """A process that was killed: when (Unix µs) and which."""

    part: str
    pid: int
    at_us: int


def plan(seed: int, duration_s: float, workers: list[str], others: list[str]) -> list[Fault]:
    """Return the faults in order: each worker and each other part dies once, the broker is away once."""
    draw = random.Random(f"faults {seed}")
    away = Fault(
        draw.uniform(MARGIN, 1 - MARGIN - AWAY_SHARE) * duration_s,
        "away",
        "broker",
        AWAY_SHARE * duration_s,
    )
    faults = [away]
    for part, at in zip(workers, _spread(draw, len(workers)), strict=True):
        faults.append(Fault(at * duration_s, "kill", part))
    for part in others:
        at_s = draw.uniform(MARGIN, 1 - MARGIN) * duration_s
        while part == "broker" and away.at_s - 1 <= at_s <= away.at_s + away.lasts_s + 1:
            at_s = draw.uniform(MARGIN, 1 - MARGIN) * duration_s
        faults.append(Fault(at_s, "takeover" if part == "supervisor" else "kill", part))
    return sorted(faults, key=lambda fault: fault.at_s)


def _spread(draw: random.Random, count: int) -> list[float]:
    """Draw shares of the load that keep `SPACING` from each other."""
    spacing = min(SPACING, (1 - 2 * MARGIN) / (2 * max(count, 1)))
    room = 1 - 2 * MARGIN - spacing * (count - 1)
    starts = sorted(draw.uniform(0, room) for _ in range(count))
    times = [MARGIN + start + index * spacing for index, start in enumerate(starts)]
    draw.shuffle(times)
    return times


class Executioner:
    """Carries a plan out against a stack; `deaths` and `away_s` say what really happened."""

    def __init__(self, stack: Stack, faults: list[Fault]) -> None:
        self._stack = stack
        self._faults = faults
        self._threads: list[threading.Thread] = []
        self.deaths: list[Death] = []
        self.errors: list[str] = []
        self.away_s = 0.0

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Run the plan beside the load; leaving waits until every fault is over."""
        begun = time.monotonic()
        for fault in self._faults:
            thread = threading.Thread(target=self._carry_out, args=(fault, begun), daemon=True)
            thread.start()
            self._threads.append(thread)
        try:
            yield
        finally:
            for thread in self._threads:
                thread.join(timeout=180.0)

    def _carry_out(self, fault: Fault, begun: float) -> None:
        time.sleep(max(0.0, begun + fault.at_s - time.monotonic()))
        act: dict[Kind, Callable[[Fault], None]] = {
            "kill": self._kill,
            "away": self._away,
            "takeover": self._take_over,
        }
        try:
            act[fault.kind](fault)
        except Exception as error:  # noqa: BLE001 - a fault that could not be done fails the claim
            self.errors.append(f"{fault.kind} {fault.part}: {error!r}")

    def _kill(self, fault: Fault) -> None:
        """Kill a part; one that is just being restarted is waited for.

        A worker is killed when another one serves: without any, nobody could answer.
        """
        deadline = time.monotonic() + PATIENCE_S
        while (pid := self._stack.pids().get(fault.part)) is None or (
            fault.part.startswith("gateway") and not self._others_serve(fault.part)
        ):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{fault.part} does not run, or no other worker serves")
            time.sleep(POLL_S)
        self.deaths.append(Death(fault.part, pid, time.time_ns() // 1_000))
        os.kill(pid, signal.SIGKILL)

    def _others_serve(self, part: str) -> bool:
        alive = self._stack.pids()
        return any(
            other["name"] in alive and other["status"] == "ready" and other["name"] != part
            for other in self._stack.state()["parts"]
            if other["name"].startswith("gateway")
        )

    def _away(self, fault: Fault) -> None:
        begun, held = time.monotonic(), set[int]()
        try:
            while time.monotonic() < begun + fault.lasts_s:
                pid = self._stack.pids().get("broker")
                if pid is not None and pid not in held:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGSTOP)
                        held.add(pid)
                time.sleep(POLL_S)
        finally:
            for pid in held:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        self.away_s = time.monotonic() - begun

    def _take_over(self, fault: Fault) -> None:
        self._kill(fault)
        self._stack.up.process.wait(10.0)
        time.sleep(TAKEOVER_S)
        self._stack.start()
