"""OpenAI's own client against the sandbox on a real socket, with unknown fields forbidden."""

import json
import time

import openai
import pytest
from pydantic import BaseModel

from infra.sandbox.openai_media import ImageRequest
from infra.sandbox.requests import BadBody, read_form
from infra.sandbox.tokens import count
from tests.sandbox.served import Served, strictly

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a place",
            "parameters": {
                "type": "object",
                "properties": {
                    "place": {"type": "string"},
                    "unit": {"type": "string", "enum": ["c", "f"]},
                    "days": {"type": "integer", "minimum": 1, "maximum": 7},
                },
                "required": ["place", "unit"],
            },
        },
    }
]
ASK = [{"role": "user", "content": "What does a weir do?"}]


def test_whole_answer_is_as_documented(sandbox: Served) -> None:
    answer = sandbox.openai().chat.completions.create(model="gpt-4o-mini", messages=ASK)
    strictly(answer)
    text = answer.choices[0].message.content
    assert text
    assert answer.usage
    assert answer.model == "gpt-4o-mini-2024-07-18"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == count(text)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    again = sandbox.openai().chat.completions.create(model="gpt-4o-mini", messages=ASK)
    other = sandbox.openai().chat.completions.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": "What does a dam do?"}]
    )
    assert again.choices[0].message.content == text != other.choices[0].message.content


def test_headers_are_as_documented(sandbox: Served) -> None:
    raw = sandbox.openai().chat.completions.with_raw_response.create(model="gpt-4o", messages=ASK)
    assert raw.headers["x-request-id"].startswith("req_")
    assert int(raw.headers["openai-processing-ms"]) >= 1
    for what in ("requests", "tokens"):
        assert int(raw.headers[f"x-ratelimit-limit-{what}"]) > 0
        assert int(raw.headers[f"x-ratelimit-remaining-{what}"]) >= 0
        assert raw.headers[f"x-ratelimit-reset-{what}"].endswith("s")


def test_length_obeys_the_limit(sandbox: Served) -> None:
    answer = sandbox.openai().chat.completions.create(model="gpt-4o", messages=ASK, max_tokens=7)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage
    assert answer.usage.completion_tokens == 7


