"""The official openai client for Python, unmodified: ``openai_client.py PLAN.json``."""

import base64
import json

import openai
from pydantic import BaseModel
from running import main, refused, until


class Place(BaseModel):
    city: str
    days: int


def tool(function):
    return {"type": "function", "function": function}


def ask(script, prompt=None):
    return [
        {"role": "system", "content": script.system},
        {"role": "user", "content": prompt or script.prompt},
    ]


def text_of_stream(chunks):
    """Return the text of a stream, its end and its usage."""
    text, finish, usage = "", None, None
    for chunk in chunks:
        assert chunk.object in ("chat.completion.chunk", "")  # "" is Azure's first
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    return text, finish, usage


def whole(client, target, script):
    raw = client.chat.completions.with_raw_response.create(
        model=target.model, messages=ask(script), max_tokens=script.max_tokens
    )
    answer = raw.parse()
    choice = answer.choices[0]
    assert answer.id
    assert answer.object == "chat.completion"
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.prompt_tokens > 0
    assert 0 < usage.completion_tokens <= script.max_tokens
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert raw.headers["x-weir-model"] == target.model
    assert raw.headers["x-weir-attempts"] == "1"
    assert raw.headers["x-weir-request-id"] == raw.headers["x-request-id"]
    assert raw.headers["x-weir-route"]


