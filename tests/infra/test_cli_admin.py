"""`weir keys`, `budget`, `route`, `apply`, `rollback`, `export`, `import` against a running control."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from typer.testing import CliRunner, Result

from infra import cli_admin, cli_config
from infra.broker import Broker
from infra.cli import app
from infra.operator_client import Operator
from schemas.errors import WeirError
from schemas.events.changes import BudgetChanged, KeyChanged, RouteChanged
from schemas.identity import uuid7
from tests.infra.administered import OPERATOR, Control, control

pytestmark = pytest.mark.asyncio(loop_scope="module")
Weir = Callable[..., Awaitable[Result]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(fresh_broker: Broker) -> AsyncIterator[Control]:
    async with control(fresh_broker.bootstrap) as running:
        yield running


@pytest.fixture
def weir(desk: Control, monkeypatch: pytest.MonkeyPatch) -> Weir:
    """Run a command against the control of this module."""
    operator = Operator.__new__(Operator)
    operator._port, operator._token = urlsplit(desk.url).port or 0, OPERATOR
    monkeypatch.setattr(cli_admin, "operator", lambda: operator)
    monkeypatch.setattr(cli_config, "operator", lambda: operator)

    async def run(*words: str, ok: bool = True) -> Result:
        result = await asyncio.to_thread(CliRunner().invoke, app, list(words))
        assert (result.exit_code == 0) is ok, (words, result.output, result.exception)
        return result

    return run


def told(result: Result) -> Any:
    return json.loads(result.stdout)


@pytest.mark.req("BEY-22", "SEC-03")
async def test_keys(weir: Weir, desk: Control) -> None:
    name = f"app-{uuid7()}"
    words = ["--model", "openai/*", "--team", "search", "--expires-in", "P90D", "--tag", "a=b"]
    made = told(await weir("keys", "create", name, *words, "--json"))
    key_id = made["key"]["id"]
    twin = await weir("keys", "create", name)
    assert "another active key" in twin.stderr
    await weir("keys", "revoke", twin.stdout.split()[1])
    assert (made["key"]["models"], made["key"]["tags"]) == (["openai/*"], {"a": "b"})
    listed = told(await weir("keys", "list", "--team", "search", "--json"))
    assert key_id in {row["id"] for row in listed["items"]}
    assert name in (await weir("keys", "list")).stdout
    assert told(await weir("keys", "show", name, "--json"))["id"] == key_id
    assert "openai/*" in (await weir("keys", "show", key_id)).stdout
    rotated = await weir("keys", "rotate", name, "--overlap", "PT1H")
    assert made["secret"] not in rotated.stdout
    assert "weir-" in rotated.stdout
    stale = await weir("keys", "revoke", name, "--expected-version", "1", ok=False)
    assert isinstance(stale.exception, WeirError)
    await weir("keys", "revoke", name)
    assert desk.administration.commands.view(KeyChanged).entries[key_id].revoked
    assert isinstance((await weir("keys", "show", "nobody", ok=False)).exception, WeirError)


@pytest.mark.req("BEY-22", "COST-03")
async def test_budgets(weir: Weir, desk: Control) -> None:
    name = f"budget-{uuid7()}"
    await weir("budget", "set", name, "--scope", "team", "--scope-id", "s", "--daily", "2.5")
    budget = desk.administration.commands.view(BudgetChanged).entries[name]
    assert (budget.daily_limit_nano_usd, budget.scope_id) == (2_500_000_000, "s")
    await weir("budget", "delete", name)
    assert name not in desk.administration.commands.view(BudgetChanged).entries


@pytest.mark.req("BEY-22")
async def test_routes(weir: Weir, desk: Control) -> None:
    name = f"route-{uuid7()}"
    targets = ["--target", "a/b=3@1", "--target", "c/d:e"]
    done = await weir(
        "route", "set", name, *targets, "--strategy", "weighted", "--set", "attempts=4"
    )
    assert "there is no provider for a/b" in done.stderr
    route = desk.administration.commands.view(RouteChanged).entries[f"route:{name}"]
    assert [(it.target, it.weight, it.priority) for it in route.targets] == [
        ("a/b", 3, 1),
        ("c/d:e", 1, 0),
    ]
    assert (route.attempts, route.strategy) == (4, "weighted")
    assert name in (await weir("route", "list")).stdout
    await weir("route", "delete", name, "--expected-version", "1")
    wrong = await weir("route", "set", name, "--target", "a/b=x", ok=False)
    assert isinstance(wrong.exception, WeirError)


@pytest.mark.req("BEY-17", "BEY-22")
async def test_files(weir: Weir, desk: Control, tmp_path: Path) -> None:
    mark = uuid7()
    file = tmp_path / f"{mark}.toml"
    text = f'[routes.{mark}]\ntargets = [{{ target = "a/b" }}]\n[keys.{mark}]\nteam = "t"\n'
    file.write_text(text, "utf-8")
    dry = await weir("apply", str(file), "--dry-run")
    assert f"+ route {mark}" in dry.stdout
    assert "there is no provider for a/b" in dry.stderr
    view = desk.administration.commands.view(RouteChanged)
    assert f"route:{mark}" not in view.entries
    done = await weir("apply", str(file))
    assert f"key {mark}  weir-" in done.stdout
    assert view.entries[f"route:{mark}"].actor == f"apply:{mark}"
    assert "nothing changes" in (await weir("apply", str(file))).stdout

    exported = tmp_path / "all.yaml"
    await weir("export", "config", str(exported))
    assert told(await weir("apply", str(exported), "--dry-run", "--json"))["changes"] == []
    assert f"[routes.{mark}]" in (await weir("export", "config")).stdout

    file.write_text(text.partition("[keys")[0], "utf-8")
    refused = await weir("apply", str(file), ok=False)
    assert "would be removed" in str(refused.exception)
    await weir("apply", str(file), "--yes")
    assert mark in (await weir("rollback", "--list")).stdout
    await weir("rollback", "--yes")
    assert not any(
        key.revoked
        for key in desk.administration.commands.view(KeyChanged).entries.values()
        if key.name == mark
    )
    await weir("rollback", "--yes")
    assert f"route:{mark}" not in view.entries


@pytest.mark.req("BEY-01", "BEY-22")
async def test_a_litellm_configuration_is_taken_over(weir: Weir, tmp_path: Path) -> None:
    config = Path(__file__).with_name("litellm_config.yaml")
    out = tmp_path / "taken.toml"
    result = await weir("import", "litellm", str(config), "--out", str(out))
    assert "not taken over" in result.stderr
    dry = told(await weir("apply", str(out), "--dry-run", "--json"))
    assert {"gpt-4o", "gpt-4", "claude"} <= {
        it["id"] for it in dry["changes"] if it["kind"] == "route"
    }
