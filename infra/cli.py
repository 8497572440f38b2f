"""The `weir` command."""

import asyncio
import logging
import sys
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from infra.cli_admin import key_commands
from infra.cli_alerts import commands as alert_commands
from infra.cli_base import (
    Json,
    console,
    fail,
    installation,
    running,
    show_json,
    show_table,
)
from infra.cli_budget import commands as budget_commands
from infra.cli_config import app as config_commands
from infra.cli_config import export_commands, import_commands
from infra.cli_data import app as data_commands
from infra.cli_foresight import app as foresight_commands
from infra.cli_optimizer import commands as optimizer_commands
from infra.cli_providers import commands as provider_commands
from infra.cli_route import route_commands
from infra.cli_selftest import app as selftest_commands
from infra.settings import load
from schemas import __version__
from schemas.errors import WeirError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Weir: an LLM gateway whose every request, answer, feedback and cost is an event on Kafka.",
)
app.add_typer(data_commands)
app.add_typer(selftest_commands)
app.add_typer(config_commands)
app.add_typer(foresight_commands)
app.add_typer(key_commands, name="keys")
app.add_typer(budget_commands, name="budget")
app.add_typer(alert_commands, name="alerts")
app.add_typer(route_commands, name="route")
app.add_typer(optimizer_commands, name="optimizer")
app.add_typer(provider_commands, name="providers")
app.add_typer(export_commands, name="export")
app.add_typer(import_commands, name="import")


def main() -> None:
    """Run the command; an error of ours is two lines, what happened and the way out."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # errors are told once, by us
    try:
        app()
    except WeirError as error:
        fail(error)
    except KeyboardInterrupt:
        sys.exit(130)


@app.command()
def up(
    kafka: Annotated[
        str | None, typer.Option(help="HOST:PORT of an existing cluster instead of the embedded.")
    ] = None,
    security_protocol: Annotated[
        str | None, typer.Option(help="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.")
    ] = None,
    sasl_mechanism: Annotated[
        str | None, typer.Option(help="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.")
    ] = None,
    sasl_username: Annotated[str | None, typer.Option(help="The cluster's user.")] = None,
    ca_file: Annotated[str | None, typer.Option(help="PEM file of the cluster's CA.")] = None,
    replication_factor: Annotated[
        int | None, typer.Option(help="For topics that are created; 3 on a cluster of 3.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="The public port (WEIR_PORT, 8080).")] = None,
    home: Annotated[str | None, typer.Option(help="The data folder (WEIR_HOME, .weir).")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Gateway processes (WEIR_WORKERS, 2).")
    ] = None,
) -> None:
    """Start everything and stay in the foreground; Ctrl-C stops in order and loses nothing.

    The password of SASL comes from WEIR_KAFKA__SASL_PASSWORD, never from the command line.
    """
    from infra.screen import TerminalScreen
    from infra.up import Installation

    cluster = _given(
        bootstrap=kafka,
        security_protocol=security_protocol,
        sasl_mechanism=sasl_mechanism,
        sasl_username=sasl_username,
        ca_file=ca_file,
        replication_factor=replication_factor,
    )
    overrides = _given(port=port, home=home, workers=workers)
    if cluster:
        overrides["kafka"] = cluster
    settings = load(**overrides)
    with TerminalScreen(console, settings) as screen:
        asyncio.run(Installation(settings, overrides, screen).run())


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


@app.command()
def status(as_json: Json = False) -> None:
    """Show the parts of the running installation, and what its workers are doing."""
    import msgspec

    from infra.workers import COLUMNS, summary, worker_figures

    settings = installation()
    state = running(settings)
    workers = worker_figures(settings.home)
    if as_json:
        show_json({**msgspec.to_builtins(state), "workers": workers})
        return
    table = Table("part", "status", "pid", "restarts", "detail", box=None, header_style="dim")
    for part in state.parts:
        colour = "green" if part.status == "ready" else "yellow"
        table.add_row(
            part.name,
            f"[{colour}]{part.status}[/{colour}]",
            str(part.pid or ""),
            str(part.restarts),
            part.detail,
        )
    show_table(table)
    if workers:
        figures = Table(*COLUMNS, box=None, header_style="dim")
        for said in workers:
            figures.add_row(*summary(said))
        show_table(figures)
    console.print(f"gateway  {state.public_url}\nkafka    {state.kafka}")
    console.print(f"trainer's environment: {state.trainer_environment}")
    if state.sandbox:
        console.print("[yellow]the sandbox answers, with made-up text[/yellow]")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check this machine and installation; exits with 1 when something must be mended."""
    from infra.doctor import examine

    findings = examine(installation())
    if as_json:
        show_json([finding._asdict() for finding in findings])
    else:
        for finding in findings:
            mark = "[green]ok[/green]  " if finding.ok else "[red]bad[/red] "
            console.print(f"{mark} {finding.subject}: {escape(finding.text)}", soft_wrap=True)
            if not finding.ok:
                console.print(f"     [dim]{escape(finding.action)}[/dim]", soft_wrap=True)
    if not all(finding.ok for finding in findings):
        sys.exit(1)


@app.command()
def version(as_json: Json = False) -> None:
    """Print the version."""
    if as_json:
        show_json({"version": __version__})
    else:
        console.print(__version__)


if __name__ == "__main__":
    main()
