"""Trains the gateway's task model: ``python -m infra.detection``."""
