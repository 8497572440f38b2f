"""What the fuzzed installation is given before the first case: ids that nobody guesses, and past events.

A new installation has no alert to acknowledge, no forecast and no model version: what tells of them
could only say that there is none. Their events are written here as their makers would write them.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

from bench.fuzz_words import MODELS, PRICED, SLOW
from bench.stack import Stack, fetch
from infra.kafka import KafkaLog
from schemas.clock import now_us
from schemas.event import Event
from schemas.events.changes import ModelVersionChanged
from schemas.events.forecasts import LEVELS, ForecastMade, ForecastPoint
from schemas.events.operations import AlertChanged
from schemas.identity import uuid7
from schemas.log import Connection

KEYS, FILES, ALERTS = 20, 8, 40
"""What cases may revoke, remove and end."""
LINES = 400
"""Lines of a batch that is still running when a case cancels it."""
UPLOAD_S = 20.0
DAY_S, DAYS = 86_400, 120
PASSED = "/passthrough/a/files"
VERSION = "planted-1"
_TALK = {"max_tokens": 8, "messages": [{"role": "user", "content": "Hi"}]}
_CHAT = "/v1/chat/completions"


def plant(stack: Stack, key: str) -> dict[str, list[Any]]:
    """Make some of what has ids; return them by the names of their parameters."""

    def post(path: str, body: dict[str, Any]) -> Any:
        return fetch(f"{stack.url}{path}", key=key, method="POST", body=body)

    def command(kind: str, body: dict[str, Any]) -> Any:
        url = f"{stack.control_url}/api/v1/admin/{kind}"
        return fetch(url, key=stack.key, method="POST", body=body)

    def batch(file_id: str) -> str:
        wish = {"endpoint": _CHAT, "completion_window": "24h", "input_file_id": file_id}
        return str(post("/v1/batches", wish)["id"])

    def messages(model: str, size: int) -> str:
        params = {"model": model, **_TALK}
        asked = [{"custom_id": str(number), "params": params} for number in range(size)]
        return str(post("/v1/messages/batches", {"requests": asked})["id"])

    events = list(_past())
    asyncio.run(_publish(stack, events))
    report = stack.home / "models" / VERSION / "report.md"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text("# Planted\n", "utf-8")
    kind, name, price = PRICED
    command(kind, {"id": name, **price})
    spare = {"name": "spare", "team": "planted"}
    said = {"feedback_type": "thumbs_up", "original_prompt": "Where?", "model_response": "There."}
    document = {"name": "planted", "tenants": {"team:applied": {}}}
    files = [_uploaded(stack, key, MODELS[0], 1) for _ in range(FILES)]
    return {
        "key_id": [command("keys", spare)["key"]["id"] for _ in range(KEYS)],
        "request_id": [called(stack)],
        "feedback_id": [post("/api/v1/feedback", said)["id"]],
        "batch_id": [messages(MODELS[0], 1) for _ in range(FILES)],
        "openai_batch_id": [batch(files[0])],
        "running_id": [messages(SLOW, LINES) for _ in range(FILES)],
        "openai_running_id": [batch(_uploaded(stack, key, SLOW, LINES)) for _ in range(FILES // 2)],
        "file_id": files,
        "vendors_file_id": [_uploaded(stack, key, SLOW, 1, PASSED) for _ in range(FILES)],
        "replay_id": [post("/api/v1/projections/feedback/replay", {"verify": True})["id"]],
        "alert_id": [it.alert_id for it in events if isinstance(it, AlertChanged)],
        "model_id": [VERSION],
        "job_id": [post("/api/model-training/training-jobs", {})["job_id"]],
        "insight_id": ["provider:failing"],
        "change_set_id": [command("config/apply", {"document": document})["change_set_id"]],
    }


def called(stack: Stack) -> str:
    """Make a call and return its id. Raises OSError when it fails."""
    body = json.dumps({"model": MODELS[0], **_TALK}).encode()
    headers = {"authorization": f"Bearer {stack.key}", "content-type": "application/json"}
    request = urllib.request.Request(f"{stack.url}{_CHAT}", body, headers, method="POST")
    with urllib.request.urlopen(request, timeout=UPLOAD_S) as answer:
        return str(answer.headers["x-weir-request-id"])


def _uploaded(stack: Stack, key: str, model: str, size: int, place: str = "/v1/files") -> str:
    """Upload a file of batched calls; return its id."""
    line = {"method": "POST", "url": _CHAT, "body": {"model": model, **_TALK}}
    lines = "\n".join(json.dumps({"custom_id": str(number), **line}) for number in range(size))
    parts = "".join(
        f'--b\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{value}\r\n'
        for name, more, value in (
            ("purpose", "", "batch"),
            ("file", '; filename="a.jsonl"', lines),
        )
    )
    headers = {"authorization": f"Bearer {key}", "content-type": "multipart/form-data; boundary=b"}
    data = f"{parts}--b--\r\n".encode()
    request = urllib.request.Request(f"{stack.url}{place}", data, headers, method="POST")
    with urllib.request.urlopen(request, timeout=UPLOAD_S) as answer:
        return str(json.loads(answer.read())["id"])


def _past() -> Iterator[Event]:
    """Yield what streams and a trainer would have told."""
    today_s = int(time.time()) // DAY_S * DAY_S
    width = [float(number) for number in range(1, len(LEVELS) + 1)]
    for metric in ("calls", "cost_nano_usd", "tokens"):
        yield ForecastMade(
            **_now(),
            metric=metric,
            scope="total:",
            model="theta",
            history_days=60,
            folds=4,
            error=0.1,
            naive_error=0.2,
            coverage=0.95,
            levels=list(LEVELS),
            points=[ForecastPoint(today_s + day * DAY_S, 1e9, width) for day in range(DAYS)],
            month_total=3e10,
            number=1,
        )
    for number in range(ALERTS):
        yield AlertChanged(
            **_now(),
            alert_id=f"planted:{number}",
            alert_type="planted",
            severity="info",
            scope="team:planted",
            status="open",
            message="Nothing is wrong.",
        )
    yield ModelVersionChanged(
        **_now(),
        entity_version=1,
        actor="planted",
        model_version_id=VERSION,
        name="planted",
        status="available",
        base_model="none",
    )


def _now() -> dict[str, Any]:
    return {"event_id": uuid7(), "occurred_at_us": now_us()}


async def _publish(stack: Stack, events: list[Event]) -> None:
    async with KafkaLog(Connection(stack.bootstrap), "/bench") as log:
        for event in events:
            await log.publish(event)
