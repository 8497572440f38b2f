"""The trainer's environment: gigabytes of torch and friends, made beside the running core."""

import asyncio
import contextlib
import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".venv-trainer"
LOCK = ROOT / "requirements" / "trainer.lock"


def trainer_python() -> Path:
    """The interpreter that can import torch; it may not exist yet."""
    if chosen := os.environ.get("WEIR_TRAINER_PYTHON"):
        return Path(chosen)
    return FOLDER / "bin" / "python"


def is_ready() -> bool:
    """Whether the environment holds exactly what its lock names."""
    if "WEIR_TRAINER_PYTHON" in os.environ:
        return trainer_python().exists()
    stamp = FOLDER / "weir-stamp"
    return stamp.exists() and LOCK.exists() and stamp.read_text() == _digest()


async def make(report: Callable[[str], None], log_file: Path | None) -> None:
    """Create or update the environment; `report` hears each step, and what went wrong.

    The installer's own output goes to `log_file`, or to the terminal without one. It runs at a
    low priority: the core is already serving.
    """
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if not LOCK.exists():
        report("failed: no lock; install the extra `weir[trainer]` and set WEIR_TRAINER_PYTHON")
        return
    if uv is None:
        report("failed: uv is missing from this environment; run `make trainer-env`")
        return
    steps = [
        ("creating", [uv, "venv", "--allow-existing", "--python", sys.executable, str(FOLDER)]),
        (
            "downloading and installing",
            [uv, "pip", "sync", "--require-hashes", "--python", str(trainer_python()), str(LOCK)],
        ),
        (
            "linking",
            [
                uv,
                "pip",
                "install",
                "--no-deps",
                "--no-build-isolation",
                "--python",
                str(trainer_python()),
                "--editable",
                str(ROOT),
            ],
        ),
    ]
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log_file.open("ab")) if log_file else None
        for step, command in steps:
            report(step)
            code = await _run(command, output)
            if code:
                where = log_file or "the messages above"
                report(f"failed while {step}: see {where}; `make trainer-env` tries again")
                return
    (FOLDER / "weir-stamp").write_text(_digest())
    report("ready")


async def _run(command: list[str], output: BinaryIO | None) -> int:
    nice = ["nice", "-n", "15"] if shutil.which("nice") else []
    process = await asyncio.create_subprocess_exec(
        *nice, *command, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
    )
    try:
        return await process.wait()
    except asyncio.CancelledError:
        process.kill()
        raise


def _digest() -> str:
    exact = LOCK.read_bytes() + sys.version.encode()
    return hashlib.sha256(exact).hexdigest()


if __name__ == "__main__":
    _said: list[str] = []

    def _say(step: str) -> None:
        _said.append(step)
        sys.stdout.write(f"the trainer's environment: {step}\n")
        sys.stdout.flush()

    asyncio.run(make(_say, None))
    sys.exit(_said[-1] != "ready")
