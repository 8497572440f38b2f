"""`weir budget list`: what was spent of which budget."""

from typing import Annotated

import typer
from rich.table import Table

from infra.cli_base import (
    Json,
    budget_commands,
    console,
    installation,
    running,
    show_json,
    show_table,
)

commands = budget_commands
"""With those that write, of `cli_admin`."""
_COLOURS = {"ok": "green", "warning": "yellow", "exceeded": "red"}
_PAGE = 1_000


@budget_commands.command("list")
def budget_list(
    budget_id: Annotated[str | None, typer.Argument(help="One budget, with its owners.")] = None,
    as_json: Json = False,
) -> None:
    """Show budgets: limit, spent, what is left, and what it comes to at this pace.

    They are set by `weir budget set`, `weir apply` or over the administration API.
    """
    from infra.operator_client import Operator

    settings = installation()
    running(settings)
    operator = Operator(settings)
    if budget_id is None:
        found = operator.get(f"/admin/cost/budgets?limit={_PAGE}")
        budgets = found["items"]
    else:
        found = operator.get(f"/admin/cost/budgets/{budget_id}")
        budgets = [found]
    if as_json:
        show_json(found)
        return
    names = ("budget", "owner", "window", "limit $", "spent", "left", "%", "projected", "status")
    table = Table(*names, box=None, header_style="dim")
    for one in budgets:
        owners = one["owners"] if budget_id is not None else one["owners"][:1]
        for owner in owners:
            for window in owner["windows"]:
                colour = _COLOURS[window["status"]]
                table.add_row(
                    one["id"],
                    owner["owner"] or "all",
                    window["period"],
                    window["limit"],
                    window["spent"],
                    window["remaining"],
                    f"{window['percent']:.1f}",
                    window["projected"] or "",
                    f"[{colour}]{window['status']}[/{colour}]",
                )
    if not budgets:
        console.print("there is no budget: nothing limits what is spent")
        return
    show_table(table)
