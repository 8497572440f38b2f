"""Anomalies of traffic (ANA-05): pure numerics of series, drivers, and the ledger of what was found."""
