"""What all commands of `weir` share: output, errors, and which installation they talk to."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from infra.settings import WeirSettings, load
from infra.state import InstallationState, load_state, seen_state, supervised
from schemas.errors import NotFound, WeirError

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

_WIDEST = 10_000

route_commands = typer.Typer(no_args_is_help=True, help="Routes: what clients ask for by name.")
budget_commands = typer.Typer(no_args_is_help=True, help="Budgets: limits on what is spent.")
"""Groups to which several files give commands."""

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output, one JSON document.")]


def fail(error: WeirError) -> NoReturn:
    """Print an error with its way out and end with code 1."""
    errors.print(f"[red]error[/red] {escape(error.message)}", soft_wrap=True)
    for detail in error.details:
        errors.print(f"  {detail}", soft_wrap=True, markup=False)
    errors.print(f"[dim]{escape(error.advice)}[/dim]", soft_wrap=True)
    sys.exit(1)


def beware(text: str) -> None:
    """Print a warning about something that was done all the same."""
    errors.print(f"[yellow]beware[/yellow] {escape(text)}", soft_wrap=True)


def show_json(value: Any) -> None:
    """Print one JSON document."""
    import msgspec

    sys.stdout.write(msgspec.json.encode(value, enc_hook=str).decode() + "\n")


def show_table(table: Table) -> None:
    """Print a table as wide as its cells are: a name that wraps cannot be copied."""
    wide = Console(highlight=False, width=_WIDEST)
    width = Measurement.get(wide, wide.options, table).maximum
    Console(highlight=False, width=width, no_color=console.no_color).print(table)


def show_record(record: dict[str, Any]) -> None:
    """Print one row of a table with many columns: a line per column."""
    widest = max(len(name) for name in record)
    for name, value in record.items():
        console.print(f"[dim]{name:>{widest}}[/dim]  ", end="")
        console.print(value, soft_wrap=True, markup=False)
    console.print()


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
    state = seen_state(settings.home)
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
