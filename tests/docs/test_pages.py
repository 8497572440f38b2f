"""Every page: links resolve, commands exist, nothing of a machine is named."""

import re
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from infra.cli import app
from tests.docs.pages import PAGES, ROOT, page

TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in PAGES}
EVERYWHERE = re.compile(r"`([^`\n]+)`|^(?:\.venv/bin/)?((?:weir|make) .*)$", re.MULTILINE)
MACHINE = re.compile(
    r"/(?:home|Users)/\w+/|/root/|\bindex-url\s*=|https?://[^/\s\"']*(?:mirror|proxy|registry)"
)
SECRETS = re.compile(
    r"\bsk-(?:proj-|ant-)?(?=\w*\d)(?=\w*[A-Z])\w{20,}|\bAKIA[0-9A-Z]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY"
)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as the usual renderers make them."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", TEXTS)
def test_links_resolve(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[name]):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), f"{name}: {target}"
        if anchor:
            assert anchor in anchors(file.read_text("utf-8")), f"{name}: {target}"


def commands(word: str) -> set[str]:
    """What the pages call after `weir` or `make`."""
    found = set()
    for text in TEXTS.values():
        for quoted, line in EVERYWHERE.findall(text):
            match = re.match(rf"(?:\.venv/bin/)?{word} ([a-z][\w-]*)", quoted or line)
            if match:
                found.add(match[1])
    return found


def test_every_weir_command_that_is_named_exists() -> None:
    existing = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert commands("weir")
    assert commands("weir") <= existing


def test_every_weir_command_is_told_of() -> None:
    assert set(get_command(app).commands) <= commands("weir")  # type: ignore[attr-defined]


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", page("Makefile"), re.MULTILINE))
    assert commands("make")
    assert commands("make") <= targets


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False, text=True
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def test_nothing_of_a_machine_and_no_secret_is_in_the_repository() -> None:
    files = tracked()
    if not files:
        pytest.skip("not a checkout")
    for path in files:
        if path == Path(__file__) or not path.is_file():
            continue
        text = path.read_text("utf-8", "ignore")
        assert not SECRETS.search(text), path
        assert not MACHINE.search(text), f"{path}: {MACHINE.search(text)}"
