"""Alert rules and channels as kinds of entities."""

from pathlib import Path
from typing import Any

from infra.alert_tables import AlertChannelTable, AlertRuleTable
from infra.commands import facts
from infra.kinds import Kind, prefixed, stripped
from schemas.events.alerts import AlertChannelChanged, AlertRuleChanged


def _rule_fields(rule_id: str, table: AlertRuleTable) -> dict[str, Any]:
    return {"rule_id": rule_id, **table.model_dump()}


def _rule_table(event: AlertRuleChanged) -> AlertRuleTable:
    told = facts(event)
    del told["rule_id"]
    return AlertRuleTable(**told)


def _place(variable: str | None, file: str | None) -> str | None:
    if variable is not None:
        return f"env:{variable}"
    return f"file:{Path(file).expanduser().absolute()}" if file is not None else None


def _channel_fields(name: str, table: AlertChannelTable) -> dict[str, Any]:
    places = {"url_env", "url_file", "secret_env", "secret_file"}
    return {
        "name": name,
        "url_secret": _place(table.url_env, table.url_file),
        "secret": _place(table.secret_env, table.secret_file),
        **table.model_dump(exclude=places),
    }


def _channel_table(event: AlertChannelChanged) -> AlertChannelTable:
    told = facts(event)
    del told["name"]
    for field in ("url_secret", "secret"):
        kind, _, place = (told.pop(field) or "").partition(":")
        if place:
            told[f"{field.removesuffix('_secret')}_{kind}"] = place
    return AlertChannelTable(**told)


ALERT_RULE = Kind(
    "alert_rule",
    "alert_rules",
    AlertRuleChanged,
    AlertRuleTable,
    _rule_fields,
    _rule_table,
    stripped("alert_rule:"),
    prefixed("alert_rule:"),
)
ALERT_CHANNEL = Kind(
    "alert_channel",
    "alert_channels",
    AlertChannelChanged,
    AlertChannelTable,
    _channel_fields,
    _channel_table,
    stripped("alert_channel:"),
    prefixed("alert_channel:"),
)
