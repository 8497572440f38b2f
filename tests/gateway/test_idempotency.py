"""One run per idempotency key: two workers on one real log, one real sandbox behind them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway import idempotency
from gateway.runs import Runs
from infra.broker import Broker
from schemas.codec import encode
from schemas.events.idempotency import IdempotencyClaimed, IdempotencySettled
from schemas.identity import uuid7
from schemas.log import Record
from tests.gateway.two_workers import headers, workers
from tests.sandbox.served import Served

MODEL = "idempotency/gpt-4o-mini"


async def post(
    session: aiohttp.ClientSession, url: str, idempotency_key: str, text: str, **more: Any
) -> tuple[int, dict[str, str], bytes]:
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], **more}
    given = headers(**{"idempotency-key": idempotency_key})
    data = json.dumps(body)
    async with session.post(f"{url}/v1/chat/completions", data=data, headers=given) as answer:
        return answer.status, dict(answer.headers), await answer.read()


@pytest.mark.req("BEY-13", "GW-13")
async def test_twenty_calls_on_two_workers_run_once(
    broker: Broker, sandbox: Served, tmp_path: Path
) -> None:
    sandbox.behave("gpt-4o-mini", "/idempotency", first_token_ms=200)
    async with (
        workers(broker, sandbox, tmp_path, "idempotency") as urls,
        aiohttp.ClientSession() as session,
    ):
        before = len(sandbox.rows("/idempotency"))
        answers = await asyncio.gather(
            *(post(session, urls[n % 2], "key-one", "What is a weir?") for n in range(20))
        )
        assert {status for status, _, _ in answers} == {200}
        assert len({body for _, _, body in answers}) == 1
        assert len({headers["x-weir-request-id"] for _, headers, _ in answers}) == 1
        replayed = [headers.get("idempotency-replayed") for _, headers, _ in answers]
        assert replayed.count("true") == 19
        assert len(sandbox.rows("/idempotency")) - before == 1

        status, _, body = await post(session, urls[1], "key-one", "Something else?")
        assert (status, json.loads(body)["error"]["code"]) == (409, "idempotency_conflict")

        streams = [
            await post(session, url, "key-two", "Stream a weir.", stream=True) for url in urls
        ]
        assert _text(streams[0][2]) == _text(streams[1][2]) != ""
        assert streams[1][2].endswith(b"data: [DONE]\n\n")

        sandbox.behave("gpt-4o-mini", "/idempotency", faults=[{"kind": "server_error", "count": 9}])
        status, _, _ = await post(session, urls[0], "key-three", "Fail first.")
        assert status >= 500
        sandbox.behave("gpt-4o-mini", "/idempotency", faults=[])
        status, headers, _ = await post(session, urls[1], "key-three", "Fail first.")
        assert status == 200, "what failed and was billed for nothing may run again"
        assert "idempotency-replayed" not in headers


@pytest.mark.req("BEY-13")
async def test_a_caller_who_left_gets_the_answer_of_his_run(
    broker: Broker, sandbox: Served, tmp_path: Path
) -> None:
    sandbox.behave("gpt-4o-mini", "/idempotency", first_token_ms=2_500)
    async with (
        workers(broker, sandbox, tmp_path, "idempotency") as urls,
        aiohttp.ClientSession() as session,
    ):
        before = len(sandbox.rows("/idempotency"))
        leaving = asyncio.create_task(post(session, urls[0], "key-left", "Wait for it."))
        await asyncio.sleep(1.5)  # by then it has begun, on a busy machine, too
        leaving.cancel()
        status, headers, body = await post(session, urls[1], "key-left", "Wait for it.")
        assert status == 200
        assert headers["idempotency-replayed"] == "true"
        assert json.loads(body)["choices"][0]["message"]["content"]
        assert len(sandbox.rows("/idempotency")) - before == 1


@pytest.mark.req("BEY-13")
async def test_an_answer_too_large_to_keep_has_a_code_of_its_own(
    broker: Broker, sandbox: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "ANSWER_BYTES_MAX", 10)
    async with (
        workers(broker, sandbox, tmp_path, "idempotency") as urls,
        aiohttp.ClientSession() as session,
    ):
        first, _, _ = await post(session, urls[0], "key-large", "Tell me much.")
        before = len(sandbox.rows("/idempotency"))
        status, headers, body = await post(session, urls[1], "key-large", "Tell me much.")
        assert (first, status) == (200, 409)
        assert json.loads(body)["error"]["code"] == "idempotency_unrepeatable"
        assert headers["x-weir-error-code"] == "idempotency_unrepeatable"
        assert len(sandbox.rows("/idempotency")) == before


def _text(stream: bytes) -> str:
    frames = [line[6:] for line in stream.splitlines() if line.startswith(b"data: {")]
    choices = [choice for frame in frames for choice in json.loads(frame)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


# --- the order of the log decides ------------------------------------------------------------


def claim(request_id: str, at_us: int = 1_000_000) -> IdempotencyClaimed:
    return IdempotencyClaimed(
        event_id=uuid7(),
        occurred_at_us=at_us,
        idempotency_id="k",
        request_id=request_id,
        fingerprint="f",
        outbox_id="o",
    )


def settled(request_id: str, status: int, ciphertext: bytes | None) -> IdempotencySettled:
    return IdempotencySettled(
        event_id=uuid7(),
        occurred_at_us=2_000_000,
        idempotency_id="k",
        request_id=request_id,
        status=status,
        content_type="application/json",
        ciphertext=ciphertext,
    )


def read(*events: IdempotencyClaimed | IdempotencySettled) -> Runs:
    runs = Runs()
    for offset, event in enumerate(events):
        runs.apply(Record(event.topic.name, 0, offset, 0, b"k", encode(event), []))
    return runs


@pytest.mark.req("BEY-13")
async def test_the_first_claim_runs_and_only_its_own_settlement_counts() -> None:
    runs = read(claim("a"), claim("b"), settled("b", 200, b"x"))
    assert runs.runs["k"].request_id == "a"
    assert runs.runs["k"].settled_at is None
    runs = read(claim("a"), claim("b"), settled("a", 200, b"x"), claim("c"))
    assert (runs.runs["k"].request_id, runs.runs["k"].settled_at) == ("a", (0, 2))


@pytest.mark.req("BEY-13")
async def test_a_failed_run_frees_its_key_and_an_old_one_expires() -> None:
    assert "k" not in read(claim("a"), settled("a", 503, None)).runs
    day_us = 24 * 3600 * 1_000_000
    assert read(claim("a"), claim("b", day_us + 2_000_000)).runs["k"].request_id == "b"
