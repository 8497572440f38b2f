"""The commands that look into the log and what is computed from it."""

import json
import sys
import time
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from infra.cli_base import (
    Json,
    console,
    errors,
    installation,
    run_async,
    running,
    show_json,
    show_record,
    show_table,
)

app = typer.Typer()
_POLL_S = 0.2
_COLUMNS_ABREAST = 12
"""Rows of more columns are shown as records: no screen is wide enough for the whole of `calls`."""


@app.command()
def topics(
    as_json: Json = False,
    create: Annotated[bool, typer.Option("--create", help="Create the missing ones.")] = False,
) -> None:
    """List Weir's topics with their events, and what the cluster has of them."""
    from infra.tail import describe_topics

    rows = run_async(lambda: describe_topics(installation(), create=create))
    if as_json:
        show_json(rows)
        return
    table = Table("topic", "partitions", "kept", "records", "events", box=None, header_style="dim")
    for row in rows:
        records = "missing" if row["records"] is None else str(row["records"])
        table.add_row(
            row["topic"], str(row["partitions"]), row["kept"], records, "\n".join(row["events"])
        )
    show_table(table)


@app.command()
def tail(
    topic: Annotated[str, typer.Argument(help="A topic, or a part of its name: requests.")],
    last: Annotated[
        int, typer.Option("--last", "-n", help="Begin so many records back, in each partition.")
    ] = 10,
    follow: Annotated[bool, typer.Option(help="Wait for further records.")] = True,
    as_json: Json = False,
) -> None:
    """Print a topic's events decoded, the last ones first and then live."""
    from infra.tail import follow_topic

    def show(line: dict[str, Any]) -> None:
        if as_json:
            show_json(line)
            return
        place = f"{line['partition']}@{line['offset']}"
        event = json.dumps(line["event"], default=str, ensure_ascii=False)
        console.print(f"[dim]{line['time']} {place}[/dim] [cyan]{line['type']}[/cyan] ", end="")
        console.print(event, soft_wrap=True, markup=False)

    run_async(lambda: follow_topic(installation(), topic, last, show, follow=follow))


@app.command()
def sql(
    statement: Annotated[str, typer.Argument(help="One SELECT; `-` reads it from standard input.")],
    as_json: Json = False,
    limit: Annotated[int | None, typer.Option(help="Most rows to return.")] = None,
) -> None:
    """Ask SQL over the live projections; nothing that you ask can hurt them."""
    from infra.operator_client import Operator

    text = sys.stdin.read() if statement == "-" else statement
    body = {"sql": text} | ({} if limit is None else {"limit": limit})
    settings = installation()
    running(settings)
    answer = Operator(settings).post("/sql", body)
    if as_json:
        show_json(answer)
        return
    names = [str(column["name"]) for column in answer["columns"]]
    rows = [["" if cell is None else str(cell) for cell in row] for row in answer["rows"]]
    if len(names) > _COLUMNS_ABREAST:
        for row in rows:
            show_record(dict(zip(names, row, strict=True)))
    else:
        table = Table(*names, box=None, header_style="dim")
        for row in rows:
            table.add_row(*map(escape, row))
        show_table(table)
    if answer["truncated"]:
        errors.print(f"[yellow]not all rows:[/yellow] {answer['truncated']}", soft_wrap=True)
    elif not rows:
        errors.print("no rows")


@app.command()
def replay(
    name: Annotated[str, typer.Argument(help="A projection, or `all`.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Only compare digests with the live one.")
    ] = False,
    as_of: Annotated[
        str | None, typer.Option(help="A time (ISO 8601, UTC) or offsets as JSON: the past.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Build a projection anew from the log while queries on the live one go on.

    Without an option the rebuilt database takes the live one's place. Exits with 1 when a digest
    differs or an audit finds a row.
    """
    from infra.operator_client import Operator

    settings = installation()
    running(settings)
    operator = Operator(settings)
    order = {"verify": verify, "as_of": as_of}
    job = operator.post(f"/api/v1/projections/{name}/replay", order)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=errors, transient=True, disable=as_json) as progress:
        task = progress.add_task(f"replaying {name}", total=None)
        while job["status"] == "running":
            time.sleep(_POLL_S)
            job = operator.get(f"/api/v1/replays/{job['id']}")
            progress.update(task, completed=job["records_read"], total=job["records_total"])
    if as_json:
        show_json(job)
    else:
        _show_replay(job)
    if not job["passed"]:
        sys.exit(1)


def _show_replay(job: dict[str, Any]) -> None:
    if job["error"]:
        errors.print(f"[red]failed[/red] {job['error']}", soft_wrap=True)
        return
    report = job["report"]
    rate = report["events_per_second"]
    console.print(
        f"{report['events']} events in {report['seconds']:.1f} s"
        + (f" ({rate} a second)" if rate else "")
    )
    for table, found in report["digests"].items():
        if found["live"] is not None:
            word = "[green]same[/green]" if found["equal"] else "[red]DIFFERENT[/red]"
            digest = found["rebuilt"]
            console.print(
                f"{word} {table}: {digest['rows']} rows, {digest['value']}", soft_wrap=True
            )
    for audit in report["failed_audits"]:
        console.print(f"[red]audit[/red] {audit}")
    if report["swapped"]:
        console.print("the rebuilt database is the live one now")
    elif report["database"]:
        console.print(f"kept as {report['database']}: POST /sql with this moment", soft_wrap=True)


@app.command("base-model")
def base_model(
    name: Annotated[str, typer.Argument(help="The name under which clients call it.")] = "tiny",
    seed: Annotated[int, typer.Option(help="The same seed builds the same model.")] = 0,
) -> None:
    """Build and pretrain a tiny language model, in about a minute: a base for tuning offline."""
    import subprocess

    from infra.trainer_env import trainer_python
    from schemas.errors import ConfigurationError

    settings = installation()
    python, target = trainer_python(), settings.folder("models") / "bases" / name
    if not python.exists():
        raise ConfigurationError(
            "the trainer's environment does not exist yet",
            action="Wait for `weir up` to make it (`weir status`), or run `make trainer-env`.",
        )
    command = [str(python), "-m", "trainer.tiny", str(target), "--seed", str(seed)]
    if code := subprocess.run(command, check=False).returncode:
        sys.exit(code)
    console.print(f"{target} is offered as the model {name!r} within seconds")
