"""What the folds' tables must hold, recounted from the ledger of what was sent.

Shares no code with the folds: every rule is written down here once more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from bench.streams_load import Sent

SECOND_US = 1_000_000
HEALTH_KEEP_S = 120
CIRCUIT_KEEP_S = 40
CIRCUIT_OUTCOMES = 16
AGAINST_A_TARGET = {"server", "timeout"}

Figures = dict[tuple[str, str, int, str], tuple[int, ...]]
"""(table, entity, partition, window) → sums; the first counts events, but money in `budgets`."""


class Recount:
    """Adds up the ledger, line by line."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str, int, str], list[int]] = {}
        self._health: dict[tuple[str, int, int], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
        self._circuits: dict[tuple[str, int, int], list[int]] = defaultdict(lambda: [0, 0])
        self._outcomes: dict[tuple[str, int], list[tuple[int, int, int]]] = defaultdict(list)

    def add(self, sent: Sent) -> None:
        """Count one event."""
        getattr(self, f"_{sent.kind}")(sent)

    def figures(self) -> Figures:
        """Return what the tables must hold by now."""
        figures = {key: tuple(sums) for key, sums in self._sums.items()}
        figures |= _kept("health", "10s", self._health, HEALTH_KEEP_S)
        figures |= _kept("circuits", "5s", self._circuits, CIRCUIT_KEEP_S)
        for (target, partition), outcomes in self._outcomes.items():
            for number, outcome in enumerate(sorted(outcomes)[-CIRCUIT_OUTCOMES:]):
                figures["circuits", target, partition, f"outcome{number:02}"] = outcome
        return figures

    def _response(self, sent: Sent) -> None:
        ended_us = sent.occurred_us
        for target, outcome, error, latency_us in reversed(sent.fields["attempts"]):
            # Health counts a call's attempts when the call ended, circuits each when it did.
            start_s = sent.occurred_us // SECOND_US // 10 * 10
            sums = self._health[target, sent.partition, start_s]
            sums[0] += outcome != "cancelled"
            sums[1] += outcome == "failed" and error != "request"
            sums[2] += outcome == "success"
            sums[3] += outcome != "success"
            if outcome == "success" or error in AGAINST_A_TARGET:
                good = int(outcome == "success")
                calls = self._circuits[target, sent.partition, ended_us // SECOND_US // 5 * 5]
                calls[0] += 1
                calls[1] += 1 - good
                last = self._outcomes[target, sent.partition]
                last.append((ended_us, ended_us - latency_us, good))
                if len(last) > 50 * CIRCUIT_OUTCOMES:
                    last.sort()
                    del last[:-CIRCUIT_OUTCOMES]
            ended_us -= latency_us

    def _cost(self, sent: Sent) -> None:
        cost = sent.fields["cost"]
        for owner in sent.fields["owners"]:
            for window, seconds in (("day", 86_400), ("hour", 3_600)):
                start_s = sent.occurred_us // SECOND_US // seconds * seconds
                key = ("spend", owner, sent.partition, f"{window}@{start_s}")
                sums = self._sums.setdefault(key, [0, 0, 0, 0])
                sums[0] += 1
                sums[1] += cost or 0
                sums[2] += cost is None
                sums[3] += sent.fields["tokens"]

    def _feedback(self, sent: Sent) -> None:
        key = ("feedback", f"model:{sent.fields['model']}", sent.partition, "ever")
        self._sums.setdefault(key, [0])[0] += 1

    def _escrow(self, sent: Sent) -> None:
        key = ("budgets", sent.fields["budget"], sent.partition, sent.fields["day"])
        self._sums.setdefault(key, [0])[0] += sent.fields["spent"]


def _kept(
    table: str, window: str, sums: dict[tuple[str, int, int], list[int]], keep_s: int
) -> Figures:
    """Return the windows that no newer one of their row has pushed out."""
    newest: dict[tuple[str, int], int] = {}
    for entity, partition, start_s in sums:
        newest[entity, partition] = max(newest.get((entity, partition), 0), start_s)
    return {
        (table, entity, partition, f"{window}@{start_s}"): tuple(found)
        for (entity, partition, start_s), found in sums.items()
        if start_s > newest[entity, partition] - keep_s
    }


def recount(ledger: Iterable[Sent]) -> Figures:
    """Recount a whole ledger."""
    counted = Recount()
    for sent in ledger:
        counted.add(sent)
    return counted.figures()


def figures_of(table: str, row: dict[str, Any]) -> Figures:
    """Return the figures that a row of a table says, as the published schema decodes it."""
    found: dict[str, tuple[int, ...]] = {}
    if table == "health":
        for at in row["buckets"]:
            counts = (sum(at["latency"].values()), sum(at["errors"].values()))
            found[f"10s@{at['start_s']}"] = (at["calls"], at["failures"], *counts)
    elif table == "circuits":
        for at in row["buckets"]:
            found[f"5s@{at['start_s']}"] = (at["calls"], at["failures"])
        for number, at in enumerate(row["outcomes"]):
            found[f"outcome{number:02}"] = (at["ended_us"], at["started_us"], int(at["good"]))
    elif table == "spend":
        for at in row["windows"]:
            if at["window"] in {"day", "hour"}:
                sums = (at["entries"], at["cost_nano_usd"], at["unpriced"], at["input_tokens"])
                found[f"{at['window']}@{at['start_s']}"] = sums
    elif table == "feedback":
        found["ever"] = (row["total"],)
    elif table == "budgets":
        found = {day["day"]: (day["spent"],) for day in row["days"]}
    return {
        (table, row["entity"], row["partition"], window): sums for window, sums in found.items()
    }


def differences(wanted: Figures, found: Figures) -> list[str]:
    """Return a line for every figure that is wrong, missing or too many."""
    return [
        f"{key}: {found.get(key)} instead of {wanted.get(key)}"
        for key in sorted(wanted.keys() | found.keys())
        if wanted.get(key) != found.get(key)
    ]


def lost_and_doubled(wanted: Figures, found: Figures) -> tuple[int, int]:
    """Return by how many events the counts are too low, and too high, over all figures."""
    lost = doubled = 0
    for key in wanted.keys() | found.keys():
        table, _, _, window = key
        if table == "budgets" or window.startswith("outcome"):
            continue  # money, and moments
        missing = wanted.get(key, (0,))[0] - found.get(key, (0,))[0]
        lost += max(0, missing)
        doubled += max(0, -missing)
    return lost, doubled
