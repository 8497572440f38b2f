"""Claim: a key that is revoked opens nothing at any worker a second later.

Connections to every worker of a running Weir ask with a key without pause. The clock runs from the moment
in which the revocation is sent to the last moment in which some worker still let the key in; a new key
and a new secret are timed the same way, from their answer to the moment when every worker knows them.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from contextlib import ExitStack
from typing import Any

from bench.claim import Arguments, Limit, Verdict, main
from bench.stack import Stack, fetch

WORKERS = 4
WITHIN_S = 1.0
PATIENCE_S = 10.0
POLL_S = 0.005
CONNECTIONS_MAX = 200


class Asker:
    """A kept connection to one worker."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self.worker = str(json.loads(self._get("/health", None)[1])["worker"])

    def _get(self, path: str, key: str | None) -> tuple[int, bytes]:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._connection.request("GET", path, headers=headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def lets_in(self, key: str) -> bool:
        """Whether this worker takes the key now."""
        return self._get("/v1/models", key)[0] == 200

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


class Watch:
    """Asks every worker with one key until all answer as wanted; `last_s` is when the last one did."""

    def __init__(self, askers: dict[str, Asker], key: str, wanted: bool) -> None:
        self._wanted, self._key = wanted, key
        self.turned_s: dict[str, float] = {}
        self._threads = [
            threading.Thread(target=self._ask, args=(worker, asker), daemon=True)
            for worker, asker in askers.items()
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, worker: str, asker: Asker) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            if asker.lets_in(self._key) is self._wanted:
                self.turned_s[worker] = time.monotonic()
                return
            time.sleep(POLL_S)

    def since(self, begun_s: float) -> float | None:
        """Seconds until the last worker turned, None when one never did."""
        for thread in self._threads:
            thread.join()
        if len(self.turned_s) < len(self._threads):
            return None
        return max(self.turned_s.values()) - begun_s


def every_worker(stack: Stack, exits: ExitStack) -> dict[str, Asker]:
    """Connect until each worker has a connection: the kernel shares them out."""
    askers: dict[str, Asker] = {}
    for _ in range(CONNECTIONS_MAX):
        asker = Asker(stack.port)
        exits.callback(asker.close)
        askers.setdefault(asker.worker, asker)
        if len(askers) == WORKERS:
            return askers
    raise RuntimeError(f"only {len(askers)} of {WORKERS} workers answer")


def turn(stack: Stack, askers: dict[str, Asker], *, spare: bool) -> dict[str, Any]:
    """Make a key, rotate it, revoke it; return how long each took to reach every worker."""
    keys = f"{stack.url}/api/v1/admin/keys"

    def command(path: str, body: Any) -> Any:
        return fetch(f"{keys}{path}", key=stack.key, method="POST", body=body)

    made = command("", {"name": "bench"})
    created_s = Watch(askers, made["secret"], True).since(time.monotonic())
    rotated = command(f"/{made['key']['id']}/rotate", {"overlap": 60})
    rotated_s = Watch(askers, rotated["secret"], True).since(time.monotonic())
    watch = Watch(askers, rotated["secret"], False)
    begun_s = time.monotonic()
    if not spare:
        command(f"/{made['key']['id']}/revoke", {})
    revoked_s = watch.since(begun_s)
    still = sum(asker.lets_in(made["secret"]) for asker in askers.values())
    return {
        "created_s": created_s,
        "rotated_s": rotated_s,
        "revoked_s": revoked_s,
        "overlap_outlives": still,
    }


def measure(arguments: Arguments) -> Verdict:
    """Revoke `--size` keys."""
    environment = {"WEIR_WORKERS": str(WORKERS)}
    with (
        Stack(arguments.out, seed=arguments.seed, environment=environment) as stack,
        ExitStack() as exits,
        (arguments.out / "turns.jsonl").open("w", encoding="utf-8") as ledger,
    ):
        askers = every_worker(stack, exits)
        turns = []
        for number in range(arguments.size):
            turns.append(turn(stack, askers, spare=arguments.sabotage and number == 0))
            ledger.write(json.dumps(turns[-1]) + "\n")
    figures: dict[str, Any] = {"workers": WORKERS, "keys": len(turns)}
    for name in ("created", "rotated", "revoked"):
        times = [row[f"{name}_s"] for row in turns]
        known = sorted(it for it in times if it is not None)
        figures[f"{name}_p50_s"] = round(known[len(known) // 2], 3) if known else None
        figures[f"{name}_max_s"] = round(known[-1], 3) if len(known) == len(times) else None
    figures["overlap_outlives"] = sum(row["overlap_outlives"] for row in turns)
    limits = [
        Limit("revoked_max_s", WITHIN_S),
        Limit("rotated_max_s", WITHIN_S),
        Limit("overlap_outlives", 0),
    ]
    return Verdict(figures, limits)


if __name__ == "__main__":
    main("revocation", 30, measure)
