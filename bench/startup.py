"""Claim: a fresh clone becomes a serving Weir by `make up` alone, and starts again within 8 seconds.

The clone is of the last commit and has an empty cache of its own: no environment, no download and no
jar is there before, and nothing is installed by hand. The first start is measured with its downloads,
and runs on until the broker's class archive is made (in the background, once per machine).
"""

from __future__ import annotations

import json
import os
import re
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
AFTER_DOWNLOAD_S = 120.0
ARCHIVE_S = 90.0


def measure(arguments: Arguments) -> Verdict:
    """Clone, start, ask, stop; then start again `--size` times."""
    folder = Path(tempfile.mkdtemp(prefix="weir-clone-"))
    try:
        clone = folder / "weir"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        first_log = arguments.out / "first.log"
        first_s = _start_and_stop(clone, first_log, FIRST_START_S, archive=True)
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
            "after_download_s": _said(first_log),
            "second_start_s": round(max(again), 2),
            "second_starts_s": [round(value, 2) for value in again],
            "changed_files": left,
        },
        limits=[
            Limit("first_start_s", FIRST_START_S),
            Limit("after_download_s", AFTER_DOWNLOAD_S),
            Limit("second_start_s", 8.0),
            Limit("changed_files", 0),
        ],
    )


def _start_and_stop(clone: Path, log: Path, timeout_s: float, *, archive: bool = False) -> float:
    """Return the seconds from `make up` to ready; a first request must be answered.

    With `archive` it runs on until the class archive is there.
    """
    cache = clone.parent / "cache"
    port = base_port()
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("WEIR_", "VIRTUAL_ENV")) and not name.endswith("_API_KEY")
    } | {
        "WEIR_PORT": str(port),
        "WEIR_ADMIN_KEY": KEY,
        "WEIR_TRAINER": "off",
        "WEIR_CACHE": str(cache / "weir"),
        "XDG_CACHE_HOME": str(cache),
    }
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
        deadline = time.monotonic() + ARCHIVE_S
        while archive and not list(cache.rglob("*.aot")) and time.monotonic() < deadline:
            time.sleep(0.5)
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


def _said(log: Path) -> float | None:
    """Return what `weir up` itself says of its start: the environment was there by then."""
    found = re.search(r"ready after +([\d.]+) s", log.read_text("utf-8", "replace"))
    return float(found[1]) if found else None


def _installed_by_hand(clone: Path) -> int:
    """Return how many files of the clone the starts have changed or left unignored."""
    command = ["git", "-C", str(clone), "status", "--porcelain"]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return len(run.stdout.splitlines())


if __name__ == "__main__":
    main("startup", 2, measure)