def test_stream_joins_to_the_whole_answer_and_reports_usage_when_asked(sandbox: Served) -> None:
    client = sandbox.openai()
    whole = client.chat.completions.create(model="gpt-4.1-nano", messages=ASK)
    chunks = list(
        client.chat.completions.create(
            model="gpt-4.1-nano",
            messages=ASK,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    for chunk in chunks:
        strictly(chunk)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    plain = list(client.chat.completions.create(model="gpt-4.1-nano", messages=ASK, stream=True))
    assert all(chunk.usage is None for chunk in plain)


def test_tool_call_whole_and_its_result(sandbox: Served) -> None:
    client = sandbox.openai()
    answer = client.chat.completions.create(model="gpt-4o", messages=ASK, tools=TOOLS)
    strictly(answer)
    assert answer.choices[0].finish_reason == "tool_calls"
    message = answer.choices[0].message
    assert message.content is None
    assert message.tool_calls
    call = message.tool_calls[0]
    arguments = json.loads(call.function.arguments)
    assert call.function.name == "get_weather"
    assert arguments["unit"] in ("c", "f")
    assert 1 <= arguments["days"] <= 7
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    history = [*ASK, message.model_dump(), result]
    final = client.chat.completions.create(model="gpt-4o", messages=history, tools=TOOLS)
    assert final.choices[0].finish_reason == "stop"


def test_tool_call_streamed(sandbox: Served) -> None:
    client = sandbox.openai()
    options = {"model": "gpt-4o", "messages": ASK, "tools": TOOLS, "tool_choice": "required"}
    whole = client.chat.completions.create(**options)
    with client.chat.completions.stream(**options) as stream:
        for event in stream:
            if event.type == "chunk":
                strictly(event.chunk)
        final = stream.get_final_completion()
    expected = whole.choices[0].message.tool_calls
    assert expected
    assert final.choices[0].message.tool_calls
    assert [
        (call.function.name, call.function.arguments)
        for call in final.choices[0].message.tool_calls
    ] == [(call.function.name, call.function.arguments) for call in expected]
    assert final.choices[0].finish_reason == "tool_calls"


def test_tool_choice_none_answers_in_text(sandbox: Served) -> None:
    answer = sandbox.openai().chat.completions.create(
        model="gpt-4o", messages=ASK, tools=TOOLS, tool_choice="none"
    )
    assert answer.choices[0].message.content
    assert not answer.choices[0].message.tool_calls


def test_structured_output_fits_its_schema(sandbox: Served) -> None:
    class Part(BaseModel):
        name: str
        weight: float

    class Machine(BaseModel):
        title: str
        parts: list[Part]

    answer = sandbox.openai().chat.completions.parse(
        model="gpt-4o", messages=ASK, response_format=Machine
    )
    assert isinstance(answer.choices[0].message.parsed, Machine)
    loose = sandbox.openai().chat.completions.create(
        model="gpt-4o", messages=ASK, response_format={"type": "json_object"}
    )
    assert isinstance(json.loads(loose.choices[0].message.content or ""), dict)


def test_reasoning_tokens_are_billed_within_the_output(sandbox: Served) -> None:
    client = sandbox.openai()
    answer = client.chat.completions.create(model="o4-mini", messages=ASK)
    strictly(answer)
    assert answer.usage
    assert answer.usage.completion_tokens_details
    reasoning = answer.usage.completion_tokens_details.reasoning_tokens
    text = answer.choices[0].message.content or ""
    assert reasoning
    assert answer.usage.completion_tokens == reasoning + count(text)
    short = client.chat.completions.create(model="o4-mini", messages=ASK, max_completion_tokens=5)
    assert short.choices[0].message.content == ""
    assert short.choices[0].finish_reason == "length"
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="o4-mini", messages=ASK, max_tokens=5)
    assert refused.value.code == "unsupported_parameter"
    assert refused.value.param == "max_tokens"


def test_long_prompts_are_cached_by_prefix(sandbox: Served) -> None:
    client = sandbox.openai("/cached")
    long = [{"role": "system", "content": "a river of words " * 400}, *ASK]
    first = client.chat.completions.create(model="gpt-4o-mini", messages=long, max_tokens=4)
    second = client.chat.completions.create(model="gpt-4o-mini", messages=long, max_tokens=4)
    assert first.usage
    assert first.usage.prompt_tokens_details
    assert second.usage
    assert second.usage.prompt_tokens_details
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert cached
    assert cached % 128 == 0
    assert 1_024 <= cached <= second.usage.prompt_tokens


def test_choices_logprobs_and_stop(sandbox: Served) -> None:
    client = sandbox.openai()
    answer = client.chat.completions.create(
        model="gpt-4o", messages=ASK, n=2, logprobs=True, top_logprobs=3
    )
    strictly(answer)
    assert len({choice.message.content for choice in answer.choices}) == 2
    logprobs = answer.choices[0].logprobs
    assert logprobs
    assert logprobs.content
    assert len(logprobs.content[0].top_logprobs) == 3
    assert "".join(t.token for t in logprobs.content) == answer.choices[0].message.content
    stopped = client.chat.completions.create(model="gpt-4o", messages=ASK, stop=["-"])
    assert "-" not in (stopped.choices[0].message.content or "")
    assert stopped.choices[0].finish_reason == "stop"


def test_embeddings(sandbox: Served) -> None:
    client = sandbox.openai()
    answer = client.embeddings.create(
        model="text-embedding-3-small", input=["one weir", "one weir", "two"]
    )
    strictly(answer)
    first, same, other = (entry.embedding for entry in answer.data)
    assert first == same != other
    assert len(first) == 1_536
    assert abs(sum(value * value for value in first) - 1) < 1e-3
    assert answer.usage.prompt_tokens == count("one weir") * 2 + count("two")
    short = client.embeddings.create(
        model="text-embedding-3-large", input="x", dimensions=256, encoding_format="float"
    )
    assert len(short.data[0].embedding) == 256


def test_models(sandbox: Served) -> None:
    client = sandbox.openai()
    models = client.models.list()
    for model in models.data:
        strictly(model)
    names = [model.id for model in models.data]
    assert "gpt-4o-mini" in names
    assert not any(name.startswith("claude") for name in names)
    strictly(client.models.retrieve("gpt-4o"))
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-none")


def _training_file(client: openai.OpenAI, examples: int = 12) -> str:
    line = {"messages": [*ASK, {"role": "assistant", "content": "It dams."}]}
    content = "\n".join(json.dumps(line) for _ in range(examples)).encode()
    return client.files.create(file=("train.jsonl", content), purpose="fine-tune").id


def test_files(sandbox: Served) -> None:
    client = sandbox.openai("/files")
    file = client.files.create(file=("a.jsonl", b'{"x":1}\n'), purpose="batch")
    strictly(file)
    assert file.bytes == 8
    assert file.filename == "a.jsonl"
    strictly(client.files.retrieve(file.id))
    assert client.files.content(file.id).content == b'{"x":1}\n'
    others = [client.files.create(file=("b", b"b"), purpose="fine-tune").id for _ in range(3)]
    page = client.files.list(limit=2)
    assert page.has_more is True
    assert [entry.id for entry in page] == [*others[::-1], file.id]
    assert [entry.id for entry in client.files.list(purpose="batch")] == [file.id]
    strictly(client.files.delete(file.id))
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    with pytest.raises(openai.BadRequestError):
        client.files.create(file=("c", b"c"), purpose="nonsense")  # type: ignore[arg-type]


def test_fine_tuning_job_ends_in_a_callable_model(sandbox: Served) -> None:
    client = sandbox.openai("/tuning")
    file = _training_file(client)
    job = client.fine_tuning.jobs.create(
        model="gpt-4o-mini",
        training_file=file,
        suffix="weir",
        seed=7,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
    )
    strictly(job)
    seen = {job.status}
    for _ in range(100):
        job = client.fine_tuning.jobs.retrieve(job.id)
        strictly(job)
        seen.add(job.status)
        if job.status == "succeeded":
            break
        time.sleep(0.03)
    assert {"validating_files", "running", "succeeded"} <= seen
    assert job.fine_tuned_model
    assert job.trained_tokens
    assert job.finished_at
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=3))
    for event in events:
        strictly(event)
    assert events[0].message == "The job has successfully completed"
    assert any(event.type == "metrics" for event in events)
    assert len({event.id for event in events}) == len(events)
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id))
    for checkpoint in checkpoints:
        strictly(checkpoint)
    assert len(checkpoints) == 2
    assert b"train_loss" in client.files.content(job.result_files[0]).content
    answer = client.chat.completions.create(model=job.fine_tuned_model, messages=ASK)
    assert answer.model == job.fine_tuned_model
    assert job.fine_tuned_model in [model.id for model in client.models.list().data]


