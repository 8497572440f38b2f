"""Run every claim, or those named, and keep their verdicts: ``python -m bench [--list] [NAME…]``.

Each verdict is kept as ``bench/results/NAME.json``: small, with date and machine; ``docs/evidence.md``
shows them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from bench.evidence import RESULTS, ROOT, update

CLAIMS = (
    "speed",
    "first_token",
    "hold",
    "scale",
    "soak",
    "streams",
    "exactness",
    "projection",
    "visibility",
    "replay",
    "steering",
    "rules",
    "rules_live",
    "steering_seeds",
    "adaptive",
    "split",
    "canaries",
    "detection",
    "conformance",
    "bad_input",
    "fuzz",
    "hostile",
    "startup",
    "faults",
    "fault_table",
    "budget_race",
    "ledger",
    "revocation",
    "alerts",
    "realtime",
    "anomalies",
    "forecasts",
    "retraining",
)
LONGEST_S = 3_600


def claims() -> list[str]:
    """Return the names of the claims that there are."""
    return [name for name in CLAIMS if (Path(__file__).parent / f"{name}.py").exists()]


def run(name: str, seed: int) -> bool:
    """Run one claim in a process of its own; return whether it holds."""
    out = ROOT / "bench" / "out" / f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    command = [sys.executable, "-m", f"bench.{name}", "--seed", str(seed), "--out", str(out)]
    print(f"· {name}", flush=True)
    ended = subprocess.run(command, cwd=ROOT, check=False, timeout=LONGEST_S)
    result = out / "result.json"
    if result.exists():
        RESULTS.mkdir(exist_ok=True)
        verdict = json.loads(result.read_text("utf-8"))
        kept = json.dumps(verdict, indent=1, ensure_ascii=False)
        (RESULTS / f"{name}.json").write_text(kept + "\n", "utf-8")
        update(claims())
    return ended.returncode == 0


def main() -> int:
    """Return 0 when every claim that ran holds."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="claims to run (all)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--list", action="store_true", help="print the claims and stop")
    given = parser.parse_args()
    there = claims()
    if given.list:
        for name in there:
            summary = (import_module(f"bench.{name}").__doc__ or "").strip().splitlines()[0]
            print(f"{name:12} {summary}")
        return 0
    unknown = set(given.names) - set(there)
    if unknown:
        parser.error(f"no such claim: {', '.join(sorted(unknown))}")
    failed = [name for name in given.names or there if not run(name, given.seed)]
    print(f"failed: {', '.join(failed)}" if failed else "every claim holds")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
