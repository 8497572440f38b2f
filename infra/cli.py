"""The `weir` command."""

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from infra.settings import WeirSettings, load
from infra.state import InstallationState, load_state, supervised
from schemas import __version__
from schemas.errors import NotFound, WeirError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Weir: an LLM gateway whose every request, answer, feedback and cost is an event on Kafka.",
)
console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output, one JSON document.")]


def main() -> None:
    """Run the command; an error of ours is two lines, what happened and the way out."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # errors are told once, by us
    try:
        app()
    except WeirError as error:
        fail(error)
    except KeyboardInterrupt:
        sys.exit(130)


def fail(error: WeirError) -> NoReturn:
    """Print an error with its way out and end with code 1."""
    errors.print(f"[red]error[/red] {error.message}", soft_wrap=True)
    for detail in error.details:
        errors.print(f"  {detail}", soft_wrap=True)
    errors.print(f"[dim]{error.advice}[/dim]", soft_wrap=True)
    sys.exit(1)


def show_json(value: Any) -> None:
    """Print one JSON document."""
    import msgspec

    sys.stdout.write(msgspec.json.encode(value, enc_hook=str).decode() + "\n")


def installation() -> WeirSettings:
    """The settings, with the addresses under which the installation of this home really runs."""
    settings = load()
    state = load_state(settings.home)
    if state is None:
        return settings
    kafka = settings.kafka
    if not state.embedded and kafka.bootstrap is None:
        kafka = kafka.model_copy(update={"bootstrap": state.kafka})
    return settings.model_copy(update={"port": state.port, "kafka": kafka})


def running(settings: WeirSettings) -> InstallationState:
    """The state of the running installation. Raises NotFound with the way out."""
    state = load_state(settings.home)
    if state is not None and supervised(settings.home):
        return state
    alive = [part.name for part in state.parts if part.alive()] if state else []
    if alive:
        raise NotFound(
            f"the supervisor of {settings.home} has died; these parts still serve: "
            f"{', '.join(alive)}",
            action="`weir up` takes them over; left alone they end within a minute.",
        )
    raise NotFound(f"Weir does not run on {settings.home}", action="Start it with `weir up`.")


def run_async(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine function to its end."""
    return asyncio.run(work())


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
    """Show the parts of the running installation."""
    import msgspec

    settings = installation()
    state = running(settings)
    if as_json:
        show_json(msgspec.to_builtins(state))
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
    console.print(table)
    console.print(f"gateway  {state.public_url}\nkafka    {state.kafka}")
    console.print(f"trainer's environment: {state.trainer_environment}")
    if state.sandbox:
        console.print("[yellow]no provider key is set: the sandbox answers[/yellow]")


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
            console.print(f"{mark} {finding.subject}: {finding.text}", soft_wrap=True)
            if not finding.ok:
                console.print(f"     [dim]{finding.action}[/dim]", soft_wrap=True)
    if not all(finding.ok for finding in findings):
        sys.exit(1)


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
    table = Table(box=None, header_style="dim")
    for name in ("topic", "partitions", "kept", "records", "events"):
        table.add_column(name, overflow="fold")
    for row in rows:
        records = "missing" if row["records"] is None else str(row["records"])
        table.add_row(
            row["topic"], str(row["partitions"]), row["kept"], records, "\n".join(row["events"])
        )
    console.print(table)


@app.command()
def tail(
    topic: Annotated[str, typer.Argument(help="A topic, or a part of its name: requests.")],
    last: Annotated[int, typer.Option("--last", "-n", help="Begin so many records back.")] = 10,
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
    table = Table(*(str(column["name"]) for column in answer["columns"]), box=None)
    for row in answer["rows"]:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    console.print(table)


@app.command()
def version(as_json: Json = False) -> None:
    """Print the version."""
    if as_json:
        show_json({"version": __version__})
    else:
        console.print(__version__)


if __name__ == "__main__":
    main()
