"""`weir route`: why a call goes where it goes, and what a prompt asks for."""

from __future__ import annotations

import http.client
import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import typer
from rich.markup import escape
from rich.table import Table

from infra.cli_base import (
    Json,
    console,
    errors,
    installation,
    route_commands,
    running,
    show_json,
    show_table,
)
from schemas.errors import AuthenticationFailed, InvalidRequest, NotFound, Unavailable

__all__ = ["route_commands"]

_ANSWER_S = 30.0
_RECENT = 200
_REQUEST_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@route_commands.command()
def explain(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A name that clients ask for: its recent decisions; or a request's id."
        ),
    ] = None,
    request: Annotated[str | None, typer.Option(help="A request's id: that one decision.")] = None,
    as_json: Json = False,
) -> None:
    """Say why recorded requests went where they went: every candidate, its score and the reason."""
    from infra.operator_client import Operator

    if model is not None and request is None and _REQUEST_ID.fullmatch(model):
        model, request = None, model
    if (model is None) == (request is None):
        raise InvalidRequest("give either a model or --request with an id")
    settings = installation()
    running(settings)
    query = {"request_id": request, "limit": 1} if request else {"model": model, "limit": _RECENT}
    answer = Operator(settings).get(f"/api/v1/routing/decisions?{urlencode(query)}")
    found = answer["decisions"]
    if not found:
        raise NotFound(
            f"no decision is recorded for {request or model}",
            action="A request shows within seconds of its admission; `weir route preview` decides "
            "without a call.",
        )
    if as_json:
        show_json(found[0] if request else answer)
        return
    if request is None:
        firsts = [row["first_target"] for row in found]
        counts = {name: firsts.count(name) for name in sorted(set(firsts), key=firsts.count)[::-1]}
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        console.print(f"the last {len(found)} of {answer['total']} decisions: {told}\nthe latest:")
    _show_decision(found[0])


@route_commands.command()
def preview(
    model: Annotated[str, typer.Argument(help="What a client would ask for.")] = "auto",
    prompt: Annotated[str, typer.Option(help="The prompt; `-` reads standard input.")] = "Hello",
    max_tokens: Annotated[int | None, typer.Option(help="The longest answer.")] = None,
    task_type: Annotated[str | None, typer.Option(help="A hint: the task.")] = None,
    complexity: Annotated[str | None, typer.Option(help="simple, standard or complex.")] = None,
    strategy: Annotated[str | None, typer.Option(help="A hint: the strategy.")] = None,
    prefer: Annotated[str | None, typer.Option(help="cost, latency or quality.")] = None,
    user: Annotated[str | None, typer.Option(help="On whose behalf: the side of a canary.")] = None,
    as_json: Json = False,
) -> None:
    """Decide as for a call, and call nobody. The API key comes from WEIR_KEY."""
    settings = installation()
    running(settings)
    key = os.environ.get("WEIR_KEY")
    if not key:
        raise AuthenticationFailed(
            "no API key is given", action="Put one into the variable WEIR_KEY."
        )
    text = sys.stdin.read() if prompt == "-" else prompt
    body: dict[str, Any] = {"prompt": text, "model_id": model}
    body |= {"max_tokens": max_tokens} if max_tokens is not None else {}
    body |= {"user_id": user} if user is not None else {}
    hints = {
        "x-weir-task-type": task_type,
        "x-weir-complexity": complexity,
        "x-weir-strategy": strategy,
        "x-weir-prefer": prefer,
    }
    headers = {name: value for name, value in hints.items() if value is not None}
    answer = _gateway(settings.host, settings.port, key, body, headers)
    if as_json:
        show_json(answer)
        return
    info = answer["route_info"]
    cost = info["estimated_cost_usd"]
    _show_decision(
        {
            **answer,
            "first_target": answer["target"],
            "task_type": info["task_type"],
            "task_confidence": info["confidence"],
            "complexity": info["complexity"],
            "decision_ms": info["decision_ms"],
        }
    )
    console.print(f"[dim]then[/dim] {', '.join(answer['failover'] + answer['last_resort']) or '-'}")
    console.print(f"[dim]expected cost[/dim] {'unknown' if cost is None else f'${cost}'}")


