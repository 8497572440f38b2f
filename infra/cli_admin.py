"""`weir keys`, and what writes budgets and routes."""

from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer
from rich.table import Table

from infra.cli_base import (
    Json,
    beware,
    budget_commands,
    console,
    installation,
    route_commands,
    running,
    show_json,
    show_record,
    show_table,
)
from infra.operator_client import Operator
from schemas.errors import InvalidRequest, NotFound

key_commands = typer.Typer(no_args_is_help=True, help="API keys of those who call.")
_ADMIN = "/api/v1/admin"

KeyName = Annotated[str, typer.Argument(help="A key's id, or its name.")]
Version = Annotated[
    int | None, typer.Option("--expected-version", help="Refuse unless this is the current one.")
]
Pairs = Annotated[list[str] | None, typer.Option(help="NAME=VALUE, as often as needed.")]


def operator() -> Operator:
    """The way to the running control. Raises NotFound when nothing runs."""
    settings = installation()
    running(settings)
    return Operator(settings)


# --- keys ----------------------------------------------------------------------------------------


@key_commands.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(help="For people.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="inference (unless given), passthrough, sql, metrics or admin."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Pattern of the models and routes that it may ask for; all unless given."
        ),
    ] = None,
    organization: Annotated[str | None, typer.Option(help="On whose behalf it calls.")] = None,
    team: Annotated[str | None, typer.Option(help="On whose behalf it calls.")] = None,
    project: Annotated[str | None, typer.Option(help="On whose behalf it calls.")] = None,
    user: Annotated[str | None, typer.Option(help="Whose calls they are.")] = None,
    cost_center: Annotated[str | None, typer.Option(help="Who pays.")] = None,
    content_mode: Annotated[str | None, typer.Option(help="full, masked or none.")] = None,
    expires_in: Annotated[
        str | None, typer.Option(help="Seconds, ISO 8601 (P90D) or hh:mm:ss.")
    ] = None,
    tag: Pairs = None,
    as_json: Json = False,
) -> None:
    """Make a key and show its secret, this once."""
    body = {
        "name": name,
        "scopes": scope,
        "models": model,
        "organization": organization,
        "team": team,
        "project": project,
        "user_id": user,
        "cost_center": cost_center,
        "content_mode": content_mode,
        "expires_in": expires_in,
        "tags": _pairs(tag),
    }
    asked = operator()
    query = urlencode({"name": name, "status": "active", "limit": 1})
    if asked.get(f"{_ADMIN}/keys?{query}")["items"]:
        beware(f"another active key is called {name!r}: rotate and revoke them by id")
    _show_secret(asked.post(f"{_ADMIN}/keys", _given(body)), as_json=as_json)


