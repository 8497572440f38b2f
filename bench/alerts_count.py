"""The receivers' ledger against the log: what should have been told, recounted from the raw events."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from bench.rawlog import Raw, read_topics
from bench.receivers import Ledger

ALERTS, DELIVERIES = "weir.alerts.v1", "weir.alerts.deliveries.v1"
WAYS = ("hook", "chat", "email")


def transitions(records: list[Raw]) -> list[dict[str, Any]]:
    """Return the openings and ends, in order for each alert: nothing else is to be told."""
    open_now: set[str] = set()
    found = []
    for raw in sorted(records, key=lambda it: (it.partition, it.offset)):
        body = raw.body
        if body is None:
            continue
        alert_id, status = body["alert_id"], body["status"]
        if status == "open" and alert_id not in open_now:
            open_now.add(alert_id)
            found.append(body)
        elif status == "resolved" and alert_id in open_now:
            open_now.discard(alert_id)
            found.append(body)
    return found


def count(bootstrap: str, ledger: Ledger, out: Path) -> dict[str, Any]:
    """Return the figures, and keep what was compared under `out`."""
    raws = read_topics(bootstrap, [ALERTS, DELIVERIES])
    told = transitions([raw for raw in raws if raw.topic == ALERTS])
    wanted = {(body["event_id"], way): body for body in told for way in WAYS}
    deliveries = [raw.body for raw in raws if raw.topic == DELIVERIES and raw.body]
    done = {
        it["notification_id"]: (it["alert_event_id"], it["channel"])
        for it in deliveries
        if it["outcome"] == "delivered"
    }
    taken = Counter(entry.notification_id for entry in ledger.entries)
    by_way = {(done.get(it.notification_id, ("", ""))[0], it.way) for it in ledger.entries}
    order = _out_of_order(ledger, done, wanted)
    opened = Counter(body["alert_id"] for body in told if body["status"] == "open")
    ended = Counter(body["alert_id"] for body in told if body["status"] == "resolved")
    missing = sorted(f"{event}|{way}" for event, way in wanted.keys() - by_way)
    unknown = sorted(it for it in taken if it not in done)
    (out / "compared.json").write_text(
        json.dumps({"missing": missing, "unknown": unknown, "opened": opened, "ended": ended}),
        "utf-8",
    )
    with (out / "taken.jsonl").open("w", encoding="utf-8") as file:
        for entry in ledger.entries:
            line = [entry.way, entry.notification_id, entry.at_s, entry.said]
            file.write(json.dumps(line) + "\n")
    return {
        "alerts": len(opened),
        "kinds": sorted({body["alert_type"] for body in told}),
        "changes": len(told),
        "told": len(taken),
        "raised_twice": sum(n - 1 for n in opened.values()),
        "not_resolved": sum(opened[it] != ended[it] for it in opened),
        "missing": len(missing),
        "unknown": len(unknown),
        "repeats": sum(n - 1 for n in taken.values()),
        "out_of_order": order,
        "attempts_failed": sum(it["outcome"] == "failed" for it in deliveries),
    }


def _out_of_order(
    ledger: Ledger,
    done: dict[str, tuple[str, str]],
    wanted: dict[tuple[str, str], dict[str, Any]],
) -> int:
    """Count ends that somebody heard before their beginning."""
    heard: dict[tuple[str, str], list[str]] = defaultdict(list)
    for entry in ledger.entries:
        event_id = done.get(entry.notification_id, ("", ""))[0]
        body = wanted.get((event_id, entry.way))
        if body is not None:
            heard[entry.way, body["alert_id"]].append(body["status"])
    return sum(statuses[0] != "open" for statuses in heard.values())
