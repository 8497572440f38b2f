"""The data plane compiled: `python -m infra.compiled` has mypyc make C of what every call runs through.

The source stays plain Python and is what runs wherever nothing was compiled. What was compiled lies
in the user's cache under the digest of all that it was made from, so a changed line is never served
by an old machine's code: it is interpreted until the command has run again. Workers of the gateway
prefer it at their start (`prefer`), which takes them milliseconds. How it is made: `infra.compiler`;
why, and what compiled modules must not do: docs/adr/0014. Source: mypyc's documentation, "Introduction".
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import sysconfig
from pathlib import Path

from infra.parts import ROOT, cache_dir

MODULES = (
    # schemas
    "schemas.access",
    "schemas.clock",
    "schemas.codec",
    "schemas.encoder",
    "schemas.encoders",
    "schemas.identity",
    "schemas.money",
    "schemas.partition",
    "schemas.prices",
    "schemas.pricing",
    "schemas.routing",
    "schemas.table_view",
    # server and client
    "gateway.alarm",
    "gateway.app",
    "gateway.bounds",
    "gateway.caller",
    "gateway.client",
    "gateway.edge",
    "gateway.exchange",
    "gateway.header_names",
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
    "gateway.choices",
    "gateway.circuits",
    "gateway.content",
    "gateway.escrow",
    "gateway.failover",
    "gateway.filters",
    "gateway.freshness",
    "gateway.guardrails.calls",
    "gateway.guardrails.guard",
    "gateway.health",
    "gateway.idempotency",
    "gateway.lanes",
    "gateway.limits",
    "gateway.plans",
    "gateway.proxy",
    "gateway.routing",
    "gateway.shifts",
    "gateway.state",
    "gateway.utility",
    # dialects
    "gateway.dialects.anthropic_messages",
    "gateway.dialects.base",
    "gateway.dialects.bedrock",
    "gateway.dialects.bedrock_base",
    "gateway.dialects.cohere_base",
    "gateway.dialects.cohere_chat",
    "gateway.dialects.eventstream",
    "gateway.dialects.gemini_base",
    "gateway.dialects.gemini_chat",
    "gateway.dialects.openai_base",
    "gateway.dialects.openai_chat",
    "gateway.dialects.openai_completions",
    "gateway.dialects.openai_responses",
    "gateway.dialects.openai_responses_items",
    "gateway.dialects.openai_responses_stream",
    "gateway.dialects.quirks",
    "gateway.dialects.reading",
    "gateway.dialects.reasoning",
    "gateway.dialects.receipts",
    "gateway.dialects.registry",
    "gateway.dialects.replay",
    "gateway.dialects.sse",
    "gateway.dialects.turns",
    "gateway.keyring",
    # records
    "gateway.ledger",
    "gateway.outbox",
    "gateway.outbox_folder",
    "gateway.relay",
    "gateway.segment",
    "gateway.spare",
)
"""What is compiled: modules that take part in every call. Their classes are no msgspec Structs."""

OFF_VARIABLE = "WEIR_INTERPRETED"
"""Set to anything, workers run the source."""

LISTING = "files"
"""Names each file of a compiled folder after its size in bytes; written when all else is there."""

_TRUSTED = ("gateway", "schemas")
"""Packages whose types the C relies on, listed or not: it has their `Final` values in it, too."""


def prefer() -> bool:
    """Have this process import compiled modules where there are some; return whether there are.

    To be called before anything imports one of them. Raises RuntimeError when that has happened, and
    ImportError where files are not as they were made.
    """
    if os.environ.get(OFF_VARIABLE):
        return False
    folder = folder_of(digest())
    if not folder.is_dir():
        return False
    use(folder)
    return True


def use(folder: Path) -> None:
    """Have this process import the modules in `folder`. Raises as `prefer` does."""
    if str(folder) in sys.path:
        return
    if early := sorted(sys.modules.keys() & set(MODULES)):
        raise RuntimeError(f"imported before their compiled form could be: {', '.join(early)}")
    check(folder)
    for package in {name.rpartition(".")[0] for name in MODULES}:
        importlib.import_module(package).__path__.insert(0, str(folder / package.replace(".", "/")))
    sys.path.insert(0, str(folder))  # the modules' shared part


def load() -> None:
    """Import all of them now, as whoever serves calls does anyway.

    Raises whatever goes wrong: ImportError for what another machine made.
    """
    for name in MODULES:
        file = importlib.import_module(name).__file__
        if file is None or file.endswith(".py"):
            raise ImportError(f"{name} has no compiled form")


def check(folder: Path) -> None:
    """Raise ImportError unless every file has its size: to load one that was cut ends the process."""
    try:
        lines = (folder / LISTING).read_text("utf-8").splitlines()
        for line in lines:
            size, _, name = line.partition(" ")
            if (folder / name).stat().st_size != int(size):
                raise ImportError(f"{folder / name} is damaged")
    except (OSError, ValueError) as error:
        raise ImportError(f"{folder} is not whole: {error}") from error


def folder_of(made_from: str) -> Path:
    """Where the compiled form of these sources lies."""
    return cache_dir() / "compiled" / made_from


def digest() -> str:
    """Return a digest of all that the compiled form depends on.

    That is the sources, what checks their types, the packages as they are locked (mypy among them), the
    interpreter and the C library.
    """
    found = hashlib.sha256()
    suffix, library = sysconfig.get_config_var("EXT_SUFFIX"), os.confstr("CS_GNU_LIBC_VERSION")
    found.update(f"{suffix} {sys.version} {library}".encode())
    _, _, checker = _text(ROOT / "pyproject.toml").partition(b"[tool.mypy]")
    found.update(checker)
    places = [ROOT / "requirements/dev.lock", *ROOT.glob("infra/compile*.py")]
    for package in _TRUSTED:
        places += (ROOT / package).rglob("*.py")
    for path in sorted(places):
        found.update(f"\n{path.relative_to(ROOT)}\n".encode())
        found.update(_text(path))
    return found.hexdigest()[:24]


def _text(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # an installed package has no lock beside it
        return b""


def main() -> None:
    """Compile what has changed, and say where it lies."""
    from infra.compiler import main as compile_all

    compile_all()


if __name__ == "__main__":
    main()
