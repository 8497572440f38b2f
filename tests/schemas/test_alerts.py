"""What becomes of alerts."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.alerts import followed, is_news, rank
from schemas.events.operations import AlertChanged


def alert(status: str, at_us: int = 1, **told: Any) -> AlertChanged:
    """An event of the alert that all tests look at."""
    fields: dict[str, Any] = {
        "alert_id": "circuit:openai/gpt-4o",
        "alert_type": "circuit_open",
        "severity": "error",
        "scope": "target:openai/gpt-4o",
        "message": "it is open",
    }
    return AlertChanged(event_id=f"e{at_us}", occurred_at_us=at_us, status=status, **fields | told)


@pytest.mark.req("OPS-01")
def test_an_alert_is_opened_once_acknowledged_and_resolved() -> None:
    opened = followed(None, alert("open", 10))
    assert opened is not None
    assert is_news(None, opened)
    again = followed(opened, alert("open", 20, value=7.0))
    assert again is not None
    assert (again.opened_at_us, again.value, is_news(opened, again)) == (10, 7.0, False)
    known = followed(again, alert("acknowledged", 30, acknowledged_by="key-1"))
    assert known is not None
    assert (known.status, known.acknowledged_at_us, known.acknowledged_by) == (
        "acknowledged",
        30,
        "key-1",
    )
    assert known.value == 7.0
    still = followed(known, alert("open", 40, value=9.0))
    assert still is not None
    assert (still.status, still.acknowledged_by, still.value) == ("acknowledged", "key-1", 9.0)
    over = followed(still, alert("resolved", 50, message="it is closed"))
    assert over is not None
    assert (over.status, over.opened_at_us, over.resolved_at_us) == ("resolved", 10, 50)
    assert (over.value, over.message, is_news(still, over)) == (9.0, "it is closed", True)
    anew = followed(over, alert("open", 60))
    assert anew is not None
    assert (anew.opened_at_us, anew.acknowledged_at_us, is_news(over, anew)) == (60, None, True)


@pytest.mark.parametrize("status", ["acknowledged", "resolved"])
def test_what_is_not_open_can_be_neither_acknowledged_nor_resolved(status: str) -> None:
    assert followed(None, alert(status)) is None
    over = followed(followed(None, alert("open", 1)), alert("resolved", 2))
    assert followed(over, alert(status, 3)) is None


def test_worse_is_news() -> None:
    warned = followed(None, alert("open", 1, severity="warning"))
    worse = followed(warned, alert("open", 2, severity="critical"))
    assert warned is not None
    assert worse is not None
    assert is_news(warned, worse)
    assert rank("info") < rank("critical") < rank("a word of a later version")
