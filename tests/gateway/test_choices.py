"""Several answers to one request, of vendors that give one."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import msgspec
import openai
import pytest

from gateway.choices import _Together, serve
from gateway.dialects.neutral import Opening
from gateway.inner import InnerCall
from schemas.events.llm import CostEntry, RequestAdmitted, ResponseCompleted
from tests.gateway.worker import Worker, provider
from tests.sandbox.served import Served

CLAUDE = "anthropic/claude-sonnet-4-5"
HELLO: Any = [{"role": "user", "content": "Say hello."}]


def spent(worker: Worker, ids: str) -> tuple[int, int, int]:
    """Input and output tokens and nano-USD of some calls, each of which has one line."""
    lines = [worker.call(one)[2] for one in ids.split(",")]
    assert all(isinstance(line, CostEntry) and line.entry == "settled" for line in lines)
    return (
        sum(line.input_tokens for line in lines),
        sum(line.output_tokens for line in lines),
        sum(line.cost_nano_usd for line in lines),
    )


@pytest.mark.req("BEY-01", "COST-01")
def test_each_choice_is_a_call_and_a_line_of_the_ledger(worker: Worker, sandbox: Served) -> None:
    raw = worker.openai().chat.completions.with_raw_response.create(
        model=CLAUDE, messages=HELLO, n=3, max_tokens=20
    )
    answer, ids = raw.parse(), raw.headers["x-weir-calls"]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert all(choice.message.content for choice in answer.choices)
    read, written, nano_usd = spent(worker, ids)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (read, written)
    assert raw.headers["x-weir-cost-usd"] == f"{nano_usd / 1e9:.9f}".rstrip("0")
    asked = {row["weir_request_id"] for row in sandbox.rows()}
    assert len(set(ids.split(",")) & asked) == 3


@pytest.mark.req("BEY-01", "GW-04")
def test_streams_of_choices_come_interleaved_and_end_once(worker: Worker) -> None:
    raw = worker.openai().chat.completions.with_raw_response.create(
        model=CLAUDE, messages=HELLO, n=2, max_tokens=20, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(raw.parse())
    texts = {0: "", 1: ""}
    ends = []
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            ends += [choice.index] if choice.finish_reason else []
    assert all(texts.values())
    assert sorted(ends) == [0, 1]
    assert len({chunk.id for chunk in chunks}) == 1
    assert [bool(chunk.usage) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    last = worker.responses()[-2:]
    assert chunks[-1].usage.completion_tokens == sum(it.output_tokens for it in last)
    assert chunks[-1].usage.prompt_tokens == sum(it.input_tokens for it in last)


@pytest.mark.parametrize("stream", [False, True])
def test_where_one_fails_the_client_hears_why(
    worker: Worker, sandbox: Served, stream: bool
) -> None:
    worker.change(provider("flaky", "anthropic", f"{sandbox.url}/flaky"))
    faults = [{"kind": "unavailable", "rate": 0.7}]
    sandbox.behave("claude-sonnet-4-5", "/flaky", faults=faults, first_token_ms=100)
    seen = len(worker.recorded)
    body = {"model": "flaky/claude-sonnet-4-5", "messages": HELLO, "n": 8, "max_tokens": 20,
            "stream": stream}  # fmt: skip
    status, _, answer = worker.request("POST", "/v1/chat/completions", body)
    if status == 200:  # another choice had begun: its stream ends with the error
        assert stream
        answer = answer.strip().rpartition(b"data: ")[2]
    assert json.loads(answer)["error"]["code"] == "upstream_overloaded"
    # Every call that was let in is settled once, whoever gave it up.
    let_in = [it.request_id for it in worker.recorded[seen:] if isinstance(it, RequestAdmitted)]
    found = [it for it in worker.recorded[seen:] if isinstance(it, ResponseCompleted)]
    assert sorted(it.request_id for it in found) == sorted(let_in)
    assert {"failed"} <= {it.outcome for it in found} <= {"failed", "cancelled", "success"}


def test_more_than_a_few_are_refused(worker: Worker) -> None:
    with pytest.raises(openai.BadRequestError, match="'n' must be at most 16") as refused:
        worker.openai().chat.completions.create(model=CLAUDE, messages=HELLO, n=17)
    assert refused.value.code == "invalid_request"


@pytest.mark.interpreted("a stand-in for an admitted call")
async def test_calls_have_a_key_each_and_one_patience() -> None:
    client = InnerCall("/v1/chat/completions", [(b"idempotency-key", b"k")], b"{}")
    opening = Opening("m", False, False, None, False, {}, None, choices=2)
    asked: Any = SimpleNamespace(opening=opening, fields={"n": msgspec.Raw(b"2")})
    first, second = _Together(client, asked).choices
    assert [it.headers[b"idempotency-key"] for it in (first, second)] == [b"k#0", b"k#1"]
    assert await first.body(9) == b"{}"
    # Who takes nothing of his answer is given up, by one of the calls for all.
    second.give_up_after(0.0)
    await asyncio.sleep(0.02)
    assert not client.left
    first.give_up_after(0.0)
    await asyncio.sleep(0.02)
    assert client.left


@pytest.mark.interpreted("a stand-in for an admitted call")
async def test_a_choice_that_breaks_down_is_no_missing_choice_of_a_whole_answer() -> None:
    client = InnerCall("/v1/chat/completions", [], b"{}")
    opening = Opening("m", False, True, None, False, {}, None, choices=2)
    asked: Any = SimpleNamespace(opening=opening, fields={"n": msgspec.Raw(b"2")})
    piece = b'data: {"id": "c", "choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n'

    async def call(choice: InnerCall) -> None:
        if getattr(choice, "index", 0) == 1:
            raise RuntimeError("a fault of ours")
        await choice.start(200, [])
        await choice.write(piece)
        await choice.end(b"data: [DONE]\n\n")

    with pytest.raises(RuntimeError, match="a fault of ours"):
        await serve(client, asked, call)
