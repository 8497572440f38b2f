"""Claim: the unmodified openai and anthropic clients work, with either vendor behind.

The newest clients come from this environment, openai 1.x and 2.x from throw-away environments that
are installed from hash-pinned locks. Each runs whole answers, streams, tool calls (whole and
streamed), errors and the model list, on a model of OpenAI and on one of Anthropic.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.claim import Arguments, Limit, Verdict, main
from bench.stack import Stack

PROBES = Path(__file__).parent / "probes"
MODELS = ("openai/gpt-4.1-nano", "anthropic/claude-haiku-4-5")
CASES = 6
PROBE_S = 180.0


def measure(arguments: Arguments) -> Verdict:
    """Run every client against one Weir."""
    pythons = {
        "openai": (Path(sys.executable), "openai_client.py"),
        "anthropic": (Path(sys.executable), "anthropic_client.py"),
    }
    for major in (1, 2)[: arguments.size]:
        python = install(arguments.out / f"openai-{major}", PROBES / f"openai-{major}.lock")
        pythons[f"openai {major}.x"] = (python, "openai_client.py")
    with Stack(arguments.out, seed=arguments.seed, keep=arguments.keep) as stack:
        results = {
            name: probe(python, script, stack.url, stack.key)
            for name, (python, script) in pythons.items()
        }
        stack.stop()  # in order, so that every outbox is on the log
    (arguments.out / "clients.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    if arguments.sabotage:
        results["openai"]["passed"] -= 1
    failed = {f"{name}: {case}" for name, result in results.items() for case in result["failed"]}
    return Verdict(
        figures={
            "clients": {name: result["version"] for name, result in results.items()},
            "cases": sum(result["passed"] for result in results.values()),
            "failed": len(failed),
            "failures": sorted(failed),
        },
        limits=[Limit("cases", CASES * len(MODELS) * len(pythons), "equal"), Limit("failed", 0)],
    )


def install(folder: Path, lock: Path) -> Path:
    """Make an environment with what a lock holds and nothing else; return its interpreter."""
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "-q", "--python", sys.executable, str(folder)], check=True)
    python = folder / "bin" / "python"
    command = [*uv, "pip", "install", "-q", "--python", str(python), "--require-hashes"]
    subprocess.run([*command, "-r", str(lock)], check=True)
    return python


def probe(python: Path, script: str, url: str, key: str) -> dict[str, Any]:
    """Run one client; return its result. Raises CalledProcessError when it died."""
    run = subprocess.run(
        [str(python), str(PROBES / script), url, key, *MODELS],
        check=True,
        capture_output=True,
        text=True,
        timeout=PROBE_S,
    )
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    main("clients", 2, measure)
