"""The data plane compiled: `python -m infra.compiled` has mypyc make C of what every call runs through.

The source stays plain Python and is what runs wherever nothing was compiled. What was compiled lies
in the user's cache under the digest of all that it was made from, so a changed line is never served
by an old machine's code: it is interpreted until the command has run again. Workers of the gateway
prefer it at their start (`prefer`). Source: mypyc's documentation, "Introduction".
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.metadata
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

from infra.jars import cache_dir
from infra.parts import ROOT

MODULES = (
    # schemas
    "schemas.clock",
    "schemas.encoder",
    "schemas.identity",
    "schemas.money",
    "schemas.prices",
    "schemas.pricing",
    # server and client
    "gateway.alarm",
    "gateway.app",
    "gateway.bounds",
    "gateway.caller",
    "gateway.client",
    "gateway.edge",
    "gateway.exchange",
    "gateway.http1",
    "gateway.inner",
    "gateway.load",
    "gateway.outbound",
    "gateway.pace",
    "gateway.pouring",
    "gateway.server",
    "gateway.streaming",
    "gateway.upstream",
    "gateway.websocket",
    # a call
    "gateway.access",
    "gateway.admission",
    "gateway.asking",
    "gateway.attempts",
    "gateway.budgets",
    "gateway.cache",
    "gateway.call",
    "gateway.canary",
    "gateway.circuits",
    "gateway.content",
    "gateway.failover",
    "gateway.filters",
    "gateway.freshness",
    "gateway.guardrails.calls",
    "gateway.health",
    "gateway.idempotency",
    "gateway.lanes",
    "gateway.limits",
    "gateway.plans",
    "gateway.proxy",
    "gateway.routing",
    "gateway.state",
    # dialects
    # records
    "gateway.ledger",
    "gateway.outbox",
    "gateway.relay",
)
"""What is compiled: modules that take part in every call. Their classes are no msgspec Structs."""

OFF_VARIABLE = "WEIR_INTERPRETED"
"""Set to anything, workers run the source."""


def prefer() -> bool:
    """Have this process import compiled modules where there are some; return whether there are.

    To be called before anything imports one of them. Raises RuntimeError when that has happened.
    """
    folder = folder_of(digest())
    if os.environ.get(OFF_VARIABLE) or not folder.is_dir():
        return False
    if early := sorted(sys.modules.keys() & set(MODULES)):
        raise RuntimeError(f"imported before their compiled form could be: {', '.join(early)}")
    for package in {name.rpartition(".")[0] for name in MODULES}:
        importlib.import_module(package).__path__.insert(0, str(folder / package.replace(".", "/")))
    sys.path.insert(0, str(folder))  # the modules' shared part
    return True


def folder_of(made_from: str) -> Path:
    """Where the compiled form of these sources lies."""
    return cache_dir() / "compiled" / made_from


def digest() -> str:
    """Return a digest of the sources, of the interpreter and of the compiler of Python."""
    found = hashlib.sha256()
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    found.update(f"{suffix} {sys.version} {importlib.metadata.version('mypy')}".encode())
    for path in sources():
        found.update(f"\n{path}\n".encode())
        found.update((ROOT / path).read_bytes())
    return found.hexdigest()[:24]


def sources() -> list[str]:
    """The files of `MODULES`, relative to the checkout."""
    return [f"{name.replace('.', '/')}.py" for name in MODULES]


def build() -> Path:
    """Compile; return the folder. Raises SystemExit with the compiler's words when it cannot."""
    from mypyc.build import mypycify
    from setuptools import Distribution

    folder = folder_of(digest())
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix="."))
    try:
        extensions = mypycify(
            ["--ignore-missing-imports", *sources()],
            opt_level="2",
            debug_level="0",
            separate=True,
            target_dir=str(work / "c"),
        )
        distribution = Distribution({"name": "weir-compiled", "ext_modules": extensions})
        command = distribution.get_command_obj("build_ext")
        command.build_lib, command.build_temp = str(work / "lib"), str(work / "o")
        command.parallel = os.cpu_count()
        distribution.run_command("build_ext")
        (work / "lib").rename(folder)
    finally:
        shutil.rmtree(work)
    return folder


def main() -> None:
    """Compile what has changed, and say where it lies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    print(build())


if __name__ == "__main__":
    main()