@route_commands.command()
def detect(
    file: Annotated[str, typer.Argument(help="JSON lines with `prompt`; `-` is standard input.")],
    as_json: Json = False,
) -> None:
    """Say what prompts ask for: task, confidence and complexity, one JSON line each.

    Where lines have a `label`, the last line tells the macro-F1 over the labels that occur. With
    --json everything is one document. `system` is read too, if there is one.
    """
    from gateway.asking import bounded
    from gateway.detection.detector import Detector

    detector = Detector.load()
    lines: list[dict[str, Any]] = []
    for row in _prompts(file):
        found = detector.detect(bounded(row["prompt"]), bounded(row.get("system") or ""))
        line = {
            "label": found.task_type,
            "confidence": found.confidence,
            "complexity": found.complexity,
        }
        if row.get("label") is not None:
            line["expected"] = row["label"]
        lines.append(line)
        if not as_json:
            show_json(line)
    pairs = [(line["expected"], line["label"]) for line in lines if "expected" in line]
    summary = {"prompts": len(lines), "labelled": len(pairs), **scores(pairs)} if pairs else None
    if as_json:
        show_json({"prompts": lines, "summary": summary})
    elif summary is not None:
        show_json(summary)


def scores(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Return macro-F1, accuracy and F1 by label for (expected, detected) pairs."""
    by_label = {}
    for label in sorted({expected for expected, _ in pairs}):
        right = sum(expected == found == label for expected, found in pairs)
        said = sum(found == label for _, found in pairs)
        real = sum(expected == label for expected, _ in pairs)
        by_label[label] = round(2 * right / (said + real), 4) if said + real else 0.0
    accuracy = sum(expected == found for expected, found in pairs) / len(pairs)
    return {
        "macro_f1": round(sum(by_label.values()) / len(by_label), 4),
        "accuracy": round(accuracy, 4),
        "f1": by_label,
    }


def _prompts(file: str) -> list[dict[str, Any]]:
    if file != "-" and not Path(file).is_file():
        raise NotFound(f"there is no file {file}")
    text = sys.stdin.read() if file == "-" else Path(file).read_text("utf-8")
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InvalidRequest(f"line {number} is not JSON: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
            raise InvalidRequest(f"line {number} is no object with a text `prompt`")
        rows.append(row)
    return rows


def _gateway(
    host: str, port: int, key: str, body: dict[str, Any], hints: dict[str, str]
) -> dict[str, Any]:
    """POST the preview to the gateway. Raises Unavailable, InvalidRequest."""
    connection = http.client.HTTPConnection(host, port, timeout=_ANSWER_S)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **hints}
    try:
        connection.request("POST", "/api/v1/routing/preview", json.dumps(body).encode(), headers)
        answer = connection.getresponse()
        status, text = answer.status, answer.read()
    except OSError as error:
        raise Unavailable(f"the gateway does not answer on {host}:{port}: {error}") from error
    finally:
        connection.close()
    found: dict[str, Any] = json.loads(text)
    if status != http.client.OK:
        problem = found.get("error", {})
        raise InvalidRequest(
            problem.get("message", f"the gateway answered {status}"), action=problem.get("action")
        )
    return found


def _show_decision(row: dict[str, Any]) -> None:
    for name in ("request_id", "decided_at", "model_requested", "route", "strategy"):
        if row.get(name) is not None:
            console.print(f"[dim]{name}[/dim] {row[name]}", soft_wrap=True)
    task = row.get("task_type") or "not asked for"
    sure = f" ({row['task_confidence']:.2f})" if row.get("task_confidence") is not None else ""
    console.print(f"[dim]task[/dim] {task}{sure} [dim]complexity[/dim] {row.get('complexity')}")
    console.print(
        f"[bold]{row['first_target']}[/bold] with probability {row['propensity']:.3f}: "
        f"{escape(row['reason'] or 'no reason recorded')}",
        soft_wrap=True,
    )
    table = Table("candidate", "score", "eligible", "reason", box=None, header_style="dim")
    for item in row["candidates"]:
        word = "yes" if item["eligible"] else "no"
        table.add_row(item["target"], f"{item['score']:.4f}", word, escape(item["reason"]))
    show_table(table)
    for attempt in row.get("attempts", []):
        told = f"{attempt['target']} {attempt['outcome']} after {attempt['latency_ms']:.0f} ms"
        errors.print(f"[dim]attempt[/dim] {told}")
