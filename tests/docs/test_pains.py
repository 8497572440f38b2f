"""Every complaint of docs/pains.md names tests and claims that there are."""

import re

import pytest

from bench.__main__ import CLAIMS
from tests.docs.pages import ROOT, code, page, rows

PAINS = rows(page("docs/pains.md"))
DEFINED = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
}


def test_no_complaint_is_left_out() -> None:
    assert [int(row[0].partition(".")[0]) for row in PAINS] == list(range(1, 23))


@pytest.mark.parametrize("row", PAINS, ids=lambda row: row[0][:40])
def test_a_complaint_names_tests_that_there_are(row: list[str]) -> None:
    names = code(row[2])
    tests = [name for name in names if name.startswith("test_")]
    assert tests
    assert set(tests) <= DEFINED
    assert set(names) - set(tests) <= set(CLAIMS)
