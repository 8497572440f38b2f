"""The trainer's environment: gigabytes of torch and friends, made beside the running core."""

import asyncio
import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

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


async def make(report: Callable[[str], None], log_file: Path) -> None:
    """Create or update the environment; `report` hears each step, and what went wrong.

    It runs at the lowest priority: the core is already serving.
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
    with log_file.open("ab") as output:
        for step, command in steps:
            report(step)
            process = await asyncio.create_subprocess_exec(
                *("nice", "-n", "15", *command) if shutil.which("nice") else command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
            try:
                code = await process.wait()
            except asyncio.CancelledError:
                process.kill()
                raise
            if code:
                report(f"failed while {step}: see {log_file}; `make trainer-env` tries again")
                return
    (FOLDER / "weir-stamp").write_text(_digest())
    report("ready")


def _digest() -> str:
    exact = LOCK.read_bytes() + sys.version.encode()
    return hashlib.sha256(exact).hexdigest()
