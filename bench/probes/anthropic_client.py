"""The official anthropic client for Python, unmodified: ``anthropic_client.py PLAN.json``."""

import anthropic
from pydantic import BaseModel
from running import main, refused, until


class Place(BaseModel):
    city: str
    days: int


def tool(function):
    return {
        "name": function["name"],
        "description": function["description"],
        "input_schema": function["parameters"],
    }


def ask(script, prompt=None):
    turns = [{"role": "user", "content": prompt or script.prompt}]
    return {"system": script.system, "messages": turns, "max_tokens": script.max_tokens}


def text_of(message):
    return "".join(block.text for block in message.content if block.type == "text")


def calls_of(message):
    return [block for block in message.content if block.type == "tool_use"]


def result(script, call):
    return {"type": "tool_result", "tool_use_id": call.id, "content": script.tool_result}


def whole(client, target, script):
    raw = client.messages.with_raw_response.create(model=target.model, **ask(script))
    answer = raw.parse()
    assert answer.id
    assert (answer.type, answer.role) == ("message", "assistant")
    assert text_of(answer)
    assert answer.stop_reason in ("end_turn", "max_tokens")
    assert answer.usage.input_tokens > 0
    assert 0 < answer.usage.output_tokens <= script.max_tokens
    assert raw.headers["x-weir-model"] == target.model
    assert raw.headers["x-weir-attempts"] == "1"
    assert raw.headers["x-weir-request-id"] == raw.headers["request-id"]
    assert raw.headers["x-weir-route"]


def streamed(client, target, script):
    with client.messages.stream(model=target.model, **ask(script)) as stream:
        events = [event.type for event in stream]
        final = stream.get_final_message()
    assert events[0] == "message_start"
    assert events[-1] == "message_stop"
    assert "content_block_delta" in events
    answer = client.messages.create(model=target.model, **ask(script))
    assert text_of(final) == text_of(answer), "the stream differs from the whole answer"
    assert final.stop_reason == answer.stop_reason
    assert final.usage.output_tokens == answer.usage.output_tokens


def tools(client, target, script):
    asked = {**ask(script), "model": target.model, "tools": [tool(script.weather)]}
    asked["max_tokens"] = script.tool_tokens
    answer = client.messages.create(**asked, tool_choice={"type": "any"})
    assert answer.stop_reason == "tool_use"
    [call] = calls_of(answer)
    assert call.name == script.weather["name"]
    Place.model_validate(call.input, strict=True)
    asked["messages"] = [
        *asked["messages"],
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": [result(script, call)]},
    ]
    assert text_of(client.messages.create(**asked))


def tools_streamed(client, target, script):
    asked = {**ask(script), "max_tokens": script.tool_tokens}
    with client.messages.stream(
        model=target.model, tools=[tool(script.weather)], tool_choice={"type": "any"}, **asked
    ) as stream:
        final = stream.get_final_message()
    assert final.stop_reason == "tool_use"
    [call] = calls_of(final)
    assert call.name == script.weather["name"]
    Place.model_validate(call.input, strict=True)


def tools_parallel(client, target, script):
    """Two calls in one answer, whole and streamed, and both results sent back."""
    tools = [tool(script.weather), tool(script.time)]
    for number in range(script.parallel_prompts):
        asked = {**ask(script, f"{script.prompt} {number}"), "model": target.model, "tools": tools}
        asked["max_tokens"] = script.tool_tokens
        answer = client.messages.create(**asked)
        calls = calls_of(answer)
        if len(calls) == 2:
            break
    assert len({call.id for call in calls}) == 2, "never two calls at once"
    with client.messages.stream(**asked) as stream:
        final = calls_of(stream.get_final_message())
    assert [(c.name, c.input) for c in final] == [(c.name, c.input) for c in calls]
    asked["messages"] = [
        *asked["messages"],
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": [result(script, call) for call in calls]},
    ]
    assert text_of(client.messages.create(**asked))


