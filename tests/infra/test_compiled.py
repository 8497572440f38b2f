"""The compiled form of the data plane: how it is found, made, refused, and when it is left alone."""

import ast
import importlib
import importlib.util
import inspect
import os
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from infra import compiled, compiler
from infra.parts import ROOT
from schemas.errors import WeirError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, of the processes that it starts too."""
    monkeypatch.setenv("WEIR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(compiled.OFF_VARIABLE, raising=False)
    return tmp_path / "cache"


def form(text: str = "not a library") -> Path:
    """A compiled form of today's sources, whose only file no process can load."""
    folder = compiled.folder_of(compiled.digest())
    name = compiled.MODULES[0].replace(".", "/")
    (folder / name).parent.mkdir(parents=True)
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    (folder / f"{name}{suffix}").write_text(text)
    compiler._list(folder)
    return folder


def ran(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", compiled.MODULES)
def test_a_compiled_module_defines_no_struct(name: str) -> None:
    """mypyc drops the words behind a class's bases: a frozen Struct would be none."""
    module = importlib.import_module(name)
    own = [it for it in vars(module).values() if isinstance(it, type) and it.__module__ == name]
    assert not [it for it in own if issubclass(it, msgspec.Struct)]
    for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text())):
        assert not (isinstance(node, ast.ClassDef) and node.keywords), f"{name}: {node.name}"


def test_who_inherits_from_a_compiled_class_may() -> None:
    """Where a class does not allow it, each instance of an interpreted heir is a TypeError."""
    for path in sorted([*ROOT.glob("gateway/**/*.py"), *ROOT.glob("schemas/**/*.py")]):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if name in compiled.MODULES or path.stem.startswith("__"):
            continue
        for heir in vars(importlib.import_module(name)).values():
            if isinstance(heir, type) and heir.__module__ == name:
                for base in heir.__bases__:
                    if base.__module__ in compiled.MODULES and not issubclass(base, Exception):
                        assert "allow_interpreted_subclasses=True" in decorators(base), heir


def decorators(found: type) -> str:
    (node,) = [
        node
        for node in ast.parse(Path(inspect.getfile(found)).read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == found.__name__
    ]
    return " ".join(map(ast.unparse, node.decorator_list))


def test_modules_are_named_once_and_exist() -> None:
    assert len(set(compiled.MODULES)) == len(compiled.MODULES)
    for name in compiled.MODULES:
        assert (ROOT / f"{name.replace('.', '/')}.py").is_file(), name


def test_a_start_imports_nothing_to_look_for_a_compiled_form() -> None:
    """Each worker pays for it before its first answer."""
    heavy = "asyncio concurrent.futures email importlib.metadata msgspec subprocess tomllib"
    program = f"""
import sys
from infra import compiled
compiled.digest()
print(*set({heavy.split()!r}) & sys.modules.keys())
"""
    assert ran("-c", program).stdout.split() == []


def test_the_digest_tells_of_each_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gateway/a.py", "gateway/b/c.py", "schemas/events/d.py", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    monkeypatch.setattr(compiled, "ROOT", tmp_path)
    seen = {compiled.digest()}
    assert compiled.digest() in seen
    for name in ("gateway/a.py", "gateway/b/c.py", "schemas/events/d.py", "pyproject.toml"):
        (tmp_path / name).write_text("[tool.mypy]\n2")
        assert compiled.digest() not in seen, name
        seen.add(compiled.digest())


def test_nothing_is_preferred_where_nothing_was_compiled_or_it_is_switched_off(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not compiled.prefer()
    form()
    monkeypatch.setenv(compiled.OFF_VARIABLE, "1")
    assert not compiled.prefer()


def test_whoever_prefers_too_late_is_told(cache: Path) -> None:
    form()
    program = f"import {compiled.MODULES[0]}; from infra import compiled; compiled.prefer()"
    assert f"RuntimeError: imported before their compiled form could be: {compiled.MODULES[0]}" in (
        ran("-c", program).stderr
    )


@pytest.mark.parametrize("cut", [False, True])
def test_a_worker_whose_compiled_form_is_damaged_says_so_and_runs_the_source(
    cache: Path, cut: bool
) -> None:
    folder = form()
    if cut:  # to load a library that ends too early would end the process
        next(folder.rglob("*.so")).write_text("")
    # Without a handover a worker ends at once, in words of the source.
    ended = ran("-m", "infra.start", "gateway-0", "-")
    damaged, last = ended.stderr.splitlines()[0], ended.stderr.splitlines()[-1]
    assert '"level":"error"' in damaged
    assert "the compiled modules cannot be used, this worker runs the source" in damaged
    assert "make compiled" in damaged
    assert '"logger":"infra.part"' in last
    assert len(ended.stderr.splitlines()) == 2


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"CC": "no-such-compiler"}, "the C compiler no-such-compiler is missing"),
        ({"PATH": "/nowhere", "CC": "cc"}, "the C compiler cc is missing"),
    ],
)
def test_without_a_c_compiler_it_says_what_to_install(
    cache: Path, broken: dict[str, str], said: str
) -> None:
    ended = ran("-m", "infra.compiled", **broken)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: {said}")
    assert "Install one" in ended.stderr
    assert [path.name for path in (cache / "compiled").iterdir()] == ["lock"]


