"""The official openai client, unmodified, against a base URL: ``openai_client.py URL KEY MODEL…``.

It runs in an environment that holds the client and nothing of ours, whichever major version of it,
and prints one JSON line {version, passed, failed: {case: what went wrong}}.
"""

import json
import sys
import traceback

import openai

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather at a place.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}
ASK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where is the water?"},
]


def whole(client, model):
    answer = client.chat.completions.create(model=model, messages=ASK, max_tokens=40)
    choice = answer.choices[0]
    assert answer.id
    assert answer.object == "chat.completion"
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.prompt_tokens > 0
    assert 0 < usage.completion_tokens <= 40
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def stream(client, model):
    text, finish, usage, chunks = "", None, None, 0
    for chunk in client.chat.completions.create(
        model=model,
        messages=ASK,
        max_tokens=40,
        stream=True,
        stream_options={"include_usage": True},
    ):
        chunks += 1
        assert chunk.object == "chat.completion.chunk"
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    assert chunks > 2
    assert text
    assert finish in ("stop", "length")
    assert usage is not None
    assert usage.completion_tokens > 0
    whole_text = (
        client.chat.completions.create(model=model, messages=ASK, max_tokens=40)
        .choices[0]
        .message.content
    )
    assert text == whole_text, "the stream differs from the whole answer to the same prompt"


def tool_call(client, model):
    answer = client.chat.completions.create(
        model=model, messages=ASK, tools=[TOOL], tool_choice="required", max_tokens=200
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    call = choice.message.tool_calls[0]
    assert call.type == "function"
    assert call.function.name == "get_weather"
    arguments = json.loads(call.function.arguments)
    assert isinstance(arguments["city"], str)
    assert isinstance(arguments["days"], int)
    after = client.chat.completions.create(
        model=model,
        max_tokens=40,
        tools=[TOOL],
        messages=[
            *ASK,
            choice.message,
            {"role": "tool", "tool_call_id": call.id, "content": '{"sky": "clear"}'},
        ],
    )
    assert after.choices[0].message.role == "assistant"


def streamed_tool_call(client, model):
    name, arguments, finish = "", "", None
    for chunk in client.chat.completions.create(
        model=model,
        messages=ASK,
        tools=[TOOL],
        tool_choice="required",
        max_tokens=200,
        stream=True,
    ):
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            for call in choice.delta.tool_calls or []:
                assert call.index == 0
                name += call.function.name or ""
                arguments += call.function.arguments or ""
    assert name == "get_weather"
    assert isinstance(json.loads(arguments)["city"], str)
    assert finish == "tool_calls"


def refused(kind, call):
    """Return the error of this kind that a call must raise."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} came")


def error(client, model):
    create = client.chat.completions.create
    vendor = model.partition("/")[0]
    for wrong in (f"{vendor}/no-such-model", "no-such-vendor/no-such-model"):
        absent = refused(openai.NotFoundError, lambda w=wrong: create(model=w, messages=ASK))
        assert absent.status_code == 404
        assert absent.code
        assert absent.body["message"]
    stranger = client.with_options(api_key="wrong").chat.completions.create
    assert refused(openai.AuthenticationError, lambda: stranger(model=model, messages=ASK)).body
    nobody = [{"role": "nobody", "content": "x"}]
    wrong_role = refused(openai.BadRequestError, lambda: create(model=model, messages=nobody))
    assert wrong_role.body["message"]


def model_list(client, model):
    listed = list(client.models.list())
    assert model in [entry.id for entry in listed], f"{model} is not among {len(listed)}"
    assert all(entry.object == "model" for entry in listed)
    assert client.models.retrieve(model).id == model


CASES = (whole, stream, tool_call, streamed_tool_call, error, model_list)


def main(url, key, models):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=30)
    passed, failed = 0, {}
    for model in models:
        for case in CASES:
            try:
                case(client, model)
                passed += 1
            except Exception:  # noqa: BLE001 - whatever went wrong is the result
                failed[f"{case.__name__} {model}"] = traceback.format_exc(limit=3)[-900:]
    print(json.dumps({"version": openai.__version__, "passed": passed, "failed": failed}))


main(sys.argv[1], sys.argv[2], sys.argv[3:])
