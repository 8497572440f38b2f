"""`weir optimizer`: what shifts calls by itself, and how it is told to stop."""

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from infra.cli_base import Json, console, installation, running, show_json, show_table

commands = typer.Typer(
    no_args_is_help=True, help="The optimizer: rules, changes, what they brought."
)
_COLOURS = {"on": "green", "propose": "yellow", "off": "dim"}
_Rule = Annotated[str | None, typer.Argument(help="Which one; all of them unless given.")]


@commands.command("status")
def optimizer_status(as_json: Json = False) -> None:
    """Show the rules and the changes in force."""
    page = _page(1000)
    if as_json:
        show_json(page)
        return
    table = Table("rule", "mode", "concerns now", box=None, header_style="dim")
    for rule in page["rules"]:
        colour = _COLOURS[rule["mode"]]
        mode = f"[{colour}]{rule['mode']}[/{colour}]"
        table.add_row(rule["rule"], mode, ", ".join(rule["targets"]) or "nobody")
    show_table(table)
    for one in page["preferences"]:
        console.print(escape(f"{one['target']} is {one['state']} as preferred: {one['reason']}"))


@commands.command("history")
def optimizer_history(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 20,
    as_json: Json = False,
) -> None:
    """Show what was changed and what came of it, the newest first."""
    page = _page(limit)
    if as_json:
        show_json(page)
        return
    if not page["items"]:
        console.print("nothing was changed yet")
        return
    names = ("at", "target", "rule", "state", "keeps", "metric", "before", "after", "why")
    table = Table(*names, box=None, header_style="dim")
    for act in page["items"]:
        table.add_row(
            act["at"][:19],
            act["target"],
            act["rule"],
            act["state"],
            f"{act['keeps']:.0%}",
            act["metric"],
            _figure(act["before"]),
            _figure(act["after"]),
            escape(act["reason"]),
        )
    show_table(table)


@commands.command("enable")
def optimizer_enable(
    rule: _Rule = None,
    propose: Annotated[bool, typer.Option("--propose", help="It tells and does not act.")] = False,
) -> None:
    """Let a rule act, or propose."""
    _act("enable_rule", rule, {"mode": "propose" if propose else "on"})


@commands.command("disable")
def optimizer_disable(rule: _Rule = None) -> None:
    """Turn a rule off; what it changed is undone."""
    _act("disable_rule", rule, {})


@commands.command("run")
def optimizer_run() -> None:
    """Let it look now, not only when its time comes."""
    _post("run_optimization", {})
    console.print("asked")


def _act(action: str, rule: str | None, params: dict[str, Any]) -> None:
    rules = [rule] if rule is not None else [one["rule"] for one in _page(1)["rules"]]
    for name in rules:
        told = _post(action, {"rule": name, **params})
        console.print(f"{name} is {told['result'].get('mode', 'off')}")


def _post(action: str, params: dict[str, Any]) -> Any:
    from infra.operator_client import Operator

    settings = installation()
    running(settings)
    return Operator(settings).post("/api/ai/health", {"action": action, "params": params})


def _page(limit: int) -> Any:
    from infra.operator_client import Operator

    settings = installation()
    running(settings)
    return Operator(settings).get(f"/routing/optimizer?limit={limit}")


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"
