"""Finds anomalies (ANA-05, COST-08) in the traffic table, and tells when they are over."""

from __future__ import annotations

from schemas.events.operations import ANOMALIES, HEARTBEATS
from schemas.events.traffic import TRAFFIC_TABLE
from streams.agents.traffic import TRAFFIC
from streams.anomalies.ledger import AnomalyLedger
from streams.decider import Decider

FINDER = Decider(
    name="anomalies",
    leads=TRAFFIC,
    reads=(TRAFFIC_TABLE, HEARTBEATS),
    decisions=ANOMALIES,
    ledger=lambda _: AnomalyLedger(),
)
