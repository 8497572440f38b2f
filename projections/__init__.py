"""Kafka → Arrow → DuckDB: what the log says, as tables that anyone may query."""