@key_commands.command("list")
def keys_list(
    status: Annotated[str | None, typer.Option(help="active, expired or revoked.")] = None,
    team: Annotated[str | None, typer.Option(help="Of this team.")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.")] = 100,
    offset: Annotated[int, typer.Option(help="How many to skip.")] = 0,
    as_json: Json = False,
) -> None:
    """List the keys, without their secrets, which nobody knows."""
    query = urlencode(_given({"status": status, "team": team, "limit": limit, "offset": offset}))
    page = operator().get(f"{_ADMIN}/keys?{query}")
    if as_json:
        show_json(page)
        return
    table = Table("id", "name", "status", "scopes", "models", "team", box=None, header_style="dim")
    for row in page["items"]:
        names = (", ".join(row[column]) for column in ("scopes", "models"))
        table.add_row(row["id"], row["name"], row["status"], *names, row["team"] or "")
    show_table(table)


@key_commands.command("show")
def keys_show(key: KeyName, as_json: Json = False) -> None:
    """Show one key."""
    row = _find(operator(), key)
    if as_json:
        show_json(row)
    else:
        show_record({name: _text(value) for name, value in row.items()})


@key_commands.command("rotate")
def keys_rotate(
    key: KeyName,
    overlap: Annotated[
        str, typer.Option(help="How long the old secret works: seconds, ISO 8601 or hh:mm:ss.")
    ] = "P1D",
    expected_version: Version = None,
    as_json: Json = False,
) -> None:
    """Give a key a new secret and show it, this once."""
    asked = operator()
    place = f"{_ADMIN}/keys/{_find(asked, key)['id']}/rotate{_expected(expected_version)}"
    _show_secret(asked.post(place, {"overlap": overlap}), as_json=as_json)


@key_commands.command("revoke")
def keys_revoke(key: KeyName, expected_version: Version = None, as_json: Json = False) -> None:
    """End a key for good, everywhere within a second."""
    asked = operator()
    place = f"{_ADMIN}/keys/{_find(asked, key)['id']}/revoke{_expected(expected_version)}"
    _done(asked.post(place, {}), f"revoked {key}", as_json=as_json)


def _find(asked: Operator, key: str) -> Any:
    """A key by id or name. Raises NotFound, InvalidRequest when the name is not one key's."""
    page = asked.get(f"{_ADMIN}/keys?{urlencode({'name': key, 'limit': 1000})}")
    rows = [row for row in page["items"] if row["status"] != "revoked"] or page["items"]
    if len(rows) == 1:
        return rows[0]
    if rows:
        raise InvalidRequest(
            f"{len(rows)} keys are called {key!r}",
            action=f"Name one by its id: {', '.join(row['id'] for row in rows)}.",
        )
    return asked.get(f"{_ADMIN}/keys/{quote(key, safe='')}")


def _show_secret(answer: Any, *, as_json: bool) -> None:
    if as_json:
        show_json(answer)
        return
    key_id = answer["key"]["id"] if "key" in answer else answer["entity"]
    console.print(f"[dim]id[/dim]   {key_id}")
    if until := answer.get("key", {}).get("previous_expires_at"):
        console.print(f"[dim]the secret before works until {until}[/dim]")
    console.print(f"[bold]key  {answer['secret']}[/bold]", soft_wrap=True)
    console.print("[yellow]It is shown this once: nobody can read it again.[/yellow]")


# --- budgets -------------------------------------------------------------------------------------


@budget_commands.command("set")
def budget_set(
    budget_id: Annotated[str, typer.Argument(help="Names it; made or replaced.")],
    scope: Annotated[str, typer.Option(help="global, provider, user, team, project, …")] = "global",
    scope_id: Annotated[str | None, typer.Option(help="Which one; each unless given.")] = None,
    daily: Annotated[str | None, typer.Option(help="US dollars per UTC day.")] = None,
    monthly: Annotated[str | None, typer.Option(help="US dollars per UTC month.")] = None,
    total: Annotated[str | None, typer.Option(help="US dollars for ever.")] = None,
    on_exceeded: Annotated[str, typer.Option(help="reroute, block or alert_only.")] = "reroute",
    warning_threshold: Annotated[float, typer.Option(help="Share at which it warns.")] = 0.8,
    expected_version: Version = None,
    as_json: Json = False,
) -> None:
    """Make a budget, or replace one."""
    body = {
        "scope": scope,
        "scope_id": scope_id,
        "daily_limit_usd": daily,
        "monthly_limit_usd": monthly,
        "total_limit_usd": total,
        "on_exceeded": on_exceeded,
        "warning_threshold": warning_threshold,
    }
    place = f"{_ADMIN}/cost/budgets/{quote(budget_id, safe='')}{_expected(expected_version)}"
    _done(operator().put(place, _given(body)), f"budget {budget_id} is set", as_json=as_json)


@budget_commands.command("delete")
def budget_delete(
    budget_id: Annotated[str, typer.Argument(help="Which one.")],
    expected_version: Version = None,
    as_json: Json = False,
) -> None:
    """Remove a budget."""
    place = f"{_ADMIN}/cost/budgets/{quote(budget_id, safe='')}{_expected(expected_version)}"
    _done(operator().delete(place), f"budget {budget_id} is gone", as_json=as_json)


# --- routes --------------------------------------------------------------------------------------


@route_commands.command("list")
def route_list(as_json: Json = False) -> None:
    """List the routes with their targets."""
    page = operator().get(f"{_ADMIN}/routes?limit=1000")
    if as_json:
        show_json(page)
        return
    if not page["items"]:
        console.print("there is no route of your own; `auto`, PROVIDER/MODEL and MODEL always work")
        return
    table = Table("route", "strategy", "targets", "durability", box=None, header_style="dim")
    for row in page["items"]:
        entries = (f"{it['target']} ×{it['weight']} @{it['priority']}" for it in row["targets"])
        table.add_row(row["id"], row["strategy"], "\n".join(entries), row["durability"])
    show_table(table)


@route_commands.command("set")
def route_set(
    name: Annotated[str, typer.Argument(help="What clients ask for as model.")],
    target: Annotated[
        list[str], typer.Option(help="PROVIDER/MODEL, with =WEIGHT and @PRIORITY where wanted.")
    ],
    strategy: Annotated[str, typer.Option(help="How one of them is chosen.")] = "balanced",
    field: Annotated[
        list[str] | None,
        typer.Option("--set", help="FIELD=VALUE of docs/configuration.md, e.g. attempts=3."),
    ] = None,
    expected_version: Version = None,
    as_json: Json = False,
) -> None:
    """Make a route, or replace one."""
    body = {"targets": [_target(it) for it in target], "strategy": strategy, **_pairs(field)}
    place = f"{_ADMIN}/routes/{quote(name, safe='')}{_expected(expected_version)}"
    answer = operator().put(place, body)
    _done(answer, f"route {name} is set", as_json=as_json)
    for warning in answer.get("warnings", []):
        beware(warning)


@route_commands.command("delete")
def route_delete(
    name: Annotated[str, typer.Argument(help="Which one.")],
    expected_version: Version = None,
    as_json: Json = False,
) -> None:
    """Remove a route."""
    place = f"{_ADMIN}/routes/{quote(name, safe='')}{_expected(expected_version)}"
    _done(operator().delete(place), f"route {name} is gone", as_json=as_json)


def _target(text: str) -> dict[str, Any]:
    """``provider/model=3@1``: three shares, priority 1. Raises InvalidRequest."""
    rest, _, priority = text.rpartition("@") if "@" in text else (text, "", "0")
    target, _, weight = rest.partition("=")
    try:
        return {"target": target, "weight": int(weight or 1), "priority": int(priority)}
    except ValueError as error:
        raise InvalidRequest(
            f"{text!r} is no target", action="Write PROVIDER/MODEL, =WEIGHT, @PRIORITY."
        ) from error


# --- shared --------------------------------------------------------------------------------------


def _done(answer: Any, text: str, *, as_json: bool) -> None:
    if as_json:
        show_json(answer)
    elif answer.get("status") == "accepted":
        console.print(f"{text}: the log has it at {answer['position']}, not in force here yet")
    else:
        console.print(f"{text} (version {answer['version']})")


def _pairs(texts: list[str] | None) -> dict[str, str]:
    """NAME=VALUE as an object. Raises NotFound for one without a sign of equality."""
    for text in texts or []:
        if "=" not in text:
            raise NotFound(f"{text!r} has no value", action="Write NAME=VALUE.")
    return dict(text.split("=", 1) for text in texts or [])


def _given(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value not in (None, {}, [])}


def _expected(version: int | None) -> str:
    return "" if version is None else f"?expected_version={version}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}={item}" for name, item in value.items())
    return "" if value is None else str(value)
