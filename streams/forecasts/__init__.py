"""Forecasts (COST-07): pure numerics, and the ledger that makes them anew as events arrive."""
