"""Heavy work runs in child processes of the trainer's environment; this is both ends of the pipe.

The child's stdout carries one JSON line per message and nothing else; whatever libraries print goes
to stderr, which the parent keeps in a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from schemas.errors import ModelTrainingError
from trainer.config import Finished, Line

T = TypeVar("T")
STDERR_TAIL_BYTES = 2000
LINE_BYTES_MAX = 1024 * 1024


class Speaker:
    """The child's end: takes stdout for itself, so that a stray print cannot break a line."""

    def __init__(self) -> None:
        self._pipe = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)

    def say(self, line: Line) -> None:
        """Write one message."""
        self._pipe.write(msgspec.json.encode(line) + b"\n")


def read_order(kind: type[T]) -> T:
    """The order named on the command line. Exits with a usage error when there is none."""
    if len(sys.argv) != 2:
        sys.exit(f"usage: python -m {sys.argv[0]} ORDER.json")
    return msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=kind)


async def run_child(
    python: Path,
    module: str,
    order: msgspec.Struct,
    folder: Path,
    hear: Callable[[Line], Awaitable[None]],
) -> Finished:
    """Run ``python -m module`` on an order kept in `folder`; return its last message.

    The child dies with this process, and is killed when the caller is cancelled. Raises
    ModelTrainingError with the tail of its stderr when it ends without having finished.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = module.rpartition(".")[2]
    order_file, errors_file = folder / f"{name}.order.json", folder / f"{name}.stderr"
    order_file.write_bytes(msgspec.json.encode(order))
    with errors_file.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *(str(python), "-m", module, str(order_file)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            limit=LINE_BYTES_MAX,
            env={
                **os.environ,
                "PYTHONPATH": str(Path(__file__).parents[1]),
                "HF_HUB_OFFLINE": "1",
                "TOKENIZERS_PARALLELISM": "false",
                # Threads that wait must sleep: spinning, they take the cores from the gateway.
                "OMP_WAIT_POLICY": "PASSIVE",
                "WEIR_PARENT_PID": str(os.getpid()),
            },
        )
    (folder / f"{name}.pid").write_text(str(process.pid), "utf-8")
    finished: Finished | None = None
    try:
        assert process.stdout is not None
        async for raw in process.stdout:
            line = msgspec.json.decode(raw, type=Line)
            if isinstance(line, Finished):
                finished = line
            await hear(line)
        code = await process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if code != 0 or finished is None:
        raise ModelTrainingError(f"{module} {_ending(code)}: {_tail(errors_file)}")
    return finished


def _ending(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def _tail(file: Path) -> str:
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - STDERR_TAIL_BYTES))
        return stream.read().decode("utf-8", "replace").strip()


def die_with_parent() -> None:
    """End this child when its parent is killed (Linux), so that no orphan writes checkpoints."""
    if sys.platform != "linux":
        return
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if str(os.getppid()) != os.environ.get("WEIR_PARENT_PID", str(os.getppid())):
        sys.exit("the trainer that gave this order is gone")
