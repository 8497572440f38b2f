"""Writes the table of ``docs/evidence.md`` from the kept verdicts: ``python -m bench.evidence``.

Only what a run has really measured stands there: a claim without a verdict is listed as not measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "evidence.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
SIGNS = {"max": "≤", "min": "≥"}


def table(claims: Iterable[str]) -> str:
    """Return the Markdown table of the claims in this order."""
    lines = ["| Claim | Command | Figures (limit) | Holds | Measured |", "|---|---|---|---|---|"]
    return "\n".join(lines + [_line(name) for name in claims])


def _line(name: str) -> str:
    path = RESULTS / f"{name}.json"
    command = "make faults" if name == "faults" else f"python -m bench.{name}"
    summary = (import_module(f"bench.{name}").__doc__ or "").strip().splitlines()[0]
    claim = summary.removeprefix("Claim: ").removeprefix("Claim (`make faults`): ").rstrip(".")
    if not path.exists():
        return f"| {claim} | `{command}` | not measured | | |"
    verdict = json.loads(path.read_text("utf-8"))
    holds = "yes" if verdict["pass"] else "**no**"
    measured = f"{verdict['date']}, {verdict['machine']}"
    return f"| {claim} | `{command}` | {figures(verdict)} | {holds} | {measured} |"


def figures(verdict: dict[str, Any]) -> str:
    """Return the figures that have a limit: those that must be zero together, the rest by name."""
    zero, named = [], []
    for name, limit in verdict["limits"].items():
        kind, value = limit.split(" ")
        found = verdict["figures"].get(name)
        if value in {"True", "False"}:
            named.append(f"{name} {found} (= {value})")
            continue
        if kind != "min" and float(value) == 0 and found == 0:
            zero.append(name)
            continue
        named.append(f"{name} {_number(found)} ({SIGNS.get(kind, '=')} {_number(float(value))})")
    if zero:
        named.append(f"0: {', '.join(zero)}")
    return "; ".join(named)


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def update(claims: Iterable[str]) -> None:
    """Replace the table in the page."""
    text = PAGE.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table(claims)}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    from bench.__main__ import claims

    update(claims())
