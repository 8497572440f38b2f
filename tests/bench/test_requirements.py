"""The list of requirements reads marks wherever they stand."""

from tests.requirements import LISTED, listed, marks

SOURCE = """
import pytest
pytestmark = [pytest.mark.slow, pytest.mark.req("BEY-03")]

@pytest.mark.req("EVT-02", "EVT-05")
async def test_it(): ...

@pytest.mark.req("GW-16")
class TestErrors: ...
"""


def test_marks_of_functions_classes_and_modules() -> None:
    assert set(marks(SOURCE)) == {
        ("EVT-02", "test_it"),
        ("EVT-05", "test_it"),
        ("GW-16", "TestErrors"),
        ("BEY-03", "all"),
    }


def test_the_table_is_read() -> None:
    assert listed("| Number | What |\n|---|---|\n| GW-01 | a thing |\n") == {"GW-01": "a thing"}
    assert len(listed(LISTED.read_text("utf-8"))) >= 24