def structured(client, target, script):
    asked = {**ask(script), "max_tokens": script.tool_tokens}
    answer = client.messages.parse(model=target.model, output_format=Place, **asked)
    assert isinstance(answer.parsed_output, Place)


def pictured(client, target, script, source):
    parts = [{"type": "image", "source": source}, {"type": "text", "text": script.prompt}]
    return client.messages.create(
        model=target.model,
        max_tokens=script.max_tokens,
        messages=[{"role": "user", "content": parts}],
    )


def image(client, target, script):
    source = {"type": "base64", "media_type": "image/png", "data": script.pixel}
    assert text_of(pictured(client, target, script, source))


def image_url(client, target, script):
    source = {"type": "url", "url": script.picture_url}
    assert text_of(pictured(client, target, script, source))


def image_url_refused(client, target, script):
    source = {"type": "url", "url": script.picture_url}
    error = refused(
        anthropic.BadRequestError, {400}, lambda: pictured(client, target, script, source)
    )
    assert error.body["error"]["message"]


def count_tokens(client, target, script):
    asked = ask(script)
    del asked["max_tokens"]
    assert client.messages.count_tokens(model=target.model, **asked).input_tokens > 0


def batch(client, target, script):
    params = {"model": target.model, **ask(script)}
    names = [f"n{number}" for number in range(script.batch_lines)]
    made = client.messages.batches.create(
        requests=[{"custom_id": name, "params": params} for name in names]
    )
    done = until(
        lambda: client.messages.batches.retrieve(made.id),
        lambda found: found.processing_status == "ended",
        script.patience_s,
    )
    assert done.request_counts.succeeded == script.batch_lines
    results = list(client.messages.batches.results(made.id))
    assert sorted(entry.custom_id for entry in results) == names
    assert all(text_of(entry.result.message) for entry in results)


def models(client, target, _):
    listed = [entry.id for entry in client.models.list(limit=100)]
    assert target.model in listed, f"not among {len(listed)}"
    assert client.models.retrieve(target.model).id == target.model


def error_of(kind, statuses, name, call):
    error = refused(kind, statuses, call)
    assert error.body["type"] == "error"
    assert error.body["error"]["type"] == name, error.body
    assert error.body["error"]["message"]
    return error


def bad_request(client, target, script):
    asked = {**ask(script), "messages": [{"role": "nobody", "content": "x"}]}
    error_of(
        anthropic.BadRequestError,
        {400},
        "invalid_request_error",
        lambda: client.messages.create(model=target.model, **asked),
    )


def unauthorized(client, target, script):
    stranger = client.with_options(api_key="wrong")
    error_of(
        anthropic.AuthenticationError,
        {401},
        "authentication_error",
        lambda: stranger.messages.create(model=target.model, **ask(script)),
    )


def not_found(client, target, script):
    for wrong in (f"{target.name}/no-such-model", "no-such-vendor/no-such-model"):
        error_of(
            anthropic.NotFoundError,
            {404},
            "not_found_error",
            lambda w=wrong: client.messages.create(model=w, **ask(script)),
        )


def rate_limited(client, target, script):
    error = error_of(
        anthropic.RateLimitError,
        {429},
        "rate_limit_error",
        lambda: client.messages.create(model=target.limited, **ask(script)),
    )
    assert 0 < int(error.response.headers["retry-after"]) <= 60


def unavailable(client, target, script):
    error = refused(
        anthropic.InternalServerError,
        {503},
        lambda: client.messages.create(model=target.away, **ask(script)),
    )
    assert int(error.response.headers["retry-after"]) > 0
    assert error.body["error"]["message"]


def too_long(client, target, script):
    error_of(
        anthropic.BadRequestError,
        {400},
        "invalid_request_error",
        lambda: client.messages.create(model=target.full, **ask(script)),
    )


if __name__ == "__main__":
    main(
        "anthropic",
        anthropic.__version__,
        globals(),
        lambda url, key: anthropic.Anthropic(base_url=url, api_key=key, max_retries=0, timeout=30),
    )
