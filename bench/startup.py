"""Claim: a fresh clone becomes a serving Weir by `make up` alone, and starts again within 8 seconds.

The clone is of the last commit and holds no environment; nothing is installed by hand. The first
start is measured with its downloads, the second one without.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from bench.claim import Arguments, Limit, Verdict, main
from bench.stack import KEY, ROOT, base_port, fetch

FIRST_START_S = 900.0
SECOND_START_S = 60.0


def measure(arguments: Arguments) -> Verdict:
    """Clone, start, ask, stop; then start again `--size` times."""
    folder = Path(tempfile.mkdtemp(prefix="weir-clone-"))
    try:
        clone = folder / "weir"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        first_s = _start_and_stop(clone, arguments.out / "first.log", FIRST_START_S)
        again = [
            _start_and_stop(clone, arguments.out / f"again-{number}.log", SECOND_START_S)
            for number in range(arguments.size)
        ]
        left = _installed_by_hand(clone)
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    if arguments.sabotage:
        again.append(SECOND_START_S)  # as if one of the starts had hung
    return Verdict(
        figures={
            "first_start_s": round(first_s, 1),
            "second_start_s": round(max(again), 2),
            "second_starts_s": [round(value, 2) for value in again],
            "changed_files": left,
        },
        limits=[
            Limit("first_start_s", FIRST_START_S),
            Limit("second_start_s", 8.0),
            Limit("changed_files", 0),
        ],
    )


def _start_and_stop(clone: Path, log: Path, timeout_s: float) -> float:
    """Return the seconds from `make up` to ready; a first request must be answered."""
    port = base_port()
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("WEIR_", "VIRTUAL_ENV")) and not name.endswith("_API_KEY")
    } | {"WEIR_PORT": str(port), "WEIR_ADMIN_KEY": KEY, "WEIR_TRAINER": "off"}
    begun = time.monotonic()
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["make", "up"],
            cwd=clone,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _wait_ready(process, f"http://127.0.0.1:{port}/ready", timeout_s, log)
        ready_s = time.monotonic() - begun
        ask = {
            "model": "openai/gpt-4.1-nano",
            "messages": [{"role": "user", "content": "Where is the water?"}],
        }
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        answer = fetch(url, key=KEY, method="POST", body=ask, timeout_s=30.0)
        assert answer["choices"][0]["message"]["content"], json.dumps(answer)
    finally:
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: to the whole group
        try:
            process.wait(60.0)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
    return ready_s


def _wait_ready(process: subprocess.Popen[bytes], url: str, timeout_s: float, log: Path) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2.0):
                return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"not ready:\n{log.read_text('utf-8', 'replace')[-4_000:]}")


def _installed_by_hand(clone: Path) -> int:
    """Return how many files of the clone the starts have changed or left unignored."""
    command = ["git", "-C", str(clone), "status", "--porcelain"]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return len(run.stdout.splitlines())


if __name__ == "__main__":
    main("startup", 2, measure)
