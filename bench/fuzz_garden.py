"""Keeps the fuzzed installation as it was: what cases made goes, what they changed or took comes back.

Among the cases are commands of an administrator: a limit of one call a minute, a guardrail that
blocks everything, a change set that removes every provider. One that stayed would shut the door on
all cases after it, and the claim would pass on refusals.
"""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from bench.stack import Stack, fetch

SWEEP_S = 1.0
KINDS = (
    "limits",
    "cost/budgets",
    "guardrails",
    "routes",
    "targets",
    "providers",
    "tenants",
    "cost/alerts",
    "alerts/channels",
)
_TOLD = frozenset({"id", "budget_id", "version", "actor", "updated_at"})
_READ_S = 30.0

PLANTED: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("providers", "planted", {"dialect": "openai", "base_url": "http://127.0.0.1:9/v1"}),
    ("targets", "planted/model", {"enabled": False}),
    ("guardrails", "planted", {"kind": "words", "words": ["weirdword"], "action": "flag"}),
    ("routes", "planted", {"targets": [{"target": "a/gpt-4.1-nano"}]}),
    ("tenants", "team:planted", {}),
    ("cost/budgets", "planted", {"scope": "team", "scope_id": "planted", "daily_limit_usd": 1}),
    ("limits", "planted", {"scope": "team", "scope_id": "planted", "requests_per_minute": 9}),
    ("cost/alerts", "planted", {"metric": "tokens", "threshold": 1e12}),
    ("alerts/channels", "planted", {"kind": "log"}),
)
"""One entity of each kind that no other case's success depends on: cases may do with it what they like."""


class Garden(threading.Thread):
    """Puts everything back every `SWEEP_S`, until `close`."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(daemon=True)
        self._place = f"{stack.control_url}/api/v1/admin"
        self._key = stack.key
        self._over = threading.Event()
        self.mended = 0
        self.failures: list[str] = []
        self._planted = {(kind, name): table for kind, name, table in PLANTED}
        for kind, name in self._planted:
            self._put(kind, name, {})
        self._baseline = {kind: self._listed(kind) for kind in KINDS}

    def run(self) -> None:
        """Sweep until `close`."""
        while not self._over.wait(SWEEP_S):
            for kind in KINDS:
                self._sweep(kind)

    def close(self) -> None:
        """Stop, and put everything back a last time."""
        self._over.set()
        self.join()
        for kind in KINDS:
            self._sweep(kind)

    def _sweep(self, kind: str) -> None:
        baseline = self._baseline[kind]
        try:
            there = self._listed(kind)
            for name in there.keys() - baseline.keys():
                self._remove(kind, name)
                self.mended += 1
            for name, table in baseline.items():
                if there.get(name) != table:
                    self._put(kind, name, table)
                    self.mended += 1
        except OSError as error:  # a case was faster; more than a few are a figure of the verdict
            self.failures.append(str(error)[:300])

    def _listed(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return the tables of a kind by their ids."""
        found: dict[str, dict[str, Any]] = {}
        while True:
            url = f"{self._place}/{kind}?limit=1000&offset={len(found)}"
            told = fetch(url, key=self._key, timeout_s=_READ_S)
            for entry in told["items"]:
                name = entry["id"] if "id" in entry else entry["budget_id"]
                found[name] = {key: value for key, value in entry.items() if key not in _TOLD}
            if not told["items"] or len(found) >= told["total"]:
                return found

    def _put(self, kind: str, name: str, table: dict[str, Any]) -> None:
        url = f"{self._place}/{kind}/{_quoted(name)}"
        table = self._planted.get((kind, name), table)
        fetch(url, key=self._key, method="PUT", body=table, timeout_s=_READ_S)

    def _remove(self, kind: str, name: str) -> None:
        request = urllib.request.Request(
            f"{self._place}/{kind}/{_quoted(name)}",
            headers={"authorization": f"Bearer {self._key}"},
            method="DELETE",
        )
        try:
            with urllib.request.urlopen(request, timeout=_READ_S) as answer:
                json.loads(answer.read())
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise OSError(f"DELETE {kind} {name!r}: {error.code}") from error


def _quoted(name: str) -> str:
    return urllib.parse.quote(name.encode("utf-8", "surrogatepass"), safe="")
