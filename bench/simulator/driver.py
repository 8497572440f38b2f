"""Makes the real sandbox behave as a world says, while real requests are sent through a real stack.

Every tick the sandbox is told how each target fares now: its typical latency with drift and
slow-downs, its spread, its tail, its failures. Behaviours that did not change are not sent again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np

from bench.simulator.traffic import conditions
from bench.simulator.world import World
from bench.stack import Sandbox

TICK_S = 0.5
STEPS = 1.02
"""Latencies are told in steps of 2%, so that a slow drift is not a new behaviour every tick."""
FAILURES = ("server_error", "unavailable", "reset", "overloaded")
"""How incidents fail, in turn."""


class Driver:
    """A thread that plays a world until the block ends.

    `lanes` names the base paths and models of the sandbox for each target of the world: several
    play the same target to different callers. `scale` multiplies all latencies, so that a run
    need not last as long as the real thing; a second of the world lasts a second.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        world: World,
        lanes: Mapping[str, Sequence[tuple[str, str]]],
        *,
        scale: float = 1.0,
        answer_tokens_max: int = 24,
    ) -> None:
        self._sandbox = sandbox
        self._world = world
        self._lanes = lanes
        self._scale = scale
        self._answer_tokens_max = answer_tokens_max
        self._told: dict[str, dict[str, Any]] = {}
        self._stop = threading.Event()
        self._begun_s = 0.0
        self._thread = threading.Thread(target=self._play)
        self.error: OSError | None = None

    @property
    def now_s(self) -> float:
        """Seconds of the world that have passed."""
        return time.monotonic() - self._begun_s

    def __enter__(self) -> Self:
        self._begun_s = time.monotonic()
        self._tell()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self.error is not None and error is None:
            raise self.error

    def _play(self) -> None:
        try:
            while not self._stop.wait(TICK_S):
                self._tell()
        except OSError as error:  # the block that started it raises it
            self.error = error

    def _tell(self) -> None:
        for index, process in enumerate(self._world.targets):
            wanted = self.behaviour(index, self.now_s)
            if wanted == self._told.get(process.target):
                continue
            self._told[process.target] = wanted
            luck = int(self.now_s * 1_000) + 1
            for base, model in self._lanes[process.target]:
                self._sandbox.behave(base, model, **wanted, luck=luck)

    def behaviour(self, index: int, at_s: float) -> dict[str, Any]:
        """Return how a target behaves at a time, in the sandbox's words."""
        process = self._world.targets[index]
        factors, failing = conditions(self._world, index, np.array([at_s]))
        step = round(float(np.log(factors[0])) / float(np.log(STEPS)))
        factor = STEPS**step * self._scale
        first_ms = process.median_us * factor / 1_000
        faults: list[dict[str, Any]] = []
        if failing[0] > 0:
            faults.append({"kind": self._failure(at_s), "rate": round(float(failing[0]), 4)})
        if process.tail_share > 0:
            late_ms = first_ms * (process.tail_factor - 1)
            faults.append(
                {"kind": "slow_first_token", "rate": process.tail_share, "delay_ms": late_ms}
            )
        return {
            "first_token_ms": round(first_ms, 3),
            "per_token_ms": round(process.per_token_us * factor / 1_000, 4),
            "sigma": process.sigma,
            "answer_tokens_max": self._answer_tokens_max,
            "tokens_per_frame": 4,
            "faults": faults,
        }

    def _failure(self, at_s: float) -> str:
        begun = [item for item in self._world.incidents if item.start_s <= at_s]
        return FAILURES[len(begun) % len(FAILURES)]
