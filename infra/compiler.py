"""Makes the compiled form of the modules that `infra.compiled` names, or says why it cannot.

A folder gets its name only when everything in it has been imported once by a process of its own, so
that no worker meets a half of one. Whoever comes while somebody compiles waits, and finds it done.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from infra import compiled
from infra.parts import ROOT
from schemas.errors import ConfigurationError

KEPT = 5
"""How many compiled forms stay: those of other checkouts, and of running workers, are among them."""
_OUTPUT = "compiled"
_TRIAL_S = 60.0
_WORDS_MAX = 4_000
"""How much of what a compiler said is told."""


class CannotCompile(ConfigurationError):
    """The compiled form cannot be made here. Workers run the source."""

    code = "cannot_compile"
    action = "Workers run the source meanwhile: everything works, a call takes more processor time."


_STRAIGHT_COMPILE = ["-fno-semantic-interposition", "-fno-plt"]
_STRAIGHT_LINK = ["-Wl,-Bsymbolic", "-Wl,-z,now"]
"""Calls within the library and to the interpreter go without a stub in between, and without waiting to
be bound: a twelfth of a call's cache misses less (callgrind's simulation of 64 KiB for code, 48 for data)."""


def build() -> Path:
    """Return the folder of the compiled form, made where it is missing. Raises CannotCompile."""
    folder = compiled.folder_of(compiled.digest())
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder.parent):
            if folder.is_dir() and _trial(folder) is None:
                os.utime(folder)
                return folder
            require_tools()
            _make(folder)
            _tidy(folder.parent)
    except OSError as error:
        raise CannotCompile(f"{folder.parent} cannot be written: {error}") from error
    return folder


@contextlib.contextmanager
def _alone(parent: Path) -> Iterator[None]:
    """Hold the lock of all who compile into this cache, once they are done."""
    with (parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def require_tools() -> None:
    """Raise CannotCompile, saying what to install, unless all that it takes is here."""
    for module in ("mypyc", "setuptools"):
        if importlib.util.find_spec(module) is None:
            raise CannotCompile(
                f"the package {module} is missing",
                action="`make compiled` installs what the lock requirements/dev.lock names.",
            )
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    if shutil.which(compiler) is None:
        raise CannotCompile(
            f"the C compiler {compiler} is missing",
            action="Install one (Debian and Ubuntu: apt-get install gcc; macOS: xcode-select "
            "--install), or name yours: CC=clang make compiled.",
        )
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").is_file():
        raise CannotCompile(
            f"this Python has no C headers in {headers}",
            action="Install them (Debian and Ubuntu: apt-get install python3-dev), or use a Python "
            "that has them.",
        )


def _make(folder: Path) -> None:
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix="."))
    try:
        # Compilers end the process that they run in, and keep what they took.
        _run([sys.executable, "-m", "infra.compiler", "--into", str(work)])
        made = work / _OUTPUT
        _list(made)
        if (said := _trial(made)) is not None:
            raise CannotCompile(f"what was compiled cannot be imported: {said}")
        if compiled.digest() != folder.name:
            raise CannotCompile("a source has changed meanwhile", action="Run it again.")
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        made.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _run(command: list[str]) -> None:
    ended = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if ended.returncode:
        said = ended.stdout.decode("utf-8", "replace").strip()[-_WORDS_MAX:]
        raise CannotCompile(f"the compiler refuses:\n{said}\n")


def _list(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = (f"{path.stat().st_size} {path.relative_to(folder)}\n" for path in files)
    (folder / compiled.LISTING).write_text("".join(lines), "utf-8")


def _trial(folder: Path) -> str | None:
    """Return why a process of its own cannot import what lies in a folder, None where it can."""
    program = f"from infra import compiled as it, compiler; it.use(compiler.Path({str(folder)!r})); it.load()"
    try:
        ended = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            capture_output=True,
            timeout=_TRIAL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it takes longer than {_TRIAL_S:.0f} s"
    if ended.returncode == 0:
        return None
    said = ended.stderr.decode("utf-8", "replace").strip().splitlines()
    return said[-1] if said else f"it ends with code {ended.returncode}"


def _tidy(parent: Path) -> None:
    """Remove all but the newest forms, and what a killed compiler left."""
    folders = [path for path in parent.iterdir() if path.is_dir()]
    folders.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    whole = [path for path in folders if not path.name.startswith(".")]
    for path in {*folders} - {*whole[:KEPT]}:
        shutil.rmtree(path, ignore_errors=True)


def compile_into(work: Path, names: tuple[str, ...] = compiled.MODULES) -> None:
    """Have mypyc and the C compiler make modules of the working directory; they lie in `compiled`.

    Raises SystemExit or setuptools' CompileError after the compiler has said what it refuses.
    """
    from mypyc.build import mypycify
    from setuptools import Distribution

    paths = [f"{name.replace('.', '/')}.py" for name in names]
    extensions = mypycify(
        ["--ignore-missing-imports", f"--cache-dir={work / 'types'}", *paths],
        opt_level="2",
        debug_level="0",
        # One library: its modules call each other directly, which a call feels (105 µs, else 130).
        multi_file=True,
        target_dir=str(work / "c"),
    )
    for extension in extensions if sys.platform == "linux" else ():
        extension.extra_compile_args += _STRAIGHT_COMPILE
        extension.extra_link_args += _STRAIGHT_LINK
    distribution = Distribution({"name": "weir-compiled", "ext_modules": extensions})
    command = distribution.get_command_obj("build_ext")
    command.build_lib, command.build_temp = str(work / _OUTPUT), str(work / "o")
    one_after_another = command.build_extensions

    def on_all_cores() -> None:
        compile_one = command.compiler.compile

        def compile_all(sources: list[str], **options: Any) -> list[str]:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                made = pool.map(lambda source: compile_one([source], **options), sources)
                return [path for paths in made for path in paths]

        command.compiler.compile = compile_all
        one_after_another()

    command.build_extensions = on_all_cores
    distribution.run_command("build_ext")


def main() -> None:
    """Compile what has changed and say where it lies; exit with 1 and the way out where that fails."""
    parser = argparse.ArgumentParser(prog="python -m infra.compiled", description=compiled.__doc__)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    into = parser.parse_args().into
    if into is not None:
        compile_into(into)
        return
    try:
        print(build())
    except CannotCompile as error:
        print(f"error: {error.message}\n{error.advice}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