def test_fine_tuning_steering_and_lists(sandbox: Served) -> None:
    client = sandbox.openai("/steering")
    file = _training_file(client)
    jobs = [
        client.fine_tuning.jobs.create(model="gpt-4.1-nano", training_file=file) for _ in range(3)
    ]
    page = client.fine_tuning.jobs.list(limit=2)
    assert page.has_more is True
    assert [entry.id for entry in page] == [j.id for j in jobs[::-1]]
    cancelled = client.fine_tuning.jobs.cancel(jobs[0].id)
    strictly(cancelled)
    assert cancelled.status == "cancelled"
    while client.fine_tuning.jobs.retrieve(jobs[1].id).status != "running":
        time.sleep(0.02)
    assert str(client.fine_tuning.jobs.pause(jobs[1].id).status) == "paused"
    time.sleep(0.7)
    assert str(client.fine_tuning.jobs.retrieve(jobs[1].id).status) == "paused"
    assert client.fine_tuning.jobs.resume(jobs[1].id).status == "running"
    with pytest.raises(openai.BadRequestError):
        client.fine_tuning.jobs.cancel(jobs[0].id)


def test_fine_tuning_refuses_bad_files(sandbox: Served) -> None:
    client = sandbox.openai("/badfiles")
    job = client.fine_tuning.jobs.create(
        model="gpt-4o-mini", training_file=_training_file(client, examples=3)
    )
    time.sleep(0.2)
    failed = client.fine_tuning.jobs.retrieve(job.id)
    strictly(failed)
    assert failed.status == "failed"
    assert failed.error
    assert failed.error.code == "invalid_training_file"
    with pytest.raises(openai.BadRequestError):
        client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file="file-none")


def test_errors_are_as_documented(sandbox: Served) -> None:
    client = sandbox.openai()
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-none", messages=ASK)
    assert missing.value.code == "model_not_found"
    assert set(missing.value.response.json()["error"]) == {"message", "type", "param", "code"}
    with pytest.raises(openai.BadRequestError) as unknown:
        client.chat.completions.create(model="gpt-4o", messages=ASK, extra_body={"colour": 1})
    assert unknown.value.code == "unknown_parameter"
    assert unknown.value.param == "colour"
    with pytest.raises(openai.BadRequestError) as typed:
        client.chat.completions.create(
            model="gpt-4o", messages=ASK, extra_body={"temperature": "hot"}
        )
    assert typed.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as ranged:
        client.chat.completions.create(model="gpt-4o", messages=ASK, temperature=2.5)
    assert (ranged.value.code, ranged.value.param) == ("decimal_above_max_value", "temperature")
    with pytest.raises(openai.BadRequestError) as greedy:
        client.chat.completions.create(model="gpt-4o", messages=ASK, max_tokens=1_000_000)
    assert greedy.value.param == "max_tokens"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="gpt-4o", messages=[])
    with pytest.raises(openai.BadRequestError) as orphan:
        client.chat.completions.create(
            model="gpt-4o",
            messages=[*ASK, {"role": "tool", "tool_call_id": "call_x", "content": "1"}],
        )
    assert "tool_calls" in orphan.value.message
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(
            model="gpt-3.5-turbo", messages=[{"role": "user", "content": "word " * 20_000}]
        )
    assert long.value.code == "context_length_exceeded"


def test_a_call_without_key_is_refused(sandbox: Served) -> None:
    client = sandbox.openai(default_headers={"authorization": ""})
    with pytest.raises(openai.AuthenticationError):
        client.chat.completions.create(model="gpt-4o", messages=ASK)


@pytest.mark.parametrize("texts", [{"n": "0"}, {"n": "many"}, {"unheard": "x"}])
def test_a_form_is_read_as_strictly_as_json(texts: dict[str, str]) -> None:
    with pytest.raises(BadBody):
        read_form({"prompt": "x", "model": "gpt-image-1", **texts}, ImageRequest)
