"""`weir forecast` and `weir anomalies`: what is to come, and what was not to be expected."""

from typing import Annotated, Any
from urllib.parse import urlencode

import typer
from rich.markup import escape
from rich.table import Table

from infra.cli_base import Json, console, installation, running, show_json, show_table

app = typer.Typer()
_COLOURS = {"info": "blue", "warning": "yellow", "error": "red", "critical": "bold red"}
_BAR = 24
"""Characters of the longest bar."""


@app.command("forecast")
def forecast(
    scope: Annotated[
        str, typer.Argument(help="total:, team:NAME, project:NAME, provider:NAME, budget:ID, …")
    ] = "total:",
    metric: Annotated[str, typer.Option(help="cost, usage, tokens or capacity.")] = "cost",
    days: Annotated[int, typer.Option(min=1, max=90, help="How far ahead.")] = 14,
    granularity: Annotated[str, typer.Option(help="hour, day, week or month.")] = "day",
    confidence: Annotated[
        float, typer.Option(help="How often the band holds: 0.5, 0.8, 0.9, 0.95 or 0.99.")
    ] = 0.95,
    as_json: Json = False,
) -> None:
    """Show what is to come, and the budgets that it exhausts."""
    query = {
        "metric": metric,
        "scope": scope,
        "horizon_days": days,
        "granularity": granularity,
        "confidence": confidence,
    }
    found = _get("/admin/analytics/forecast", query)
    if as_json:
        show_json(found)
        return
    unit = " $" if metric == "cost" else ""
    table = Table("from", f"predicted{unit}", "at least", "at most", "", box=None)
    table.header_style = "dim"
    most = max((point["predicted"] for point in found["points"]), default=0.0) or 1.0
    for point in found["points"]:
        moment = point["timestamp"][: 16 if granularity == "hour" else 10].replace("T", " ")
        bar = "█" * round(_BAR * point["predicted"] / most)
        amounts = [_amount(point[name]) for name in ("predicted", "lower", "upper")]
        table.add_row(moment, *amounts, f"[cyan]{bar}[/cyan]")
    show_table(table)
    console.print(f"this month {_amount(found['month_total'])}{unit}", style="bold")
    if found["peak_per_minute"] is not None:
        console.print(f"calls a minute at most {_amount(found['peak_per_minute'])}")
    for one in found["exhaustion"]:
        whose = one["budget_id"] if one["owner"] is None else f"{one['budget_id']}/{one['owner']}"
        colour = "red" if one["flagged"] else "yellow"
        when = one["exhausted_at"][:16].replace("T", " ")
        limit = f"{one['limit_usd']} $ a {one['period']}" if one["period"] != "total" else "in all"
        console.print(
            f"[{colour}]budget {escape(whose)} ({limit}) is exhausted on {when}[/{colour}]"
        )
    console.print(_how(found), style="dim", soft_wrap=True)


def _how(found: dict[str, Any]) -> str:
    """Say how it was made, and how far it is to be trusted."""
    tested = found["backtest"]
    text = f"by {found['model'].replace('+', ' and ')} from {found['history_days']} days"
    if tested["mape"] is not None:
        text += f"; on days not seen wrong by {tested['mape']:.0%} (seasonal naive {tested['naive_mape']:.0%})"
    if tested["coverage"] is not None:
        text += f", the 95% band held {tested['coverage']:.0%}"
    return text


@app.command("anomalies")
def anomalies(
    every: Annotated[bool, typer.Option("--all", help="Those that are over, too.")] = False,
    metric: Annotated[
        str | None, typer.Option(help="calls, cost, tokens, failure_rate, latency_us or price.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="spike, drop, level_shift, trend or new_value.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 20,
    as_json: Json = False,
) -> None:
    """Show what was not to be expected, and who made the difference, the newest first."""
    query = {
        "status": None if every else "open",
        "metric": metric,
        "kind": kind,
        "limit": limit,
    }
    found = _get("/admin/analytics/anomalies", query)
    if as_json:
        show_json(found)
        return
    if not found["items"]:
        console.print("there was none" if every else "nothing is out of the ordinary")
        return
    names = ("since", "until", "severity", "kind", "metric", "series", "what")
    table = Table(*names, box=None, header_style="dim")
    for one in found["items"]:
        colour = _COLOURS.get(one["severity"], "red")
        table.add_row(
            one["started_at"][:19].replace("T", " "),
            (one["ended_at"] or "")[11:19] or "open",
            f"[{colour}]{one['severity']}[/{colour}]",
            one["kind"],
            one["metric"],
            escape(one["dimension"]),
            escape(one["explanation"]),
        )
    show_table(table)
    if found["total"] > len(found["items"]):
        console.print(f"{found['total'] - len(found['items'])} more: --limit", style="dim")


def _get(path: str, query: dict[str, Any]) -> Any:
    from infra.operator_client import Operator

    settings = installation()
    running(settings)
    given = {name: value for name, value in query.items() if value is not None}
    return Operator(settings).get(f"{path}?{urlencode(given)}")


def _amount(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 1_000 else f"{value:,.0f}"
