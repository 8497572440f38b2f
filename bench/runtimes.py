"""The languages in which the official clients run: what each needs, how it is built and played.

A probe is one readable script in `bench/probes` that reads a plan and prints a JSON row per case. What it
depends on is pinned there (hashes, no addresses) and installed into the user's cache folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.jars import cache_dir

PROBES = Path(__file__).parent / "probes"
BUILD_S = 900.0
PLAY_S = 300.0
TAIL_CHARS = 2_000


@dataclass(frozen=True)
class Probe:
    """One client of one language, ready to run: `command` and the path of a plan."""

    name: str
    client: str
    command: tuple[str, ...]

    def play(self, plan: Path) -> list[dict[str, Any]]:
        """Run it; return its rows, and one more that failed when it died."""
        environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        try:
            run = subprocess.run(
                [*self.command, str(plan)],
                check=False,
                capture_output=True,
                text=True,
                timeout=PLAY_S,
                env=environment,
            )
            out, fault = run.stdout, run.stderr[-TAIL_CHARS:] if run.returncode else None
        except subprocess.TimeoutExpired as late:
            out, fault = (late.stdout or b"").decode(), f"not done after {PLAY_S:.0f} s"
        rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        if fault is not None:
            died = {"client": self.client, "version": "", "case": "*", "target": "*"}
            rows.append({**died, "ok": False, "detail": fault, "seconds": 0.0})
        return [{"probe": self.name, **row} for row in rows]


@dataclass(frozen=True)
class Tool:
    """A program that a language needs, and the oldest version that its clients take."""

    name: str
    ask: str = "--version"
    oldest: tuple[int, ...] = ()

    def lacks(self) -> str | None:
        """Return why it cannot be used here, None when it can."""
        if shutil.which(self.name) is None:
            return f"{self.name} is not on this machine"
        if not self.oldest:
            return None
        said = subprocess.run([self.name, self.ask], check=False, capture_output=True, text=True)
        found = re.search(r"(\d+)(?:\.(\d+))?", said.stdout)
        version = tuple(int(part or 0) for part in found.groups()) if found else ()
        if version >= self.oldest:
            return None
        return f"{self.name} is {'.'.join(map(str, version))}, the clients need {'.'.join(map(str, self.oldest))}"


@dataclass(frozen=True)
class Runtime:
    """A language: the programs that it needs, and how its probes are made ready."""

    name: str
    needs: tuple[Tool, ...]
    make: Callable[[], list[Probe]]


def probes(asked: str = "") -> tuple[list[Probe], dict[str, str]]:
    """Return the probes of this machine, and why the languages that lack are skipped.

    `asked` names some languages, by commas; empty means all. Raises RuntimeError when a language is
    there but its probe cannot be built: nothing may seem to hold because it was not looked at.
    """
    wanted = {name.strip() for name in asked.split(",") if name.strip()}
    there: list[Probe] = []
    skipped: dict[str, str] = {}
    for runtime in RUNTIMES:
        lacking = [reason for tool in runtime.needs if (reason := tool.lacks())]
        if wanted and runtime.name not in wanted:
            skipped[runtime.name] = "not asked for"
        elif lacking:
            skipped[runtime.name] = "; ".join(lacking)
        else:
            there += runtime.make()
    return there, skipped


def python() -> list[Probe]:
    """Return the newest clients, of this environment, and OpenAI's two major versions before."""
    found = [
        Probe(f"python {client}", client, (sys.executable, str(PROBES / f"{client}_client.py")))
        for client in ("openai", "anthropic")
    ]
    for major in (1, 2):
        lock = PROBES / f"openai-{major}.lock"
        folder = built(
            f"openai-{major}", [lock], lambda folder, lock=lock: _environment(folder, lock)
        )
        command = (str(folder / "env" / "bin" / "python"), str(PROBES / "openai_client.py"))
        found.append(Probe(f"python openai {major}.x", "openai", command))
    return found


def _environment(folder: Path, lock: Path) -> None:
    """Make an environment with what a lock holds and nothing else."""
    uv = (sys.executable, "-m", "uv")
    run(folder, *uv, "venv", "-q", "--clear", "--python", sys.executable, "env")
    install = ("pip", "install", "-q", "--python", "env/bin/python", "--require-hashes")
    run(folder, *uv, *install, "-r", str(lock))


def typescript() -> list[Probe]:
    """Return the clients of the npm packages, on Node."""
    folder = built(
        "typescript",
        _files("typescript"),
        lambda folder: run(folder, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"),
    )
    return [
        Probe(f"typescript {client}", client, ("node", str(folder / f"{client}_client.mjs")))
        for client in ("openai", "anthropic")
    ]


def go() -> list[Probe]:
    """Return the Go clients, compiled."""
    folder = built(
        "go", _files("go"), lambda folder: run(folder, "go", "build", "-o", "probe", ".")
    )
    return [
        Probe(f"go {client}", client, (str(folder / "probe"), client))
        for client in ("openai", "anthropic")
    ]


def java() -> list[Probe]:
    """Return the Java clients, compiled, with their dependencies beside them."""
    goals = ("compile", "dependency:copy-dependencies", "-DoutputDirectory=lib")
    folder = built(
        "java", _files("java"), lambda folder: run(folder, "mvn", "-q", "-B", "-C", *goals)
    )
    path = os.pathsep.join((str(folder / "target" / "classes"), str(folder / "lib" / "*")))
    quick = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
    return [
        Probe(
            f"java {client}", client, ("java", *quick, "-cp", path, f"{client.capitalize()}Client")
        )
        for client in ("openai", "anthropic")
    ]


RUNTIMES = (
    Runtime("python", (), python),
    Runtime("typescript", (Tool("node", oldest=(20, 0)), Tool("npm")), typescript),
    Runtime("go", (Tool("go", "version", (1, 26)),), go),
    Runtime("java", (Tool("java"), Tool("javac", oldest=(17, 0)), Tool("mvn")), java),
)


def _files(folder: str) -> list[Path]:
    return sorted(path for path in (PROBES / folder).rglob("*") if path.is_file())


def built(name: str, sources: list[Path], build: Callable[[Path], None]) -> Path:
    """Return the folder of the cache where `build` has been run on these sources, copied there."""
    folder = cache_dir() / "conformance" / name
    stamp = folder / "built"
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    if stamp.exists() and stamp.read_text("utf-8") == digest:
        return folder
    stamp.unlink(missing_ok=True)
    for path in sources:
        below = path.relative_to(PROBES / name) if path.is_relative_to(PROBES / name) else path.name
        copy = folder / below
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    build(folder)
    stamp.write_text(digest, "utf-8")
    return folder


def run(folder: Path, *command: str) -> None:
    """Run one step of a build. Raises RuntimeError with what it said when it fails."""
    step = subprocess.run(
        command, cwd=folder, check=False, capture_output=True, text=True, timeout=BUILD_S
    )
    if step.returncode:
        said = (step.stdout + step.stderr)[-TAIL_CHARS:]
        raise RuntimeError(f"{' '.join(command)} failed in {folder}:\n{said}")
