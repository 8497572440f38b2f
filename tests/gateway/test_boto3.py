"""The official client of AWS through the gateway, with targets of every kind behind."""

from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from gateway.dialects.bedrock import BEDROCK
from tests.gateway.strict import check_shape
from tests.gateway.test_bedrock import SERVICE
from tests.gateway.worker import SECRET, Worker, price, provider
from tests.sandbox.served import Served

HAIKU = "anthropic.claude-3-haiku-20240307-v1:0"
SONNET = "us.anthropic.claude-3-7-sonnet-20250219-v1:0"
MODELS = ["openai/gpt-4o-mini", "anthropic/claude-sonnet-4-5", f"bedrock/{HAIKU}"]
HELLO: Any = [{"role": "user", "content": [{"text": "Say hello."}]}]
WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "inputSchema": {
        "json": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        }
    },
}
PIXEL = bytes.fromhex("89504e470d0a1a0a")


@pytest.fixture
def aws(worker: Worker, sandbox: Served, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The client. Over plain HTTP it keeps bearer tokens back: the session token is the key."""
    monkeypatch.delenv("AWS_BEARER_TOKEN_BEDROCK", raising=False)
    monkeypatch.setenv("TEST_AWS_KEY", "AKIDTEST:secret-of-AKIDTEST:session")
    worker.change(
        provider(
            "bedrock",
            "bedrock",
            f"{sandbox.url}/bedrock",
            secret="env:TEST_AWS_KEY",
            options={"auth": "aws", "region": "us-east-1"},
        ),
        price("bedrock", HAIKU, 250_000_000, 1_250_000_000),
    )
    return bedrock_client(worker, aws_session_token=SECRET)


def bedrock_client(worker: Worker, **options: Any) -> Any:
    options = {"aws_access_key_id": "weir", "aws_secret_access_key": "weir", **options}
    return boto3.client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url=worker.url,
        config=Config(retries={"total_max_attempts": 1}),
        **options,
    )


def request_id(answer: Any) -> str:
    headers: dict[str, str] = answer["ResponseMetadata"]["HTTPHeaders"]
    return headers["x-weir-request-id"]


@pytest.mark.req("BEY-01", "BEY-02")
@pytest.mark.parametrize("model", MODELS)
def test_whole(worker: Worker, aws: Any, model: str) -> None:
    answer = aws.converse(modelId=model, messages=HELLO, system=[{"text": "Be brief."}])
    assert answer["output"]["message"]["content"][0]["text"]
    assert answer["stopReason"] == "end_turn"
    _, response, cost = worker.call(request_id(answer))
    assert response.target == model
    assert response.usage_basis == "reported"
    assert response.output_tokens == answer["usage"]["outputTokens"]
    assert cost.cost_nano_usd is not None


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize("model", MODELS)
def test_stream(worker: Worker, aws: Any, model: str) -> None:
    answer = aws.converse_stream(modelId=model, messages=HELLO)
    events = list(answer["stream"])
    output = SERVICE.shape_for("ConverseStreamOutput")
    for event in events:
        check_shape(event, output)
    assert list(events[0]) == ["messageStart"]
    assert list(events[-1]) == ["metadata"]
    text = "".join(
        event["contentBlockDelta"]["delta"].get("text", "")
        for event in events
        if "contentBlockDelta" in event
    )
    assert text
    _, response, _ = worker.call(request_id(answer))
    assert response.usage_basis == "reported"
    assert events[-1]["metadata"]["usage"]["outputTokens"] == response.output_tokens


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize("model", MODELS)
def test_tools(aws: Any, model: str) -> None:
    tools: Any = {"tools": [{"toolSpec": WEATHER}], "toolChoice": {"any": {}}}
    answer = aws.converse(modelId=model, messages=HELLO, toolConfig=tools)
    assert answer["stopReason"] == "tool_use"
    spoken = answer["output"]["message"]
    use = spoken["content"][-1]["toolUse"]
    assert use["name"] == "get_weather"
    assert "city" in use["input"]
    pieces = [
        event["contentBlockDelta"]["delta"]["toolUse"]["input"]
        for event in aws.converse_stream(modelId=model, messages=HELLO, toolConfig=tools)["stream"]
        if "toolUse" in event.get("contentBlockDelta", {}).get("delta", {})
    ]
    assert '"city"' in "".join(pieces)
    result = {"toolResult": {"toolUseId": use["toolUseId"], "content": [{"json": {"c": 18}}]}}
    last = aws.converse(
        modelId=model,
        messages=[*HELLO, spoken, {"role": "user", "content": [result]}],
        toolConfig={"tools": tools["tools"]},
    )
    assert last["stopReason"] == "end_turn"


@pytest.mark.parametrize("model", MODELS)
def test_images_limits_and_stop_sequences(aws: Any, model: str) -> None:
    seen = [{"text": "What is it?"}, {"image": {"format": "png", "source": {"bytes": PIXEL}}}]
    turns = [{"role": "user", "content": seen}]
    cut = aws.converse(modelId=model, messages=turns, inferenceConfig={"maxTokens": 3})
    assert cut["stopReason"] == "max_tokens"
    stopped = aws.converse(modelId=model, messages=turns, inferenceConfig={"stopSequences": [":"]})
    assert stopped["stopReason"] in {"stop_sequence", "end_turn"}
    assert ":" not in stopped["output"]["message"]["content"][0]["text"]


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize("model", MODELS)
def test_structured_output(aws: Any, model: str) -> None:
    schema = '{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}'
    form = {"type": "json_schema", "structure": {"jsonSchema": {"schema": schema, "name": "a"}}}
    answer = aws.converse(modelId=model, messages=HELLO, outputConfig={"textFormat": form})
    assert '"city"' in answer["output"]["message"]["content"][0]["text"]


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize("model", ["anthropic/claude-sonnet-4-5", f"bedrock/{SONNET}"])
def test_signed_thoughts_come_back_and_are_taken_again(aws: Any, model: str) -> None:
    options: Any = {
        "additionalModelRequestFields": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        "inferenceConfig": {"maxTokens": 4096},
    }
    answer = aws.converse(modelId=model, messages=HELLO, **options)
    spoken = answer["output"]["message"]
    thought = spoken["content"][0]["reasoningContent"]["reasoningText"]
    assert thought["signature"]
    turns = [*HELLO, spoken, {"role": "user", "content": [{"text": "Go on."}]}]
    assert aws.converse(modelId=model, messages=turns, **options)["stopReason"] == "end_turn"


@pytest.mark.req("BEY-01", "GW-16")
def test_errors_are_the_vendors_exceptions(aws: Any) -> None:
    with pytest.raises(aws.exceptions.ResourceNotFoundException):
        aws.converse(modelId="nobody/knows", messages=HELLO)
    with pytest.raises(aws.exceptions.ValidationException, match="role"):
        aws.converse(modelId=MODELS[0], messages=[{"role": "system", "content": []}])
    with pytest.raises(aws.exceptions.ValidationException, match="must start with a user"):
        aws.converse(modelId=MODELS[2], messages=[])


@pytest.mark.req("PROV-07")
def test_a_faulty_stream_ends_with_an_exception(worker: Worker, sandbox: Served, aws: Any) -> None:
    base = f"{sandbox.url}/bedrock-cut"
    options = {"auth": "aws", "region": "us-east-1"}
    worker.change(provider("cut", "bedrock", base, secret="env:TEST_AWS_KEY", options=options))
    for kind in ("cut", "malformed_frame", "missing_end_marker", "error_event"):
        sandbox.behave(HAIKU, "/bedrock-cut", faults=[{"kind": kind}])
        with pytest.raises(ClientError, match="(?i)internalServerException"):
            list(aws.converse_stream(modelId=f"cut/{HAIKU}", messages=HELLO)["stream"])
        assert worker.responses()[-1].outcome == "failed", kind


def test_a_signature_is_refused_with_the_way_out(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_BEARER_TOKEN_BEDROCK", raising=False)
    signing = bedrock_client(worker)
    with pytest.raises(ClientError, match="AWS_BEARER_TOKEN_BEDROCK") as refused:
        signing.converse(modelId=MODELS[0], messages=HELLO)
    assert refused.value.response["Error"]["Code"] == "AccessDeniedException"


def test_a_bearer_key_does_too(worker: Worker) -> None:
    path = "/model/openai%2Fgpt-4o-mini/converse"
    status, _, body = worker.request("POST", path, {"messages": HELLO})
    assert status == 200, body


def test_bytes_pass_untouched_between_equal_dialects(
    worker: Worker, sandbox: Served, aws: Any
) -> None:
    row = sandbox.rows("/bedrock")[-1]["seq"] if sandbox.rows("/bedrock") else 0
    aws.converse(
        modelId=MODELS[2],
        messages=HELLO,
        requestMetadata={"team": "search"},
        performanceConfig={"latency": "standard"},
    )
    [served] = sandbox.rows("/bedrock", since=row)
    assert served["model"] == HAIKU
    assert served["dialect"] == BEDROCK.name
