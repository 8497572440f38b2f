"""`weir alerts`: what is wrong, and that somebody knows."""

from typing import Annotated
from urllib.parse import quote, urlencode

import typer
from rich.table import Table

from infra.cli_base import Json, console, installation, running, show_json, show_table

commands = typer.Typer(no_args_is_help=True, help="Alerts: what is wrong, and who knows.")
_COLOURS = {"info": "blue", "warning": "yellow", "error": "red", "critical": "bold red"}


@commands.command("list")
def alerts_list(
    every: Annotated[bool, typer.Option("--all", help="Those that are over, too.")] = False,
    severity: Annotated[str | None, typer.Option(help="At least so bad.")] = None,
    alert_type: Annotated[str | None, typer.Option("--type", help="Of this type.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 100,
    as_json: Json = False,
) -> None:
    """Show alerts, the newest first."""
    from infra.operator_client import Operator

    settings = installation()
    running(settings)
    wanted = {
        "limit": str(limit),
        "status": None if every else "standing",
        "severity": severity,
        "type": alert_type,
    }
    query = urlencode({name: value for name, value in wanted.items() if value is not None})
    found = Operator(settings).get(f"/admin/alerts?{query}")
    if as_json:
        show_json(found)
        return
    if not found["items"]:
        console.print("nothing is wrong" if not every else "there was no alert")
        return
    table = Table("alert", "severity", "status", "since", "message", box=None, header_style="dim")
    for alert in found["items"]:
        colour = _COLOURS.get(alert["severity"], "red")
        table.add_row(
            alert["id"],
            f"[{colour}]{alert['severity']}[/{colour}]",
            alert["status"],
            (alert["opened_at"] or "")[:19],
            alert["message"],
        )
    show_table(table)


@commands.command("ack")
def alerts_ack(
    alert_id: Annotated[str, typer.Argument(help="Which one.")], as_json: Json = False
) -> None:
    """Say that somebody knows of an alert."""
    _act(alert_id, "acknowledge", as_json)


@commands.command("resolve")
def alerts_resolve(
    alert_id: Annotated[str, typer.Argument(help="Which one.")], as_json: Json = False
) -> None:
    """End an alert by hand; a rule raises it again only after a new crossing."""
    _act(alert_id, "resolve", as_json)


def _act(alert_id: str, act: str, as_json: bool) -> None:
    from infra.operator_client import Operator

    settings = installation()
    running(settings)
    told = Operator(settings).post(f"/admin/alerts/{quote(alert_id)}/{act}", {})
    if as_json:
        show_json(told)
    else:
        console.print(f"{alert_id} is {told['status']}")
