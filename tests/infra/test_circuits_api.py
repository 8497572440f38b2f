"""GET /routing/circuits: what the log says of every target's circuit."""

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from infra.circuits_api import PATHS, CircuitBoard, circuits_router
from infra.settings import circuit_rules
from schemas.circuits import RULES
from schemas.errors import ConfigurationError
from schemas.events.circuits import CircuitBucket, CircuitChanged, CircuitOutcome, CircuitRow

S = 1_000_000
NOW = 1_790_000_000 * S


def board() -> CircuitBoard:
    made = CircuitBoard(RULES, lambda: NOW)
    rows, changes = made.views
    for partition, good in enumerate((True, False)):
        rows.entries[f"a/m|{partition}"] = CircuitRow(
            event_id="e",
            occurred_at_us=0,
            entity="a/m",
            partition=partition,
            offset=0,
            outcomes=[CircuitOutcome(NOW - S, NOW - S, good)],
            buckets=[CircuitBucket(NOW // S - 10, 3, 0 if good else 3)],
            last_failure_at_us=None if good else NOW - S,
        )
    rows.entries["b/x/y|0"] = CircuitRow(
        event_id="e",
        occurred_at_us=0,
        entity="b/x/y",
        partition=0,
        offset=0,
        outcomes=[],
        buckets=[CircuitBucket(NOW // S - 60, 9, 9)],
        last_failure_at_us=None,
    )
    changes.entries["a/m"] = CircuitChanged(
        event_id="e",
        occurred_at_us=NOW - 31 * S,
        target="a/m",
        provider="a",
        model="m",
        state="open",
        number=1,
        since_us=NOW - 31 * S,
        openings=1,
        opened_at_us=NOW - 31 * S,
        next_probe_at_us=NOW - S,
        failure_count=5,
        success_count=0,
        last_failure_at_us=NOW - 31 * S,
        reason="5 failures in a row",
    )
    return made


@pytest.mark.req("RT-07", "GEN-06")
@pytest.mark.parametrize("path", PATHS)
def test_every_field_of_a_circuit(path: str) -> None:
    app = FastAPI()
    app.include_router(circuits_router(board()))
    client = TestClient(app)
    body = client.get(path).json()
    assert (body["total"], body["limit"], body["offset"]) == (2, 100, 0)
    opened, closed = body["circuits"]
    assert opened == {
        "provider": "a",
        "model": "m",
        "state": "half_open",
        "failure_count": 3,
        "success_count": 3,
        "last_failure_at": "2026-09-21T14:13:19Z",
        "opened_at": "2026-09-21T14:12:49Z",
        "next_probe_at": "2026-09-21T14:13:19Z",
        "openings": 1,
        "reason": "its time is over: calls probe it",
    }
    assert (closed["provider"], closed["model"], closed["state"]) == ("b", "x/y", "closed")
    assert (closed["failure_count"], closed["success_count"]) == (0, 0)
    assert client.get(path, params={"limit": 1, "offset": 1}).json()["circuits"] == [closed]
    assert client.get(path, params={"limit": 0}).status_code == 422


@pytest.mark.parametrize(
    ("table", "word"),
    [({"failure": 3}, "failure"), ({"failures": 2.5}, "failures"), ({"probes": 0}, "probes")],
)
def test_rules_that_cannot_be_are_refused(table: dict[str, float], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        circuit_rules(table)
    assert circuit_rules({"failures": 3, "open_s": 5}).failures == 3
