"""Forecasts spend, calls and tokens (COST-07), and flags budgets that will be exhausted."""

from __future__ import annotations

from schemas.events.changes import BUDGETS
from schemas.events.escrow import ESCROW_TABLE
from schemas.events.forecasts import FORECASTS
from schemas.events.operations import HEARTBEATS
from schemas.events.traffic import TRAFFIC_TABLE
from streams.agents.traffic import TRAFFIC
from streams.decider import Decider
from streams.forecasts.ledger import ForecastLedger

FORECASTER = Decider(
    name="forecasts",
    leads=TRAFFIC,
    reads=(TRAFFIC_TABLE, BUDGETS, ESCROW_TABLE, HEARTBEATS),
    decisions=FORECASTS,
    ledger=lambda _: ForecastLedger(),
    settled=(BUDGETS,),
    wait_s=1.0,
)
