"""`weir route explain` takes what people have in their hands: a name, or a request's id."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from typer.testing import CliRunner

from infra import cli_route, operator_client
from infra.cli import app
from schemas.errors import NotFound
from schemas.identity import uuid7

REQUEST = uuid7()


@pytest.mark.req("RT-16")
@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["auto"], {"model": "auto"}),
        ([REQUEST], {"request_id": REQUEST}),
        (["--request", REQUEST], {"request_id": REQUEST}),
    ],
)
def test_a_requests_id_is_known_by_its_form(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], asked: dict[str, str]
) -> None:
    paths: list[str] = []

    class Operator:
        def __init__(self, settings: Any) -> None:
            del settings

        def get(self, path: str) -> dict[str, Any]:
            paths.append(path)
            return {"decisions": []}

    monkeypatch.setattr(operator_client, "Operator", Operator)
    monkeypatch.setattr(cli_route, "installation", lambda: None)
    monkeypatch.setattr(cli_route, "running", lambda settings: None)
    ended = CliRunner().invoke(app, ["route", "explain", *arguments])
    assert isinstance(ended.exception, NotFound | SystemExit)
    query = {name: value[0] for name, value in parse_qs(urlsplit(paths[0]).query).items()}
    assert asked.items() <= query.items()
