"""`weir apply`, `rollback`, `export` and `import`: settings as files."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from infra.cli_admin import operator
from infra.cli_base import Json, beware, console, errors, show_json, show_table
from schemas.errors import InvalidRequest

app = typer.Typer()
export_commands = typer.Typer(no_args_is_help=True, help="Take something out of Weir.")
import_commands = typer.Typer(no_args_is_help=True, help="Take another product's settings over.")

_CONFIG = "/api/v1/admin/config"
_SIGNS = {
    "create": "[green]+[/green]",
    "restore": "[yellow]~[/yellow]",
    "change": "[yellow]~[/yellow]",
    "remove": "[red]-[/red]",
    "revoke": "[red]-[/red]",
}
_GONE = frozenset({"remove", "revoke"})

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command()
def apply(
    file: Annotated[Path, typer.Argument(help="TOML or YAML, as docs/configuration.md says.")],
    name: Annotated[
        str | None, typer.Option(help="Whose settings these are; the file's `name` unless given.")
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Bring the installation to what a file says; nothing is restarted.

    A file manages what it names. Applied again, it removes what it no longer names, after showing it.
    """
    from infra.configuration import parse, read_file

    document = parse(read_file(file)).model_dump(mode="json", exclude_unset=True)
    order = {"document": document, "name": name or document.get("name") or file.stem}
    asked = operator()
    shown = asked.post(f"{_CONFIG}/apply", {**order, "dry_run": True})
    if not as_json:
        show_difference(shown)
    _warn(shown)
    if dry_run or not shown["changes"]:
        if as_json:
            show_json(shown)
        return
    _ask(shown, yes=yes)
    done = asked.post(f"{_CONFIG}/apply", order)
    if as_json:
        show_json(done)
        return
    console.print(f"applied {len(done['changes'])} changes as {done['change_set_id']}")
    for key, secret in done["secrets"].items():
        console.print(f"[bold]key {escape(key)}  {secret}[/bold]", soft_wrap=True)
    if done["secrets"]:
        console.print("[yellow]Secrets are shown this once: nobody can read them again.[/yellow]")


@app.command()
def rollback(
    change_set: Annotated[
        str | None, typer.Argument(help="Which one; the last that still stands unless given.")
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the change sets.")] = False,
    dry_run: DryRun = False,
    force: Annotated[
        bool, typer.Option("--force", help="Even where others changed something since.")
    ] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Take an applied file back: everything it changed is again what it was before."""
    asked = operator()
    if listing:
        _list_sets(asked.get(f"{_CONFIG}/change-sets?limit=1000"), as_json=as_json)
        return
    order = {"change_set_id": change_set, "force": force}
    shown = asked.post(f"{_CONFIG}/rollback", {**order, "dry_run": True})
    if not as_json:
        show_difference(shown)
    if dry_run:
        if as_json:
            show_json(shown)
        return
    _ask(shown, yes=yes)
    done = asked.post(f"{_CONFIG}/rollback", order)
    if as_json:
        show_json(done)
    else:
        console.print(f"took {len(done['changes'])} changes back as {done['change_set_id']}")


@export_commands.command("config")
def export_config(
    file: Annotated[Path | None, typer.Argument(help="Where to; the screen unless given.")] = None,
    as_json: Json = False,
) -> None:
    """Write everything that is set as a file for `weir apply` (TOML; YAML by the file's name)."""
    document = lean(operator().get(_CONFIG))
    if as_json:
        show_json(document)
        return
    _write(document, file)


@import_commands.command("litellm")
def import_litellm(
    file: Annotated[Path, typer.Argument(help="The proxy's config.yaml.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path(
        "weir-import.toml"
    ),
    as_json: Json = False,
) -> None:
    """Turn a LiteLLM proxy's configuration into a file for `weir apply`, and say what is left out."""
    from infra.configuration import read_file
    from infra.litellm import take_over

    document, notes = take_over(read_file(file))
    told = lean(document.model_dump(mode="json", exclude_defaults=True))
    if as_json:
        show_json({"document": told, "notes": notes})
        return
    _write(told, out)
    for note in notes:
        errors.print(f"[yellow]not taken over[/yellow] {escape(note)}", soft_wrap=True)
    console.print(f"{out}: read it, then `weir apply {out} --dry-run`")


def show_difference(answer: dict[str, Any]) -> None:
    """Print what changes, one entity a block."""
    for change in answer["changes"]:
        sign = _SIGNS[change["action"]]
        console.print(f"{sign} {change['kind']} {escape(change['id'])}", soft_wrap=True)
        for name, (before, after) in change["fields"].items():
            old = "" if before is None else f"[red]{escape(json.dumps(before))}[/red]"
            new = "" if after is None else f"[green]{escape(json.dumps(after))}[/green]"
            arrow = " → " if old and new else ""
            console.print(f"    {name}: {old}{arrow}{new}", soft_wrap=True)
    if not answer["changes"]:
        console.print("nothing changes")


def lean(value: Any) -> Any:
    """A document without what says nothing."""
    if isinstance(value, dict):
        rest = {name: lean(item) for name, item in value.items() if item is not None}
        return {name: item for name, item in rest.items() if item != {} or name == ""}
    return [lean(item) for item in value] if isinstance(value, list) else value


def _write(document: dict[str, Any], file: Path | None) -> None:
    import tomli_w

    if file is not None and file.suffix in {".yaml", ".yml"}:
        import yaml

        file.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), "utf-8")
    elif file is not None:
        file.write_text(tomli_w.dumps(document), "utf-8")
    else:
        sys.stdout.write(tomli_w.dumps(document))


def _warn(answer: dict[str, Any]) -> None:
    for warning in answer["warnings"]:
        beware(warning)


def _count(gone: list[Any]) -> str:
    return "1 entity" if len(gone) == 1 else f"{len(gone)} entities"


def _ask(answer: dict[str, Any], *, yes: bool) -> None:
    """Have removals confirmed. Raises InvalidRequest where nobody can be asked."""
    gone = [it for it in answer["changes"] if it["action"] in _GONE]
    if yes or not gone:
        return
    if not sys.stdin.isatty():
        raise InvalidRequest(
            f"{_count(gone)} would be removed", action="Look at it, then add --yes."
        )
    typer.confirm(f"{_count(gone)} will be removed. Go on?", abort=True)


def _list_sets(page: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(page)
        return
    table = Table("change set", "name", "when", "changes", "", box=None, header_style="dim")
    for row in page["items"]:
        note = f"takes back {row['reverts']}" if row["reverts"] else ""
        table.add_row(row["id"], row["name"], row["applied_at"], str(len(row["summary"])), note)
    show_table(table)
