"""What every command under ``bench/`` shares: its arguments, its ledgers, its verdict.

A claim ends in one JSON line {claim, seed, size, figures, limits, pass, machine, date}, which is
also kept as ``result.json`` beside the raw ledgers, and in exit code 0 or 1. `--sabotage` makes
it drop or double one record on purpose; a claim that still passes then is worthless.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Arguments:
    """How a claim was called; `out` exists and is where its raw ledgers go."""

    seed: int
    size: int
    out: Path
    sabotage: bool
    keep: bool = False


@dataclass(frozen=True)
class Limit:
    """A bound on one figure: at most, at least, or exactly `value`."""

    figure: str
    value: float
    kind: str = "max"

    def holds(self, figures: dict[str, Any]) -> bool:
        """Return whether the figure was measured and is within the bound."""
        measured = figures.get(self.figure)
        if measured is None:
            return False
        if self.kind == "max":
            return bool(measured <= self.value)
        return bool(measured >= self.value) if self.kind == "min" else bool(measured == self.value)


@dataclass
class Verdict:
    """Figures against limits. A figure that is missing fails its limit."""

    figures: dict[str, Any] = field(default_factory=dict)
    limits: list[Limit] = field(default_factory=list)

    @property
    def misses(self) -> list[str]:
        """The limits that do not hold, as text."""
        return [
            f"{limit.figure}={self.figures.get(limit.figure)} ({limit.kind} {limit.value})"
            for limit in self.limits
            if not limit.holds(self.figures)
        ]


def parse(claim: str, size: int, argv: list[str] | None = None) -> Arguments:
    """Read the command line of a claim; `size` is its default amount of work."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{claim}")
    parser.add_argument("--seed", type=int, default=1, help="draws everything that is random")
    parser.add_argument("--size", type=int, default=size, help=f"amount of work ({size})")
    parser.add_argument("--out", type=Path, default=None, help="folder for the raw ledgers")
    parser.add_argument("--sabotage", action="store_true", help="spoil one record; must fail")
    parser.add_argument("--keep", action="store_true", help="leave the stack's data folder")
    given = parser.parse_args(argv)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    out = given.out or Path("bench") / "out" / f"{claim}-{given.seed}-{stamp}"
    out.mkdir(parents=True, exist_ok=True)
    return Arguments(given.seed, given.size, out, given.sabotage, given.keep)


def machine() -> str:
    """Return what this ran on, without names or paths."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    python = platform.python_version()
    return f"{platform.machine()}, {cores} cores, {memory_gib:.0f} GiB, Python {python}"


def finish(claim: str, arguments: Arguments, verdict: Verdict) -> int:
    """Keep and print the verdict; return the exit code."""
    result = {
        "claim": claim,
        "seed": arguments.seed,
        "size": arguments.size,
        "figures": verdict.figures,
        "limits": {limit.figure: f"{limit.kind} {limit.value}" for limit in verdict.limits},
        "pass": not verdict.misses,
        "misses": verdict.misses,
        "sabotage": arguments.sabotage,
        "machine": machine(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    line = json.dumps(result)
    (arguments.out / "result.json").write_text(line + "\n", "utf-8")
    print(line, flush=True)
    return 0 if result["pass"] else 1


def main(claim: str, size: int, measure: Callable[[Arguments], Verdict]) -> None:
    """Run a claim from its command line and exit with its verdict."""
    arguments = parse(claim, size)
    sys.exit(finish(claim, arguments, measure(arguments)))
