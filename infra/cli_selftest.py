"""`weir selftest`: every subsystem is asked to do its work once."""

import sys
from typing import Annotated

import typer
from rich.markup import escape

from infra.cli_base import Json, console, installation, running, show_json

app = typer.Typer()


@app.command()
def selftest(
    initialize: Annotated[
        bool, typer.Option("--initialize", help="Create topics that are missing, first.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Test every subsystem of the running installation; exits with 1 when one fails."""
    from infra.operator_client import Operator

    settings = installation()
    running(settings)
    report = Operator(settings).post("/admin/selftest", {"initialize": initialize})
    if as_json:
        show_json(report)
    else:
        for check in report["checks"]:
            mark = "[green]ok[/green]  " if check["ok"] else "[red]bad[/red] "
            line = f"{mark} {check['subsystem']}: {escape(check['text'])}"
            console.print(f"{line} [dim]{check['milliseconds']:.0f} ms[/dim]", soft_wrap=True)
            if not check["ok"]:
                console.print(f"     [dim]{escape(check['action'])}[/dim]", soft_wrap=True)
    if not report["ok"]:
        sys.exit(1)
