"""Batches of prompts: order kept, each a call of its own, errors where they belong."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any

import pytest

from schemas.events.llm import ResponseCompleted
from tests.gateway.worker import SECRET, Worker
from tests.sandbox.served import Served

PATH = "/api/v1/generate/batch"
MODEL = "openai/gpt-4o-mini"


def batch(worker: Worker, prompts: list[Any], **shared: Any) -> tuple[int, Any]:
    status, _, body = worker.request("POST", PATH, {"prompts": prompts, **shared})
    return status, json.loads(body)


@pytest.mark.req("GW-03")
def test_answers_come_in_order_and_each_is_recorded_by_itself(worker: Worker) -> None:
    prompts = [f"Number {number}, please." for number in range(20)]
    status, body = batch(worker, prompts, model_id=MODEL, max_tokens=40)
    assert (status, body["succeeded"], body["failed"]) == (200, 20, 0)
    assert [result["index"] for result in body["results"]] == list(range(20))
    alone = [
        json.loads(
            worker.request(
                "POST", "/generate", {"prompt": prompt, "model_id": MODEL, "max_tokens": 40}
            )[2]
        )["text"]
        for prompt in prompts[:3]
    ]
    assert [result["text"] for result in body["results"][:3]] == alone
    ids = {result["metadata"]["request_id"] for result in body["results"]}
    assert len(ids) == 20
    assert all(len(worker.events(ResponseCompleted, request_id)) == 1 for request_id in ids)


@pytest.mark.req("GW-03")
def test_an_entry_may_differ_and_fail_alone(worker: Worker) -> None:
    status, body = batch(
        worker,
        [
            "fine",
            {"prompt": "other", "modelId": "nobody/knows"},
            {"prompt": "hot", "temperature": 9},
        ],
        model_id=MODEL,
        max_tokens=20,
    )
    assert (status, body["succeeded"], body["failed"]) == (200, 1, 2)
    codes = [result.get("error", {}).get("code") for result in body["results"]]
    assert codes == [None, "model_not_found", "validation_failed"]


@pytest.mark.req("GW-03")
@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"prompts": []},
        {"prompts": "one"},
        {"prompts": ["x"] * 101},
        {"prompts": [1]},
        {"prompts": ["x"], "stream": True},
        {"prompts": [{"prompt": "x", "stream": True}]},
        {"prompts": ["x"], "shoe_size": 44},
    ],
)
def test_a_wrong_batch_calls_nobody(worker: Worker, sandbox: Served, wrong: Any) -> None:
    before = len(sandbox.rows())
    status, _, body = worker.request("POST", PATH, wrong)
    assert (status, json.loads(body)["error"]["code"]) == (422, "validation_failed")
    assert json.loads(body)["error"]["details"]
    assert len(sandbox.rows()) == before


@pytest.mark.req("GW-03", "GW-04")
def test_who_leaves_takes_his_calls_with_him(own_worker: Worker, sandbox: Served) -> None:
    sandbox.behave("gpt-4o", first_token_ms=5_000)
    connection = http.client.HTTPConnection("127.0.0.1", own_worker.port)
    body = json.dumps({"prompts": ["wait"] * 4, "model_id": "openai/gpt-4o"})
    headers = {"authorization": f"Bearer {SECRET}", "content-type": "application/json"}
    connection.request("POST", PATH, body, headers)
    time.sleep(0.5)
    connection.close()
    deadline = time.monotonic() + 4
    while len(own_worker.responses()) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    sandbox.behave("gpt-4o")
    assert [response.outcome for response in own_worker.responses()] == ["cancelled"] * 4
