"""Claim: each kind of alert is raised once, told to everybody, repeated after the receiver was away, and ended.

On a real Weir each kind gets its cause: calls, budgets, limits, keys, a failing target, feedback, a record
that nobody can read; what the trainer would say is played, as are alerts of other deciders, `--size` of
them. Receivers on real sockets (webhook, chat, mail) note what they take. They are away while half of
it happens, and control, which tells them, is killed with -9 in the middle, twice. Then the receivers'
ledger is held against the log: every opening and every end, by every way.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from bench.alerts_count import count
from bench.claim import Arguments, Limit, Verdict, main
from bench.rawlog import read_topics
from bench.receivers import HttpReceiver, Ledger, SmtpReceiver
from bench.stack import Stack, fetch
from infra.kafka import KafkaLog
from schemas.clock import now_us
from schemas.event import Event
from schemas.events.changes import DeploymentChanged
from schemas.events.operations import AlertChanged
from schemas.events.training import StepCompleted
from schemas.identity import uuid7
from schemas.log import Connection

SECRET = base64.b64encode(b"the key of this claim").decode()
PATIENCE_S = 150.0
PLAYED = (
    "metric_anomaly",
    "cost_anomaly",
    "optimization_opportunity",
    "lag",
    "drift",
    "spending_limit",
    "provider_saturated",
    "limits_local",
    "broker_away",
    "outbox_50%",
    "outbox_80%",
    "tuning_failed",
)
MODEL = "gpt-4.1-nano"
CAUSED = (
    "rule_calls",
    "budget_warning",
    "budget_exceeded",
    "circuit_open",
    "rate_limit_saturated",
    "keys_refused",
    "secret_expiry",
    "feedback_trigger",
    "tuning_completed",
    "canary_rollback",
    "dead_letters",
)


def config(http: HttpReceiver, smtp: SmtpReceiver) -> str:
    """Return the settings of this claim: channels, a rule, a budget, a limit."""
    return f"""
[alert_channels.hook]
kind = "webhook"
url = "{http.url("hook")}"
secret_env = "BENCH_HOOK_KEY"
[alert_channels.chat]
kind = "chat"
url = "{http.url("chat")}"
[alert_channels.email]
kind = "email"
host = "127.0.0.1"
port = {smtp.port}
security = "none"
sender = "weir@bench.example"
recipients = ["ops@bench.example"]
[alert_channels.log]
kind = "log"
[alert_rules.busy]
scope = "key"
metric = "calls"
comparator = "gte"
threshold = 40
window = "1m"
[budgets.small]
scope = "key"
total_limit_usd = "0.000005"
warning_threshold = 0.5
on_exceeded = "alert_only"
[limits.pace]
scope = "key"
requests_per_minute = 60
[routes.only-b]
targets = [{{ target = "b/{MODEL}" }}]
[parts.control]
alerts = {{ retry_first_s = 0.5, retry_max_s = 2.0 }}
"""


class Scene:
    """A running Weir and what is done to it."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.api = f"{stack.url}/api/v1"

    def ask(self, key: str, model: str, times: int) -> None:
        """Call so often, a few at once; refusals and failures are part of the scene."""
        body = {"model": model, "max_tokens": 20, "messages": [{"role": "user", "content": "Hi"}]}
        url = f"{self.stack.url}/v1/chat/completions"

        def call(_: int) -> None:
            with suppress(OSError):
                fetch(url, key=key, method="POST", body=body, timeout_s=30)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(call, range(times)))

    def admin(self, method: str, path: str, body: Any = None) -> Any:
        """Call the administration."""
        return fetch(f"{self.api}/admin{path}", key=self.stack.key, method=method, body=body)

    def make_key(self, name: str, **fields: Any) -> dict[str, Any]:
        """Make an API key; return its id and secret, however late control reads it back."""
        made = self.admin("POST", "/keys", {"name": name, **fields})
        found: list[str] = []

        def listed() -> bool:
            found[:] = [
                it["id"] for it in self.admin("GET", "/keys")["items"] if it["name"] == name
            ]
            return bool(found)

        until(f"the key {name} is listed", listed)
        return {"id": found[0], "secret": made["secret"]}

    def standing(self) -> dict[str, str]:
        """Return {alert id: type} of what stands."""
        found = self.admin("GET", "/alerts?status=standing&limit=1000")["items"]
        return {alert["id"]: alert["type"] for alert in found}

    def publish(self, *events: Event) -> None:
        """Append events as another part would."""

        async def append() -> None:
            async with KafkaLog(Connection(self.stack.bootstrap), "/bench") as log:
                await asyncio.gather(*(log.publish(event) for event in events))

        asyncio.run(append())

    def kill_control(self) -> None:
        """Kill -9 and wait until it answers again."""
        before = self.stack.pids()["control"]
        os.kill(before, signal.SIGKILL)
        until("control is back", lambda: self.stack.pids().get("control", before) != before)
        until("control answers", lambda: _answers(f"{self.stack.control_url}/health"))


