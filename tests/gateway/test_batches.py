"""Files and batches through the official clients, on two workers, one of which may die."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from gateway.attempts import ERROR_CODE
from gateway.batches import lines, runner
from gateway.batches.runner import AT_ONCE, _Run
from gateway.inner import InnerCall
from infra.broker import Broker
from schemas.errors import IdempotencyUnrepeatable, Unavailable
from tests.gateway.two_workers import KEY, workers
from tests.sandbox.served import Served, strictly


def client_of(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)


def line(custom_id: str, text: str, base: str = "batches", **more: Any) -> str:
    model = f"{base}/gpt-4o-mini"
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 30}
    url = "/v1/chat/completions"
    return json.dumps(
        {"custom_id": custom_id, "method": "POST", "url": url, "body": {**body, **more}}
    )


async def batch_of(client: openai.AsyncOpenAI, content: str) -> Any:
    file = await client.files.create(file=("in.jsonl", content.encode()), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )


async def ended(client: openai.AsyncOpenAI, batch_id: str, seconds: float = 40) -> Any:
    async with asyncio.timeout(seconds):
        while True:
            batch = await client.batches.retrieve(batch_id)
            if batch.status in {"completed", "failed", "cancelled", "expired"}:
                return batch
            await asyncio.sleep(0.1)


async def results(client: openai.AsyncOpenAI, file_id: str) -> dict[str, Any]:
    text = (await client.files.content(file_id)).text
    return {entry["custom_id"]: entry for entry in map(json.loads, text.splitlines())}


@pytest.mark.req("BEY-01")
async def test_a_batch_by_the_openai_client(
    broker: Broker, sandbox: Served, tmp_path: Path
) -> None:
    sandbox.behave("gpt-4o-mini", "/batches")
    async with workers(broker, sandbox, tmp_path, "batches") as urls:
        first, second = map(client_of, urls)
        content = "\n".join(
            [line(f"n{number}", f"Say {number}.") for number in range(30)]
            + [line("bad", "x", temperature=99)]
        )
        before = len(sandbox.rows("/batches"))
        created = await batch_of(first, content)
        strictly(created)
        assert created.status == "validating"
        done = await ended(second, created.id)
        strictly(done)
        assert done.status == "completed"
        counts = done.request_counts
        assert (counts.total, counts.completed, counts.failed) == (31, 30, 1)
        good, bad = (
            await results(second, done.output_file_id),
            await results(first, done.error_file_id),
        )
        assert set(good) == {f"n{number}" for number in range(30)}
        assert good["n7"]["response"]["status_code"] == 200
        assert good["n7"]["response"]["body"]["choices"][0]["message"]["content"]
        assert bad["bad"]["response"]["status_code"] == 400
        assert len(sandbox.rows("/batches")) - before == 31

        files = await first.files.list(purpose="batch")
        assert created.input_file_id in {file.id for file in files.data}
        listed = await first.batches.list(limit=1)
        assert listed.data[0].id == created.id
        await first.files.delete(created.input_file_id)
        with pytest.raises(openai.NotFoundError):
            await first.files.retrieve(created.input_file_id)


@pytest.mark.req("BEY-01", "BEY-13")
async def test_another_worker_takes_over_and_nothing_runs_twice(
    broker: Broker, sandbox: Served, tmp_path: Path
) -> None:
    sandbox.behave("gpt-4o-mini", "/takeover", first_token_ms=150)
    content = "\n".join(
        line(f"n{number}", f"Say {number} again.", "takeover") for number in range(60)
    )
    async with workers(broker, sandbox, tmp_path / "one", "takeover") as urls:
        client = client_of(urls[0])
        batch_id = (await batch_of(client, content)).id
        while len(sandbox.rows("/takeover")) < 20:
            await asyncio.sleep(0.02)
    # Both workers have stopped in the middle; two others begin.
    async with workers(broker, sandbox, tmp_path / "two", "takeover") as urls:
        client = client_of(urls[0])
        done = await ended(client, batch_id)
        assert (done.status, done.request_counts.completed) == ("completed", 60)
        assert len(await results(client, done.output_file_id)) == 60
    whole = [row for row in sandbox.rows("/takeover") if row["complete"]]
    assert len(whole) == 60, "an answer that was there is not asked for again"


@pytest.mark.req("BEY-01")
async def test_cancelling_keeps_what_was_done(
    broker: Broker, sandbox: Served, tmp_path: Path
) -> None:
    sandbox.behave("gpt-4o-mini", "/cancel", first_token_ms=300)
    async with workers(broker, sandbox, tmp_path, "cancel") as urls:
        first, second = map(client_of, urls)
        content = "\n".join(
            line(f"n{number}", f"Tell {number}.", "cancel") for number in range(200)
        )
        created = await batch_of(first, content)
        while len(sandbox.rows("/cancel")) < 10:
            await asyncio.sleep(0.02)
        assert (await second.batches.cancel(created.id)).status in {"cancelling", "cancelled"}
        done = await ended(first, created.id)
        assert done.status == "cancelled"
        good = await results(first, done.output_file_id)
        rest = await results(first, done.error_file_id)
        assert len(good) == done.request_counts.completed < 200
        assert len(good) + len(rest) == 200
        assert rest.popitem()[1]["error"]["code"] == "batch_cancelled"


@pytest.mark.req("BEY-01", "GEN-05")
async def test_wrong_input_fails_with_every_fault_and_calls_nobody(
    broker: Broker, sandbox: Served, tmp_path: Path
) -> None:
    async with workers(broker, sandbox, tmp_path, "wrong") as urls:
        client = client_of(urls[0])
        before = len(sandbox.rows("/wrong"))
        created = await batch_of(client, line("a", "x") + "\n{oops\n" + line("a", "y"))
        done = await ended(client, created.id)
        assert done.status == "failed"
        assert [(error.line, error.message) for error in done.errors.data] == [
            (2, "line 2: not valid JSON"),
            (3, "line 3: the custom_id 'a' is used twice"),
        ]
        assert len(sandbox.rows("/wrong")) == before
        with pytest.raises(openai.NotFoundError):
            await client.batches.retrieve("batch_of_nobody")
        with pytest.raises(openai.BadRequestError, match="completion_window"):
            await client.batches.create(
                input_file_id=created.input_file_id,
                endpoint="/v1/chat/completions",
                completion_window="1h",  # type: ignore[arg-type]
            )


@pytest.mark.req("BEY-01")
async def test_a_batch_by_the_anthropic_client(
    broker: Broker, sandbox: Served, tmp_path: Path
) -> None:
    sandbox.behave("gpt-4o-mini", "/claude")
    async with workers(broker, sandbox, tmp_path, "claude") as urls:
        client = anthropic.AsyncAnthropic(base_url=urls[0], api_key=KEY, max_retries=0)
        params: Any = {
            "model": "claude/gpt-4o-mini",
            "max_tokens": 40,
            "messages": [{"role": "user", "content": "Hi."}],
        }
        created = await client.messages.batches.create(
            requests=[{"custom_id": f"c{number}", "params": params} for number in range(5)]
        )
        strictly(created)
        async with asyncio.timeout(30):
            while (await client.messages.batches.retrieve(created.id)).processing_status != "ended":
                await asyncio.sleep(0.1)
        async with httpx2.AsyncClient() as plain:
            url = f"{urls[1]}/v1/messages/batches/{created.id}/results"
            answer = await plain.get(url, headers={"x-api-key": KEY})
        entries = [json.loads(text) for text in answer.text.splitlines()]
        assert {entry["custom_id"] for entry in entries} == {f"c{number}" for number in range(5)}
        assert {entry["result"]["type"] for entry in entries} == {"succeeded"}
        seen = [entry async for entry in await client.messages.batches.results(created.id)]
        assert len(seen) == 5
        for entry in seen:
            strictly(entry)


def test_lines_are_read_strictly() -> None:
    read, faults = lines.read(line("a", "x").encode() + b"\n\n", "/v1/chat/completions")
    assert ([item.custom_id for item in read], faults) == (["a"], [])
    for wrong in (b"[]", b'{"custom_id":"a"}', line("", "x").encode(), b""):
        assert lines.read(wrong, "/v1/chat/completions")[1]
    assert lines.read(line("a", "x", stream=True).encode(), "/v1/chat/completions")[1]


class Desk:
    """What a run needs of its worker: files in memory, calls as the test has them."""

    def __init__(self, content: str) -> None:
        self.files = self
        self.status = "in_progress"
        self.times_us = {"validating": 1 << 62}
        self.tenant = self.key_id = self.input_file_id = "t"
        self.endpoint = "/v1/chat/completions"
        self.written: list[Any] = []
        self.told: dict[str, Any] = {}
        self.run_before: set[str] = set()
        self.begun = self.ended = 0
        self._content = content

    def current(self, _: str) -> Any:
        return self

    async def update(self, *_: Any, **fields: Any) -> None:
        self.status = fields.get("status", self.status)
        self.told |= fields

    def was_run(self, _: Any, key: str) -> bool:
        return key in self.run_before

    async def get(self, *_: Any) -> Any:
        return self

    async def keep(self, file: Any) -> Any:
        return file

    async def content(self, _: Any) -> bytes:
        return self._content.encode()

    def writer(self, _: str) -> Any:
        return self

    file_id = "f"

    def close(self, *_: Any) -> Any:
        return self

    def write(self, data: bytes) -> None:
        self.written.append(json.loads(data))

    async def call(self, inner: InnerCall) -> None:
        self.begun += 1
        await asyncio.sleep(0.05)
        inner.status, inner.answer = 200, b"{}"
        self.ended += 1


@pytest.mark.req("BEY-01", "BEY-13")
async def test_when_one_worker_of_a_batch_fails_none_goes_on() -> None:
    desk: Any = Desk("\n".join(line(f"n{number}", "x") for number in range(100)))

    def refuse(_: bytes) -> None:
        raise Unavailable("the log is away")

    desk.write = refuse
    with pytest.raises(Unavailable):
        await _Run(desk, "b").run()
    assert desk.begun == desk.ended == AT_ONCE
    await asyncio.sleep(0.2)
    assert desk.begun == AT_ONCE


@pytest.mark.req("BEY-01", "BEY-13")
async def test_who_takes_a_cancelled_batch_over_keeps_what_was_run() -> None:
    desk: Any = Desk("\n".join(line(f"n{number}", "x") for number in range(1, 31)))
    desk.status = "cancelling"
    desk.run_before = {f"b/{number}" for number in range(1, 13)}
    await _Run(desk, "b").run()
    assert desk.begun == desk.told["completed"] == 12
    assert (desk.status, desk.told["total"]) == ("cancelled", 30)
    answered = {entry["custom_id"] for entry in desk.written if entry["error"] is None}
    assert answered == {f"n{number}" for number in range(1, 13)}
    assert len(desk.written) == 30


@pytest.mark.req("BEY-01", "BEY-13")
async def test_a_line_that_was_answered_and_cannot_be_told_again_is_not_billed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "BACKOFF_S", 0.01)
    desk: Any = Desk(line("n", "x"))
    keys = []

    async def call(inner: InnerCall) -> None:
        keys.append(inner.headers[b"idempotency-key"])
        inner.status = 409
        inner.answer_headers = [(ERROR_CODE, IdempotencyUnrepeatable.code.encode())]
        inner.answer = b'{"error": {"code": "idempotency_unrepeatable"}}'

    desk.call = call
    await _Run(desk, "b").run()
    assert keys == [b"b/1"]
    assert desk.written[0]["response"]["status_code"] == 409
