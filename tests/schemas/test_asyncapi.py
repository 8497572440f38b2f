"""The published contract is the code's, whole and consistent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from schemas.asyncapi import document
from schemas.events import event_types, topics

COMMITTED = Path(__file__).parents[2] / "docs" / "asyncapi.json"


@pytest.mark.req("BEY-12")
def test_the_committed_contract_is_the_codes() -> None:
    assert json.loads(COMMITTED.read_text("utf-8")) == document(), (
        "run `python -m schemas.asyncapi > docs/asyncapi.json`"
    )


@pytest.mark.req("BEY-12", "EVT-01")
def test_every_topic_and_event_stands_in_the_contract() -> None:
    contract = document()
    assert {c["address"] for c in contract["channels"].values()} == {t.name for t in topics()}
    names = {m["name"] for m in contract["components"]["messages"].values()}
    assert names == {event.type for event in event_types()}
    reached = {
        reference["$ref"]
        for channel in contract["channels"].values()
        for reference in channel["messages"].values()
    }
    assert len(reached) == len(names), "every message belongs to a channel"


@pytest.mark.req("BEY-12")
def test_every_reference_resolves() -> None:
    contract = document()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if "$ref" in node:
                target: Any = contract
                for part in node["$ref"].removeprefix("#/").split("/"):
                    target = target[part]
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(contract)
