"""Which tests stand for which requirement: ``python -m tests.requirements [--json]``.

Reads the marks ``@pytest.mark.req("EVT-02", …)`` from the sources, so that nothing has to run, and
fails when a requirement of ``docs/requirements.md`` has no test.
"""

import ast
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent
LISTED = TESTS.parent / "docs" / "requirements.md"


def listed(text: str) -> dict[str, str]:
    """Return the requirements of the table: {number: what it asks}."""
    return dict(re.findall(r"^\| ([A-Z]+-\d+) \| (.+?) \|$", text, re.MULTILINE))


def marks(source: str) -> Iterator[tuple[str, str]]:
    """Yield (number, name of the test or class) for every mark; a module's marks name no test."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for decorator in node.decorator_list:
                yield from ((number, node.name) for number in _numbers(decorator))
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "pytestmark"
            for target in statement.targets
        ):
            yield from ((number, "all") for number in _numbers(statement.value))


def _numbers(expression: ast.expr) -> Iterator[str]:
    for node in ast.walk(expression):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "req"
        ):
            yield from (str(item.value) for item in node.args if isinstance(item, ast.Constant))


def covered() -> dict[str, list[str]]:
    """Return {number: tests that name it}."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        for number, name in marks(path.read_text("utf-8")):
            found[number].append(f"{path.relative_to(TESTS.parent)}::{name}")
    return dict(found)


def main() -> int:
    """Print the table; return 1 when a listed requirement has no test."""
    wanted, found = listed(LISTED.read_text("utf-8")), covered()
    missing = [number for number in wanted if number not in found]
    if "--json" in sys.argv:
        print(json.dumps({"tests": found, "missing": missing}))
        return 1 if missing else 0
    for number, what in wanted.items():
        print(f"{number:8} {len(found.get(number, [])):3} tests  {what}")
        for test in found.get(number, []):
            print(f"{'':14} {test}")
    further = sorted(set(found) - set(wanted))
    print(f"\nfurther requirements with tests: {', '.join(further) or 'none'}")
    print(f"without a test: {', '.join(missing) or 'none'}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
