"""One supervised process: spawned in a session of its own, or adopted from a dead supervisor."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from infra.state import PartState, created_s

_LOG_BYTES_MAX = 64 * 1024 * 1024
_ADOPTED_POLL_S = 0.2


class Process:
    """A child, or a former supervisor's child that this one has taken over.

    An adopted process cannot be waited for, only looked at; apart from that both are the same.
    """

    def __init__(self, pid: int, child: asyncio.subprocess.Process | None) -> None:
        self.pid = pid
        self.created_s = created_s(pid)
        self._child = child

    @classmethod
    async def spawn(
        cls,
        command: Sequence[str],
        environment: Mapping[str, str],
        log_file: Path,
        folder: Path,
        given: bytes = b"",
    ) -> "Process":
        """Start a command with its own process group and its output appended to a file.

        `given` is what it finds on its standard input.
        """
        if log_file.exists() and log_file.stat().st_size > _LOG_BYTES_MAX:
            log_file.replace(log_file.with_suffix(".1.log"))
        with log_file.open("ab") as output:
            child = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=dict(environment),
                cwd=folder,
                start_new_session=True,
            )
        assert child.stdin is not None
        child.stdin.write(given)
        child.stdin.close()
        return cls(child.pid, child)

    @classmethod
    def adopt(cls, state: PartState) -> "Process | None":
        """Take over a process that a former supervisor has left running."""
        return cls(state.pid, None) if state.pid is not None and state.alive() else None

    def alive(self) -> bool:
        """Whether it still runs."""
        if self._child is not None:
            return self._child.returncode is None
        return PartState(name="", pid=self.pid, created_s=self.created_s).alive()

    async def wait(self) -> int | None:
        """Wait for its end; the exit code, None for an adopted one."""
        if self._child is not None:
            return await self._child.wait()
        while self.alive():  # noqa: ASYNC110 - the kernel tells only a parent
            await asyncio.sleep(_ADOPTED_POLL_S)
        return None

    async def stop(self, timeout_s: float) -> None:
        """Ask it to end, wait, then kill its whole group: children of a dead part included."""
        with contextlib.suppress(ProcessLookupError):
            if self.alive():
                os.kill(self.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.wait(), timeout_s)
        self.kill_group()
        await self.wait()

    def kill_group(self) -> None:
        """Kill whatever is left of the part: itself and the children of its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
