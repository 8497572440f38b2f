"""The official client of AWS on the sandbox: signatures, answers, streams, refusals."""

import json
from typing import Any

import boto3
import botocore.eventstream
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.sandbox.served import Served

HAIKU = "anthropic.claude-3-haiku-20240307-v1:0"
SONNET = "us.anthropic.claude-3-7-sonnet-20250219-v1:0"
HELLO: Any = [{"role": "user", "content": [{"text": "Say hello."}]}]
TOOLS: Any = {
    "tools": [
        {
            "toolSpec": {
                "name": "get_weather",
                "inputSchema": {
                    "json": {"type": "object", "properties": {"city": {"type": "string"}}}
                },
            }
        }
    ]
}


def client(url: str, *, secret: str = "secret-of-AKID", token: str | None = None) -> Any:
    return boto3.client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url=url,
        aws_access_key_id="AKID",
        aws_secret_access_key=secret,
        aws_session_token=token,
        config=Config(retries={"total_max_attempts": 1}),
    )


@pytest.mark.parametrize("model", [HAIKU, "amazon.nova-lite-v1:0"])
def test_a_whole_answer(sandbox: Served, model: str) -> None:
    answer = client(f"{sandbox.url}/bed", token="tok").converse(modelId=model, messages=HELLO)
    [block] = answer["output"]["message"]["content"]
    assert block["text"]
    assert answer["stopReason"] == "end_turn"
    assert answer["usage"]["totalTokens"] == (
        answer["usage"]["inputTokens"] + answer["usage"]["outputTokens"]
    )


def test_a_stream_says_the_same_as_a_whole_answer(sandbox: Served) -> None:
    aws = client(f"{sandbox.url}/bed")
    events = list(aws.converse_stream(modelId=HAIKU, messages=HELLO)["stream"])
    text = "".join(
        event["contentBlockDelta"]["delta"]["text"]
        for event in events
        if "contentBlockDelta" in event
    )
    whole = aws.converse(modelId=HAIKU, messages=HELLO)
    assert text == whole["output"]["message"]["content"][0]["text"]
    assert events[-1]["metadata"]["usage"] == whole["usage"]
    assert list(events[-2]) == ["messageStop"]


def test_a_tool_is_called_and_answered(sandbox: Served) -> None:
    aws = client(f"{sandbox.url}/bed")
    first = aws.converse(modelId=HAIKU, messages=HELLO, toolConfig=TOOLS)
    assert first["stopReason"] == "tool_use"
    spoken = first["output"]["message"]
    use = spoken["content"][-1]["toolUse"]
    result = {"toolResult": {"toolUseId": use["toolUseId"], "content": [{"text": "18 °C"}]}}
    turns = [*HELLO, spoken, {"role": "user", "content": [result]}]
    last = aws.converse(modelId=HAIKU, messages=turns, toolConfig=TOOLS)
    assert last["stopReason"] == "end_turn"
    with pytest.raises(ClientError, match="toolConfig"):
        aws.converse(modelId=HAIKU, messages=turns)


def test_reasoning_is_signed_and_a_prefix_is_cached(sandbox: Served) -> None:
    aws = client(f"{sandbox.url}/bed")
    options = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
    answer = aws.converse(modelId=SONNET, messages=HELLO, additionalModelRequestFields=options)
    thought = answer["output"]["message"]["content"][0]["reasoningContent"]["reasoningText"]
    assert thought["text"]
    assert thought["signature"]
    long = [{"text": "river stone " * 1500}, {"cachePoint": {"type": "default"}}]
    first = aws.converse(modelId=HAIKU, messages=HELLO, system=long)["usage"]
    second = aws.converse(modelId=HAIKU, messages=HELLO, system=long)["usage"]
    assert first["cacheWriteInputTokens"] > 1024
    assert second["cacheReadInputTokens"] == first["cacheWriteInputTokens"]


def test_a_wrong_signature_is_refused(sandbox: Served) -> None:
    with pytest.raises(ClientError) as refused:
        client(sandbox.url, secret="wrong").converse(modelId=HAIKU, messages=HELLO)
    assert refused.value.response["Error"]["Code"] == "AccessDeniedException"
    assert "signature" in str(refused.value)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ({"modelId": "nobody.knows-v1:0", "messages": HELLO}, "model identifier is invalid"),
        ({"modelId": HAIKU, "messages": []}, "must start with a user message"),
        ({"modelId": HAIKU, "messages": HELLO * 2}, "alternate"),
        (
            {"modelId": HAIKU, "messages": HELLO, "inferenceConfig": {"maxTokens": 99_999}},
            "exceeds the model limit",
        ),
        (
            {"modelId": HAIKU, "messages": [{"role": "user", "content": [{"text": " "}]}]},
            "blank",
        ),
    ],
)
def test_what_the_vendor_refuses(sandbox: Served, call: dict[str, Any], told: str) -> None:
    with pytest.raises(ClientError, match=told) as refused:
        client(sandbox.url).converse(**call)
    assert refused.value.response["Error"]["Code"] == "ValidationException"


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"kind": "rate_limited"}, "ThrottlingException"),
        ({"kind": "unavailable"}, "ServiceUnavailableException"),
        ({"kind": "server_error"}, "InternalServerException"),
        ({"kind": "context_too_long"}, "ValidationException"),
    ],
)
def test_faults_are_the_vendors_exceptions(
    sandbox: Served, fault: dict[str, Any], code: str
) -> None:
    sandbox.behave(HAIKU, "/bed-faults", faults=[fault])
    with pytest.raises(ClientError) as failed:
        client(f"{sandbox.url}/bed-faults").converse(modelId=HAIKU, messages=HELLO)
    assert failed.value.response["Error"]["Code"] == code


def test_a_fault_in_a_stream_is_an_exception_of_the_stream(sandbox: Served) -> None:
    sandbox.behave(HAIKU, "/bed-event", faults=[{"kind": "error_event"}])
    aws = client(f"{sandbox.url}/bed-event")
    with pytest.raises(ClientError, match="modelStreamErrorException"):
        list(aws.converse_stream(modelId=HAIKU, messages=HELLO)["stream"])
    sandbox.behave(HAIKU, "/bed-bad", faults=[{"kind": "malformed_frame"}])
    bad = client(f"{sandbox.url}/bed-bad")
    with pytest.raises(botocore.eventstream.ChecksumMismatch):
        list(bad.converse_stream(modelId=HAIKU, messages=HELLO)["stream"])


def test_a_bearer_key_does_too(sandbox: Served) -> None:
    body = {"messages": HELLO}
    path = f"/bed/model/{HAIKU}/converse"
    answered = sandbox.post(path, body, {"authorization": "Bearer bedrock-api-key"})
    assert answered.status == 200
    refused = sandbox.post(path, body, {})
    assert refused.status == 403
    assert json.loads(refused.body)["message"]