def until(what: str, true: Callable[[], bool], patience_s: float = PATIENCE_S) -> float:
    """Wait for something; return the seconds that it took. Raises TimeoutError."""
    begun = time.monotonic()
    while time.monotonic() - begun < patience_s:
        with suppress(OSError):
            if true():
                return time.monotonic() - begun
        time.sleep(0.1)
    raise TimeoutError(f"{what}: not within {patience_s:.0f} s")


def _answers(url: str) -> bool:
    return bool(fetch(url, timeout_s=2))


def played(size: int, status: str) -> list[Event]:
    """Return alerts of deciders that are not on this stage."""
    return [
        AlertChanged(
            event_id=uuid7(),
            occurred_at_us=now_us(),
            alert_id=f"{PLAYED[number % len(PLAYED)]}:{number}",
            alert_type=PLAYED[number % len(PLAYED)],
            severity="warning",
            scope="total:",
            status=status,
            message=f"{status}: played by the claim",
        )
        for number in range(size)
    ]


def raise_all(scene: Scene) -> dict[str, Any]:
    """Give each kind its cause; return what is needed to end them."""
    key, other = scene.make_key("caller"), scene.make_key("other caller")
    ending = (datetime.now(UTC) + timedelta(days=3)).isoformat()
    dying = scene.make_key("dying", expires_at=ending)
    for call in range(5):
        fetch(
            f"{scene.stack.url}/api/v1/feedback",
            key=key["secret"],
            method="POST",
            body={
                "feedback_type": "thumbs_up",
                "original_prompt": f"p{call}",
                "model_response": "r",
                "satisfaction_score": 1,
            },
        )
    scene.stack.sandbox.behave("b", MODEL, faults=[{"kind": "server_error"}])
    scene.ask(key["secret"], f"a/{MODEL}", 57)
    scene.ask(other["secret"], "only-b", 12)
    scene.ask("weir-nobody-knows-this-key", f"a/{MODEL}", 60)
    deployment = DeploymentChanged(
        event_id=uuid7(),
        occurred_at_us=now_us(),
        entity_version=1,
        actor="bench",
        deployment_id="canary-1",
        model_version_id="v2",
        model="own/tuned",
        provider="local",
        state="rolled_back",
        reason="worse than its baseline",
    )
    scene.publish(deployment, ended_run("run-1", "completed"))
    spoil(scene.stack.bootstrap)
    return {"key": key, "other": other, "dying": dying, "deployment": deployment}


def ended_run(run_id: str, status: str, step: str = "learn") -> StepCompleted:
    """Return the end of a run of the trainer."""
    return StepCompleted(
        event_id=uuid7(),
        occurred_at_us=now_us(),
        run_id=run_id,
        step=step,
        status=status,
        duration_us=1,
    )


def spoil(bootstrap: str) -> None:
    """Append bytes that no consumer of keys can read."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": bootstrap})
    producer.produce("weir.identity.changes.v1", value=b"\xc3\x01 no event", key=b"spoilt")
    producer.flush(10)


def end_all(scene: Scene, causes: dict[str, Any]) -> None:
    """Take each cause away; what would take an hour to end is ended by hand."""
    scene.stack.sandbox.behave("b", MODEL)
    scene.admin("PATCH", "/cost/budgets/small", {"total_limit_usd": "1000"})
    scene.admin("POST", f"/keys/{causes['dying']['id']}/revoke", {})
    triggers = read_topics(scene.stack.bootstrap, ["weir.training.triggers.v1"])
    change = causes["deployment"]
    promoted = DeploymentChanged(
        event_id=uuid7(),
        occurred_at_us=now_us(),
        entity_version=1,
        actor="bench",
        deployment_id="canary-2",
        model_version_id="v3",
        model=change.model,
        provider="local",
        state="promoted",
    )
    begun = [ended_run(raw.event_id, "completed", "collect") for raw in triggers]
    scene.publish(promoted, *begun, ended_run("run-2", "refused"))
    for _ in until_calm(scene):
        # An open circuit is probed, and a budget's new limit told, by calls alone.
        scene.ask(causes["other"]["secret"], "only-b", 1)
        scene.ask(causes["key"]["secret"], f"a/{MODEL}", 1)


def until_calm(scene: Scene) -> Iterator[None]:
    """Yield until only what does not end by itself stands, then end that by hand."""
    by_hand = {"dead_letters", "tuning_refused"}
    begun = time.monotonic()
    while time.monotonic() - begun < PATIENCE_S:
        with suppress(OSError):
            standing = scene.standing()
            if set(standing.values()) <= by_hand:
                for alert_id in standing:
                    scene.admin("POST", f"/alerts/{alert_id}/resolve", {})
                return
        yield
        time.sleep(2)


def listen(stack: Stack, heard: list[str]) -> None:
    """Follow the stream of alerts, over deaths of control, and keep what it says."""
    import urllib.request

    while True:
        request = urllib.request.Request(
            f"{stack.url}/admin/alerts/stream", headers={"authorization": f"Bearer {stack.key}"}
        )
        with suppress(OSError, ValueError), urllib.request.urlopen(request, timeout=60) as stream:
            for line in stream:
                if line.startswith(b"data: "):
                    alert = json.loads(line[6:])
                    heard.append(f"{alert['id']}|{alert['status']}")
        time.sleep(0.5)


def bad_signatures(ledger: Ledger) -> int:
    """Return how many webhooks are not signed by the claim's key."""
    bad = 0
    for taken in ledger.of("hook"):
        headers = taken.said["headers"]
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{taken.said['raw']}"
        digest = hmac.digest(base64.b64decode(SECRET), signed.encode(), hashlib.sha256)
        bad += headers.get("webhook-signature") != "v1," + base64.b64encode(digest).decode()
    return bad


