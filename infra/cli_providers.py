"""`weir providers`: which vendors take part, and whether they answer."""

import os
import sys
from typing import Annotated
from urllib.parse import quote

import typer
from rich.markup import escape
from rich.table import Table

from infra.cli_base import Json, console, installation, running, show_json, show_table

commands = typer.Typer(help="Providers: the vendors behind the gateway.")


@commands.callback(invoke_without_command=True)
def providers(context: typer.Context, as_json: Json = False) -> None:
    """Show the providers of this installation: what is spoken, where, with which keys."""
    if context.invoked_subcommand is not None:
        return
    from infra.settings import effective_providers

    found = effective_providers(installation(), os.environ)
    if as_json:
        show_json(
            [
                {
                    "provider": one.name,
                    "dialect": one.dialect,
                    "base_url": one.base_url,
                    "keys": list(one.secrets),
                    "models": [model.name for model in one.models],
                    "options": one.table.options,
                    "quirks": one.table.quirks,
                }
                for one in found
            ]
        )
        return
    table = Table("provider", "dialect", "address", "keys", "models", box=None, header_style="dim")
    for one in found:
        keys = ", ".join(one.secrets) or one.table.options.get("auth", "–")
        table.add_row(one.name, one.dialect, one.base_url, keys, str(len(one.models)))
    show_table(table)


@commands.command("list")
def list_providers(as_json: Json = False) -> None:
    """List the providers that are in force, those of applied files included; no keys are shown."""
    from infra.operator_client import Operator

    settings = installation()
    running(settings)
    page = Operator(settings).get("/api/v1/admin/providers?limit=1000")
    if as_json:
        show_json(page)
        return
    table = Table("provider", "dialect", "address", "keys", "takes part", box=None)
    table.header_style = "dim"
    for row in page["items"]:
        keys = ", ".join([*row["key_env"], *row["key_file"]]) or row["options"].get("auth", "–")
        cells = (row["id"], row["dialect"], row["base_url"], keys)
        table.add_row(*cells, "yes" if row["enabled"] else "no")
    show_table(table)


@commands.command("test")
def ask_providers(
    provider: Annotated[str | None, typer.Argument(help="One of them; all without it.")] = None,
    as_json: Json = False,
) -> None:
    """Ask every provider with its key, at no cost; exits with 1 when one does not answer."""
    from infra.operator_client import Operator

    settings = installation()
    running(settings)
    query = f"?provider={quote(provider)}" if provider else ""
    answer = Operator(settings).get(f"/commercial/test{query}")
    if as_json:
        show_json(answer)
    else:
        table = Table("provider", "answers", "ms", "models", "", box=None, header_style="dim")
        for one in answer["results"]:
            mark = "[green]yes[/green]" if one["ok"] else "[red]no[/red]"
            models = "" if one["models"] is None else str(len(one["models"]))
            latency = "" if one["latency_ms"] is None else f"{one['latency_ms']:.0f}"
            table.add_row(one["provider"], mark, latency, models, escape(one["error"] or ""))
        show_table(table)
        for one in answer["results"]:
            if one["action"]:
                console.print(
                    f"[dim]{one['provider']}: {escape(one['action'])}[/dim]", soft_wrap=True
                )
    if not answer["ok"]:
        sys.exit(1)
