"""Claim: what is spent is seen at `/admin/cost/realtime` within two seconds of the answer, and is exact.

Calls are made one after the other; a listener of the stream notes when the day's spend includes each.
At the end the stream's figure is held against the ledger, recounted from the raw log, and the dashboard
is read as JSON and as a WebSocket.
"""

from __future__ import annotations

import json
import random
import threading
import time
import urllib.request
from contextlib import suppress
from decimal import Decimal
from typing import Any

from websockets.sync.client import connect

from bench.claim import Arguments, Limit, Verdict, main
from bench.rawlog import read_topics
from bench.stack import Stack, fetch

BEHIND_S = 2.0
PATIENCE_S = 30.0
NANO = 1_000_000_000


class Watch:
    """Follows the stream in a thread; `changes` are (when, nano-USD of the day)."""

    def __init__(self, stack: Stack) -> None:
        self._request = urllib.request.Request(
            f"{stack.url}/admin/cost/realtime",
            headers={"authorization": f"Bearer {stack.key}", "accept": "text/event-stream"},
        )
        self.changes: list[tuple[float, int]] = [(0.0, 0)]
        self.heard = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with suppress(OSError), urllib.request.urlopen(self._request, timeout=60) as stream:
            for line in stream:
                if not line.startswith(b"data: "):
                    continue
                self.heard += 1
                spent = int(Decimal(json.loads(line[6:])["spend"]["day"]) * NANO)
                if spent != self.changes[-1][1]:
                    self.changes.append((time.monotonic(), spent))

    def after(self, spent: int, ended_s: float) -> float | None:
        """Return how long after `ended_s` more than `spent` was seen, None when it never was."""
        while time.monotonic() < ended_s + PATIENCE_S:
            for at_s, seen in list(self.changes):
                if seen > spent:
                    return max(0.0, at_s - ended_s)
            time.sleep(0.02)
        return None


def spent_by_log(bootstrap: str) -> int:
    """Return what the ledger on the topic comes to, in nano-USD."""
    seen: dict[str, int] = {}
    for raw in read_topics(bootstrap, ["weir.llm.costs.v1"]):
        if raw.body is not None and raw.body["entry"] != "admitted":
            seen[raw.event_id] = raw.body["cost_nano_usd"] or 0
    return sum(seen.values())


def dashboards(stack: Stack) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the dashboard as JSON and as the first message of a WebSocket."""
    path = "/admin/dashboard/realtime"
    plain = fetch(f"{stack.url}{path}", key=stack.key)
    headers = {"authorization": f"Bearer {stack.key}"}
    with connect(f"ws://127.0.0.1:{stack.port}{path}", additional_headers=headers) as socket:
        return plain, json.loads(socket.recv(timeout=20))


def measure(arguments: Arguments) -> Verdict:
    """Make `--size` calls."""
    draw = random.Random(arguments.seed)
    late: list[float | None] = []
    with Stack(arguments.out, seed=arguments.seed) as stack:
        watch = Watch(stack)
        # The first call is made while streams may still be getting ready: it is waited for, not timed.
        for number in range(arguments.size + 1):
            body = {
                "model": "a/gpt-4.1-nano",
                "max_tokens": 20,
                "user": f"user-{number % 3}",
                "messages": [{"role": "user", "content": f"Call {number}"}],
            }
            before = watch.changes[-1][1]
            url = f"{stack.url}/v1/chat/completions"
            fetch(url, key=stack.key, method="POST", body=body, timeout_s=30)
            seen_s = watch.after(before, time.monotonic())
            late += [seen_s] if number else []
            time.sleep(draw.uniform(0, 0.5))
        time.sleep(3)
        plain, message = dashboards(stack)
        now = fetch(f"{stack.url}/admin/cost/realtime", key=stack.key)
        shown = int(Decimal(now["spend"]["day"]) * NANO)
        wanted = spent_by_log(stack.bootstrap) + int(arguments.sabotage)
    known = sorted(it for it in late if it is not None)
    (arguments.out / "late.json").write_text(json.dumps(late), "utf-8")
    figures = {
        "calls": arguments.size,
        "unseen": len(late) - len(known),
        "behind_p50_s": round(known[len(known) // 2], 3) if known else None,
        "behind_max_s": round(known[-1], 3) if known else None,
        "messages": watch.heard,
        "drift_nano_usd": shown - wanted,
        "windows_disagree": sum(
            Decimal(now["spend"][it]) * NANO != shown for it in ("last_hour", "month")
        ),
        "top_users": len(now["top_users"]),
        "dashboard_disagrees": int(set(plain) != set(message) or plain["active_users"] != 3),
    }
    limits = [
        Limit("unseen", 0, "equal"),
        Limit("behind_max_s", BEHIND_S),
        Limit("drift_nano_usd", 0, "equal"),
        Limit("windows_disagree", 0, "equal"),
        Limit("top_users", 3, "equal"),
        Limit("dashboard_disagrees", 0, "equal"),
    ]
    return Verdict(figures, limits)


if __name__ == "__main__":
    main("realtime", 60, measure)
