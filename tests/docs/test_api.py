"""The API page against the code: error codes, paths, headers."""

import re
from collections.abc import Iterator
from pathlib import Path

from projections import analyst
from schemas import errors
from schemas.errors import WeirError
from tests.docs.pages import ROOT, code, page, rows, section

PAGE = page("docs/api.md")
ANSWERED = (errors, analyst)
"""Modules whose errors a client can see."""


def classes(base: type[WeirError] = WeirError) -> Iterator[type[WeirError]]:
    if base.__module__ in {module.__name__ for module in ANSWERED}:
        yield base
    for child in base.__subclasses__():
        yield from classes(child)


def test_every_error_is_documented_as_it_is() -> None:
    table = {
        code(row[0])[0]: (int(row[1]), row[2])
        for row in rows(section(PAGE, "Errors"))
        if len(row) == 4
    }
    assert table == {
        error.code: (error.status, "yes" if error.retryable else "no") for error in classes()
    }


def test_every_documented_header_is_sent_or_read() -> None:
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "gateway").rglob("*.py"))
    for row in rows(section(PAGE, "Headers of a call")):
        for name in code(row[0]):
            assert f'"{name}"' in sources, name


def test_every_route_is_documented_and_every_documented_path_is_served() -> None:
    served = set()
    for file in ("projections/api.py", "trainer/api.py", "infra/system.py", "gateway/app.py"):
        text = Path(ROOT / file).read_text("utf-8")
        prefixes = re.findall(r'prefix="([^"]+)"', text) or [""]
        for path in re.findall(r'@router\.\w+\("([^"]+)"', text):
            known = path if path.startswith(("/api", "/sql")) else prefixes[0] + path
            served.add(re.sub(r"\{\w+\}", "ID", known))
        served |= set(re.findall(r'"(/(?:v1|api)/[\w/-]+)"', text))
    words = re.sub(r"REQUEST_ID|NAME", "ID", PAGE.replace("/users/ana/", "/users/ID/"))
    words = words.replace("/projections/calls/", "/projections/ID/")
    for path in served - {"/v1/models/", "/api/v1/models/"}:
        assert path.rstrip("/") in words, path
