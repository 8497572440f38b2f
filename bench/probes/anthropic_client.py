"""The official anthropic client, unmodified, against a base URL: ``anthropic_client.py URL KEY MODEL…``.

Prints one JSON line {version, passed, failed: {case: what went wrong}}.
"""

import json
import sys
import traceback

import anthropic

TOOL = {
    "name": "get_weather",
    "description": "The weather at a place.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city", "days"],
    },
}
ASK = {
    "system": "Be brief.",
    "messages": [{"role": "user", "content": "Where is the water?"}],
}


def text_of(message):
    return "".join(block.text for block in message.content if block.type == "text")


def whole(client, model):
    answer = client.messages.create(model=model, max_tokens=40, **ASK)
    assert answer.id
    assert answer.type == "message"
    assert answer.role == "assistant"
    assert text_of(answer)
    assert answer.stop_reason in ("end_turn", "max_tokens")
    assert answer.usage.input_tokens > 0
    assert 0 < answer.usage.output_tokens <= 40


def stream(client, model):
    events = []
    with client.messages.stream(model=model, max_tokens=40, **ASK) as stream:
        events.extend(event.type for event in stream)
        final = stream.get_final_message()
    assert events[0] == "message_start"
    assert events[-1] == "message_stop"
    assert "content_block_delta" in events
    assert final.stop_reason in ("end_turn", "max_tokens")
    assert final.usage.output_tokens > 0
    answer = client.messages.create(model=model, max_tokens=40, **ASK)
    assert text_of(final) == text_of(answer), "the stream differs from the whole answer"


def tool_call(client, model):
    answer = client.messages.create(
        model=model, max_tokens=200, tools=[TOOL], tool_choice={"type": "any"}, **ASK
    )
    assert answer.stop_reason == "tool_use"
    call = next(block for block in answer.content if block.type == "tool_use")
    assert call.name == "get_weather"
    assert isinstance(call.input["city"], str)
    assert isinstance(call.input["days"], int)
    after = client.messages.create(
        model=model,
        max_tokens=40,
        tools=[TOOL],
        system="Be brief.",
        messages=[
            *ASK["messages"],
            {"role": "assistant", "content": answer.content},
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "clear"}],
            },
        ],
    )
    assert after.role == "assistant"


def streamed_tool_call(client, model):
    with client.messages.stream(
        model=model, max_tokens=200, tools=[TOOL], tool_choice={"type": "any"}, **ASK
    ) as stream:
        final = stream.get_final_message()
    assert final.stop_reason == "tool_use"
    call = next(block for block in final.content if block.type == "tool_use")
    assert isinstance(call.input["city"], str)


def refused(kind, call):
    """Return the body of the error of this kind that a call must raise."""
    try:
        call()
    except kind as error:
        return error.body
    raise AssertionError(f"no {kind.__name__} came")


def error(client, model):
    def create(ask=ASK, by=client, **changes):
        return by.messages.create(**{"model": model, "max_tokens": 40, **ask, **changes})

    vendor = model.partition("/")[0]
    for wrong in (f"{vendor}/no-such-model", "no-such-vendor/no-such-model"):
        absent = refused(anthropic.NotFoundError, lambda w=wrong: create(model=w))
        assert absent["type"] == "error"
        assert absent["error"]["type"] == "not_found_error"
    stranger = client.with_options(api_key="wrong")
    unknown = refused(anthropic.AuthenticationError, lambda: create(by=stranger))
    assert unknown["error"]["type"] == "authentication_error"
    nobody = {"messages": [{"role": "nobody", "content": "x"}]}
    wrong_role = refused(anthropic.BadRequestError, lambda: create(nobody))
    assert wrong_role["error"]["type"] == "invalid_request_error"


def model_list(client, model):
    listed = [entry.id for entry in client.models.list(limit=100)]
    assert model in listed, f"{model} is not among {len(listed)}"
    assert client.models.retrieve(model).id == model


CASES = (whole, stream, tool_call, streamed_tool_call, error, model_list)


def main(url, key, models):
    client = anthropic.Anthropic(base_url=url, api_key=key, max_retries=0, timeout=30)
    passed, failed = 0, {}
    for model in models:
        for case in CASES:
            try:
                case(client, model)
                passed += 1
            except Exception:  # noqa: BLE001 - whatever went wrong is the result
                failed[f"{case.__name__} {model}"] = traceback.format_exc(limit=3)[-900:]
    print(json.dumps({"version": anthropic.__version__, "passed": passed, "failed": failed}))


main(sys.argv[1], sys.argv[2], sys.argv[3:])