def streamed(client, target, script):
    asked = {"model": target.model, "messages": ask(script), "max_tokens": script.max_tokens}
    text, finish, usage = text_of_stream(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    answer = client.chat.completions.create(**asked)
    assert text == answer.choices[0].message.content, "the stream differs from the whole answer"
    assert finish == answer.choices[0].finish_reason
    assert usage.completion_tokens == answer.usage.completion_tokens


def tools(client, target, script):
    asked = {"model": target.model, "tools": [tool(script.weather)]}
    choice = client.chat.completions.create(
        **asked, messages=ask(script), tool_choice="required", max_tokens=script.tool_tokens
    ).choices[0]
    assert choice.finish_reason == "tool_calls"
    call = choice.message.tool_calls[0]
    assert (call.type, call.function.name) == ("function", script.weather["name"])
    Place.model_validate_json(call.function.arguments, strict=True)
    result = {"role": "tool", "tool_call_id": call.id, "content": script.tool_result}
    after = client.chat.completions.create(
        **asked,
        messages=[*ask(script), choice.message, result],
        max_tokens=script.max_tokens,
    )
    assert after.choices[0].message.content


def tools_streamed(client, target, script):
    name, arguments, finish = "", "", None
    for chunk in client.chat.completions.create(
        model=target.model,
        messages=ask(script),
        tools=[tool(script.weather)],
        tool_choice="required",
        max_tokens=script.tool_tokens,
        stream=True,
    ):
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            for call in choice.delta.tool_calls or []:
                assert call.index == 0
                name += call.function.name or ""
                arguments += call.function.arguments or ""
    assert name == script.weather["name"]
    Place.model_validate_json(arguments, strict=True)
    assert finish == "tool_calls"


def tools_parallel(client, target, script):
    """Two calls in one answer, whole and streamed, and both results sent back."""
    asked = {
        "model": target.model,
        "tools": [tool(script.weather), tool(script.time)],
        "max_tokens": script.tool_tokens,
    }
    for number in range(script.parallel_prompts):
        messages = ask(script, f"{script.prompt} {number}")
        message = client.chat.completions.create(**asked, messages=messages).choices[0].message
        if len(message.tool_calls or []) == 2:
            break
    calls = {call.id: call.function for call in message.tool_calls}
    assert len(calls) == 2, "never two calls at once"
    assert {call.name for call in calls.values()} == {script.weather["name"], script.time["name"]}
    pieces = {}
    for chunk in client.chat.completions.create(**asked, messages=messages, stream=True):
        for choice in chunk.choices:
            for call in choice.delta.tool_calls or []:
                piece = pieces.setdefault(call.index, {"name": "", "arguments": ""})
                piece["name"] += call.function.name or ""
                piece["arguments"] += call.function.arguments or ""
    assert sorted(pieces) == [0, 1]
    assert [(piece["name"], json.loads(piece["arguments"])) for piece in pieces.values()] == [
        (call.name, json.loads(call.arguments)) for call in calls.values()
    ]
    results = [
        {"role": "tool", "tool_call_id": name, "content": script.tool_result} for name in calls
    ]
    after = client.chat.completions.create(**asked, messages=[*messages, message, *results])
    assert after.choices[0].message.content


def structured(client, target, script):
    answer = client.chat.completions.parse(
        model=target.model,
        messages=ask(script),
        response_format=Place,
        max_tokens=script.tool_tokens,
    )
    assert isinstance(answer.choices[0].message.parsed, Place)


def pictured(client, target, script, url):
    parts = [
        {"type": "text", "text": script.prompt},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    return client.chat.completions.create(
        model=target.model,
        messages=[{"role": "user", "content": parts}],
        max_tokens=script.max_tokens,
    )


def image(client, target, script):
    answer = pictured(client, target, script, f"data:image/png;base64,{script.pixel}")
    assert answer.choices[0].message.content


def image_url(client, target, script):
    assert pictured(client, target, script, script.picture_url).choices[0].message.content


def image_url_refused(client, target, script):
    error = refused(
        openai.BadRequestError,
        {400},
        lambda: pictured(client, target, script, script.picture_url),
    )
    assert error.body["message"]


def completions(client, target, script):
    asked = {"model": target.completion, "prompt": script.prompt, "max_tokens": script.max_tokens}
    answer = client.completions.create(**asked)
    assert answer.object == "text_completion"
    assert answer.usage.completion_tokens > 0
    pieces = [
        choice.text
        for chunk in client.completions.create(**asked, stream=True)
        for choice in chunk.choices
    ]
    assert "".join(pieces) == answer.choices[0].text


def responses(client, target, script):
    """Whole, streamed, and a tool's call and result."""
    asked = {
        "model": target.model,
        "instructions": script.system,
        "input": script.prompt,
        "max_output_tokens": script.max_tokens,
    }
    answer = client.responses.create(**asked)
    assert answer.output_text
    assert answer.usage.output_tokens > 0
    events = list(client.responses.create(**asked, stream=True))
    assert events[0].type == "response.created"
    assert events[-1].type in ("response.completed", "response.incomplete")
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == answer.output_text, "the stream differs from the whole answer"
    assert events[-1].response.usage.output_tokens == answer.usage.output_tokens
    offered = {
        "model": target.model,
        "tools": [{"type": "function", "strict": False, **script.weather}],
        "max_output_tokens": script.tool_tokens,
    }
    called = client.responses.create(**offered, input=script.prompt, tool_choice="required")
    call = next(item for item in called.output if item.type == "function_call")
    Place.model_validate_json(call.arguments, strict=True)
    result = {
        "type": "function_call_output",
        "call_id": call.call_id,
        "output": script.tool_result,
    }
    turns = [{"role": "user", "content": script.prompt}, *called.output, result]
    assert client.responses.create(**offered, input=turns).output_text


def embeddings(client, target, script):
    answer = client.embeddings.create(model=target.embedding, input=script.texts)
    assert [entry.index for entry in answer.data] == [0, 1]
    assert len({len(entry.embedding) for entry in answer.data}) == 1
    assert len(answer.data[0].embedding) > 100
    assert answer.usage.prompt_tokens > 0


def moderation(client, target, script):
    answer = client.moderations.create(model=target.moderation, input=script.texts)
    assert [result.flagged for result in answer.results] == [False, False]


def picture(client, target, script):
    answer = client.images.generate(model=target.picture, prompt=script.prompt)
    assert base64.b64decode(answer.data[0].b64_json)


def speech(client, target, script):
    answer = client.audio.speech.create(
        model=target.speech, voice="alloy", input=script.prompt, response_format="wav"
    )
    assert answer.content.startswith(b"RIFF")


def transcription(client, target, script):
    answer = client.audio.transcriptions.create(
        model=target.transcription, file=("a.wav", base64.b64decode(script.sound))
    )
    assert answer.text


def batch(client, target, script):
    body = {"model": target.model, "messages": ask(script), "max_tokens": script.max_tokens}
    lines = [
        {"custom_id": f"n{n}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for n in range(script.batch_lines)
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("lines.jsonl", content), purpose="batch")
    made = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    done = until(
        lambda: client.batches.retrieve(made.id),
        lambda found: found.status in ("completed", "failed", "expired", "cancelled"),
        script.patience_s,
    )
    assert done.status == "completed", done
    assert done.request_counts.completed == script.batch_lines
    results = client.files.content(done.output_file_id).text.splitlines()
    assert {json.loads(line)["custom_id"] for line in results} == {
        line["custom_id"] for line in lines
    }
    answer = json.loads(results[0])["response"]["body"]
    assert answer["choices"][0]["message"]["content"]


def models(client, target, _):
    listed = list(client.models.list())
    assert target.model in [entry.id for entry in listed], f"not among {len(listed)}"
    assert all(entry.object == "model" for entry in listed)
    assert client.models.retrieve(target.model).id == target.model


def bad_request(client, target, _):
    nobody = [{"role": "nobody", "content": "x"}]
    error = refused(
        openai.BadRequestError,
        {400},
        lambda: client.chat.completions.create(model=target.model, messages=nobody),
    )
    assert error.body["message"]


def unauthorized(client, target, script):
    stranger = client.with_options(api_key="wrong").chat.completions
    error = refused(
        openai.AuthenticationError,
        {401},
        lambda: stranger.create(model=target.model, messages=ask(script)),
    )
    assert error.body["message"]


def not_found(client, target, script):
    for wrong in (f"{target.name}/no-such-model", "no-such-vendor/no-such-model"):
        error = refused(
            openai.NotFoundError,
            {404},
            lambda w=wrong: client.chat.completions.create(model=w, messages=ask(script)),
        )
        assert error.code
        assert error.body["message"]


def rate_limited(client, target, script):
    error = refused(
        openai.RateLimitError,
        {429},
        lambda: client.chat.completions.create(model=target.limited, messages=ask(script)),
    )
    assert 0 < int(error.response.headers["retry-after"]) <= 60


def unavailable(client, target, script):
    error = refused(
        openai.InternalServerError,
        {503},
        lambda: client.chat.completions.create(model=target.away, messages=ask(script)),
    )
    assert int(error.response.headers["retry-after"]) > 0
    assert error.body["message"]


def too_long(client, target, script):
    error = refused(
        openai.BadRequestError,
        {400},
        lambda: client.chat.completions.create(model=target.full, messages=ask(script)),
    )
    assert error.code == "context_length_exceeded"


if __name__ == "__main__":
    main(
        "openai",
        openai.__version__,
        globals(),
        lambda url, key: openai.OpenAI(
            base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=30
        ),
    )
