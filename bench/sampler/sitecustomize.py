"""Samples a process by its own CPU time; loaded by the interpreter where BENCH_PROFILE names a folder.

At even steps of CPU time (all threads together) the main thread's stack is counted; at exit the
functions are written with their own and their cumulative share. The product knows nothing of it.
"""

import atexit
import os
import signal
import sys
from collections import Counter
from pathlib import Path

INTERVAL_S = 0.002
DEPTH_MAX = 60


def _watch(folder: Path) -> None:
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()

    def sample(_number: int, frame: object) -> None:
        names, depth = [], 0
        while frame is not None and depth < DEPTH_MAX:
            code = frame.f_code  # type: ignore[attr-defined]
            names.append(f"{code.co_filename.rpartition('site-packages/')[2]}:{code.co_qualname}")
            frame, depth = frame.f_back, depth + 1  # type: ignore[attr-defined]
        if names:
            own[names[0]] += 1
            total.update(set(names))

    def write() -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        samples = sum(own.values())
        lines = [f"{samples} samples", "", "own  cumulative  function"]
        for name, count in own.most_common(60):
            lines.append(f"{count / samples:5.1%} {total[name] / samples:6.1%}  {name}")
        lines += ["", "cumulative  function"]
        lines += [f"{count / samples:6.1%}  {name}" for name, count in total.most_common(100)]
        (folder / f"profile-{os.getpid()}.txt").write_text("\n".join(lines) + "\n", "utf-8")

    signal.signal(signal.SIGPROF, sample)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)
    atexit.register(write)


_folder = os.environ.get("BENCH_PROFILE")
if _folder and any(
    argument.startswith(("gateway-", "bench.streams_worker")) for argument in sys.orig_argv
):
    _watch(Path(_folder))
