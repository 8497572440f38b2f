"""Starts the parts in order, restarts what dies, and ends everything in order."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from infra.parts import GATE_VARIABLE, ROOT, Part
from infra.processes import Process
from infra.readiness import is_ready
from infra.state import InstallationState, PartState

_BACKOFF_FIRST_S = 0.2
_BACKOFF_MAX_S = 10.0
_HEALTHY_AFTER_S = 20.0
_READY_POLL_S = 0.1
_DEATHS_MAX = 4
"""A part that has died so often at its start, and was ready at none, is waited for no longer."""

_log = logging.getLogger(__name__)


class Supervised:
    """One part under supervision: its process, its state, and the task that keeps it alive."""

    def __init__(self, part: Part, state: PartState) -> None:
        self.part = part
        self.state = state
        self.process: Process | None = None
        self.keeper: asyncio.Task[None] | None = None
        self.ready = asyncio.Event()
        self.deaths = 0
        """How often it has died since it was ready last."""


class Supervisor:
    """The processes of one installation. `changed` is called after each change of the state."""

    def __init__(
        self,
        state: InstallationState,
        home: Path,
        environment: Mapping[str, str],
        changed: Callable[[PartState], None] = lambda _: None,
    ) -> None:
        self.state = state
        self._home = home
        self._gate_file = home / "gate"
        self._gate = asyncio.Event()
        self._environment = {
            **environment,
            "WEIR_SUPERVISED": "1",
            "PYTHONUNBUFFERED": "1",
            GATE_VARIABLE: str(self._gate_file),
        }
        self._changed = changed
        self._parts: dict[str, Supervised] = {}
        self._ending = False
        self._news = asyncio.Event()
        """Set when a part becomes ready or dies."""

    def part(self, name: str) -> Supervised | None:
        """The part by its name."""
        return self._parts.get(name)

    def log_file(self, name: str) -> Path:
        """Where a part's output goes."""
        return self._home / "logs" / f"{name}.log"

    def close_gate(self) -> None:
        """Let parts that are started from now on wait until the gate is opened."""
        self._gate_file.unlink(missing_ok=True)

    def open_gate(self) -> None:
        """Let the parts begin: the log is prepared, or they have been running already."""
        self._gate_file.touch()
        self._gate.set()

    async def add(self, part: Part, adopted: PartState | None = None) -> Supervised:
        """Start a part, or take over its living process, and keep it alive from now on."""
        state = PartState(name=part.name)
        self.state.parts.append(state)
        supervised = Supervised(part, state)
        self._parts[part.name] = supervised
        process = Process.adopt(adopted) if adopted else None
        if process is None:
            process = await self._spawn(supervised)
        else:
            state.restarts = adopted.restarts if adopted else 0
        self._note(supervised, process, "starting")
        supervised.keeper = asyncio.create_task(self._keep(supervised, process))
        return supervised

    async def _spawn(self, supervised: Supervised) -> Process:
        part = supervised.part
        (self._home / "logs").mkdir(parents=True, exist_ok=True)
        return await Process.spawn(
            part.command,
            {**self._environment, **part.environment},
            self.log_file(part.name),
            ROOT,
            part.handed,
        )

    async def _keep(self, supervised: Supervised, process: Process) -> None:
        """Restart the part whenever it dies, ever more slowly while it dies at once."""
        backoff_s = _BACKOFF_FIRST_S
        while True:
            started_s = time.monotonic()
            watching = asyncio.create_task(self._watch_readiness(supervised, process))
            code = await process.wait()
            watching.cancel()
            process.kill_group()
            if self._ending:
                return
            if time.monotonic() - started_s > _HEALTHY_AFTER_S:
                backoff_s = _BACKOFF_FIRST_S
            supervised.ready.clear()
            supervised.deaths += 1
            self._news.set()
            supervised.state.exit_code = code
            self._note(supervised, None, "restarting", f"ended with {_explain(code)}")
            _log.warning("%s ended with %s", supervised.part.name, _explain(code))
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, _BACKOFF_MAX_S)
            supervised.state.restarts += 1
            process = await self._spawn_again(supervised)
            self._note(supervised, process, "starting")

    async def _spawn_again(self, supervised: Supervised) -> Process:
        """Start a part anew, as soon as that can be done: on a full disk it cannot."""
        while True:
            try:
                return await self._spawn(supervised)
            except OSError as error:
                _log.warning("%s cannot be started: %s", supervised.part.name, error)
                await asyncio.sleep(_BACKOFF_MAX_S)

    async def _watch_readiness(self, supervised: Supervised, process: Process) -> None:
        if supervised.part.probe != "kafka":
            await self._gate.wait()
        while not await is_ready(supervised.part, process):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(_READY_POLL_S)
        self._note(supervised, process, "ready")
        supervised.deaths = 0
        supervised.ready.set()
        self._news.set()

    async def wait_ready(self, names: list[str], timeout_s: float) -> list[str]:
        """Wait until these parts are ready; the names of those that are not in time.

        Ends at once when one of them dies at each start: time will not mend what it says.
        """
        entries = [self._parts[name] for name in names]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while late := [entry for entry in entries if not entry.ready.is_set()]:
                    if any(entry.deaths >= _DEATHS_MAX for entry in late):
                        break
                    self._news.clear()
                    await self._news.wait()
        return [entry.part.name for entry in entries if not entry.ready.is_set()]

    async def stop(self) -> None:
        """End all parts: the highest order first, so that whoever writes ends before who reads."""
        self._ending = True
        orders = sorted({entry.part.order for entry in self._parts.values()}, reverse=True)
        for order in orders:
            group = [entry for entry in self._parts.values() if entry.part.order == order]
            await asyncio.gather(*(self._stop_one(entry) for entry in group))

    async def _stop_one(self, entry: Supervised) -> None:
        process = entry.process
        if process is not None:
            self._note(entry, process, "stopping")
            await process.stop(entry.part.stop_s)
        if entry.keeper is not None:
            entry.keeper.cancel()
            await asyncio.gather(entry.keeper, return_exceptions=True)
        self._note(entry, None, "stopped")

    def _note(
        self, entry: Supervised, process: Process | None, status: str, detail: str = ""
    ) -> None:
        entry.process = process
        entry.state.status = status
        entry.state.detail = detail
        entry.state.pid = process.pid if process else None
        entry.state.created_s = process.created_s if process else None
        try:
            self.state.save(self._home)
            self._changed(entry.state)
        except OSError as error:
            # A full disk must not end the watch over a part.
            _log.warning("what became of %s cannot be written: %s", entry.part.name, error)


async def stop_leftovers(state: InstallationState, parts: Mapping[str, Part]) -> None:
    """End, in order, what a former supervisor has left running and nobody takes over."""
    left = [part for part in state.parts if part.alive() and part.pid != os.getpid()]
    left.sort(key=lambda part: -(parts[part.name].order if part.name in parts else 1))
    for part in left:
        if process := Process.adopt(part):
            await process.stop(parts[part.name].stop_s if part.name in parts else 15)


def _explain(code: int | None) -> str:
    """An exit code in words."""
    if code is None:
        return "an unknown code"
    return f"signal {-code}" if code < 0 else f"exit code {code}"
