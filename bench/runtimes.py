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
from functools import partial
from pathlib import Path
from typing import Any

from infra.parts import cache_dir

PROBES = Path(__file__).parent / "probes"
CLIENTS = ("openai", "anthropic")
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
class Language:
    """A language beside Python: the programs that it needs, how its probes are built and run.

    `command` is a function of the folder where they were built and the client.
    """

    name: str
    needs: tuple[Tool, ...]
    build: tuple[str, ...]
    command: Callable[[Path, str], tuple[str, ...]]

    def lacking(self) -> str:
        """Return why it cannot be used here, empty when it can."""
        return "; ".join(reason for tool in self.needs if (reason := tool.lacks()))

    def folder(self) -> Path:
        """Return the folder of the cache where its probes and what they depend on are built."""
        sources = sorted(path for path in (PROBES / self.name).rglob("*") if path.is_file())
        return built(self.name, sources, lambda folder: run(folder, *self.build))

    def probes(self) -> list[Probe]:
        """Return its clients, built."""
        folder = self.folder()
        return [
            Probe(f"{self.name} {client}", client, self.command(folder, client))
            for client in CLIENTS
        ]


def _java(folder: Path, client: str) -> tuple[str, ...]:
    path = os.pathsep.join((str(folder / "target" / "classes"), str(folder / "lib" / "*")))
    quick = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
    return ("java", *quick, "-cp", path, f"{client.capitalize()}Client")


LANGUAGES = (
    Language(
        "typescript",
        (Tool("node", oldest=(20, 0)), Tool("npm")),
        ("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"),
        lambda folder, client: ("node", str(folder / f"{client}_client.mjs")),
    ),
    Language(
        "go",
        (Tool("go", "version", (1, 26)),),
        ("go", "build", "-o", "probe", "."),
        lambda folder, client: (str(folder / "probe"), client),
    ),
    Language(
        "java",
        (Tool("java"), Tool("javac", oldest=(17, 0)), Tool("mvn")),
        (
            "mvn",
            "-q",
            "-B",
            "-C",
            "compile",
            "dependency:copy-dependencies",
            "-DoutputDirectory=lib",
        ),
        _java,
    ),
)


def probes(asked: str = "") -> tuple[list[Probe], dict[str, str]]:
    """Return the probes of this machine, and why the languages that lack are skipped.

    `asked` names some languages, by commas; empty means all. Raises RuntimeError when a language is
    there but its probe cannot be built: nothing may seem to hold because it was not looked at.
    """
    wanted = {name.strip() for name in asked.split(",") if name.strip()}
    there: list[Probe] = python() if not wanted or "python" in wanted else []
    skipped = {} if there else {"python": "not asked for"}
    for language in LANGUAGES:
        if wanted and language.name not in wanted:
            skipped[language.name] = "not asked for"
        elif lacking := language.lacking():
            skipped[language.name] = lacking
        else:
            there += language.probes()
    return there, skipped


def python() -> list[Probe]:
    """Return the newest clients, of this environment, and OpenAI's two major versions before."""
    found = [
        Probe(f"python {client}", client, (sys.executable, str(PROBES / f"{client}_client.py")))
        for client in CLIENTS
    ]
    for major in (1, 2):
        name, lock = f"openai-{major}", PROBES / f"openai-{major}.lock"
        folder = built(name, [lock], partial(_environment, lock))
        command = (str(folder / "env" / "bin" / "python"), str(PROBES / "openai_client.py"))
        found.append(Probe(f"python openai {major}.x", "openai", command))
    return found


def _environment(lock: Path, folder: Path) -> None:
    """Make an environment with what a lock holds and nothing else."""
    uv = (sys.executable, "-m", "uv")
    run(folder, *uv, "venv", "-q", "--clear", "--python", sys.executable, "env")
    install = ("pip", "install", "-q", "--python", "env/bin/python", "--require-hashes")
    run(folder, *uv, *install, "-r", str(lock))


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