def measure(arguments: Arguments) -> Verdict:
    """Raise, kill, end, count."""
    ledger, heard = Ledger(), list[str]()
    http, smtp = HttpReceiver(ledger), SmtpReceiver(ledger)
    http.open()
    smtp.open()
    environment = {
        "WEIR_WORKERS": "1",
        "WEIR_FEEDBACK_THRESHOLD": "5",
        "BENCH_HOOK_KEY": f"whsec_{SECRET}",
    }
    with Stack(
        arguments.out,
        seed=arguments.seed,
        config=config(http, smtp),
        environment=environment,
        keep=arguments.keep,
    ) as stack:
        scene = Scene(stack)
        threading.Thread(target=listen, args=(stack, heard), daemon=True).start()
        scene.publish(*played(arguments.size // 2, "open"))
        until("the first are told", lambda: len(ledger.of("hook")) >= arguments.size // 4)
        scene.kill_control()  # in the middle of telling
        for receiver in (http, smtp):
            receiver.close()
        causes = raise_all(scene)
        scene.publish(*played(arguments.size, "open"))
        wanted = {*CAUSED, *PLAYED[: arguments.size]}
        raised_s = until("each kind stands", lambda: wanted <= set(scene.standing().values()))
        scene.kill_control()  # while everybody is away
        time.sleep(2)
        away_until = time.time()
        http.open()
        smtp.open()
        until("what waited is told", lambda: _told(scene))
        after_s = max(it.at_s for it in ledger.entries) - away_until
        late = sum(it.at_s > away_until for it in ledger.entries)
        scene.publish(*played(arguments.size, "resolved"))
        end_all(scene, causes)
        until("nothing stands", lambda: not scene.standing())
        until("everything is told", lambda: _told(scene))
        if arguments.sabotage:
            ledger.entries.pop()
        figures = count(stack.bootstrap, ledger, arguments.out)
        figures["kinds_missing"] = len(wanted - set(figures["kinds"]))
        standing = {f"{it}" for it in heard}
        figures["stream_heard"] = len(standing)
    for receiver in (http, smtp):
        receiver.close()
    figures |= {
        "bad_signatures": bad_signatures(ledger),
        "raised_within_s": round(raised_s, 1),
        "told_after_return": late,
        "told_after_return_within_s": round(after_s, 1),
    }
    limits = [
        Limit("kinds_missing", 0, "equal"),
        Limit("raised_twice", 0, "equal"),
        Limit("not_resolved", 0, "equal"),
        Limit("missing", 0, "equal"),
        Limit("unknown", 0, "equal"),
        Limit("out_of_order", 0, "equal"),
        Limit("repeats", 2 * 3),  # one in flight by each way at each death
        Limit("bad_signatures", 0, "equal"),
        Limit("told_after_return", 3 * len(CAUSED), "min"),
        Limit("stream_heard", 2 * len(CAUSED), "min"),
    ]
    return Verdict(figures, limits)


def _told(scene: Scene) -> bool:
    alerts = fetch(f"{scene.stack.url}/status", key=scene.stack.key)["alerts"]
    return bool(alerts["delivers"] and not alerts["waiting"])


if __name__ == "__main__":
    main("alerts", 100, measure)