@pytest.mark.parametrize("module", ["mypyc", "setuptools"])
def test_without_the_packages_it_says_where_they_come_from(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == module else find(name)
    )
    with pytest.raises(WeirError, match=f"the package {module} is missing"):
        compiler.require_tools()


def test_what_a_compiler_refuses_is_told_and_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(compiler.CannotCompile, match="the compiler refuses:\nthat is no C"):
        compiler._run(["sh", "-c", "echo that is no C; exit 3"])
    monkeypatch.setattr(compiler, "require_tools", lambda: None)
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(compiler.CannotCompile):
        compiler.build()
    assert [path.name for path in (cache / "compiled").iterdir()] == ["lock"]


def test_a_form_that_cannot_be_imported_gets_no_name(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(command: list[str]) -> None:
        made = form()
        made.rename(Path(command[-1]) / "compiled")

    monkeypatch.setattr(compiler, "require_tools", lambda: None)
    monkeypatch.setattr(compiler, "_run", make)
    with pytest.raises(compiler.CannotCompile, match="cannot be imported: ImportError"):
        compiler.build()
    assert [path.name for path in (cache / "compiled").iterdir()] == ["lock"]


def test_who_comes_while_somebody_compiles_waits_and_finds_it_done(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def make(folder: Path) -> None:
        begun.append(folder)
        time.sleep(0.2)
        folder.mkdir()

    monkeypatch.setattr(compiler, "require_tools", lambda: None)
    monkeypatch.setattr(compiler, "_make", make)
    monkeypatch.setattr(compiler, "_trial", lambda folder: None)
    with ThreadPoolExecutor() as pool:
        found = set(pool.map(lambda _: compiler.build(), range(3)))
    assert len(begun) == 1
    assert found == set(begun)


def test_only_the_newest_forms_stay(tmp_path: Path) -> None:
    for number in range(compiler.KEPT + 2):
        (tmp_path / f"{number}").mkdir()
        os.utime(tmp_path / f"{number}", (number, number))
    (tmp_path / ".left-by-a-killed-one").mkdir()
    (tmp_path / "lock").touch()
    compiler._tidy(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"lock", *(str(number + 2) for number in range(compiler.KEPT))}


def test_a_module_is_compiled_and_imported(tmp_path: Path) -> None:
    try:
        compiler.require_tools()
    except compiler.CannotCompile as error:
        pytest.skip(error.message)
    (tmp_path / "tiny.py").write_text("def double(number: int) -> int:\n    return number * 2\n")
    program = """
import os, sys
from pathlib import Path
from infra import compiler
os.chdir(sys.argv[1])
compiler.compile_into(Path(sys.argv[1]), ("tiny",))
sys.path[0] = "compiled"
import tiny
print(tiny.double(21), Path(tiny.__file__).suffix)
"""
    assert ran("-c", program, str(tmp_path)).stdout.splitlines()[-1] == "42 .so"
