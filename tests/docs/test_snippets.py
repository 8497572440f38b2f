"""Every snippet of the README and the API page, run against a whole installation."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.runtimes import LANGUAGES
from tests.docs.pages import blocks, page
from tests.infra.test_up import Weir

ADDRESS = "http://127.0.0.1:8080"
PAGES = ("README.md", "docs/api.md", "docs/alerts.md", "docs/clients.md")
PYTHON = [(name, text) for name in PAGES for text in blocks(page(name), "python")]
SHELL = [
    (name, command)
    for name in PAGES
    for text in blocks(page(name), "sh")
    for command in re.sub(r"\\\n\s*", "", text).split("\ncurl ")
    for command in [command if command.startswith("curl ") else f"curl {command}"]
    if "-s" in command and ADDRESS in command
]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def weir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weir]:
    running = Weir(tmp_path_factory.mktemp("weir"))
    try:
        running.up()
        yield running
    finally:
        running.stop()


def environment(weir: Weir) -> dict[str, str]:
    return {**os.environ, "WEIR_KEY": "weir-test"}


def adapted(text: str, weir: Weir) -> str:
    return text.replace("//127.0.0.1:8080", f"//127.0.0.1:{weir.port}").replace(
        '"THE KEY THAT make up PRINTED"', '"weir-test"'
    )


@pytest.mark.parametrize(("name", "text"), PYTHON)
def test_a_python_snippet_runs(name: str, text: str, weir: Weir, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", adapted(text, weir)],
        env=environment(weir),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(("name", "text"), SHELL)
def test_a_curl_snippet_succeeds(name: str, text: str, weir: Weir) -> None:
    ended = subprocess.run(
        ["sh", "-c", f"{adapted(text, weir).strip()} --fail-with-body"],
        env=environment(weir),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.strip()


# Language of the block, its name, where the snippet lies beside that language's clients, what runs it.
COMPILED = {
    "js": ("typescript", "snippet.mjs", ("node", "snippet.mjs")),
    "go": ("go", "snippet/main.go", ("go", "run", "./snippet")),
    "java": ("java", "Ask.java", ("java", "-cp", "lib/*", "Ask.java")),
}


@pytest.mark.req("BEY-01", "OPS-06")
@pytest.mark.parametrize(
    ("language", "text"),
    [(name, text) for name in COMPILED for text in blocks(page("docs/clients.md"), name)],
)
def test_a_snippet_of_another_language_runs(language: str, text: str, weir: Weir) -> None:
    name, file, command = COMPILED[language]
    known = next(known for known in LANGUAGES if known.name == name)
    if lacking := known.lacking():
        pytest.skip(lacking)
    folder = known.folder()
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(adapted(text, weir), "utf-8")
    ended = subprocess.run(
        command,
        env=environment(weir),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip()
