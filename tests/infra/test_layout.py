"""The structure of the code base, held by tests: imports, names, sizes."""

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "gateway", "streams", "projections", "trainer", "infra")
INDEPENDENT = ("gateway", "streams", "projections", "trainer")
LINES_MAX = 500
FUNCTION_LINES_MAX = 70

# Heavy libraries and the only places that may import them.
CONFINED = {
    "torch": ("trainer",),
    "duckdb": ("projections",),
    "faust": ("streams",),
}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The top-level names that a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("package", INDEPENDENT)
def test_a_package_imports_schemas_and_no_other(package: str) -> None:
    others = {*PACKAGES, "bench", "tests"} - {package, "schemas"}
    for path in modules(package):
        assert not imported(path) & others, path


def test_schemas_imports_no_package_of_ours() -> None:
    for path in modules("schemas"):
        assert not imported(path) & ({*PACKAGES, "bench", "tests"} - {"schemas"}), path


def test_nobody_imports_infra_but_infra() -> None:
    for package in PACKAGES:
        for path in modules(package):
            assert package == "infra" or "infra" not in imported(path), path


@pytest.mark.req("GW-13")
@pytest.mark.parametrize(("library", "places"), CONFINED.items())
def test_a_heavy_library_stays_in_its_place(library: str, places: tuple[str, ...]) -> None:
    for package in PACKAGES:
        if package not in places:
            for path in modules(package):
                assert library not in imported(path), path


def test_a_worker_imports_nothing_heavy() -> None:
    """What a worker imports is time before its first answer, and memory of every one of them."""
    heavy = "duckdb faiss faust fastapi numpy openai anthropic pandas scipy statsmodels torch transformers"
    program = f"import sys, gateway.app; print(*set({heavy.split()!r}) & sys.modules.keys())"
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == []


def test_the_sandbox_shares_no_code_with_the_gateway() -> None:
    """An encoder and its oracle must not share bugs."""
    for path in (ROOT / "infra" / "sandbox").rglob("*.py"):
        assert not imported(path) & {"gateway", "schemas"}, path


def test_every_package_is_ours_alone() -> None:
    """No installed distribution may provide one of our import names."""
    owners = importlib.metadata.packages_distributions()
    for package in PACKAGES:
        assert set(owners.get(package, [])) <= {"weir"}, package


def test_files_stay_small() -> None:
    for package in (*PACKAGES, "bench", "tests"):
        for path in modules(package):
            lines = path.read_text().count("\n")
            assert lines < LINES_MAX, f"{path}: {lines} lines"


def test_functions_stay_small() -> None:
    for package in PACKAGES:
        for path in modules(package):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    lines = (node.end_lineno or node.lineno) - node.lineno + 1
                    assert lines <= FUNCTION_LINES_MAX, f"{path}: {node.name} has {lines} lines"


@pytest.mark.parametrize("name", ["core", "dev", "trainer", "bootstrap"])
def test_a_lock_holds_hashes_and_no_address(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    assert "--hash=sha256:" in text
    assert "://" not in text
    assert "index-url" not in text
