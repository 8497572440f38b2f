"""`weir selftest`: every subsystem is asked to do its work once."""

import sys
from typing import Annotated, Any

import typer
from rich.markup import escape

from infra.cli_base import Json, console, installation, running, show_json

app = typer.Typer()


@app.command()
def selftest(
    initialize: Annotated[
        bool,
        typer.Option(
            "--initialize",
            help="First create what is missing, and put right the settings of topics.",
        ),
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
        _show(report["initialized"] or {})
        for check in report["checks"]:
            mark = "[green]ok[/green]  " if check["ok"] else "[red]bad[/red] "
            line = f"{mark} {check['subsystem']}: {escape(check['text'])}"
            console.print(f"{line} [dim]{check['milliseconds']:.0f} ms[/dim]", soft_wrap=True)
            if not check["ok"]:
                console.print(f"     [dim]{escape(check['action'])}[/dim]", soft_wrap=True)
    if not report["ok"]:
        sys.exit(1)


def _show(initialized: dict[str, Any]) -> None:
    """Say what was changed."""
    for topic in initialized.get("topics", []):
        console.print(f"created the topic {topic}")
    for line in initialized.get("topic_settings", []):
        console.print(f"set {escape(line)}", soft_wrap=True)
    if count := initialized.get("entities"):
        console.print(f"published {count} entities that the settings name")
    if key := initialized.get("admin_key"):
        console.print(f"the first admin key: {key}", soft_wrap=True)
    if initialized and not any(initialized.values()):
        console.print("nothing was missing")
